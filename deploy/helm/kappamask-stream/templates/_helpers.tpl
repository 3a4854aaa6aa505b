{{- define "kappamask.name" -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- end }}

{{- define "kappamask.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{ include "kappamask.selector" . }}
{{- end }}

{{- define "kappamask.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "kappamask.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "kappamask.name" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end }}

{{- /* Image of one part: dict "image" "tag of the chart" */ -}}
{{- define "kappamask.image" -}}
{{- if .image.digest -}}
{{ .image.repository }}@{{ .image.digest }}
{{- else -}}
{{ .image.repository }}:{{ .image.tag | default .version }}{{ .suffix }}
{{- end -}}
{{- end }}

{{- define "kappamask.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "kappamask.containerSecurity" -}}
allowPrivilegeEscalation: false
privileged: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- define "kappamask.spread" -}}
- maxSkew: 1
  topologyKey: topology.kubernetes.io/zone
  whenUnsatisfiable: ScheduleAnyway
  labelSelector: {matchLabels: {{ . | fromYaml | toJson }}}
- maxSkew: 1
  topologyKey: kubernetes.io/hostname
  whenUnsatisfiable: ScheduleAnyway
  labelSelector: {matchLabels: {{ . | fromYaml | toJson }}}
{{- end }}

{{- define "kappamask.workerSelector" -}}
{{ include "kappamask.selector" . }}
app.kubernetes.io/component: worker
{{- end }}

{{- define "kappamask.tritonSelector" -}}
{{ include "kappamask.selector" . }}
app.kubernetes.io/component: triton
{{- end }}

{{- /* Where workers find Triton; empty: each starts its own. */ -}}
{{- define "kappamask.endpoint" -}}
{{- if eq .Values.inference.kind "external" -}}
{{ .Values.inference.endpoint }}
{{- else if eq .Values.inference.kind "triton" -}}
{{ ternary "grpcs://" "dns:///" (not (empty .Values.triton.tls.secret)) }}{{ include "kappamask.name" . }}-triton.{{ .Release.Namespace }}.svc:8001
{{- end -}}
{{- end }}

{{- /* Where workers see how many requests wait: the name stands for all replicas. */ -}}
{{- define "kappamask.metricsUrl" -}}
{{- if and (eq .Values.inference.kind "triton") (not .Values.worker.settings.triton_metrics) -}}
http://{{ include "kappamask.name" . }}-triton.{{ .Release.Namespace }}.svc:8002/metrics
{{- end -}}
{{- end }}

{{- /* A setting's value as a variable holds it; Helm reads all numbers as floats. */ -}}
{{- define "kappamask.setting" -}}
{{- if kindIs "slice" . -}}
{{- join "," . -}}
{{- else if and (kindIs "float64" .) (eq . (floor .)) -}}
{{- int64 . -}}
{{- else -}}
{{- . -}}
{{- end -}}
{{- end }}

{{- /* What a schema cannot say. */ -}}
{{- define "kappamask.check" -}}
{{- $worker := .Values.worker -}}
{{- $inference := .Values.inference -}}
{{- if or (empty $worker.settings.queue) (empty $worker.settings.output) -}}
{{- fail "worker.settings.queue and worker.settings.output must be set: where products come from, and where masks go" -}}
{{- end -}}
{{- if le (float64 $worker.terminationGracePeriodSeconds) (float64 ($worker.settings.grace_s | default 100)) -}}
{{- fail (printf "worker.terminationGracePeriodSeconds is %v: it must exceed worker.settings.grace_s, %v, or products in work are killed" $worker.terminationGracePeriodSeconds ($worker.settings.grace_s | default 100)) -}}
{{- end -}}
{{- if and (or $worker.autoscaling.enabled (eq $worker.mode "job")) (empty $worker.queueRegion) -}}
{{- fail "worker.queueRegion must be set: KEDA asks the queue for its length there" -}}
{{- end -}}
{{- if and (eq $worker.mode "job") (not $worker.autoscaling.enabled) -}}
{{- fail "worker.mode is job: jobs are made by KEDA, worker.autoscaling.enabled must be true" -}}
{{- end -}}
{{- if and (eq $inference.kind "external") (empty $inference.endpoint) -}}
{{- fail "inference.kind is external: inference.endpoint must be set" -}}
{{- end -}}
{{- if and (ne $inference.kind "external") $inference.endpoint -}}
{{- fail (printf "inference.endpoint is set, but inference.kind is %s: it is used with external only" $inference.kind) -}}
{{- end -}}
{{- if and (eq $inference.kind "triton") .Values.triton.tls.clientCaSecret (empty $inference.tls.clientSecret) -}}
{{- fail "triton.tls.clientCaSecret wants certificates of clients: inference.tls.clientSecret must name the workers'" -}}
{{- end -}}
{{- if and .Values.triton.tls.clientCaSecret (empty .Values.triton.tls.secret) -}}
{{- fail "triton.tls.clientCaSecret is set without triton.tls.secret: the server needs a certificate of its own, too" -}}
{{- end -}}
{{- end }}
