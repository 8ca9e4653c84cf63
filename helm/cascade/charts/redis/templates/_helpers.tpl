{{/* A StatefulSet's pods carry its name and a sum in a label, which has 63 characters. */}}
{{- define "cascade.redis.name" -}}
{{- $values := .Values.redis | default .Values -}}{{/* by the chart above, or in this one */}}
{{- $values.fullnameOverride | default .Release.Name | trunc 46 | trimSuffix "-" }}-redis
{{- end }}

{{- define "cascade.redis.secret" -}}
{{ .Values.auth.existingSecret | default (include "cascade.redis.name" .) }}
{{- end }}

{{- define "cascade.redis.selectorLabels" -}}
app.kubernetes.io/name: redis
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{/* Of its pod alone, whichever other Redis the release has; the controller of StatefulSets gives it the last one. */}}
{{- define "cascade.redis.podLabels" -}}
{{ include "cascade.redis.selectorLabels" . }}
statefulset.kubernetes.io/pod-name: {{ include "cascade.redis.name" . }}-0
{{- end }}

{{- define "cascade.redis.labels" -}}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{ include "cascade.redis.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/component: redis
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "cascade.redis.image" -}}
{{- with .Values.image.registry }}{{ trimSuffix "/" . }}/{{ end -}}
{{ .Values.image.repository }}
{{- if .Values.image.digest }}@{{ .Values.image.digest }}{{ else }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{ end }}
{{- end }}

{{/* Bytes for data: a share of the memory limit, or of what is asked for. */}}
{{- define "cascade.redis.maxMemory" -}}
{{- $memory := dig "limits" "memory" (dig "requests" "memory" "1Gi" .Values.resources) .Values.resources -}}
{{ mulf (include "cascade.bytes" $memory) (divf .Values.maxMemoryPercent 100) | int64 }}
{{- end }}

{{/* Loading an append-only file, it answers LOADING and is not ready. */}}
{{- define "cascade.redis.ping" -}}
exec:
  command: [sh, -c, 'test "$(REDISCLI_AUTH="$REDIS_PASSWORD" valkey-cli -h 127.0.0.1 ping)" = PONG']
periodSeconds: 5
timeoutSeconds: 3
{{- end }}
