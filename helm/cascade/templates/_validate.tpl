{{/*
What the schema cannot say, because it is about several values. `cascade.problems`: a sentence per line, each with the
value to set. `cascade.validate` fails with all of them.
*/}}
{{- define "cascade.validate" -}}
{{- $problems := list }}
{{- range include "cascade.problems" . | splitList "\n" }}
{{- with trim . }}
{{- $problems = append $problems . }}
{{- end }}
{{- end }}
{{- if $problems }}
{{- fail (printf "\n\nThese values do not fit together:\n  - %s\n" (join "\n  - " $problems)) }}
{{- end }}
{{- end }}

{{- define "cascade.problems" -}}
{{ include "cascade.nameProblems" . }}
{{ include "cascade.weightsProblems" . }}
{{ include "cascade.gatewayProblems" . }}
{{ include "cascade.httpProblems" . }}
{{ include "cascade.redisProblems" . }}
{{ include "cascade.tlsProblems" . }}
{{- range $name := list "stage" "decoder" "gateway" }}
{{- $me := dict "root" $ "name" $name }}
{{ include "cascade.podProblems" $me }}
{{ include "cascade.extraProblems" (dict "root" $ "path" $name "values" (index $.Values $name)) }}
{{- if ne $name "gateway" }}
{{ include "cascade.gpuProblems" $me }}
{{- end }}
{{- end }}
{{ include "cascade.extraProblems" (dict "root" $ "path" "weights.download" "values" .Values.weights.download) }}
{{ include "cascade.extraProblems" (dict "root" $ "path" "tests" "values" .Values.tests) }}
{{- if .Values.redis.enabled }}
{{ include "cascade.extraProblems" (dict "root" $ "path" "redis" "values" .Values.redis) }}
{{- end }}
{{ include "cascade.labelProblems" (dict "path" "commonLabels" "labels" .Values.commonLabels) }}
{{ include "cascade.rankProblems" . }}
{{ include "cascade.autoscalingProblems" . }}
{{- end }}

{{/* A Service's name is a part of a host's name. */}}
{{- define "cascade.nameProblems" -}}
{{- $good := "^[a-z]([-a-z0-9]*[a-z0-9])?$" }}
{{- with .Values.fullnameOverride }}
{{- if or (gt (len .) 46) (not (regexMatch $good .)) }}
fullnameOverride is {{ . }}, and Kubernetes would refuse a Service that is called after it: set it to at most 46 small letters, digits and dashes, a letter first and no dash last
{{- end }}
{{- else }}
{{- if not (regexMatch $good (include "cascade.fullname" .)) }}
the release is called {{ .Release.Name }}, and Kubernetes would refuse a Service that is called after it: set fullnameOverride to a name that begins with a letter and has small letters, digits and dashes alone
{{- end }}
{{- end }}
{{- if and .Values.redis.enabled (not (regexMatch "^[a-z][-a-z0-9]*$" (include "cascade.redis.name" .))) }}
the chart's Redis would be called {{ include "cascade.redis.name" . }}, and Kubernetes would refuse its Service: set redis.fullnameOverride as you would fullnameOverride
{{- end }}
{{- end }}

{{- define "cascade.weightsProblems" -}}
{{- $weights := .Values.weights }}
{{- $model := .Values.model }}
{{- if and (eq $weights.source "none") (not $model.card) (not (has $model.name (list "demo" "bench"))) }}
weights.source is none, and the images hold only the demo model, not {{ $model.name }}: set weights.source to pvc, hostPath, image or download
{{- end }}
{{- if and (eq $weights.source "pvc") (not $weights.pvc.claimName) }}
weights.source is pvc: set weights.pvc.claimName to the claim that holds the checkpoint
{{- end }}
{{- if and (eq $weights.source "hostPath") (not $weights.hostPath.path) }}
weights.source is hostPath: set weights.hostPath.path to the folder on the nodes
{{- end }}
{{- if and (eq $weights.source "image") (not $weights.image.reference) }}
weights.source is image: set weights.image.reference to the OCI image that holds the checkpoint
{{- end }}
{{- if and (eq $weights.source "download") $model.card }}
weights.source is download, and model.card is a card of your own, which the Job would need before the chart has made it: fill a volume yourself (cascade-engine download) and set weights.source to pvc
{{- end }}
{{- if and (eq $weights.source "download") (has $model.name (list "demo" "bench")) }}
weights.source is download, and there is nothing to download for the model {{ $model.name }}: set weights.source to none
{{- end }}
{{- if and $model.card (not (regexMatch (printf `(?m)^\s*name\s*=\s*["']%s["']` (regexQuoteMeta $model.name)) $model.card)) }}
model.name is {{ $model.name }}, and model.card does not have it: set model.name to the card's name
{{- end }}
{{- if and .Values.decoder.weightsPath (eq $weights.source "none") }}
decoder.weightsPath is set, and weights.source is none, so that there is no volume to find it in: set weights.source
{{- end }}
{{- if and (eq (dig "decoder" "kind" "vae" (.Values.decoder.settings | default dict)) "taehv") (not .Values.decoder.weightsPath) }}
decoder.settings.decoder.kind is taehv: set decoder.weightsPath to its file, such as taew2_1.pth
{{- end }}
{{- end }}

{{- define "cascade.gatewayProblems" -}}
{{- $gateway := .Values.gateway }}
{{- $redis := or .Values.redis.enabled .Values.externalRedis.existingSecret }}
{{- if and (gt (int $gateway.replicas) 1) (not $redis) }}
gateway.replicas is {{ $gateway.replicas }}, and sessions in memory belong to one gateway: set redis.enabled or externalRedis.existingSecret, or gateway.replicas to 1
{{- end }}
{{- if lt (int $gateway.replicas) 1 }}
gateway.replicas is 0: nobody could make a session; set it to 1 or more
{{- end }}
{{- range $mode := $gateway.auth.modes }}
{{- if and (eq $mode "api_keys") (not $gateway.auth.apiKeys.existingSecret) }}
gateway.auth.modes has api_keys: set gateway.auth.apiKeys.existingSecret to the Secret with the file of keys
{{- end }}
{{- if eq $mode "jwt" }}
{{- range $field := list "issuer" "audience" }}
{{- if not (get $gateway.auth.jwt $field) }}
gateway.auth.modes has jwt: set gateway.auth.jwt.{{ $field }}
{{- end }}
{{- end }}
{{- if eq (empty $gateway.auth.jwt.jwksUrl) (empty $gateway.auth.jwt.jwksConfigMap.name) }}
gateway.auth.modes has jwt: set either gateway.auth.jwt.jwksUrl or gateway.auth.jwt.jwksConfigMap.name
{{- end }}
{{- end }}
{{- if and (eq $mode "mtls") (not (and $.Values.tls.enabled $.Values.tls.gatewayRequiresClientCertificates)) }}
gateway.auth.modes has mtls: set tls.enabled and tls.gatewayRequiresClientCertificates
{{- end }}
{{- end }}
{{- if and $gateway.ingress.enabled (not $gateway.ingress.host) }}
gateway.ingress.enabled is true: set gateway.ingress.host to the name that clients call
{{- end }}
{{- if and $gateway.grpcRoute.enabled (not $gateway.grpcRoute.parentRefs) }}
gateway.grpcRoute.enabled is true: set gateway.grpcRoute.parentRefs to the Gateway it hangs on
{{- end }}
{{- with include "cascade.journalBytes" . }}
{{- $session := dig "gateway" "session_bytes" 67108864 ($gateway.settings | default dict) }}
{{- if lt (float64 .) (float64 $session) }}
gateway.resources.limits.memory leaves {{ . }} bytes for the journal, less than one session's {{ include "cascade.text" $session }}: raise it, or lower gateway.settings.gateway.session_bytes
{{- end }}
{{- end }}
{{- end }}

{{- define "cascade.httpProblems" -}}
{{- $http := .Values.gateway.http }}
{{- range $name := list "ingress" "httpRoute" }}
{{- if and (get $http $name).enabled (not $http.enabled) }}
gateway.http.{{ $name }}.enabled is true, and gateway.http.enabled is false: set gateway.http.enabled to true
{{- end }}
{{- end }}
{{- if and (hasKey (.Values.gateway.settings | default dict) "http") (not $http.enabled) }}
gateway.settings.http is set, and gateway.http.enabled is false: set gateway.http.enabled to true, or leave the settings out
{{- end }}
{{- if and $http.ingress.enabled (not $http.ingress.host) }}
gateway.http.ingress.enabled is true: set gateway.http.ingress.host to the name in the address that people open
{{- end }}
{{- if and $http.httpRoute.enabled (not $http.httpRoute.parentRefs) }}
gateway.http.httpRoute.enabled is true: set gateway.http.httpRoute.parentRefs to the Gateway it hangs on
{{- end }}
{{ include "cascade.webrtcProblems" . }}
{{- if and $http.enabled (eq (int $http.port) (int .Values.gateway.service.port)) }}
gateway.http.port and gateway.service.port are both {{ $http.port }}: set another gateway.http.port
{{- end }}
{{- end }}

{{- define "cascade.webrtcProblems" -}}
{{- $http := .Values.gateway.http }}
{{- with $http.webrtc }}
{{- if .enabled }}
{{- if not $http.enabled }}
gateway.http.webrtc.enabled is true, and gateway.http.enabled is false: set gateway.http.enabled to true
{{- end }}
{{- $ports := sub (int .lastPort) (int .firstPort) | add 1 }}
{{- if lt $ports 1 }}
gateway.http.webrtc.lastPort is {{ .lastPort }}, below firstPort: set it to at least {{ .firstPort }}
{{- end }}
{{- if gt $ports 10000 }}
gateway.http.webrtc has {{ $ports }} ports: set lastPort so that there are at most 10000
{{- end }}
{{- if and .hostPorts (gt $ports 256) }}
gateway.http.webrtc.hostPorts is true, and every port is a line of the pod: set lastPort so that there are at most 256, not {{ $ports }}
{{- end }}
{{- if and .hostPorts (not .publicAddress) (ne $.Values.network.ipFamily "IPv4") }}
gateway.http.webrtc.hostPorts is true, and nodes have IPv6 addresses, which players are not told: set gateway.http.webrtc.publicAddress
{{- end }}
{{- if and .iceServers.existingSecret (dig "http" "webrtc_ice_servers" nil ($.Values.gateway.settings | default dict)) }}
gateway.http.webrtc.iceServers.existingSecret and gateway.settings.http.webrtc_ice_servers are both set: set one of them
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- define "cascade.redisProblems" -}}
{{- $external := .Values.externalRedis.existingSecret }}
{{- if and .Values.redis.enabled $external }}
redis.enabled is true and externalRedis.existingSecret is set: set one of them
{{- end }}
{{- if and .Values.redis.enabled .Values.cpuLimitFactor (not .Values.redis.cpuLimitFactor) (not (dig "limits" "cpu" nil .Values.redis.resources)) }}
cpuLimitFactor is set, and the chart's Redis has no CPU limit: set redis.cpuLimitFactor, too
{{- end }}
{{- $own := .Values.externalRedis }}
{{- if and (or $own.passwordKey $own.tls.existingSecret) (not $external) }}
externalRedis.passwordKey and externalRedis.tls go with a URL: set externalRedis.existingSecret
{{- end }}
{{- if and $own.tls.clientCertificate (not $own.tls.existingSecret) }}
externalRedis.tls.clientCertificate is true: set externalRedis.tls.existingSecret to the Secret that has it
{{- end }}
{{- if and (or .Values.redis.enabled $external) (not (include "cascade.hasTokenKey" .)) }}
gateways with Redis must sign resume tokens alike: set gateway.tokenKey.existingSecret to a Secret with 32 random bytes, or gateway.tokenKey.generate to true
{{- end }}
{{- end }}

{{- define "cascade.tlsProblems" -}}
{{- $tls := .Values.tls }}
{{- if and $tls.enabled (not $tls.issuerRef.name) }}
{{- range $name := list "gateway" "stage" "decoder" }}
{{- if not (get $tls.existingSecrets $name) }}
tls.enabled is true, and {{ $name }} has no certificate: set tls.issuerRef.name to an issuer of cert-manager, or tls.existingSecrets.{{ $name }}
{{- end }}
{{- end }}
{{- end }}
{{- if and $tls.gatewayRequiresClientCertificates (not $tls.enabled) }}
tls.gatewayRequiresClientCertificates is true, and tls.enabled is false: set tls.enabled to true
{{- end }}
{{- end }}

{{/* Of one component. */}}
{{- define "cascade.podProblems" -}}
{{- $values := index .root.Values .name }}
{{- $wanted := include "cascade.drainSeconds" . | int }}
{{- $given := include "cascade.terminationSeconds" . | int }}
{{- if lt $given $wanted }}
{{ .name }}.terminationGracePeriodSeconds is {{ $given }}, less than the {{ $wanted }} s of {{ .name }}.drain, so that sessions would be cut off: raise it (or set it to null), or lower {{ .name }}.drain.deadlineSeconds
{{- end }}
{{- if and (ne .name "gateway") (lt (int $values.replicas) 1) (not (include "cascade.autoscaled" .)) }}
{{ .name }}.replicas is 0, and no autoscaler would start the first one: set it to 1 or more
{{- end }}
{{- $deadline := dig .name "start_deadline_s" 900 ($values.settings | default dict) }}
{{- if and (ne .name "gateway") (le (include "cascade.startSeconds" . | float64) (float64 $deadline)) }}
{{ .name }}.startSeconds is {{ include "cascade.startSeconds" . }}, and the model may take {{ include "cascade.text" $deadline }} s to load ({{ .name }}.settings.{{ .name }}.start_deadline_s): set more, or null
{{- end }}
{{- if le (include "cascade.progressSeconds" . | int) (add (include "cascade.startSeconds" .) $values.minReadySeconds | int) }}
{{ .name }}.progressDeadlineSeconds is {{ include "cascade.progressSeconds" . }}, and a pod may take {{ include "cascade.startSeconds" . }} s to start: set more, or null
{{- end }}
{{- end }}

{{/* Of everything that runs. Takes dict "root" "path" (of its values) "values". */}}
{{- define "cascade.extraProblems" -}}
{{- $taken := concat (list "HOME" "POD_IP" "REDIS_PASSWORD") (keys (.values.nccl | default dict)) }}
{{- if eq .path "weights.download" }}
{{- $taken = concat $taken (list "HF_HOME" "HF_ENDPOINT" "HF_TOKEN") }}
{{- end }}
{{- range $field := list "labels" "podLabels" }}
{{ include "cascade.labelProblems" (dict "path" (printf "%s.%s" $.path $field) "labels" (index $.values $field)) }}
{{- end }}
{{- $mine := list "tmp" "data" "tls" "peer-keys" "peer-key" "shm" "weights" "model" "api-access" "token-key" "quotas" "api-keys" "jwks" "redis-password" "redis-tls" "key" "client" "compiled" }}
{{- $seen := list }}
{{- /* The API server refuses a name that stands twice. */}}
{{- range .values.extraEnv }}
{{- if or (hasPrefix "CASCADE_" .name) (has .name $taken) }}
{{ $.path }}.extraEnv has {{ .name }}, which the chart sets: set it by the value that stands for it{{ if has $.path (list "stage" "decoder" "gateway") }} (of a setting: {{ $.path }}.settings){{ end }}
{{- else if has .name $seen }}
{{ $.path }}.extraEnv has {{ .name }} twice: keep one
{{- end }}
{{- $seen = append $seen .name }}
{{- end }}
{{- range .values.extraVolumes }}
{{- if has .name $mine }}
{{ $.path }}.extraVolumes has {{ .name }}, which is there already: give it another name
{{- end }}
{{- $mine = append $mine .name }}
{{- end }}
{{- if and (ternary .values.cpuLimitFactor .root.Values.cpuLimitFactor (eq .path "redis")) (not (dig "requests" "cpu" (dig "limits" "cpu" nil .values.resources) .values.resources)) }}
{{ .path }}.resources has no CPU to make a limit of: set {{ .path }}.resources.requests.cpu or .limits.cpu, or cpuLimitFactor to null
{{- end }}
{{- end }}

{{/* Takes dict "path" "labels". */}}
{{- define "cascade.labelProblems" -}}
{{- $part := "[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?" }}
{{- range $name, $value := .labels }}
{{- if regexMatch "^(app\\.kubernetes\\.io/(name|instance|component|version|managed-by)|helm\\.sh/chart)$" $name }}
{{ $.path }} has {{ $name }}, which the chart sets: leave it out
{{- else if not (and (regexMatch (printf "^([a-z0-9][-a-z0-9.]{0,252}/)?%s$" $part) $name) (regexMatch (printf "^(%s)?$" $part) $value)) }}
{{ $.path }} has {{ $name }}: {{ $value }}, which Kubernetes would refuse: take at most 63 letters, digits, dashes, dots and underscores for each, a letter or digit first and last
{{- end }}
{{- end }}
{{- end }}

{{/* Of stages or decoders. */}}
{{- define "cascade.gpuProblems" -}}
{{- $gpu := (index .root.Values .name).gpu }}
{{- $limits := (index .root.Values .name).resources.limits | default dict }}
{{- if gt (int $gpu.count) 0 }}
{{- if and (eq $gpu.allocation "devicePlugin") (not $gpu.resourceName) }}
{{ .name }}.gpu.count is {{ $gpu.count }}, and {{ .name }}.gpu.allocation is devicePlugin: set {{ .name }}.gpu.resourceName to what the device plugin calls its GPUs (nvidia.com/gpu), or {{ .name }}.gpu.allocation to dra
{{- end }}
{{- if and (eq $gpu.allocation "dra") (not $gpu.dra.deviceClassName) }}
{{ .name }}.gpu.allocation is dra: set {{ .name }}.gpu.dra.deviceClassName to the DeviceClass of the driver (gpu.nvidia.com)
{{- end }}
{{- if and (eq $gpu.allocation "dra") $gpu.products }}
{{ .name }}.gpu.products chooses nodes of the device plugin by their label, and {{ .name }}.gpu.allocation is dra: empty it, and say the same in {{ .name }}.gpu.dra.selectors (CEL)
{{- end }}
{{- if and (eq $gpu.allocation "devicePlugin") $gpu.dra.selectors }}
{{ .name }}.gpu.dra.selectors needs {{ .name }}.gpu.allocation dra: set it, or choose by {{ .name }}.gpu.products
{{- end }}
{{- if and (eq $gpu.allocation "dra") (semverCompare "<1.34.0-0" .root.Capabilities.KubeVersion.Version) }}
{{ .name }}.gpu.allocation is dra, which Kubernetes has since 1.34, and this is {{ .root.Capabilities.KubeVersion.Version }}: set it to devicePlugin
{{- end }}
{{- if and $gpu.perNode (gt (int $gpu.count) (int $gpu.perNode)) }}
{{ .name }}.gpu.count is {{ $gpu.count }}, and a node has {{ $gpu.perNode }} ({{ .name }}.gpu.perNode): all GPUs of a pod are in one node, so set a smaller {{ .name }}.gpu.count (of stages: values-4gpu.yaml)
{{- end }}
{{- else if or $gpu.products $gpu.dra.selectors }}
{{ .name }}.gpu.products or .dra.selectors choose GPUs, and {{ .name }}.gpu.count is 0: set the count
{{- end }}
{{- if and $gpu.resourceName (hasKey $limits $gpu.resourceName) }}
{{ .name }}.resources.limits has {{ $gpu.resourceName }}: set {{ .name }}.gpu.count instead
{{- end }}
{{- end }}

{{- define "cascade.rankProblems" -}}
{{- $stage := .Values.stage }}
{{- $ranks := include "cascade.ranks" . | int }}
{{- if and (gt (int $stage.gpu.count) 0) (ne $ranks (int $stage.gpu.count)) }}
stage.ranks is {{ $ranks }}, and stage.gpu.count is {{ $stage.gpu.count }}: a rank uses one GPU, so set them alike, or stage.ranks to null
{{- end }}
{{- with dig "limits" "memory" "" $stage.resources }}
{{- if ge (include "cascade.bytes" $stage.sharedMemory | int64) (include "cascade.bytes" . | int64) }}
stage.sharedMemory is {{ $stage.sharedMemory }}, and counts against stage.resources.limits.memory, {{ . }}: raise the limit
{{- end }}
{{- end }}
{{- end }}
