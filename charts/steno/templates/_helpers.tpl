{{- define "steno.labels" -}}
app.kubernetes.io/name: {{ .name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
app.kubernetes.io/part-of: steno
helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version }}
{{- end }}
{{- define "steno.selector" -}}
app.kubernetes.io/name: {{ .name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- end }}
{{- /* An image without its tag: root, name. */}}
{{- define "steno.repository" -}}
{{- $image := .root.Values.image }}
{{- $registry := get $image.registries .name | default $image.registry }}
{{- with $registry }}{{ . }}/{{ end }}{{ get $image .name }}
{{- end }}
{{- define "steno.image" -}}
{{- $image := .root.Values.image }}
{{- $digest := get $image.digests .name }}
{{- $name := include "steno.repository" . }}
{{- if $digest -}}
{{ $name }}@{{ $digest }}
{{- else -}}
{{ $name }}:{{ $image.tag | default .root.Chart.AppVersion }}
{{- end }}
{{- end }}
{{- define "steno.excluded" -}}
{{ concat (list "kube-system" "kube-node-lease" .Release.Namespace) .Values.webhook.excludeNamespaces | uniq | toJson }}
{{- end }}
{{- /* Which namespaces' pods are looked at. */}}
{{- define "steno.looked" -}}
- {key: kubernetes.io/metadata.name, operator: NotIn, values: {{ include "steno.excluded" . }}}
{{- with .Values.namespaces }}
- {key: kubernetes.io/metadata.name, operator: In, values: {{ toJson . }}}
{{- end }}
{{- end }}
{{- /* The Secret with certificates that somebody else keeps; empty: the operator keeps its own. */}}
{{- define "steno.tlsSecret" -}}
{{- if .Values.webhook.certManager.enabled }}steno-webhook-tls{{ else }}{{ .Values.webhook.tlsSecret }}{{ end }}
{{- end }}
{{- /* A Deployment of the operator's image, and its disruption budget: root, name, role, values. */}}
{{- define "steno.deployment" -}}
{{- $root := .root }}
{{- $tls := include "steno.tlsSecret" $root }}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ .name }}
  namespace: {{ $root.Release.Namespace }}
  labels: {{- include "steno.labels" . | nindent 4 }}
spec:
  replicas: {{ .values.replicas }}
  revisionHistoryLimit: {{ .values.revisionHistoryLimit }}
  selector:
    matchLabels: {{- include "steno.selector" . | nindent 6 }}
  strategy:
    # Never fewer than there should be: what is asked of it is asked by the API server.
    rollingUpdate: {maxUnavailable: 0, maxSurge: 1}
  template:
    metadata:
      labels:
        {{- include "steno.labels" . | nindent 8 }}
        {{- with .values.podLabels }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      {{- with .values.podAnnotations }}
      annotations: {{- toYaml . | nindent 8 }}
      {{- end }}
    spec:
      serviceAccountName: {{ .name }}
      {{- if .values.hostNetwork }}
      hostNetwork: true
      dnsPolicy: ClusterFirstWithHostNet
      {{- end }}
      {{- with $root.Values.image.pullSecrets }}
      imagePullSecrets: {{- toYaml . | nindent 6 }}
      {{- end }}
      {{- with .values.priorityClassName }}
      priorityClassName: {{ . }}
      {{- end }}
      {{- $pod := dict "runAsNonRoot" true "seccompProfile" (dict "type" "RuntimeDefault") }}
      {{- if not ($root.Capabilities.APIVersions.Has "security.openshift.io/v1") }}
      {{- /* OpenShift gives each namespace users of its own. */}}
      {{- $pod = merge $pod (dict "runAsUser" 65532 "runAsGroup" 65532 "fsGroup" 65532) }}
      {{- end }}
      securityContext: {{- toYaml (mergeOverwrite $pod (deepCopy .values.podSecurityContext)) | nindent 8 }}
      topologySpreadConstraints:
      {{- range $key := list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
      - maxSkew: 1
        topologyKey: {{ $key }}
        whenUnsatisfiable: ScheduleAnyway
        labelSelector:
          matchLabels: {{- include "steno.selector" $ | nindent 12 }}
      {{- end }}
      containers:
      - name: operator
        image: {{ include "steno.image" (dict "root" $root "name" "operator") }}
        {{- with $root.Values.image.pullPolicy }}
        imagePullPolicy: {{ . }}
        {{- end }}
        args: [run]
        env:
        - {name: STENO_ROLES, value: {{ .role }}}
        {{- with .values.port }}
        - {name: STENO_WEBHOOK, value: {{ printf "[::]:%v" . | quote }}}
        {{- end }}
        - {name: STENO_SIDECAR_IMAGE, value: {{ include "steno.image" (dict "root" $root "name" "sidecar") | quote }}}
        - {name: STENO_SIDECAR_RESOURCES, value: {{ $root.Values.sidecar.resources | toJson | quote }}}
        - {name: STENO_SIDECAR_PULL_POLICY, value: {{ $root.Values.image.pullPolicy | quote }}}
        - {name: STENO_SIDECAR_PULL_SECRETS, value: {{ $root.Values.sidecar.imagePullSecrets | join "," | quote }}}
        - {name: STENO_MESH_PROXIES, value: {{ $root.Values.sidecar.meshProxies | join "," | quote }}}
        - name: STENO_NAMESPACE
          valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
        - name: STENO_IDENTITY
          valueFrom: {fieldRef: {fieldPath: metadata.name}}
        - {name: STENO_WEBHOOK_CONFIGURATION, value: {{ printf "steno-%s" $root.Release.Name | quote }}}
        - {name: STENO_NAMESPACES, value: {{ $root.Values.namespaces | join "," | quote }}}
        - {name: STENO_EXCLUDE_NAMESPACES, value: {{ include "steno.excluded" $root | fromJsonArray | join "," | quote }}}
        - {name: STENO_CA_OVERLAP, value: {{ $root.Values.webhook.caOverlap | quote }}}
        - {name: STENO_NUDGES, value: {{ $root.Values.operator.podsPerSecond | quote }}}
        - {name: STENO_LEASE_SECONDS, value: {{ $root.Values.operator.leaseSeconds | quote }}}
        - {name: STENO_LOG_LEVEL, value: {{ $root.Values.operator.logLevel | quote }}}
        {{- if $tls }}
        - {name: STENO_CERT_DIR, value: /tls}
        {{- end }}
        {{- with .values.env }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
        ports:
        {{- if eq .role "webhook" }}
        - {name: webhook, containerPort: {{ .values.port }}}
        {{- end }}
        - {name: health, containerPort: 8081}
        livenessProbe:
          httpGet: {path: /livez, port: health}
          periodSeconds: 20
          failureThreshold: 3
        readinessProbe:
          httpGet: {path: /readyz, port: health}
          periodSeconds: 2
        resources: {{- toYaml .values.resources | nindent 10 }}
        {{- $container := dict "allowPrivilegeEscalation" false "readOnlyRootFilesystem" true "capabilities" (dict "drop" (list "ALL")) }}
        securityContext: {{- toYaml (mergeOverwrite $container (deepCopy .values.securityContext)) | nindent 10 }}
        {{- if $tls }}
        volumeMounts:
        - {name: tls, mountPath: /tls, readOnly: true}
        {{- end }}
      {{- if $tls }}
      volumes:
      - name: tls
        secret: {secretName: {{ $tls }}}
      {{- end }}
      {{- with .values.nodeSelector }}
      nodeSelector: {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with .values.tolerations }}
      tolerations: {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with .values.affinity }}
      affinity: {{- toYaml . | nindent 8 }}
      {{- end }}
---
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ .name }}
  namespace: {{ $root.Release.Namespace }}
  labels: {{- include "steno.labels" . | nindent 4 }}
  {{- with .values.serviceAccountAnnotations }}
  annotations: {{- toYaml . | nindent 4 }}
  {{- end }}
{{- if gt (int .values.replicas) 1 }}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ .name }}
  namespace: {{ $root.Release.Namespace }}
  labels: {{- include "steno.labels" . | nindent 4 }}
spec:
  maxUnavailable: 1
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels: {{- include "steno.selector" . | nindent 6 }}
{{- end }}
{{- end }}
