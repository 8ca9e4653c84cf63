{{/* Whether an autoscaler counts the pods of a component. Of a component: see _names.tpl. */}}
{{- define "cascade.autoscaled" -}}
{{- $values := .root.Values.autoscaling -}}
{{- if and (or $values.keda.enabled $values.hpa.enabled) (dig .name "enabled" false $values) }}true{{ end -}}
{{- end }}

{{/* What an HPA takes as equal; empty: what the cluster says. Beyond it the gateways enlarge steps that are too
     small, so they have to know. */}}
{{- define "cascade.tolerance" -}}
{{- $values := .Values.autoscaling -}}
{{- if not (kindIs "invalid" $values.tolerance) -}}
{{ $values.tolerance }}
{{- else if and $values.hpa.enabled (semverCompare ">=1.35.0-0" .Capabilities.KubeVersion.Version) -}}
0
{{- end }}
{{- end }}

{{- define "cascade.scalerEnv" -}}
{{- with include "cascade.tolerance" . }}
- {name: CASCADE_SCALER_HPA_TOLERANCE, value: {{ . | quote }}}
{{- end }}
{{- end }}

{{/* How fast an HPA may move, KEDA's own included. Of a component. */}}
{{- define "cascade.scalingBehavior" -}}
{{- $values := get .root.Values.autoscaling .name }}
{{- $tolerance := include "cascade.tolerance" .root -}}
scaleUp:
  stabilizationWindowSeconds: 0
  selectPolicy: Max
  policies:
    - {type: Pods, value: {{ $values.scaleUp.pods }}, periodSeconds: {{ $values.scaleUp.periodSeconds }}}
    - {type: Percent, value: 100, periodSeconds: {{ $values.scaleUp.periodSeconds }}}
  {{- with $tolerance }}
  tolerance: {{ . }}
  {{- end }}
scaleDown:
  {{- $ofOldNumbers := ternary 60 0 .root.Values.autoscaling.hpa.enabled }}
  {{- $given := $values.scaleDown.stabilizationSeconds }}
  stabilizationWindowSeconds: {{ kindIs "invalid" $given | ternary $ofOldNumbers $given }}
  selectPolicy: Max
  policies:
    - {type: Pods, value: {{ $values.scaleDown.pods }}, periodSeconds: {{ $values.scaleDown.periodSeconds }}}
  {{- with $tolerance }}
  tolerance: {{ . }}
  {{- end }}
{{- end }}

{{/* Where the gateway answers inside the cluster, as a name that its certificate has. */}}
{{- define "cascade.gatewayAddress" -}}
{{ include "cascade.name" (dict "root" . "name" "gateway") }}.{{ .Release.Namespace }}.svc:{{ .Values.gateway.service.port }}
{{- end }}

{{/* Whether cert-manager makes a certificate for clients. */}}
{{- define "cascade.makesClientCertificate" -}}
{{- if and .Values.tls.enabled .Values.tls.issuerRef.name }}true{{ end -}}
{{- end }}

{{/* The Secret with it; empty where cert-manager makes none. */}}
{{- define "cascade.clientTlsSecret" -}}
{{- if include "cascade.makesClientCertificate" . -}}
{{ include "cascade.fullname" . }}-client-tls
{{- end }}
{{- end }}
