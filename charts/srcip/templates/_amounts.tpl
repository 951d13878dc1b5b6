{{/* Numbers with units, as the webhook and srcip-certs read them. */}}

{{/* A quantity as it is written; helm would write a large number of a values file as 2.68435456e+08. */}}
{{- define "srcip.quantity" -}}
{{- if and (kindIs "float64" .) (eq (floor .) .) -}}{{- int64 . -}}{{- else -}}{{- . -}}{{- end -}}
{{- end -}}

{{/* The number behind a quantity: bytes, or CPUs. */}}
{{- define "srcip.amount" -}}
{{- $sizes := dict "m" 0.001 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "Ki" 1024.0 "Mi" 1048576.0 "Gi" 1073741824.0 "Ti" 1099511627776.0 -}}
{{- $unit := regexFind "[a-zA-Z]+$" . -}}
{{- mulf (trimSuffix $unit . | float64) (get $sizes $unit | default 1.0) -}}
{{- end -}}

{{/* A duration in milliseconds. */}}
{{- define "srcip.milliseconds" -}}
{{- $sizes := dict "ms" 1.0 "s" 1e3 "m" 6e4 "h" 3.6e6 "d" 8.64e7 -}}
{{- $sum := 0.0 -}}
{{- range regexFindAll "[0-9.]+(ms|s|m|h|d)" . -1 -}}
  {{- $unit := regexFind "[a-z]+$" . -}}
  {{- $sum = addf $sum (mulf (trimSuffix $unit . | float64) (get $sizes $unit)) -}}
{{- end -}}
{{- $sum -}}
{{- end -}}

{{/* Takes (dict "values" … "name" …): a value by its name with dots, as text; nothing if it is not set. */}}
{{- define "srcip.valueOf" -}}
{{- $found := .values -}}
{{- range splitList "." .name -}}{{- $found = get ($found | default dict) . -}}{{- end -}}
{{- if not (kindIs "invalid" $found) -}}{{- if ne "" (toString $found) -}}{{- include "srcip.quantity" $found -}}{{- end -}}{{- end -}}
{{- end -}}

{{/* Takes (dict "values" … "faults" list "limits" …): adds each quantity and duration that is out of its bounds. */}}
{{- define "srcip.boundFaults" -}}
{{- $check := . -}}
{{- range $table, $unit := dict "quantities" "srcip.amount" "durations" "srcip.milliseconds" -}}
  {{- range $name, $bounds := get $check.limits $table -}}
    {{- $text := include "srcip.valueOf" (dict "values" $check.values "name" $name) -}}
    {{- if $text -}}
      {{- $number := include $unit $text | float64 -}}
      {{- if or (lt $number (include $unit $bounds.low | float64)) (gt $number (include $unit $bounds.high | float64)) -}}
        {{- $_ := set $check "faults" (append $check.faults (printf "%s: %q is out of range. Allowed: %s" $name $text $bounds.allowed)) -}}
      {{- else if and (eq $name "webhook.requestTimeout") (ne (floor $number) $number) -}}
        {{- $_ := set $check "faults" (append $check.faults (printf "%s: %q is too fine. Allowed: %s" $name $text $bounds.allowed)) -}}
      {{- end -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- end -}}

{{/* Takes the same: adds each request above its limit. */}}
{{- define "srcip.requestFaults" -}}
{{- $check := . -}}
{{- range $owner := list "proxy" "webhook" "certs" "agent" "ebpfExporter" -}}
  {{- range $what := list "cpu" "memory" "ephemeral-storage" -}}
    {{- $name := printf "%s.resources.requests.%s" $owner $what -}}
    {{- $request := include "srcip.valueOf" (dict "values" $check.values "name" $name) -}}
    {{- $limit := include "srcip.valueOf" (dict "values" $check.values "name" (printf "%s.resources.limits.%s" $owner $what)) -}}
    {{- if and $request $limit (gt (include "srcip.amount" $request | float64) (include "srcip.amount" $limit | float64)) -}}
      {{- $_ := set $check "faults" (append $check.faults (printf "%s: %s is more than the limit %s" $name $request $limit)) -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- end -}}

{{/* Takes the same: adds each duration that leaves no time for another one. */}}
{{- define "srcip.partFaults" -}}
{{- $check := . -}}
{{- range $check.limits.parts -}}
  {{- $short := include "srcip.valueOf" (dict "values" $check.values "name" .short) -}}
  {{- $long := include "srcip.valueOf" (dict "values" $check.values "name" .long) -}}
  {{- if gt (mulf (include "srcip.milliseconds" $short | float64) .part) (include "srcip.milliseconds" $long | float64) -}}
    {{- $_ := set $check "faults" (append $check.faults (printf "%s: %s is more than 1/%v of %s, %s" .short $short .part .long $long)) -}}
  {{- end -}}
{{- end -}}
{{- end -}}

{{/* Takes the same: adds what cert-manager would refuse (its API reference, CertificateSpec). */}}
{{- define "srcip.certManagerFaults" -}}
{{- $own := .values.certificates.certManager -}}
{{- $life := include "srcip.milliseconds" $own.duration | float64 -}}
{{- $before := include "srcip.milliseconds" $own.renewBefore | float64 -}}
{{- if lt $life 3.6e6 -}}
  {{- $_ := set . "faults" (append .faults (printf "certificates.certManager.duration: %q is out of range. Allowed: 1h or more" $own.duration)) -}}
{{- end -}}
{{- if or (lt $before 3e5) (ge $before $life) -}}
  {{- $_ := set . "faults" (append .faults (printf "certificates.certManager.renewBefore: %q is out of range. Allowed: from 5m to less than certificates.certManager.duration, %s" $own.renewBefore $own.duration)) -}}
{{- end -}}
{{- end -}}
