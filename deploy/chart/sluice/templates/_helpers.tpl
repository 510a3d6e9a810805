{{/* What selects the agents' pods: never changes between versions. */}}
{{- define "sluice.selector" -}}
app.kubernetes.io/name: sluice
app.kubernetes.io/component: agent
{{- end }}

{{- define "sluice.labels" -}}
{{ include "sluice.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "sluice.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- with .Values.image.digest }}@{{ . }}{{ end }}
{{- end }}

{{/* The agent's configuration file. What `config` says of these would not fit the pod around the agent. */}}
{{- define "sluice.config" -}}
{{- $set := dict "health-address" (printf "127.0.0.1:%d" (int .Values.health.port)) }}
{{- $_ := set $set "metrics-address" (ternary .Values.metrics.address "off" .Values.metrics.enabled) }}
{{- $_ := set $set "cni-conf-dir" .Values.cni.confDir }}
{{- $_ := set $set "cni-bin-dir" .Values.cni.binDir }}
{{- range $key := keys $set }}
{{- if hasKey $.Values.config $key }}
{{- fail (printf "config.%s is the chart's own: set health.port, metrics.address, cni.confDir or cni.binDir" $key) }}
{{- end }}
{{- end }}
{{- merge $set .Values.config | toYaml }}
{{- end }}

{{/* The port that metrics are on. */}}
{{- define "sluice.metricsPort" -}}
{{ .Values.metrics.address | splitList ":" | last }}
{{- end }}

{{/* The same for every container: nothing but what `add` names, and no way to more. */}}
{{- define "sluice.securityContext" -}}
runAsUser: 0
runAsGroup: 0
privileged: false
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
  {{- with .add }}
  add: [{{ join ", " . }}]
  {{- end }}
{{- with .root.Values.securityContext.appArmor }}
{{- if semverCompare ">=1.30-0" $.root.Capabilities.KubeVersion.Version }}
appArmorProfile:
  type: {{ . }}
{{- end }}
{{- end }}
{{- with .root.Values.securityContext.seLinuxOptions }}
seLinuxOptions: {{ toJson . }}
{{- end }}
{{- end }}

{{/* The runtime's CNI folders, under the names that they have on the node. */}}
{{- define "sluice.cniMounts" -}}
- name: cni-conf
  mountPath: {{ .Values.cni.confDir }}
- name: cni-bin
  mountPath: {{ .Values.cni.binDir }}
{{- end }}
