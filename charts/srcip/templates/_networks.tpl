{{/* What the webhook would not take for networks (srcip_webhook/values.py), in its words. */}}

{{/* The bits of an address, 32 or 128 of them; nothing if it is no address. */}}
{{- define "srcip.bits" -}}
{{- if contains ":" . -}}
  {{- $halves := splitList "::" . -}}
  {{- $heads := compact (splitList ":" (first $halves)) -}}
  {{- $tails := compact (splitList ":" (ternary (last $halves) "" (gt (len $halves) 1))) -}}
  {{- $missing := sub 8 (add (len $heads) (len $tails)) | int -}}
  {{- $isWhole := and (eq (len $halves) 1) (eq $missing 0) -}}
  {{- $isShort := and (eq (len $halves) 2) (gt $missing 0) -}}
  {{- $hasHole := false -}}
  {{- range $half := $halves -}}
    {{- if and $half (has "" (splitList ":" $half)) -}}{{- $hasHole = true -}}{{- end -}}
  {{- end -}}
  {{- if and (or $isWhole $isShort) (not $hasHole) -}}
    {{- $digits := dict "0" "0000" "1" "0001" "2" "0010" "3" "0011" "4" "0100" "5" "0101" "6" "0110" "7" "0111" -}}
    {{- $_ := merge $digits (dict "8" "1000" "9" "1001" "a" "1010" "b" "1011" "c" "1100" "d" "1101" "e" "1110" "f" "1111") -}}
    {{- range concat $heads (ternary (splitList "," (repeat $missing "0," | trimSuffix ",")) list (gt $missing 0)) $tails -}}
      {{- range splitList "" (printf "0000%s" . | trunc -4 | lower) -}}{{- get $digits . -}}{{- end -}}
    {{- end -}}
  {{- end -}}
{{- else -}}
  {{- range splitList "." . -}}{{- printf "%08b" (atoi .) -}}{{- end -}}
{{- end -}}
{{- end -}}

{{/* Takes (dict "cidr" … "bits" … "length" …): what is wrong with one network; nothing if all is well. */}}
{{- define "srcip.networkFault" -}}
{{- if not .bits -}}
  {{- printf "%q is not a network" .cidr -}}
{{- else if contains "1" (substr .length (len .bits) .bits) -}}
  {{- printf "%q has host bits set: it is no network" .cidr -}}
{{- else if and (ge .length 96) (hasPrefix (printf "%s%s" (repeat 80 "0") (repeat 16 "1")) .bits) -}}
  {{- printf "%q is an IPv4 network in IPv6 form; write it as IPv4" .cidr -}}
{{- end -}}
{{- end -}}

{{/* Takes (dict "cidrs" … "faults" list): adds what is wrong with trustedCIDRs, each alone and all together. */}}
{{- define "srcip.networkFaults" -}}
{{- $check := . -}}
{{- $known := dict -}}
{{- $ofLength := dict -}}
{{- range $cidr := .cidrs -}}
  {{- $bits := include "srcip.bits" (splitList "/" $cidr | first) -}}
  {{- $length := contains "/" $cidr | ternary (splitList "/" $cidr | last | int) (len $bits) -}}
  {{- $fault := include "srcip.networkFault" (dict "cidr" $cidr "bits" $bits "length" $length) -}}
  {{- if $fault -}}
    {{- $_ := set $check "faults" (append $check.faults (printf "trustedCIDRs: %s. Allowed: %s" $fault $check.allowed)) -}}
  {{- else -}}
    {{- $prefix := printf "%s%s" (contains ":" $cidr | ternary "6" "4") (substr 0 $length $bits) -}}
    {{- $_ := set $known $prefix true -}}
    {{- $_ := set $ofLength (toString $length) (append (get $ofLength (toString $length) | default list) $prefix) -}}
  {{- end -}}
{{- end -}}
{{/* Two halves are their whole, from the smallest networks up. */}}
{{- range $length := untilStep 128 0 -1 -}}
  {{- range $prefix := get $ofLength (toString $length) | default list -}}
    {{- $whole := substr 0 $length $prefix -}}
    {{- $other := printf "%s%s" $whole (hasSuffix "0" $prefix | ternary "1" "0") -}}
    {{- if and (hasKey $known $other) (not (hasKey $known $whole)) -}}
      {{- $above := sub $length 1 | toString -}}
      {{- $_ := set $known $whole true -}}
      {{- $_ := set $ofLength $above (append (get $ofLength $above | default list) $whole) -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- range $family, $everyone := dict "4" "0.0.0.0/0" "6" "::/0" -}}
  {{- if hasKey $known $family -}}
    {{- $text := printf "trustedCIDRs: %s lets any source claim any client address. Name the load balancers; only a Pod can allow it (srcip.io/trust-any-source)" $everyone -}}
    {{- $_ := set $check "faults" (append $check.faults $text) -}}
  {{- end -}}
{{- end -}}
{{- end -}}
