{{/* What the gateway alone has: peers, keys, Redis, the Kubernetes API. */}}

{{- define "cascade.gatewayEnv" -}}
- name: POD_IP
  valueFrom: {fieldRef: {fieldPath: status.podIP}}
- {name: CASCADE_GATEWAY_ADVERTISE, value: "$(POD_IP):50051"}
- {name: CASCADE_GATEWAY_DEFAULT_MODEL, value: {{ .Values.model.name | quote }}}
{{- if .Values.gateway.http.enabled }}
- {name: CASCADE_HTTP_HOST, value: {{ include "cascade.listenHost" . | quote }}}
- {name: CASCADE_HTTP_PORT, value: "8080"}
{{- end }}
{{- include "cascade.webrtcEnv" . }}
{{- with include "cascade.journalBytes" . }}
- {name: CASCADE_GATEWAY_JOURNAL_BYTES, value: {{ . | quote }}}
{{- end }}
{{- include "cascade.redisEnv" . }}
{{- if include "cascade.hasTokenKey" . }}
- {name: CASCADE_GATEWAY_TOKEN_KEY_FILE, value: {{ printf "/etc/cascade/token/%s" .Values.gateway.tokenKey.key | quote }}}
{{- end }}
{{- if .Values.gateway.quotas }}
- {name: CASCADE_GATEWAY_QUOTAS_FILE, value: /etc/cascade/quotas/quotas.toml}
{{- end }}
{{- include "cascade.authEnv" . }}
{{- if .Values.peerAuth.enabled }}
- {name: CASCADE_PEER_API_KEY_FILE, value: /etc/cascade/peer/key}
{{- end }}
{{- if .Values.tls.enabled }}
- {name: CASCADE_PEER_TLS, value: "true"}
- {name: CASCADE_PEER_SERVER_NAME, value: {{ .Values.tls.peerName | quote }}}
- {name: CASCADE_PEER_CERTIFICATE, value: /etc/cascade/tls/tls.crt}
- {name: CASCADE_PEER_KEY, value: /etc/cascade/tls/tls.key}
- {name: CASCADE_PEER_CA, value: /etc/cascade/tls/ca.crt}
{{- end }}
{{- include "cascade.scalerEnv" . }}
- {name: CASCADE_KUBERNETES_STAGE_SERVICE, value: {{ include "cascade.name" (dict "root" $ "name" "stage") }}}
- {name: CASCADE_KUBERNETES_DECODER_SERVICE, value: {{ include "cascade.name" (dict "root" $ "name" "decoder") }}}
- {name: CASCADE_KUBERNETES_DELETION_COST, value: {{ .Values.gateway.kubernetes.deletionCost | quote }}}
- {name: CASCADE_KUBERNETES_EVENTS, value: {{ .Values.gateway.kubernetes.events | quote }}}
{{- end }}

{{/* Not empty: gateways offer video by WebRTC. */}}
{{- define "cascade.hasWebrtc" -}}
{{- if and .Values.gateway.http.enabled .Values.gateway.http.webrtc.enabled }}true{{ end -}}
{{- end }}

{{- define "cascade.webrtcEnv" -}}
{{- if include "cascade.hasWebrtc" . }}
{{- with .Values.gateway.http.webrtc }}
- {name: CASCADE_HTTP_WEBRTC, value: "true"}
- {name: CASCADE_HTTP_WEBRTC_FIRST_PORT, value: {{ .firstPort | quote }}}
- {name: CASCADE_HTTP_WEBRTC_LAST_PORT, value: {{ .lastPort | quote }}}
- {name: CASCADE_HTTP_WEBRTC_MAX_PLAYERS, value: {{ sub (int .lastPort) (int .firstPort) | add 1 | quote }}}
{{- if .publicAddress }}
- {name: CASCADE_HTTP_WEBRTC_PUBLIC_ADDRESS, value: {{ .publicAddress | quote }}}
{{- else if .hostPorts }}
- name: CASCADE_HTTP_WEBRTC_PUBLIC_ADDRESS
  valueFrom: {fieldRef: {fieldPath: status.hostIP}}
{{- end }}
{{- with .iceServers }}
{{- if .existingSecret }}
- name: CASCADE_HTTP_WEBRTC_ICE_SERVERS
  valueFrom: {secretKeyRef: {name: {{ .existingSecret | quote }}, key: {{ .key | quote }}}}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* Six tenths of the memory limit, where nothing else is said; the rest is for streams and copies. */}}
{{- define "cascade.journalBytes" -}}
{{- $limit := dig "limits" "memory" "" .Values.gateway.resources -}}
{{- $said := dig "gateway" "journal_bytes" 0 (.Values.gateway.settings | default dict) -}}
{{- if and $limit (not $said) -}}
{{ mulf 0.6 (include "cascade.bytes" $limit) | int64 }}
{{- end }}
{{- end }}

{{- define "cascade.redisEnv" -}}
{{- if .Values.redis.enabled }}
- name: REDIS_PASSWORD
  valueFrom: {secretKeyRef: {name: {{ .Values.redis.auth.existingSecret | default (include "cascade.redis.name" .) | quote }}, key: password}}
- {name: CASCADE_GATEWAY_REDIS_URL, value: "redis://:$(REDIS_PASSWORD)@{{ include "cascade.redis.name" . }}:6379/0"}
{{- else if .Values.externalRedis.existingSecret }}
- name: CASCADE_GATEWAY_REDIS_URL
  valueFrom: {secretKeyRef: {name: {{ .Values.externalRedis.existingSecret | quote }}, key: {{ .Values.externalRedis.key | quote }}}}
- {name: CASCADE_GATEWAY_REDIS_PREFIX, value: {{ .Values.externalRedis.prefix | quote }}}
{{- if .Values.externalRedis.passwordKey }}
- {name: CASCADE_GATEWAY_REDIS_PASSWORD_FILE, value: /etc/cascade/redis/password}
{{- end }}
{{- with .Values.externalRedis.tls }}
{{- if .existingSecret }}
- {name: CASCADE_GATEWAY_REDIS_CA, value: /etc/cascade/redis-tls/ca.crt}
{{- if .clientCertificate }}
- {name: CASCADE_GATEWAY_REDIS_CERTIFICATE, value: /etc/cascade/redis-tls/tls.crt}
- {name: CASCADE_GATEWAY_REDIS_KEY, value: /etc/cascade/redis-tls/tls.key}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- define "cascade.authEnv" -}}
{{- with .Values.gateway.auth }}
{{- if .modes }}
- {name: CASCADE_AUTH_MODES, value: {{ join "," .modes | quote }}}
{{- end }}
{{- if has "api_keys" .modes }}
- {name: CASCADE_AUTH_KEYS_FILE, value: {{ printf "/etc/cascade/keys/%s" .apiKeys.key | quote }}}
{{- end }}
{{- if has "jwt" .modes }}
- {name: CASCADE_AUTH_JWKS, value: {{ .jwt.jwksUrl | default (printf "/etc/cascade/jwks/%s" .jwt.jwksConfigMap.key) | quote }}}
- {name: CASCADE_AUTH_ISSUER, value: {{ .jwt.issuer | quote }}}
- {name: CASCADE_AUTH_AUDIENCE, value: {{ .jwt.audience | quote }}}
- {name: CASCADE_AUTH_AUDIENCE_CLAIMS, value: {{ join "," .jwt.audienceClaims | quote }}}
- {name: CASCADE_AUTH_TENANT_CLAIM, value: {{ .jwt.tenantClaim | quote }}}
{{- end }}
{{- end }}
{{- end }}

{{- define "cascade.redisVolumes" -}}
{{- with .Values.externalRedis }}
{{- if and .existingSecret .passwordKey }}
- name: redis-password
  secret: {secretName: {{ .existingSecret | quote }}, defaultMode: 0440, items: [{key: {{ .passwordKey | quote }}, path: password}]}
{{- end }}
{{- if and .existingSecret .tls.existingSecret }}
- name: redis-tls
  secret: {secretName: {{ .tls.existingSecret | quote }}, defaultMode: 0440}
{{- end }}
{{- end }}
{{- end }}

{{- define "cascade.redisMounts" -}}
{{- with .Values.externalRedis }}
{{- if and .existingSecret .passwordKey }}
- {name: redis-password, mountPath: /etc/cascade/redis, readOnly: true}
{{- end }}
{{- if and .existingSecret .tls.existingSecret }}
- {name: redis-tls, mountPath: /etc/cascade/redis-tls, readOnly: true}
{{- end }}
{{- end }}
{{- end }}

{{- define "cascade.gatewayVolumes" -}}
- name: api-access
  projected:
    defaultMode: 0440
    sources:
      - serviceAccountToken: {path: token, expirationSeconds: 3600}
      - configMap: {name: kube-root-ca.crt, items: [{key: ca.crt, path: ca.crt}]}
      - downwardAPI: {items: [{path: namespace, fieldRef: {fieldPath: metadata.namespace}}]}
{{- include "cascade.redisVolumes" . }}
{{- if include "cascade.hasTokenKey" . }}
- name: token-key
  secret: {secretName: {{ include "cascade.tokenKeySecret" . | quote }}, defaultMode: 0440}
{{- end }}
{{- if .Values.peerAuth.enabled }}
- name: peer-key
  secret: {secretName: {{ include "cascade.peerKeySecret" . | quote }}, defaultMode: 0440, items: [{key: key, path: key}]}
{{- end }}
{{- if .Values.gateway.quotas }}
- name: quotas
  configMap: {name: {{ include "cascade.fullname" . }}-quotas}
{{- end }}
{{- with .Values.gateway.auth }}
{{- if has "api_keys" .modes }}
- name: api-keys
  secret: {secretName: {{ .apiKeys.existingSecret | quote }}, defaultMode: 0440}
{{- end }}
{{- if and (has "jwt" .modes) (not .jwt.jwksUrl) }}
- name: jwks
  configMap: {name: {{ .jwt.jwksConfigMap.name | quote }}}
{{- end }}
{{- end }}
{{- end }}

{{- define "cascade.gatewayMounts" -}}
- {name: api-access, mountPath: /var/run/secrets/kubernetes.io/serviceaccount, readOnly: true}
{{- include "cascade.redisMounts" . }}
{{- if include "cascade.hasTokenKey" . }}
- {name: token-key, mountPath: /etc/cascade/token, readOnly: true}
{{- end }}
{{- if .Values.peerAuth.enabled }}
- {name: peer-key, mountPath: /etc/cascade/peer, readOnly: true}
{{- end }}
{{- if .Values.gateway.quotas }}
- {name: quotas, mountPath: /etc/cascade/quotas, readOnly: true}
{{- end }}
{{- with .Values.gateway.auth }}
{{- if has "api_keys" .modes }}
- {name: api-keys, mountPath: /etc/cascade/keys, readOnly: true}
{{- end }}
{{- if and (has "jwt" .modes) (not .jwt.jwksUrl) }}
- {name: jwks, mountPath: /etc/cascade/jwks, readOnly: true}
{{- end }}
{{- end }}
{{- end }}

{{/* Not empty: the chart makes the key that signs resume tokens. */}}
{{- define "cascade.makesTokenKey" -}}
{{- if and .Values.gateway.tokenKey.generate (not .Values.gateway.tokenKey.existingSecret) }}true{{ end -}}
{{- end }}

{{- define "cascade.hasTokenKey" -}}
{{- if or .Values.gateway.tokenKey.generate .Values.gateway.tokenKey.existingSecret }}true{{ end -}}
{{- end }}

{{- define "cascade.tokenKeySecret" -}}
{{ .Values.gateway.tokenKey.existingSecret | default (printf "%s-token-key" (include "cascade.fullname" .)) }}
{{- end }}

{{- define "cascade.peerKeySecret" -}}
{{ .Values.peerAuth.existingSecret | default (printf "%s-peer-key" (include "cascade.fullname" .)) }}
{{- end }}
