{{- /* Pod of a worker: dict "root" . "until" list of more arguments */ -}}
{{- define "kappamask.workerPod" -}}
{{- $root := .root -}}
{{- with $root -}}
{{- $local := eq .Values.inference.kind "local" -}}
metadata:
  labels:
    {{- include "kappamask.labels" . | nindent 4 }}
    app.kubernetes.io/component: worker
    {{- with .Values.worker.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with .Values.worker.podAnnotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  {{- if eq .Values.worker.mode "job" }}
  restartPolicy: OnFailure
  {{- end }}
  serviceAccountName: {{ include "kappamask.serviceAccount" . }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  # Longer than grace_s: what is in work is finished, the rest goes back to the queue. A preStop hook would only eat it.
  terminationGracePeriodSeconds: {{ .Values.worker.terminationGracePeriodSeconds }}
  {{- with .Values.worker.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- with .Values.images.pullSecrets }}
  imagePullSecrets:
    {{- range . }}
    - name: {{ . }}
    {{- end }}
  {{- end }}
  securityContext:
    {{- include "kappamask.podSecurity" . | nindent 4 }}
  containers:
    - name: worker
      image: {{ include "kappamask.image" (dict "image" .Values.images.worker "version" .Chart.AppVersion "suffix" (ternary "-local" "" $local)) }}
      imagePullPolicy: {{ .Values.images.pullPolicy }}
      args:
        {{- toYaml (concat (list "worker" "--model" .Values.worker.model) $.until .Values.worker.extraArgs) | nindent 8 }}
      env:
        {{- range $name, $value := .Values.worker.settings }}
        {{- if not (kindIs "invalid" $value) }}
        - name: KAPPAMASK_{{ upper $name }}
          value: {{ include "kappamask.setting" $value | quote }}
        {{- end }}
        {{- end }}
        {{- with include "kappamask.endpoint" . }}
        - name: KAPPAMASK_TRITON
          value: {{ . | quote }}
        {{- end }}
        {{- with include "kappamask.metricsUrl" . }}
        - name: KAPPAMASK_TRITON_METRICS
          value: {{ . | quote }}
        {{- end }}
        - name: KAPPAMASK_LISTEN
          value: 0.0.0.0:9108
        {{- if .Values.inference.tls.caSecret }}
        - name: KAPPAMASK_TRITON_CA
          value: /etc/kappamask/ca/ca.crt
        {{- end }}
        {{- if .Values.inference.tls.clientSecret }}
        - name: KAPPAMASK_TRITON_CERTIFICATE
          value: /etc/kappamask/client/tls.crt
        - name: KAPPAMASK_TRITON_KEY
          value: /etc/kappamask/client/tls.key
        {{- end }}
        {{- if .Values.inference.token.secret }}
        - name: KAPPAMASK_TRITON_TOKEN_FILE
          value: /etc/kappamask/token/{{ .Values.inference.token.key }}
        {{- end }}
        {{- if .Values.worker.profilesSecret }}
        - name: AWS_SHARED_CREDENTIALS_FILE
          value: /etc/kappamask/aws/credentials
        {{- end }}
      {{- with .Values.worker.credentialsSecret }}
      envFrom:
        - secretRef: {name: {{ . }}}
      {{- end }}
      ports:
        - {name: metrics, containerPort: 9108, protocol: TCP}
      # Until it listens; with a server of its own it first builds and checks the model.
      startupProbe:
        httpGet: {path: /healthz, port: metrics}
        periodSeconds: 5
        failureThreshold: {{ ternary 60 24 $local }}
      livenessProbe:
        httpGet: {path: /healthz, port: metrics}
        periodSeconds: 20
        timeoutSeconds: 5
        failureThreshold: 6
      readinessProbe:
        httpGet: {path: /readyz, port: metrics}
        periodSeconds: 20
        timeoutSeconds: 10
      resources:
        {{- toYaml (ternary .Values.worker.localResources .Values.worker.resources $local) | nindent 8 }}
      securityContext:
        {{- include "kappamask.containerSecurity" . | nindent 8 }}
      volumeMounts:
        - {name: scratch, mountPath: /tmp, subPath: tmp}
        - {name: scratch, mountPath: /var/lib/kappamask, subPath: home}
        {{- if $local }}
        - {name: models, mountPath: /opt/kappamask-server/models}
        - {name: shared-memory, mountPath: /dev/shm}
        {{- end }}
        {{- range $name := include "kappamask.workerSecrets" . | fromYaml | keys | sortAlpha }}
        - {name: {{ $name }}, mountPath: /etc/kappamask/{{ $name }}, readOnly: true}
        {{- end }}
  volumes:
    - name: scratch
      emptyDir: {sizeLimit: {{ .Values.worker.scratch }}}
    {{- if $local }}
    - name: models
      emptyDir: {}
    - name: shared-memory
      emptyDir: {medium: Memory, sizeLimit: 1Gi}
    {{- end }}
    {{- range $name, $secret := include "kappamask.workerSecrets" . | fromYaml }}
    - name: {{ $name }}
      secret: {secretName: {{ $secret }}, defaultMode: 0440}
    {{- end }}
  topologySpreadConstraints:
    {{- include "kappamask.spread" (include "kappamask.workerSelector" .) | nindent 4 }}
  {{- with .Values.worker.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.worker.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.worker.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}
{{- end }}

{{- /* Secrets that are mounted, by the folder's name. */ -}}
{{- define "kappamask.workerSecrets" -}}
{{- with .Values.inference.tls.caSecret }}
ca: {{ . }}
{{- end }}
{{- with .Values.inference.tls.clientSecret }}
client: {{ . }}
{{- end }}
{{- with .Values.inference.token.secret }}
token: {{ . }}
{{- end }}
{{- with .Values.worker.profilesSecret }}
aws: {{ . }}
{{- end }}
{{- end }}
