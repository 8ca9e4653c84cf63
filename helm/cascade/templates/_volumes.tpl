{{/* Volumes that each component has; the root file system is read-only. */}}
{{- define "cascade.volumes" -}}
{{- $values := index .root.Values .name -}}
- name: tmp
  emptyDir: {}
{{- if .root.Values.tls.enabled }}
- name: tls
  secret: {secretName: {{ include "cascade.tlsSecret" . | quote }}, defaultMode: 0440}
{{- end }}
{{- if and .root.Values.peerAuth.enabled (ne .name "gateway") }}
- name: peer-keys
  secret: {secretName: {{ include "cascade.peerKeySecret" .root | quote }}, defaultMode: 0440, items: [{key: keys.toml, path: keys.toml}]}
{{- end }}
{{- with $values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "cascade.mounts" -}}
{{- $values := index .root.Values .name -}}
- {name: tmp, mountPath: /tmp}
{{- if .root.Values.tls.enabled }}
- {name: tls, mountPath: /etc/cascade/tls, readOnly: true}
{{- end }}
{{- if and .root.Values.peerAuth.enabled (ne .name "gateway") }}
- {name: peer-keys, mountPath: /etc/cascade/peer, readOnly: true}
{{- end }}
{{- with $values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* What keeps compiled layers: a claim, an emptyDir, or nothing where nothing is compiled. */}}
{{- define "cascade.compileVolume" -}}
{{- if and (eq .name "stage") (gt (int .root.Values.stage.gpu.count) 0) -}}
{{ empty .root.Values.stage.compileCache.existingClaim | ternary "emptyDir" "claim" }}
{{- end }}
{{- end }}

{{- define "cascade.tlsSecret" -}}
{{ get .root.Values.tls.existingSecrets .name | default (printf "%s-tls" (include "cascade.name" .)) }}
{{- end }}
