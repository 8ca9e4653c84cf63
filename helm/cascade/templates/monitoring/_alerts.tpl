{{/* Alerts, as a list. `SELECTOR` becomes the labels of this installation; see docs/kubernetes.md for what to do. */}}

{{- define "cascade.alerts.sessions" -}}
{{- $limits := .Values.monitoring.rules.thresholds }}
- alert: CascadeNoGateway
  expr: absent(up{SELECTOR,container="gateway"} == 1)
  for: 2m
  labels: {severity: critical}
  annotations:
    summary: No gateway answers
    description: No gateway of {{ .Release.Name }} has answered Prometheus for two minutes. Nobody can create or watch a session.
- alert: CascadeNoReadyStage
  expr: max(cascade_peers{SELECTOR,kind="stage",state="ready"}) == 0 and on () sum(cascade_queue_length{SELECTOR}) > 0
  for: {{ $limits.noPeerFor }}
  labels: {severity: critical}
  annotations:
    summary: Sessions wait and no stage is ready
    description: {{ "'{{ $value }} stages are ready in the eyes of the gateways, and sessions wait.'" }}
- alert: CascadeNoReadyDecoder
  expr: max(cascade_peers{SELECTOR,kind="decoder",state="ready"}) == 0 and on () sum(cascade_queue_length{SELECTOR}) > 0
  for: {{ $limits.noPeerFor }}
  labels: {severity: critical}
  annotations:
    summary: Sessions wait and no decoder is ready
    description: {{ "'{{ $value }} decoders are ready in the eyes of the gateways, and sessions wait.'" }}
- alert: CascadeSessionsQueued
  expr: sum(cascade_queue_length{SELECTOR}) > 0
  for: {{ $limits.queuedFor }}
  labels: {severity: warning}
  annotations:
    summary: Sessions wait for a place
    description: {{ printf "'{{ $value }} sessions wait, and some session has waited at every moment of the last %s.'" $limits.queuedFor }}
- alert: CascadeFirstSegmentSlow
  expr: histogram_quantile(0.95, sum by (le) (rate(cascade_first_segment_seconds_bucket{SELECTOR}[15m]))) > {{ $limits.firstSegmentSeconds }}
  for: 5m
  labels: {severity: warning}
  annotations:
    summary: New sessions wait long for their first segment
    description: {{ "'One in 20 new sessions waits {{ $value | humanizeDuration }} or longer for its first segment.'" }}
- alert: CascadeSegmentsLate
  expr: 1 - sum(rate(cascade_segment_lateness_seconds_bucket{SELECTOR,le="0.5"}[10m])) / sum(rate(cascade_segment_lateness_seconds_count{SELECTOR}[10m])) > {{ $limits.lateSegmentsRatio }}
  for: 10m
  labels: {severity: warning}
  annotations:
    summary: Video does not keep up with playback
    description: {{ "'{{ $value | humanizePercentage }} of the segments are made more than half a second after the one before has played.'" }}
- alert: CascadePromptSwitchSlow
  expr: histogram_quantile(0.95, sum by (le) (rate(cascade_prompt_picture_seconds_bucket{SELECTOR}[15m]))) > {{ $limits.promptSwitchSeconds }}
  for: 5m
  labels: {severity: warning}
  annotations:
    summary: Prompt switches take long to show
    description: {{ "'One in 20 prompt switches takes {{ $value | humanizeDuration }} or longer until a segment shows it.'" }}
- alert: CascadeRecoveryGapHigh
  expr: histogram_quantile(0.95, sum by (le, cause) (rate(cascade_recovery_gap_seconds_bucket{SELECTOR}[15m]))) > {{ $limits.recoveryGapSeconds }}
  labels: {severity: warning}
  annotations:
    summary: Sessions stand still for long after a loss
    description: {{ "'After {{ $labels.cause }} one in 20 sessions gets no segment for {{ $value | humanizeDuration }} or longer.'" }}
- alert: CascadeManyRecoveries
  expr: sum by (cause) (increase(cascade_recovery_gap_seconds_count{SELECTOR,cause!="migration"}[30m])) > {{ $limits.recoveries }}
  labels: {severity: warning}
  annotations:
    summary: Machines are lost again and again
    description: {{ "'{{ $value | humanize }} sessions were rebuilt within 30 minutes because of {{ $labels.cause }}.'" }}
- alert: CascadeSessionsFailed
  expr: sum(increase(cascade_sessions_ended_total{SELECTOR,reason="failed"}[15m])) > 0
  labels: {severity: critical}
  annotations:
    summary: Sessions were lost
    description: {{ "'{{ $value | humanize }} sessions ended within 15 minutes because no machine was found for them in time.'" }}
- alert: CascadeJournalBehind
  expr: max by (pod) (cascade_journal_behind_seconds{SELECTOR}) > {{ $limits.journalBehindSeconds }}
  for: 1m
  labels: {severity: critical}
  annotations:
    summary: Redis lacks what happened last
    description: {{ "'{{ $labels.pod }} holds changes that Redis has lacked for {{ $value | humanizeDuration }}. If it dies now, its sessions go on from before them. New sessions are refused while Redis is away.'" }}
- alert: CascadeInternalErrors
  expr: sum by (pod, grpc_method) (increase(grpc_server_handled_total{SELECTOR,grpc_code=~"INTERNAL|UNKNOWN"}[15m])) > {{ $limits.internalErrors }}
  labels: {severity: warning}
  annotations:
    summary: Calls end with an error that nobody expected
    description: {{ "'{{ $labels.pod }} answered {{ $value | humanize }} calls of {{ $labels.grpc_method }} with INTERNAL or UNKNOWN within 15 minutes.'" }}
{{- end }}

{{- define "cascade.alerts.machines" -}}
{{- $limits := .Values.monitoring.rules.thresholds }}
- alert: CascadeQuarantined
  expr: max by (pod, reason_class) (cascade_quarantined{SELECTOR}) == 1
  labels: {severity: critical}
  annotations:
    summary: Broken hardware keeps a pod out of service
    description: {{ "'{{ $labels.pod }} found a fault of its GPUs that does not go away ({{ $labels.reason_class }}). It takes no sessions and holds its GPUs until it is deleted.'" }}
- alert: CascadeStageUnhealthy
  expr: max by (pod) (cascade_stage_state{SELECTOR,state="unhealthy"}) == 1
  for: 2m
  labels: {severity: warning}
  annotations:
    summary: A stage does not serve
    description: {{ "'{{ $labels.pod }} does not trust its GPUs, or its ticks have stopped coming; it takes no sessions.'" }}
- alert: CascadeDecoderUnhealthy
  expr: max by (pod) (cascade_decoder_state{SELECTOR,state="unhealthy"}) == 1
  for: 2m
  labels: {severity: warning}
  annotations:
    summary: A decoder does not serve
    description: {{ "'{{ $labels.pod }} does not trust its GPU, or its blocks have stopped coming; it takes no sessions.'" }}
- alert: CascadePeersUnreachable
  expr: max by (pod, kind) (cascade_peers{SELECTOR,state="gone"}) > 0
  for: {{ $limits.unreachableFor }}
  labels: {severity: warning}
  annotations:
    summary: A gateway cannot reach machines that are listed
    description: {{ "'{{ $labels.pod }} hears nothing of {{ $value }} machines ({{ $labels.kind }}) that Kubernetes lists.'" }}
- alert: CascadeClusterUnwatched
  expr: min by (pod, kind) (cascade_cluster_connected{SELECTOR}) == 0
  for: {{ $limits.unreachableFor }}
  labels: {severity: warning}
  annotations:
    summary: A gateway does not hear of new pods
    description: {{ "'{{ $labels.pod }} cannot follow the EndpointSlices ({{ $labels.kind }}) at the Kubernetes API. It goes on with the pods it knows.'" }}
- alert: CascadeStageStarting
  expr: max by (pod) (cascade_stage_state{SELECTOR,state="starting"}) == 1
  for: {{ $limits.startingFor }}
  labels: {severity: warning}
  annotations:
    summary: A stage does not finish loading
    description: {{ printf "'{{ $labels.pod }} has been loading its model for more than %s.'" $limits.startingFor }}
- alert: CascadeRankRestarts
  expr: sum by (pod) (increase(cascade_stage_rank_restarts_total{SELECTOR}[1h])) > {{ $limits.restartsPerHour }}
  labels: {severity: warning}
  annotations:
    summary: The ranks of a stage start again and again
    description: {{ "'The ranks of {{ $labels.pod }} started again {{ $value | humanize }} times within an hour: ticks missed their deadline, or a rank died.'" }}
- alert: CascadeDecoderRestarts
  expr: sum by (pod) (increase(cascade_decoder_restarts_total{SELECTOR}[1h])) > {{ $limits.restartsPerHour }}
  labels: {severity: warning}
  annotations:
    summary: The worker of a decoder starts again and again
    description: {{ "'The worker of {{ $labels.pod }} started again {{ $value | humanize }} times within an hour.'" }}
- alert: CascadeProcessRestarts
  expr: sum by (pod, container) (changes(process_start_time_seconds{SELECTOR}[1h])) > {{ $limits.restartsPerHour }}
  labels: {severity: warning}
  annotations:
    summary: A container starts again and again
    description: {{ "'{{ $labels.container }} of {{ $labels.pod }} started again {{ $value }} times within an hour.'" }}
- alert: CascadeMetricsMissing
  expr: up{SELECTOR} == 0
  for: {{ $limits.unreachableFor }}
  labels: {severity: warning}
  annotations:
    summary: A pod answers nobody
    description: {{ "'{{ $labels.pod }} does not answer Prometheus.'" }}
{{- end }}

{{- define "cascade.alerts.autoscaling" -}}
{{- range $name := list "stage" "decoder" }}
{{- if include "cascade.autoscaled" (dict "root" $ "name" $name) }}
- alert: CascadeScaleUpStuck
  expr: max by (component) (cascade_desired_pods{SELECTOR,component="{{ $name }}"}) > on () group_left () (count(up{SELECTOR,container="{{ $name }}"}) or vector(0))
  for: {{ $.Values.monitoring.rules.thresholds.scaleUpFor }}
  labels: {severity: warning}
  annotations:
    summary: Fewer pods run than the sessions need
    description: {{ printf "'The gateways ask for {{ $value }} pods ({{ $labels.component }}), and fewer have been there for %s.'" $.Values.monitoring.rules.thresholds.scaleUpFor }}
{{- end }}
{{- end }}
- alert: CascadeDesiredPodsUnknown
  expr: absent(cascade_desired_pods{SELECTOR})
  for: 5m
  labels: {severity: critical}
  annotations:
    summary: No gateway says how many pods it needs
    description: Without cascade_desired_pods nothing is started or stopped.
{{- if .Values.autoscaling.keda.enabled }}
- alert: CascadeScalerUnasked
  expr: (sum(rate(grpc_server_handled_total{SELECTOR,grpc_service="externalscaler.ExternalScaler",grpc_method="GetMetrics",grpc_code="OK"}[10m])) or vector(0)) == 0
  for: 10m
  labels: {severity: critical}
  annotations:
    summary: KEDA does not get its numbers
    description: No gateway has given KEDA a number of pods for 10 minutes. What runs stays, and nothing is started.
{{- end }}
{{- end }}
