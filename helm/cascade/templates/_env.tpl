{{/* The environment of a service: the sections that the chart owns, then the values' `settings`, then `extraEnv`. */}}
{{- define "cascade.env" -}}
{{- $values := index .root.Values .name -}}
- {name: HOME, value: /tmp}
- {name: CASCADE_GRPC_HOST, value: {{ include "cascade.listenHost" .root | quote }}}
- {name: CASCADE_GRPC_PORT, value: {{ include "cascade.grpcPort" . | quote }}}
{{ include "cascade.telemetryEnv" .root }}
{{ include "cascade.drainEnv" $values.drain }}
{{- include "cascade.tlsEnv" . }}
{{- if and .root.Values.peerAuth.enabled (ne .name "gateway") }}
- {name: CASCADE_AUTH_MODES, value: api_keys}
- {name: CASCADE_AUTH_KEYS_FILE, value: /etc/cascade/peer/keys.toml}
{{- end }}
{{- include "cascade.settingsEnv" $values.settings }}
{{- with $values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "cascade.listenHost" -}}
{{ if eq .Values.network.ipFamily "IPv6" }}::{{ else }}0.0.0.0{{ end }}
{{- end }}

{{- define "cascade.telemetryEnv" -}}
- {name: CASCADE_TELEMETRY_METRICS_HOST, value: {{ include "cascade.listenHost" . | quote }}}
- {name: CASCADE_TELEMETRY_METRICS_PORT, value: "9090"}
{{- with .Values.telemetry }}
- {name: CASCADE_TELEMETRY_LOG_LEVEL, value: {{ .logLevel }}}
- {name: CASCADE_TELEMETRY_LOG_FORMAT, value: {{ .logFormat }}}
{{- if .otlpEndpoint }}
- {name: CASCADE_TELEMETRY_OTLP_ENDPOINT, value: {{ .otlpEndpoint | quote }}}
- {name: CASCADE_TELEMETRY_TRACE_RATIO, value: {{ .traceRatio | quote }}}
{{- end }}
{{- end }}
{{- end }}

{{- define "cascade.drainEnv" -}}
- {name: CASCADE_DRAIN_NOTICE_S, value: {{ .noticeSeconds | quote }}}
- {name: CASCADE_DRAIN_DEADLINE_S, value: {{ .deadlineSeconds | quote }}}
- {name: CASCADE_DRAIN_GRACE_S, value: {{ .graceSeconds | quote }}}
{{- end }}

{{- define "cascade.tlsEnv" -}}
{{- if .root.Values.tls.enabled }}
- {name: CASCADE_TLS_CERTIFICATE, value: /etc/cascade/tls/tls.crt}
- {name: CASCADE_TLS_KEY, value: /etc/cascade/tls/tls.key}
{{- if or (ne .name "gateway") .root.Values.tls.gatewayRequiresClientCertificates }}
- {name: CASCADE_TLS_CA, value: /etc/cascade/tls/ca.crt}
{{- end }}
{{- end }}
{{- end }}

{{/* section -> field -> value, as CASCADE_<SECTION>_<FIELD>. */}}
{{- define "cascade.settingsEnv" -}}
{{- range $section, $fields := . }}
{{- range $field, $value := $fields }}
{{- if not (kindIs "invalid" $value) }}
- {name: {{ printf "CASCADE_%s_%s" $section $field | upper }}, value: {{ include "cascade.text" $value | quote }}}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
