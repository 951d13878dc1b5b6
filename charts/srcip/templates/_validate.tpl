{{/* What the schema can't say, or can't say helpfully. All faults are told at once. */}}
{{- define "srcip.validate" -}}
{{- $faults := list -}}
{{- if not .Values.trustedCIDRs -}}
  {{- $faults = append $faults "trustedCIDRs: it must name your load balancers, as only they may state a client's address. Such as\n      --set 'trustedCIDRs={192.0.2.0/24,2001:db8::/32}'\n    docs/install.md says what it is for common load balancers." -}}
{{- end -}}
{{- range .Values.trustedCIDRs -}}
  {{- if hasSuffix "/0" . -}}
    {{- $faults = append $faults (printf "trustedCIDRs: %s would let anybody state any address. Name the load balancers. A single Pod can say so itself, with srcip.io/trust-any-source." .) -}}
  {{- else if and (not (contains ":" .)) (contains "/" .) -}}
    {{- $size := 1 -}}
    {{- range until (sub 32 (splitList "/" . | last | atoi) | int) }}{{ $size = mul $size 2 }}{{ end -}}
    {{- $number := 0 -}}
    {{- range splitList "." (splitList "/" . | first) }}{{ $number = add (mul $number 256) (atoi .) }}{{ end -}}
    {{- if mod $number $size -}}
      {{- $faults = append $faults (printf "trustedCIDRs: %s has host bits set: it is no network." .) -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- if eq .Values.certificates.mode "secret" -}}
  {{- range $name := list "name" "caBundle" -}}
    {{- if not (get $.Values.certificates.secret $name) -}}
      {{- $faults = append $faults (printf "certificates.secret.%s: it must be set, as certificates.mode is secret." $name) -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- if $faults -}}
  {{- fail (printf "\n\nThe values are not complete or not right:\n\n  - %s\n" (join "\n  - " $faults)) -}}
{{- end -}}
{{- end }}
