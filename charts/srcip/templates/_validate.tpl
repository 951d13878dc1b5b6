{{/* What the schema can't say, or can't say helpfully: what the processes would refuse to start with. All faults are told
at once. files/limits.yaml is made from the tables of these processes. */}}
{{- define "srcip.validate" -}}
{{- $limits := .Files.Get "files/limits.yaml" | fromYaml -}}
{{- $check := dict "faults" list "values" .Values "namespace" .Release.Namespace "limits" $limits "cidrs" .Values.trustedCIDRs "allowed" $limits.networks -}}
{{- if not .Values.trustedCIDRs -}}
  {{- $_ := set $check "faults" (append $check.faults "trustedCIDRs: name your load balancers: only their headers count. Such as\n      --set 'trustedCIDRs={192.0.2.0/24,2001:db8::/32}'\n    docs/install.md says what it is for common load balancers.") -}}
{{- end -}}
{{- include "srcip.networkFaults" $check -}}
{{- include "srcip.boundFaults" $check -}}
{{- include "srcip.requestFaults" $check -}}
{{- $image := include "srcip.image" (list . .Values.proxy.image) -}}
{{- if not (regexMatch $limits.image.pattern $image) -}}
  {{- $_ := set $check "faults" (append $check.faults (printf "proxy.image: %q is not allowed. Allowed: %s" $image $limits.image.allowed)) -}}
{{- end -}}
{{- if eq .Values.certificates.mode "self-managed" -}}
  {{- include "srcip.partFaults" $check -}}
  {{- if eq (int .Values.webhook.port) (int .Values.certs.port) -}}
    {{- $_ := set $check "faults" (append $check.faults (printf "webhook.port, certs.port: both are %d, and both listen in one Pod. Allowed: two different ports" (int .Values.certs.port))) -}}
  {{- end -}}
{{- end -}}
{{- if eq .Values.certificates.mode "cert-manager" -}}
  {{- include "srcip.certManagerFaults" $check -}}
{{- end -}}
{{- range .Values.networkPolicy.apiServerCIDRs -}}
  {{- if not (include "srcip.bits" (splitList "/" . | first)) -}}
    {{- $_ := set $check "faults" (append $check.faults (printf "networkPolicy.apiServerCIDRs: %q is not a network. Allowed: %s" . $limits.networks)) -}}
  {{- end -}}
{{- end -}}
{{- if eq .Values.certificates.mode "secret" -}}
  {{- range $name := list "name" "caBundle" -}}
    {{- if not (get $.Values.certificates.secret $name) -}}
      {{- $_ := set $check "faults" (append $check.faults (printf "certificates.secret.%s: it must be set, as certificates.mode is secret." $name)) -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- if .Values.agent.enabled -}}
  {{- include "srcip.agentFaults" $check -}}
{{- end -}}
{{- if $check.faults -}}
  {{- fail (printf "\n\nValues are missing or not allowed:\n\n  - %s\n" (join "\n  - " $check.faults)) -}}
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
