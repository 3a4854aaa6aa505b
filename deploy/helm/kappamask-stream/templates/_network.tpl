{{- /* Peer of a network policy for a CIDR block, without what instances answer at (credentials of the node). */ -}}
{{- define "kappamask.ipBlock" -}}
{{- $parts := splitList "/" . -}}
{{- $address := first $parts -}}
{{- $bits := last $parts | int -}}
{{- $without := list -}}
{{- if eq . "::/0" -}}
{{- $without = list "fe80::/10" "fd00:ec2::/32" -}}
{{- else if contains ":" $address -}}
{{- if or (lt $bits 3) (not (regexMatch "^(?i)([23][0-9a-f]{3}|64:ff9b):" $address)) -}}
{{- fail (printf "networkPolicy: %s is no block of public IPv6 addresses (2000::/3, 64:ff9b::/96, or ::/0 for all): name other places in extraWorkerEgress" .) -}}
{{- end -}}
{{- else -}}
{{- $number := 0 -}}
{{- range splitList "." $address -}}
{{- $number = add (mul $number 256) (int .) -}}
{{- end -}}
{{- $size := 1 -}}
{{- range until (sub 32 $bits | int) -}}
{{- $size = mul $size 2 -}}
{{- end -}}
{{- /* 169.254.0.0 as a number. */ -}}
{{- $local := 2851995648 -}}
{{- if and (lt $bits 16) (eq (div $number $size) (div $local $size)) -}}
{{- $without = list "169.254.0.0/16" -}}
{{- else if and (ge $bits 16) (eq (div $number 65536) (div $local 65536)) -}}
{{- fail (printf "networkPolicy: %s is link-local: credentials of the node are there. worker.settings.spot and networkPolicy.eksPodIdentity open what workers need of it" .) -}}
{{- end -}}
{{- end -}}
ipBlock: {cidr: {{ quote . }}{{ with $without }}, except: {{ toJson . }}{{ end }}}
{{- end }}

{{- /* Ports of servers elsewhere that workers ask, as JSON: inference.endpoint, settings.triton_metrics. */ -}}
{{- define "kappamask.serverPorts" -}}
{{- $ports := list -}}
{{- if eq .Values.inference.kind "external" -}}
{{- range splitList "," (regexReplaceAll "^(dns://[^/]*/|grpcs?://)" .Values.inference.endpoint "") -}}
{{- $ports = append $ports (trimSuffix "/" . | regexFind "[0-9]+$" | int) -}}
{{- end -}}
{{- end -}}
{{- range splitList "," (include "kappamask.setting" (.Values.worker.settings.triton_metrics | default "")) -}}
{{- with regexFind "^https?://[^/]+" (trim .) -}}
{{- $port := regexFind ":[0-9]+$" . | trimPrefix ":" | default (ternary "443" "80" (hasPrefix "https:" .)) -}}
{{- $ports = append $ports (int $port) -}}
{{- end -}}
{{- end -}}
{{- uniq $ports | toJson -}}
{{- end }}
