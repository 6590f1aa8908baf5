{{/* The name of the chart. */}}
{{- define "vfio.name" -}}
{{ default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* The name of all objects: the release's, with the chart's unless it is part of it. */}}
{{- define "vfio.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{ .Values.fullnameOverride | trunc 57 | trimSuffix "-" }}
{{- else if contains (include "vfio.name" .) .Release.Name -}}
{{ .Release.Name | trunc 57 | trimSuffix "-" }}
{{- else -}}
{{ printf "%s-%s" .Release.Name (include "vfio.name" .) | trunc 57 | trimSuffix "-" }}
{{- end -}}
{{- end }}

{{/* The labels that select the pods. They never change. */}}
{{- define "vfio.selector" -}}
app.kubernetes.io/name: {{ include "vfio.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* The labels of all objects. */}}
{{- define "vfio.labels" -}}
{{ include "vfio.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end }}

{{- define "vfio.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ default $.Chart.AppVersion .tag }}
{{- end -}}
{{- end -}}
{{- end }}

{{/* Not empty if the driver of Dynamic Resource Allocation runs. */}}
{{- define "vfio.dra" -}}
{{- $dra := or (eq .Values.offer "dra") .Values.dra.keep -}}
{{- range .Values.pools.inline -}}
{{- if eq (default "" .offer) "dra" -}}{{- $dra = true -}}{{- end -}}
{{- end -}}
{{- if $dra -}}true{{- end -}}
{{- end }}

{{/* The name of the objects that belong to no namespace. It has the namespace of the release. */}}
{{- define "vfio.clusterName" -}}
{{ .Release.Namespace }}-{{ include "vfio.fullname" . }}
{{- end }}

{{/* Not empty if the chart creates the service account. */}}
{{- define "vfio.createsAccount" -}}
{{- $needed := and (include "vfio.dra" .) (not .Values.serviceAccount.name) -}}
{{- if or .Values.serviceAccount.create .Values.openshift.enabled $needed -}}true{{- end -}}
{{- end }}

{{/* The strategy of updates as YAML. */}}
{{- define "vfio.updateStrategy" -}}
{{- $dra := include "vfio.dra" . -}}
{{- $strategy := .Values.updateStrategy -}}
{{- if not $strategy -}}
{{- $rolling := ternary (dict "maxSurge" 0 "maxUnavailable" 1) (dict "maxSurge" 1 "maxUnavailable" 0) (ne $dra "") -}}
{{- $strategy = dict "type" "RollingUpdate" "rollingUpdate" $rolling -}}
{{- end -}}
{{- $surge := default 0 ((default dict $strategy.rollingUpdate).maxSurge) -}}
{{- if and $dra (ne (toString $surge) "0") (ne (toString $surge) "0%") -}}
{{- fail "offer: dra needs updateStrategy.rollingUpdate.maxSurge: 0, because a second driver on the node waits for the first one to end" -}}
{{- end -}}
{{ toYaml $strategy }}
{{- end }}

{{- define "vfio.serviceAccount" -}}
{{- if include "vfio.createsAccount" . -}}
{{ default (include "vfio.fullname" .) .Values.serviceAccount.name }}
{{- else -}}
{{ default "default" .Values.serviceAccount.name }}
{{- end -}}
{{- end }}

{{/*
The pools of the ConfigMap as YAML, or nothing. A pool without `backend` or `cdi` has the chart's. Where only these are set, the
one pool is that of the plugin's default: NVIDIA's GPUs.
*/}}
{{- define "vfio.pools" -}}
{{- $terms := dict -}}
{{- if ne .Values.backend "auto" -}}{{- $_ := set $terms "backend" .Values.backend -}}{{- end -}}
{{- if ne .Values.cdi.mode "none" -}}{{- $_ := set $terms "cdi" .Values.cdi.mode -}}{{- end -}}
{{- $pools := list -}}
{{- range .Values.pools.inline -}}
{{- $pools = append $pools (merge (deepCopy .) $terms) -}}
{{- end -}}
{{- if and $terms (not $pools) -}}
{{- $pools = list (merge (dict "select" (list (dict "vendor" "10de" "class" "03"))) $terms) -}}
{{- end -}}
{{- if $pools -}}
{{- if .Values.pools.existingConfigMap -}}
{{- fail "pools.existingConfigMap excludes pools.inline, and backend and cdi.mode are keys of the pools in that ConfigMap" -}}
{{- end -}}
{{ toYaml (dict "pools" $pools) }}
{{- end -}}
{{- end }}

{{/* The name of the ConfigMap with the pools, or nothing. */}}
{{- define "vfio.poolsConfigMap" -}}
{{- if include "vfio.pools" . -}}
{{ include "vfio.fullname" . }}-pools
{{- else -}}
{{ .Values.pools.existingConfigMap }}
{{- end -}}
{{- end }}

{{/* Not empty if the directory of CDI specs is mounted. Containers of a claim get its devices by a spec. */}}
{{- define "vfio.cdi" -}}
{{- $used := or .Values.cdi.mount (include "vfio.dra" .) -}}
{{- range (include "vfio.pools" . | fromYaml).pools -}}
{{- if ne (default "none" .cdi) "none" -}}{{- $used = true -}}{{- end -}}
{{- end -}}
{{- if $used -}}true{{- end -}}
{{- end }}

{{/* One endpoint of a monitor. The argument is the monitor's values. */}}
{{- define "vfio.endpoint" -}}
port: metrics
path: /metrics
honorLabels: {{ .honorLabels }}
{{- with .interval }}
interval: {{ . }}
{{- end }}
{{- with .scrapeTimeout }}
scrapeTimeout: {{ . }}
{{- end }}
relabelings:
  # The node of the devices. `instance` is the pod's address, which changes.
  - action: replace
    sourceLabels: [__meta_kubernetes_pod_node_name]
    targetLabel: node
  # By this the alert VfioPluginDown selects the plugin. Without it the job has the name of this object.
  - action: replace
    targetLabel: job
    replacement: vfio-device-plugin
  {{- with .relabelings }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with .metricRelabelings }}
metricRelabelings:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
