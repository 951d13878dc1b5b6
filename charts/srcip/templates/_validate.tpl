{{/* What the schema can't say, or can't say helpfully: what the processes would refuse to start with. All faults are told
at once. files/limits.yaml is made from the tables of these processes. */}}
{{- define "srcip.validate" -}}
{{- $limits := .Files.Get "files/limits.yaml" | fromYaml -}}
{{- $told := dict "faults" list "values" .Values "namespace" .Release.Namespace "limits" $limits "cidrs" .Values.trustedCIDRs "allowed" $limits.networks -}}
{{- if not .Values.trustedCIDRs -}}
  {{- $_ := set $told "faults" (append $told.faults "trustedCIDRs: it must name your load balancers, as only they may state a client's address. Such as\n      --set 'trustedCIDRs={192.0.2.0/24,2001:db8::/32}'\n    docs/install.md says what it is for common load balancers.") -}}
{{- end -}}
{{- include "srcip.networkFaults" $told -}}
{{- include "srcip.boundFaults" $told -}}
{{- include "srcip.requestFaults" $told -}}
{{- $image := include "srcip.image" (list . .Values.proxy.image) -}}
{{- if not (regexMatch $limits.image.pattern $image) -}}
  {{- $_ := set $told "faults" (append $told.faults (printf "proxy.image: %q is not allowed. Allowed: %s" $image $limits.image.allowed)) -}}
{{- end -}}
{{- if eq .Values.certificates.mode "self-managed" -}}
  {{- include "srcip.partFaults" $told -}}
  {{- if eq (int .Values.webhook.port) (int .Values.certs.port) -}}
    {{- $_ := set $told "faults" (append $told.faults (printf "webhook.port, certs.port: both are %d, and both listen in one Pod. Allowed: two different ports" (int .Values.certs.port))) -}}
  {{- end -}}
{{- end -}}
{{- if eq .Values.certificates.mode "cert-manager" -}}
  {{- include "srcip.certManagerFaults" $told -}}
{{- end -}}
{{- range .Values.networkPolicy.apiServerCIDRs -}}
  {{- if not (include "srcip.bits" (splitList "/" . | first)) -}}
    {{- $_ := set $told "faults" (append $told.faults (printf "networkPolicy.apiServerCIDRs: %q is not a network. Allowed: %s" . $limits.networks)) -}}
  {{- end -}}
{{- end -}}
{{- if eq .Values.certificates.mode "secret" -}}
  {{- range $name := list "name" "caBundle" -}}
    {{- if not (get $.Values.certificates.secret $name) -}}
      {{- $_ := set $told "faults" (append $told.faults (printf "certificates.secret.%s: it must be set, as certificates.mode is secret." $name)) -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- if .Values.agent.enabled -}}
  {{- include "srcip.agentFaults" $told -}}
{{- end -}}
{{- if $told.faults -}}
  {{- fail (printf "\n\nValues are missing or not allowed:\n\n  - %s\n" (join "\n  - " $told.faults)) -}}
{{- end -}}
{{- end }}

{{/* Pods of the agent would be refused by the API server later, and every Pod that waits for one would never start.
Without a cluster, as in `helm template`, there is nothing to look up. */}}
{{- define "srcip.agentFaults" -}}
{{- $enforced := "pod-security.kubernetes.io/enforce" -}}
{{- $level := dig "metadata" "labels" $enforced "" (lookup "v1" "Namespace" "" .namespace) -}}
{{- if has $level (list "baseline" "restricted") -}}
  {{- $_ := set . "faults" (append .faults (printf "agent.enabled: the agent needs a namespace of Pod Security level privileged, and %s enforces %s. Such as\n      kubectl label namespace %s %s=privileged --overwrite" .namespace $level .namespace $enforced)) -}}
{{- end -}}
{{- end }}
