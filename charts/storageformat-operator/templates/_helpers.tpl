{{- define "storageformat-operator.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* A release whose name is part of the chart's, or the other way round, needs no second word. */}}
{{- define "storageformat-operator.fullname" -}}
{{- $name := include "storageformat-operator.name" . }}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" }}
{{- else if contains $name .Release.Name }}
{{- .Release.Name | trunc 52 | trimSuffix "-" }}
{{- else if hasPrefix .Release.Name $name }}
{{- $name | trunc 52 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 52 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "storageformat-operator.selectorLabels" -}}
app.kubernetes.io/name: {{ include "storageformat-operator.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "storageformat-operator.controllerLabels" -}}
{{ include "storageformat-operator.selectorLabels" . }}
app.kubernetes.io/component: controller
{{- end }}

{{- define "storageformat-operator.labels" -}}
{{- $labels := dict
      "helm.sh/chart" (printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-")
      "app.kubernetes.io/version" .Chart.AppVersion
      "app.kubernetes.io/managed-by" .Release.Service }}
{{- $part := dict "app.kubernetes.io/part-of" "storageformat-operator" }}
{{- toYaml (mergeOverwrite $part .Values.commonLabels $labels (include "storageformat-operator.selectorLabels" . | fromYaml)) }}
{{- end }}

{{- define "storageformat-operator.podLabels" -}}
{{- toYaml (mergeOverwrite (deepCopy .Values.commonLabels) .Values.podLabels (include "storageformat-operator.controllerLabels" . | fromYaml)) }}
{{- end }}

{{- define "storageformat-operator.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}
{{- end }}

{{- define "storageformat-operator.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- .Values.serviceAccount.name | default (include "storageformat-operator.fullname" .) }}
{{- else }}
{{- .Values.serviceAccount.name | default "default" }}
{{- end }}
{{- end }}

{{/* A manifest of files/ without its first line, which says by what it was made. */}}
{{- define "storageformat-operator.file" -}}
{{- $text := .root.Files.Get (printf "files/%s" .name) }}
{{- if not $text }}
{{- fail (printf "files/%s is missing from the chart" .name) }}
{{- end }}
{{- regexReplaceAll "\\A# Made by [^\n]*\n" $text "" | trim }}
{{- end }}

{{/* Where the release looks: the namespaces, or one empty name for the whole cluster. */}}
{{- define "storageformat-operator.isNamespaced" -}}
{{- if .Values.watchNamespaces }}true{{ end }}
{{- end }}

{{- define "storageformat-operator.webhookName" -}}
{{ include "storageformat-operator.fullname" . }}-webhook
{{- end }}

{{- define "storageformat-operator.webhookLabels" -}}
{{ include "storageformat-operator.selectorLabels" . }}
app.kubernetes.io/component: webhook
{{- end }}

{{- define "storageformat-operator.webhookObjectLabels" -}}
{{ include "storageformat-operator.labels" . }}
app.kubernetes.io/component: webhook
{{- end }}

{{- define "storageformat-operator.webhookAccount" -}}
{{- if .Values.serviceAccount.create }}
{{- printf "%s-webhook" (.Values.serviceAccount.name | default (include "storageformat-operator.fullname" .)) }}
{{- else }}
{{- .Values.serviceAccount.name | default "default" }}
{{- end }}
{{- end }}

{{/* The names that the certificate is for; the API server asks for the first. */}}
{{- define "storageformat-operator.webhookHosts" -}}
{{- $name := include "storageformat-operator.webhookName" . }}
- {{ $name }}.{{ .Release.Namespace }}.svc
- {{ $name }}.{{ .Release.Namespace }}.svc.cluster.local
{{- end }}
