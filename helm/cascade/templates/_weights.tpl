{{/* The checkpoint in stages and decoders: one of four sources at /weights, or none (in the image). */}}

{{- define "cascade.weightsPath" -}}
/weights{{ with .Values.weights.path }}/{{ trimAll "/" . }}{{ end }}
{{- end }}

{{- define "cascade.weightsClaim" -}}
{{ .Values.weights.download.existingClaim | default (printf "%s-weights" (include "cascade.fullname" .)) }}
{{- end }}

{{- define "cascade.weightsVolume" -}}
{{- with .Values.weights -}}
{{- if eq .source "pvc" -}}
- name: weights
  persistentVolumeClaim: {claimName: {{ .pvc.claimName | quote }}, readOnly: true}
{{- else if eq .source "hostPath" -}}
- name: weights
  hostPath: {path: {{ .hostPath.path | quote }}, type: Directory}
{{- else if eq .source "image" -}}
- name: weights
  image: {reference: {{ .image.reference | quote }}, pullPolicy: {{ .image.pullPolicy }}}
{{- else if eq .source "download" -}}
- name: weights
  persistentVolumeClaim: {claimName: {{ include "cascade.weightsClaim" $ | quote }}, readOnly: true}
{{- end }}
{{- end }}
{{- end }}

{{- define "cascade.weightsMount" -}}
{{- if ne .Values.weights.source "none" -}}
- {name: weights, mountPath: /weights, readOnly: true}
{{- end }}
{{- end }}

{{/* Name of the card, or path of the card that the values bring. */}}
{{- define "cascade.model" -}}
{{ if .Values.model.card }}/etc/cascade/model/card.toml{{ else }}{{ .Values.model.name }}{{ end }}
{{- end }}

{{- define "cascade.decoderWeights" -}}
{{- with .Values.decoder.weightsPath -}}
/weights/{{ trimAll "/" . }}
{{- else -}}
{{ include "cascade.weightsPath" . }}
{{- end }}
{{- end }}

{{- define "cascade.ranks" -}}
{{ .Values.stage.ranks | default (max .Values.stage.gpu.count 1) }}
{{- end }}

{{- define "cascade.modelVolumes" -}}
{{- include "cascade.weightsVolume" . }}
{{- if .Values.model.card }}
- name: model
  configMap: {name: {{ include "cascade.fullname" . }}-model}
{{- end }}
{{- end }}

{{- define "cascade.modelMounts" -}}
{{- include "cascade.weightsMount" . }}
{{- if .Values.model.card }}
- {name: model, mountPath: /etc/cascade/model, readOnly: true}
{{- end }}
{{- end }}
