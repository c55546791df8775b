{{- define "steno.labels" -}}
app.kubernetes.io/name: steno-operator
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}
{{- define "steno.selector" -}}
app.kubernetes.io/name: steno-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}
{{- define "steno.image" -}}
{{ .root.Values.image.registry }}/{{ .name }}:{{ .root.Values.image.tag | default .root.Chart.AppVersion }}
{{- end }}
