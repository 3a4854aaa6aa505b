{{- /* What a schema cannot say: what would be refused by a cluster, or would start again and again. */ -}}
{{- define "kappamask.check" -}}
{{- $worker := .Values.worker -}}
{{- if or (empty $worker.settings.queue) (empty $worker.settings.output) -}}
{{- fail "worker.settings.queue and worker.settings.output must be set: where products come from, and where masks go" -}}
{{- end -}}
{{- /* What the program takes where nothing is given; 0 is given. */ -}}
{{- $grace := 100.0 -}}
{{- if not (kindIs "invalid" $worker.settings.grace_s) -}}
{{- $grace = float64 $worker.settings.grace_s -}}
{{- end -}}
{{- if le (float64 $worker.terminationGracePeriodSeconds) $grace -}}
{{- fail (printf "worker.terminationGracePeriodSeconds is %v: it must exceed worker.settings.grace_s, %v, or products in work are killed" $worker.terminationGracePeriodSeconds $grace) -}}
{{- end -}}
{{- include "kappamask.checkScaling" . -}}
{{- include "kappamask.checkServer" . -}}
{{- include "kappamask.checkTls" . -}}
{{- end }}

{{- define "kappamask.checkScaling" -}}
{{- $worker := .Values.worker -}}
{{- $scaling := $worker.autoscaling -}}
{{- if and (or $scaling.enabled (eq $worker.mode "job")) (empty $worker.queueRegion) -}}
{{- fail "worker.queueRegion must be set: KEDA asks the queue for its length there" -}}
{{- end -}}
{{- if and (eq $worker.mode "job") (not $scaling.enabled) -}}
{{- fail "worker.mode is job: jobs are made by KEDA, worker.autoscaling.enabled must be true" -}}
{{- end -}}
{{- if and $scaling.enabled (eq $worker.mode "deployment") (gt (int $scaling.minReplicas) (int $scaling.maxReplicas)) -}}
{{- fail (printf "worker.autoscaling.minReplicas is %v: it must not exceed maxReplicas, %v" $scaling.minReplicas $scaling.maxReplicas) -}}
{{- end -}}
{{- if and $scaling.enabled (eq $scaling.identityOwner "workload") (empty $worker.credentialsSecret) .Values.serviceAccount.create -}}
{{- if not (index (.Values.serviceAccount.annotations | default dict) "eks.amazonaws.com/role-arn") -}}
{{- fail "worker.autoscaling.identityOwner is workload: KEDA takes on the role that serviceAccount.annotations names as eks.amazonaws.com/role-arn, and there is none. Name it (IRSA), or give worker.credentialsSecret, or set identityOwner to keda, where KEDA's operator may count the messages itself, as with EKS Pod Identity" -}}
{{- end -}}
{{- end -}}
{{- $triton := .Values.triton -}}
{{- if and $triton.autoscaling.enabled (gt (int $triton.autoscaling.minReplicas) (int $triton.autoscaling.maxReplicas)) -}}
{{- fail (printf "triton.autoscaling.minReplicas is %v: it must not exceed maxReplicas, %v" $triton.autoscaling.minReplicas $triton.autoscaling.maxReplicas) -}}
{{- end -}}
{{- end }}

{{- define "kappamask.checkServer" -}}
{{- $inference := .Values.inference -}}
{{- $triton := .Values.triton -}}
{{- if and (eq $inference.kind "external") (empty $inference.endpoint) -}}
{{- fail "inference.kind is external: inference.endpoint must be set" -}}
{{- end -}}
{{- if and (ne $inference.kind "external") $inference.endpoint -}}
{{- fail (printf "inference.endpoint is set, but inference.kind is %s: it is used with external only" $inference.kind) -}}
{{- end -}}
{{- if lt (include "kappamask.exitTimeout" . | int) 1 -}}
{{- fail (printf "triton.terminationGracePeriodSeconds is %v: it must exceed triton.preStopSeconds, %v, by more than 5, or no request that is in work is answered" $triton.terminationGracePeriodSeconds $triton.preStopSeconds) -}}
{{- end -}}
{{- $none := list "0" "0%" -}}
{{- if and (eq $triton.strategy "RollingUpdate") (has (toString $triton.rollingUpdate.maxSurge) $none) (has (toString $triton.rollingUpdate.maxUnavailable) $none) -}}
{{- fail "triton.rollingUpdate: maxSurge and maxUnavailable are both 0, nothing could ever be replaced: one must be more" -}}
{{- end -}}
{{- end }}

{{- /* Combinations with which workers would end at once, saying so. */ -}}
{{- define "kappamask.checkTls" -}}
{{- $inference := .Values.inference -}}
{{- $server := .Values.triton.tls -}}
{{- if eq $inference.kind "triton" -}}
{{- if and $server.clientCaSecret (empty $server.secret) -}}
{{- fail "triton.tls.clientCaSecret is set without triton.tls.secret: the server needs a certificate of its own, too" -}}
{{- end -}}
{{- if and $server.clientCaSecret (empty $inference.tls.clientSecret) -}}
{{- fail "triton.tls.clientCaSecret wants certificates of clients: inference.tls.clientSecret must name the workers'" -}}
{{- end -}}
{{- if and $server.secret (empty $inference.tls.caSecret) -}}
{{- fail "triton.tls.secret is set: inference.tls.caSecret must name the CA that signed it; none that workers know by themselves signs names within a cluster" -}}
{{- end -}}
{{- end -}}
{{- $remedy := dict
      "triton" "triton.tls.secret is not: name the server's certificate there"
      "external" (printf "inference.endpoint is %s: give grpcs://HOST:PORT" $inference.endpoint)
      "local" "inference.kind is local: a worker's own Triton is not reached over a network; leave it out" -}}
{{- $tls := or (and (eq $inference.kind "triton") $server.secret) (hasPrefix "grpcs://" $inference.endpoint) -}}
{{- range $name, $secret := dict "tls.caSecret" $inference.tls.caSecret "tls.clientSecret" $inference.tls.clientSecret "token.secret" $inference.token.secret -}}
{{- if and $secret (not $tls) -}}
{{- fail (printf "inference.%s is set, which is for TLS, and %s" $name (get $remedy $inference.kind)) -}}
{{- end -}}
{{- end -}}
{{- end }}
