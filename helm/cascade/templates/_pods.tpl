{{/* What the pods of all three components have in common. */}}

{{/* Those of one kind of pod, else the common ones. Takes dict "root" $ "values" (of that kind). */}}
{{- define "cascade.podSecurityContext" -}}
{{- $own := .values.podSecurityContext -}}
{{ kindIs "invalid" $own | ternary .root.Values.podSecurityContext $own | default dict | toYaml }}
{{- end }}

{{- define "cascade.containerSecurityContext" -}}
{{- $own := .values.securityContext -}}
{{ kindIs "invalid" $own | ternary .root.Values.securityContext $own | default dict | toYaml }}
{{- end }}

{{/* Nothing that a new version of the chart changes by itself: pods with sessions stay as they are. */}}
{{- define "cascade.podLabels" -}}
{{ include "cascade.selectorLabels" . }}
{{- with (index .root.Values .name).podLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Where a pod may run. */}}
{{- define "cascade.placement" -}}
{{- $component := . -}}
{{- with index .root.Values .name }}
{{- with .priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- with .runtimeClassName }}
runtimeClassName: {{ . | quote }}
{{- end }}
{{- with .nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with include "cascade.affinity" $component | fromYaml }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .topologySpreadConstraints }}
topologySpreadConstraints:
  {{- range . }}
  - labelSelector:
      matchLabels: {{- include "cascade.selectorLabels" $component | nindent 8 }}
    matchLabelKeys: [pod-template-hash]
    {{- /* Nodes where the pod may not run, as those with GPUs for the gateway, would count as empty ones otherwise. */}}
    {{- toYaml (merge (deepCopy .) (dict "nodeTaintsPolicy" "Honor")) | nindent 4 }}
  {{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* The value `affinity`, with the GPU products added to each of its node selector terms. */}}
{{- define "cascade.affinity" -}}
{{- $values := index .root.Values .name -}}
{{- $affinity := deepCopy ($values.affinity | default dict) -}}
{{- with dig "gpu" "products" nil $values }}
{{- $product := dict "key" "nvidia.com/gpu.product" "operator" "In" "values" . }}
{{- $node := get $affinity "nodeAffinity" | default dict }}
{{- $required := get $node "requiredDuringSchedulingIgnoredDuringExecution" | default dict }}
{{- $terms := list }}
{{- range get $required "nodeSelectorTerms" | default (list dict) }}
{{- $expressions := append (get . "matchExpressions" | default list) $product }}
{{- $terms = append $terms (merge (dict "matchExpressions" $expressions) .) }}
{{- end }}
{{- $_ := set $node "requiredDuringSchedulingIgnoredDuringExecution" (dict "nodeSelectorTerms" $terms) }}
{{- $_ := set $affinity "nodeAffinity" $node }}
{{- end }}
{{- toYaml $affinity }}
{{- end }}

{{/* Of the pod, beside its containers and volumes. */}}
{{- define "cascade.pod" -}}
{{- with .root.Values.imagePullSecrets -}}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{ end -}}
serviceAccountName: {{ include "cascade.serviceAccountName" . | quote }}
automountServiceAccountToken: false
enableServiceLinks: false
terminationGracePeriodSeconds: {{ include "cascade.terminationSeconds" . }}
securityContext: {{- include "cascade.podSecurityContext" (dict "root" .root "values" (index .root.Values .name)) | nindent 2 }}
{{- include "cascade.placement" . }}
{{- end }}

{{/* Of the container, beside its environment, resources and mounts. */}}
{{- define "cascade.container" -}}
{{- $values := index .root.Values .name -}}
image: {{ include "cascade.image" . | quote }}
imagePullPolicy: {{ $values.image.pullPolicy }}
command: [python, -m, services.{{ .name }}]
{{- with $values.extraEnvFrom }}
envFrom: {{- toYaml . | nindent 2 }}
{{- end }}
securityContext: {{- include "cascade.containerSecurityContext" (dict "root" .root "values" $values) | nindent 2 }}
ports:
  - {name: grpc, containerPort: {{ include "cascade.grpcPort" . }}}
  - {name: metrics, containerPort: 9090}
  {{- if and (eq .name "gateway") .root.Values.gateway.http.enabled }}
  - {name: http, containerPort: 8080}
  {{- end }}
  {{- if and (eq .name "gateway") (include "cascade.hasWebrtc" .root) .root.Values.gateway.http.webrtc.hostPorts }}
  {{- with .root.Values.gateway.http.webrtc }}
  {{- range untilStep (int .firstPort) (int .lastPort | add1 | int) 1 }}
  - {name: webrtc-{{ . }}, containerPort: {{ . }}, hostPort: {{ . }}, protocol: UDP}
  {{- end }}
  {{- end }}
  {{- end }}
{{- with $values.drain.preStopSeconds }}
lifecycle:
  preStop: {sleep: {seconds: {{ . }}}}
{{- end }}
{{ include "cascade.probes" . }}
{{- end }}

{{/* A changed model card starts the pods that read it anew. What can be made again keeps no node from being given back. */}}
{{- define "cascade.podAnnotations" -}}
{{- $scratch := eq (include "cascade.compileVolume" .) "emptyDir" | ternary "tmp,compiled" "tmp" }}
{{- $own := dict "cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes" $scratch }}
{{- toYaml (merge (deepCopy ((index .root.Values .name).podAnnotations | default dict)) $own) }}
{{- if and .root.Values.model.card (ne .name "gateway") }}
checksum/model: {{ sha256sum .root.Values.model.card }}
{{- end }}
{{- end }}
