{{/* A sentence for each thing that does not fit together; told by cascade.validate with all others. */}}
{{- define "cascade.autoscalingProblems" -}}
{{- with .Values.autoscaling }}
{{- if and .keda.enabled .hpa.enabled }}
autoscaling.keda.enabled and autoscaling.hpa.enabled are both true: two autoscalers would fight over the same pods; set one of them to false
{{- end }}
{{- if and (or .keda.enabled .hpa.enabled) (not .stage.enabled) (not .decoder.enabled) }}
autoscaling is on, and neither stages nor decoders are to be scaled: set autoscaling.stage.enabled or autoscaling.decoder.enabled, or switch it off
{{- end }}
{{- $hpa := .hpa.enabled }}
{{- range $name := list "stage" "decoder" }}
{{- $component := get $.Values.autoscaling $name }}
{{- if gt (int $component.min) (int $component.max) }}
{{ printf "autoscaling.%s.min is %v and autoscaling.%s.max is %v: max must not be less" $name $component.min $name $component.max }}
{{- end }}
{{- if and $hpa $component.enabled (eq (int $component.min) 0) }}
{{ printf "autoscaling.%s.min is 0, and an HPA cannot start the first pod: set it to 1, or use KEDA (autoscaling.keda.enabled)" $name }}
{{- end }}
{{- end }}
{{- if and .keda.enabled $.Values.networkPolicy.enabled $.Values.networkPolicy.clients (not $.Values.networkPolicy.keda) }}
autoscaling.keda.enabled is true, and networkPolicy.clients keeps KEDA from asking the gateways: say in networkPolicy.keda where its operator runs
{{- end }}
{{- if and .hpa.enabled (not $.Values.monitoring.serviceMonitor.enabled) (not .hpa.scrapedElsewhere) }}
autoscaling.hpa.enabled needs Prometheus to know cascade_desired_pods: set monitoring.serviceMonitor.enabled, or autoscaling.hpa.scrapedElsewhere where Prometheus scrapes the gateways by other means
{{- end }}
{{- end }}
{{- with .Values }}
{{- if and .tls.enabled .tls.gatewayRequiresClientCertificates (not .tls.issuerRef.name) }}
{{- if and .autoscaling.keda.enabled (not .autoscaling.keda.clientCertificateSecret) }}
tls.gatewayRequiresClientCertificates is true, and KEDA has no certificate to show: set autoscaling.keda.clientCertificateSecret to a Secret with tls.crt and tls.key, or tls.issuerRef
{{- end }}
{{- if and .tests.enabled (not .tests.clientCertificateSecret) }}
tls.gatewayRequiresClientCertificates is true, and `helm test` has no certificate to show: set tests.clientCertificateSecret to a Secret with tls.crt and tls.key, or tls.issuerRef, or tests.enabled to false
{{- end }}
{{- end }}
{{- end }}
{{- end }}
