{{/* A Kubernetes quantity such as 8Gi, in bytes; 0 for none. */}}
{{- define "cascade.bytes" -}}
{{- $text := . | default "0" | toString -}}
{{- $units := dict "Ki" 1024.0 "Mi" 1048576.0 "Gi" 1073741824.0 "Ti" 1099511627776.0 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 -}}
{{- $unit := regexFind "(Ki|Mi|Gi|Ti|k|M|G|T)$" $text -}}
{{- mulf (trimSuffix $unit $text | float64) (get $units $unit | default 1.0) | int64 -}}
{{- end }}

{{/* Of CPUs, such as 500m or 2: thousandths; 0 for none. */}}
{{- define "cascade.millicores" -}}
{{- $text := . | default "0" | toString -}}
{{ mulf (trimSuffix "m" $text | float64) (hasSuffix "m" $text | ternary 1 1000) | ceil | int64 }}
{{- end }}

{{/* Resources of a container, with a CPU limit where one is asked for. Takes dict "root" "resources". */}}
{{- define "cascade.limited" -}}
{{- $resources := deepCopy .resources -}}
{{- with .root.Values.cpuLimitFactor -}}
{{- $limit := dig "requests" "cpu" 0 $resources | include "cascade.millicores" | mulf . | ceil | int64 -}}
{{- $_ := set $resources "limits" (merge (dict) ($resources.limits | default dict) (dict "cpu" (printf "%dm" $limit))) -}}
{{- end -}}
{{- toYaml $resources -}}
{{- end }}

{{/* A value as an environment variable says it: 67108864 and not 6.7108864e+07. */}}
{{- define "cascade.text" -}}
{{- if and (kindIs "slice" .) (kindIs "map" (first .)) -}}
{{ toJson . }}
{{- else if kindIs "slice" . -}}
{{ join "," . }}
{{- else if and (kindIs "float64" .) (eq . (floor .)) -}}
{{ printf "%.0f" . }}
{{- else -}}
{{ toString . }}
{{- end }}
{{- end }}

{{/* Seconds from the pod's deletion to its kill: the way out of the process, and what stopping it takes. */}}
{{- define "cascade.drainSeconds" -}}
{{- with (index .root.Values .name).drain -}}
{{ addf .preStopSeconds .noticeSeconds .deadlineSeconds .graceSeconds .marginSeconds | ceil | int64 }}
{{- end }}
{{- end }}

{{- define "cascade.terminationSeconds" -}}
{{- $given := (index .root.Values .name).terminationGracePeriodSeconds -}}
{{- if kindIs "invalid" $given }}{{ include "cascade.drainSeconds" . }}{{ else }}{{ int64 $given }}{{ end -}}
{{- end }}

{{/* Seconds a pod may take to load its model before it is started again. */}}
{{- define "cascade.startSeconds" -}}
{{- $values := index .root.Values .name -}}
{{- $section := get ($values.settings | default dict) .name | default dict -}}
{{- if kindIs "invalid" $values.startSeconds -}}
{{ mulf 1.25 ($section.start_deadline_s | default 900) | ceil | int64 }}
{{- else -}}
{{ int64 $values.startSeconds }}
{{- end }}
{{- end }}

{{/* A rollout that has made no progress for so long has failed. */}}
{{- define "cascade.progressSeconds" -}}
{{- $values := index .root.Values .name -}}
{{- if kindIs "invalid" $values.progressDeadlineSeconds -}}
{{ add (include "cascade.startSeconds" .) (include "cascade.terminationSeconds" .) $values.minReadySeconds 120 }}
{{- else -}}
{{ int64 $values.progressDeadlineSeconds }}
{{- end }}
{{- end }}
