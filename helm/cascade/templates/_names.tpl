{{/* Names and labels. "Component": dict "root" $ "name" "stage", whose values are .root.Values.stage. */}}

{{- define "cascade.fullname" -}}
{{- .Values.fullnameOverride | default .Release.Name | trunc 46 | trimSuffix "-" -}}
{{- end }}

{{/* Of a component: the Deployment, its Service, its ServiceAccount. */}}
{{- define "cascade.name" -}}
{{ include "cascade.fullname" .root }}-{{ .name }}
{{- end }}

{{- define "cascade.labels" -}}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version | replace "+" "_" }}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "cascade.componentLabels" -}}
{{ include "cascade.labels" .root }}
app.kubernetes.io/component: {{ .name }}
{{- end }}

{{/* Of what makes pods. Takes what a component does, and "annotations" and "labels" (of the values), "own" annotations. */}}
{{- define "cascade.metadata" -}}
labels: {{- merge (dict) (.labels | default dict) (include "cascade.componentLabels" . | fromYaml) | toYaml | nindent 2 }}
{{- with merge (dict) (.annotations | default dict) (.own | default dict) }}
annotations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Never change: a Deployment's selector is for ever. */}}
{{- define "cascade.selectorLabels" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
app.kubernetes.io/component: {{ .name }}
{{- end }}

{{- define "cascade.serviceAccountName" -}}
{{- $account := (index .root.Values .name).serviceAccount -}}
{{- if $account.create -}}
{{ $account.name | default (include "cascade.name" .) }}
{{- else -}}
{{ $account.name | default "default" }}
{{- end }}
{{- end }}

{{- define "cascade.image" -}}
{{- $image := (index .root.Values .name).image -}}
{{- with .root.Values.image.registry }}{{ trimSuffix "/" . }}/{{ end -}}
{{ $image.repository }}
{{- if $image.digest }}@{{ $image.digest }}{{ else }}:{{ $image.tag | default .root.Chart.AppVersion }}{{ end }}
{{- end }}

{{- define "cascade.grpcPort" -}}
{{ get (dict "gateway" 50051 "stage" 50061 "decoder" 50071) .name }}
{{- end }}

{{/* Of the gRPC service, for health checks. */}}
{{- define "cascade.grpcService" -}}
cascade.v1.{{ get (dict "gateway" "SessionService" "stage" "StageService" "decoder" "DecoderService") .name }}
{{- end }}

{{/* What proxies and meshes are told to speak. */}}
{{- define "cascade.appProtocol" -}}
{{ ternary "https" "kubernetes.io/h2c" .Values.tls.enabled }}
{{- end }}

{{/* Of the gateway's page. */}}
{{- define "cascade.httpScheme" -}}
{{ ternary "https" "http" .Values.tls.enabled }}
{{- end }}
