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

{{- /* Seconds that Triton has to end in: of its grace period, what is left after preStop, and 5 to spare. */ -}}
{{- define "kappamask.exitTimeout" -}}
{{- sub (int .Values.triton.terminationGracePeriodSeconds) (add (int .Values.triton.preStopSeconds) 5) -}}
{{- end }}
