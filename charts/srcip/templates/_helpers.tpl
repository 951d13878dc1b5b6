{{/* Names. Short enough for the longest suffix in a DNS label. */}}
{{- define "srcip.fullname" -}}
{{- $name := .Values.fullnameOverride | default (contains "srcip" .Release.Name | ternary .Release.Name (printf "%s-srcip" .Release.Name)) -}}
{{- $name | replace "." "-" | trunc 47 | trimSuffix "-" -}}
{{- end }}

{{- define "srcip.webhookName" -}}
{{ include "srcip.fullname" . }}-webhook
{{- end }}

{{- define "srcip.exporterName" -}}
{{ include "srcip.fullname" . }}-ebpf-exporter
{{- end }}

{{- define "srcip.agentName" -}}
{{ include "srcip.fullname" . }}-agent
{{- end }}

{{/* Of objects outside of namespaces: a namespace has no dot, so two releases never share a name. */}}
{{- define "srcip.clusterName" -}}
{{ include "srcip.fullname" . }}.{{ .Release.Namespace }}
{{- end }}

{{/* Takes (list $ COMPONENT). */}}
{{- define "srcip.selectorLabels" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: srcip
app.kubernetes.io/instance: {{ $root.Release.Name | quote }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{/* Takes (list $ COMPONENT). */}}
{{- define "srcip.labels" -}}
{{- $root := index . 0 -}}
{{- $own := include "srcip.selectorLabels" . | fromYaml -}}
{{- $_ := set $own "app.kubernetes.io/version" ($root.Chart.AppVersion | toString) -}}
{{- $_ := set $own "app.kubernetes.io/managed-by" $root.Release.Service -}}
{{- $_ := set $own "helm.sh/chart" (printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_") -}}
{{- toYaml (merge $own (default dict $root.Values.commonLabels)) -}}
{{- end }}

{{/* Takes (list $ COMPONENT ANNOTATIONS): the labels and, if there are any, the annotations of an object. */}}
{{- define "srcip.metadata" -}}
{{- $root := index . 0 -}}
labels:
  {{- include "srcip.labels" . | nindent 2 }}
{{- with merge (dict) (index . 2) (default dict $root.Values.commonAnnotations) }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Takes (list $ COMPONENT EVENT WEIGHT): likewise, of an object that is a hook of helm. */}}
{{- define "srcip.hookMetadata" -}}
{{- $hook := dict "helm.sh/hook" (index . 2) "helm.sh/hook-weight" (index . 3) -}}
{{- $_ := set $hook "helm.sh/hook-delete-policy" "before-hook-creation,hook-succeeded" -}}
{{- include "srcip.metadata" (list (index . 0) (index . 1) $hook) -}}
{{- end }}

{{/* Takes (list $ IMAGE). */}}
{{- define "srcip.image" -}}
{{- $common := (index . 0).Values.image -}}
{{- $image := index . 1 -}}
{{- with $common.registry }}{{ trimSuffix "/" . }}/{{ end }}{{ $image.repository }}
{{- if $image.digest }}@{{ $image.digest }}
{{- else }}:{{ $image.tag | default $common.tag | default (index . 0).Chart.AppVersion }}
{{- end }}
{{- end }}

{{/* What every Pod of the chart has in common: where it runs and as whom. */}}
{{- define "srcip.podBasics" -}}
securityContext:
  runAsNonRoot: true
  {{- range $name, $id := .Values.podSecurityContext }}
  {{ $name }}: {{ int64 $id }}
  {{- end }}
  seccompProfile:
    type: RuntimeDefault
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "srcip.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop:
      - ALL
{{- end }}

{{/* The release's own namespace is part of it, as `helm test` removes what has this name. */}}
{{- define "srcip.testNamespace" -}}
{{- .Values.test.namespace | default (printf "%s-%s-helm-test" (trunc 30 .Release.Namespace) (include "srcip.fullname" . | trunc 20) | replace "--" "-") -}}
{{- end }}
