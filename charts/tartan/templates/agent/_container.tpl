{{/* What the agent needs of a host, for its two commands `run` and `cleanup`. */}}
{{- define "tartan.agent.container" -}}
image: {{ include "tartan.image" (dict "root" $ "image" .Values.agent.image) }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
env:
  - name: NODE_NAME
    valueFrom:
      fieldRef:
        fieldPath: spec.nodeName
  - name: TARTAN_LISTEN
    value: {{ include "tartan.listen" .Values.agent | quote }}
  - name: TARTAN_CNI_CONF_DIR
    value: {{ .Values.cniConfDir | quote }}
  # The container's own /proc/sys is read-only.
  - name: TARTAN_PROC_SYS
    value: /host/proc/sys
  {{- if ne .Values.wireguard.userspace "Never" }}
  - name: TARTAN_USER_WIREGUARD
    value: {{ lower .Values.wireguard.userspace | quote }}
  {{- end }}
  {{- with .Values.agent.extensionCommandsFrom }}
  - name: TARTAN_EXTENSION_COMMANDS_FROM
    value: /host/extension-commands
  {{- end }}
  {{- include "tartan.environment" . | nindent 2 }}
resources:
  {{- toYaml .Values.agent.resources | nindent 2 }}
securityContext:
  readOnlyRootFilesystem: true
  {{- if or (and .Values.forwarder.enabled .Values.forwarder.privileged) (and (ne .Values.wireguard.userspace "Never") .Values.wireguard.privileged) }}
  privileged: true
  {{- else }}
  privileged: false
  allowPrivilegeEscalation: false
  capabilities:
    drop: [ALL]
    add: [NET_ADMIN]
  {{- end }}
volumeMounts:
  - name: api-access
    mountPath: /var/run/secrets/kubernetes.io/serviceaccount
    readOnly: true
  - name: proc-sys-net
    mountPath: /host/proc/sys/net
  - name: run-tartan
    mountPath: /run/tartan
  - name: run-flannel
    mountPath: /run/flannel
  {{- if or .Values.forwarder.enabled (ne .Values.wireguard.userspace "Never") }}
  # Who opens it makes the devices of processes.
  - name: tun
    mountPath: /dev/net/tun
  {{- end }}
  # WireGuard's preshared key; the agent has no right to read Secrets by the API.
  - name: wireguard
    mountPath: /etc/tartan/wireguard
    readOnly: true
  # At the same path as on the host: links in it must lead to the same files.
  - name: cni-conf
    mountPath: {{ .Values.cniConfDir }}
  {{- if .Values.agent.extensionCommandsFrom }}
  - name: extension-commands
    mountPath: /host/extension-commands
    readOnly: true
  {{- end }}
  {{- if .Values.ipsec.enabled }}
  - name: {{ if .Values.ipsec.certificatesFrom }}ipsec-certificates{{ else }}ipsec-key{{ end }}
    mountPath: /etc/tartan/ipsec
    readOnly: true
  {{- end }}
{{- end }}
