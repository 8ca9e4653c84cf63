{{/* How a Deployment replaces its pods. */}}
{{- define "cascade.rollout" -}}
{{- $values := index .root.Values .name -}}
revisionHistoryLimit: {{ $values.revisionHistoryLimit }}
minReadySeconds: {{ $values.minReadySeconds }}
progressDeadlineSeconds: {{ include "cascade.progressSeconds" . }}
strategy:
  type: RollingUpdate
  {{- if eq $values.strategy "surge" }}
  rollingUpdate: {maxSurge: 1, maxUnavailable: 0}
  {{- else }}
  rollingUpdate: {maxSurge: 0, maxUnavailable: 1}
  {{- end }}
{{- end }}
