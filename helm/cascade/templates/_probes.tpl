{{/*
Probes. Start-up and readiness ask for the service's own name, which follows progress: loaded weights, ticks, blocks,
GPUs, draining. Liveness asks for `live`, which is true for as long as the event loop turns: a stage that is
quarantined or drains has sessions that a restart would end.
The kubelet's own gRPC probe speaks no TLS; with TLS the same question is asked inside the container, which takes a
second of a core, so it is asked less often.
*/}}
{{- define "cascade.probes" -}}
{{- $values := index .root.Values .name -}}
startupProbe:
  {{- include "cascade.check" (merge (dict "service" (include "cascade.grpcService" .)) .) | nindent 2 }}
  failureThreshold: {{ divf (include "cascade.startSeconds" .) (include "cascade.probePeriod" .) | ceil | int64 }}
readinessProbe:
  {{- include "cascade.check" (merge (dict "service" (include "cascade.grpcService" .)) .) | nindent 2 }}
  failureThreshold: 2
{{- if $values.livenessProbe.enabled }}
livenessProbe:
  {{- include "cascade.check" (merge (dict "service" "live") .) | nindent 2 }}
  failureThreshold: 6
  terminationGracePeriodSeconds: 10
{{- end }}
{{- end }}

{{- define "cascade.check" -}}
{{- if .root.Values.tls.enabled -}}
exec:
  command: [python, -m, services.common.probe, --timeout, "10", --service, {{ .service }}]
timeoutSeconds: 12
{{- else -}}
grpc:
  port: {{ include "cascade.grpcPort" . }}
  service: {{ .service }}
timeoutSeconds: 5
{{- end }}
periodSeconds: {{ include "cascade.probePeriod" . }}
{{- end }}

{{- define "cascade.probePeriod" -}}
{{ ternary 15 10 .root.Values.tls.enabled }}
{{- end }}
