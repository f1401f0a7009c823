{{/* Labels of every object. */}}
{{- define "tartan.labels" -}}
app.kubernetes.io/name: tartan
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: tartan
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{/* Labels by which pods of a component are found; they never change. Argument: the component. */}}
{{- define "tartan.selector" -}}
app.kubernetes.io/part-of: tartan
app.kubernetes.io/component: {{ . }}
{{- end }}

{{/* An image's reference. Argument: root and image. */}}
{{- define "tartan.image" -}}
{{- $registry := required "image.registry is empty: say where the images are, such as registry.example.com; `cargo xtask image` and the Dockerfile make them" .root.Values.image.registry }}
{{- trimSuffix "/" $registry }}/
{{- .image.repository }}
{{- if .image.digest }}@{{ .image.digest }}{{ else }}:{{ .image.tag | default .root.Chart.AppVersion }}{{ end }}
{{- end }}

{{/* ADDRESS:PORT to listen on. Argument: the component's values. */}}
{{- define "tartan.listen" -}}
{{- if contains ":" .listenAddress }}[{{ .listenAddress }}]{{ else }}{{ .listenAddress }}{{ end }}:{{ .port }}
{{- end }}

{{/* The address of metrics and probes of a component that Prometheus need not reach. Argument: root and the component's
values. */}}
{{- define "tartan.quietAddress" -}}
{{- if .values.listenAddress }}
{{- .values.listenAddress }}
{{- else if or .root.Values.metrics.scrapeAnnotations .root.Values.metrics.podMonitor.enabled }}
{{- "::" }}
{{- else }}
{{- "127.0.0.1" }}
{{- end }}
{{- end }}

{{/* Not empty where a component listens on loopback alone. Argument: an address. */}}
{{- define "tartan.isLoopback" -}}
{{- if or (hasPrefix "127." .) (eq "::1" .) }}yes{{ end }}
{{- end }}

{{/* A probe. Argument: values of the component, path, and the probe's figures. */}}
{{- define "tartan.probe" -}}
httpGet:
  path: {{ .path }}
  port: metrics
  {{- if not (has .values.listenAddress (list "0.0.0.0" "::")) }}
  host: {{ .values.listenAddress | quote }}
  {{- end }}
{{ toYaml .figures }}
{{- end }}

{{/* Environment of both programs. */}}
{{- define "tartan.environment" -}}
- name: TARTAN_LOG_FORMAT
  value: {{ .Values.log.format | quote }}
{{- with .Values.log.level }}
- name: TARTAN_LOG
  value: {{ . | quote }}
{{- end }}
{{- with .Values.apiServer }}
{{- if .host }}
- name: KUBERNETES_SERVICE_HOST
  value: {{ .host | quote }}
- name: KUBERNETES_SERVICE_PORT
  value: {{ .port | quote }}
{{- end }}
{{- end }}
{{- end }}

{{/* Annotations of a component's pods. Argument: root, the component's values and the address that it listens on. */}}
{{- define "tartan.podAnnotations" -}}
{{- $annotations := dict }}
{{- if and .root.Values.metrics.scrapeAnnotations (not (include "tartan.isLoopback" .address)) }}
{{- $annotations = dict "prometheus.io/scrape" "true" "prometheus.io/port" (toString .values.port) "prometheus.io/path" "/metrics" }}
{{- end }}
{{- with merge (deepCopy .values.podAnnotations) $annotations }}
{{- toYaml . }}
{{- end }}
{{- end }}

{{/* `node` of a policy: the node that the agent's token is bound to. */}}
{{- define "tartan.policy.isAgent" -}}
- name: is-agent
  expression: request.userInfo.username == 'system:serviceaccount:{{ .Release.Namespace }}:tartan-node-agent'
{{- end }}

{{- define "tartan.policy.node" -}}
- name: node
  expression: request.userInfo.extra[?'authentication.kubernetes.io/node-name'][0].orValue('')
{{- end }}

{{- define "tartan.policy.bound" -}}
- expression: variables.node != ''
  message: this token is not bound to a node
  reason: Forbidden
{{- end }}
