{{/* Rules that several NetworkPolicies have. */}}

{{- define "cascade.dnsEgress" -}}
- to: {{- toYaml .Values.networkPolicy.dns | nindent 4 }}
  ports:
    {{- range .Values.networkPolicy.dnsPorts }}
    - {port: {{ . }}, protocol: UDP}
    - {port: {{ . }}, protocol: TCP}
    {{- end }}
{{- end }}

{{- define "cascade.metricsIngress" -}}
{{- with .Values.networkPolicy.monitoring -}}
- from: {{- toYaml . | nindent 4 }}
  ports:
    - {port: metrics, protocol: TCP}
{{- end }}
{{- end }}

{{- define "cascade.otlpEgress" -}}
{{- if .Values.telemetry.otlpEndpoint -}}
- ports:
    - {port: {{ include "cascade.urlPort" (dict "url" .Values.telemetry.otlpEndpoint "default" 4317) }}, protocol: TCP}
  {{- with .Values.networkPolicy.otlp }}
  to: {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}
{{- end }}

{{/* Takes dict "url" "default". */}}
{{- define "cascade.urlPort" -}}
{{- $host := get (urlParse .url) "host" -}}
{{ regexFind ":[0-9]+$" $host | trimPrefix ":" | default .default }}
{{- end }}
