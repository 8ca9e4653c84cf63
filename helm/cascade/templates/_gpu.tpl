{{/* GPUs of a component: counted by the device plugin, or claimed by dynamic resource allocation (DRA). */}}

{{/* With a sum of what is asked for: a ResourceClaimTemplate cannot be changed, so another request is another one. */}}
{{- define "cascade.gpuClaim" -}}
{{- $gpu := (index .root.Values .name).gpu -}}
{{ include "cascade.name" . }}-gpus-{{ toJson (list $gpu.count $gpu.dra) | sha256sum | trunc 8 }}
{{- end }}

{{/* The value `resources`, with the GPUs and a CPU limit. */}}
{{- define "cascade.resources" -}}
{{- $values := index .root.Values .name -}}
{{- $resources := deepCopy $values.resources -}}
{{- $gpu := $values.gpu | default dict -}}
{{- if $gpu.count }}
{{- if eq $gpu.allocation "dra" }}
{{- $_ := set $resources "claims" (list (dict "name" "gpus")) }}
{{- else }}
{{- $_ := set $resources "limits" (merge (dict $gpu.resourceName $gpu.count) ($resources.limits | default dict)) }}
{{- end }}
{{- end }}
{{- include "cascade.limited" (dict "root" .root "resources" $resources) }}
{{- end }}

{{/* Of the pod: which claim template its claim is made from. */}}
{{- define "cascade.resourceClaims" -}}
{{- $gpu := (index .root.Values .name).gpu -}}
{{- if and $gpu.count (eq $gpu.allocation "dra") -}}
resourceClaims:
  - {name: gpus, resourceClaimTemplateName: {{ include "cascade.gpuClaim" . }}}
{{- end }}
{{- end }}

{{- define "cascade.claimTemplate" -}}
{{- $gpu := (index .root.Values .name).gpu -}}
{{- if and $gpu.count (eq $gpu.allocation "dra") }}
---
apiVersion: resource.k8s.io/v1
kind: ResourceClaimTemplate
metadata:
  name: {{ include "cascade.gpuClaim" . }}
  labels: {{- include "cascade.componentLabels" . | nindent 4 }}
spec:
  spec:
    devices:
      requests:
        - name: gpus
          exactly:
            deviceClassName: {{ $gpu.dra.deviceClassName | quote }}
            allocationMode: ExactCount
            count: {{ $gpu.count }}
            {{- with $gpu.dra.selectors }}
            selectors:
              {{- range . }}
              - cel: {expression: {{ . | quote }}}
              {{- end }}
            {{- end }}
{{- end }}
{{- end }}
