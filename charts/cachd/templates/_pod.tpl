{{/* The pod of DaemonSet and StatefulSet alike. */}}
{{- define "cachd.podTemplate" -}}
metadata:
  labels:
    {{- include "cachd.labels" . | nindent 4 }}
    {{- with .Values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  annotations:
    checksum/config: {{ .Values.config | toJson | sha256sum }}
    {{- with .Values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ include "cachd.serviceAccountName" . }}
  automountServiceAccountToken: {{ .Values.kubernetes.enabled }}
  # A Service called cachd would put CACHD_PORT=tcp://… among the settings.
  enableServiceLinks: false
  {{- if .Values.hostPID }}
  hostPID: true
  {{- end }}
  terminationGracePeriodSeconds: {{ .Values.terminationGracePeriodSeconds }}
  {{- with .Values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- with .Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  securityContext:
    {{- toYaml (merge (deepCopy .Values.podSecurityContext) (include "cachd.volumeGroup" . | fromYaml)) | nindent 4 }}
  {{- if .Values.cleanUp.enabled }}
  initContainers:
    - name: clean-up
      {{- include "cachd.rootTool" (dict "root" $ "capabilities" (list "DAC_OVERRIDE" "FOWNER")) | nindent 6 }}
      command:
        - python
        - -c
        - |
          {{- .Files.Get "files/clean_up.py" | nindent 10 }}
        - /var/cache/cachd
        - /run/cachd
        - /run/cachd-admin
      volumeMounts:
        {{- include "cachd.directoryMounts" . | nindent 8 }}
  {{- else if .Values.prepareDirectories.enabled }}
  initContainers:
    - name: prepare-directories
      {{- include "cachd.rootTool" (dict "root" $ "capabilities" (list "CHOWN")) | nindent 6 }}
      command:
        - python
        - -c
        - |
          {{- .Files.Get "files/prepare_directories.py" | nindent 10 }}
        - {{ .Values.podSecurityContext.runAsUser | int64 | quote }}
        - {{ .Values.podSecurityContext.runAsGroup | int64 | quote }}
        - /var/cache/cachd
        - /run/cachd
        - /run/cachd-admin
      volumeMounts:
        {{- include "cachd.directoryMounts" . | nindent 8 }}
  {{- end }}
  containers:
    {{- if .Values.cleanUp.enabled }}
    # Shows by being Ready that this node's models are gone.
    - name: cleaned-up
      image: {{ include "cachd.image" . }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      command: [python, -c, "import signal; signal.signal(signal.SIGTERM, lambda *_: exit()); signal.pause()"]
      securityContext:
        {{- toYaml (include "cachd.securityContext" . | fromYaml) | nindent 8 }}
    {{- else }}
    {{- include "cachd.container" . | nindent 4 }}
    {{- end }}
  volumes:
    {{- include "cachd.volumes" . | trim | nindent 4 }}
  {{- with .Values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with include "cachd.affinity" . | fromYaml }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}

{{/* An init container that is root with few capabilities. */}}
{{- define "cachd.rootTool" -}}
image: {{ include "cachd.image" .root }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
securityContext:
  runAsUser: 0
  runAsGroup: 0
  runAsNonRoot: false
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
    add: {{ toJson .capabilities }}
  {{- with .root.Values.seLinuxOptions }}
  seLinuxOptions:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- with .root.Values.prepareDirectories.resources }}
resources:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- if eq .root.Values.cache.type "claim" }}
env:
  - {name: NODE_NAME, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
{{- end }}
{{- end -}}

{{- define "cachd.securityContext" -}}
{{- $context := deepCopy .Values.securityContext -}}
{{- with .Values.seLinuxOptions -}}
{{- $_ := set $context "seLinuxOptions" . -}}
{{- end -}}
{{- toYaml $context -}}
{{- end -}}

{{/* Claims are mounted with a group; a hostPath knows none. */}}
{{- define "cachd.volumeGroup" -}}
{{- if ne .Values.cache.type "hostPath" -}}
fsGroup: {{ .Values.podSecurityContext.runAsGroup | int64 }}
fsGroupChangePolicy: OnRootMismatch
{{- end -}}
{{- end -}}

{{- define "cachd.affinity" -}}
{{- $affinity := deepCopy (default dict .Values.affinity) -}}
{{- if eq .Values.cache.type "claimPerNode" -}}
{{- $apart := dict "topologyKey" "kubernetes.io/hostname" "labelSelector" (dict "matchLabels" (include "cachd.selectorLabels" . | fromYaml)) -}}
{{- $pods := default dict (get $affinity "podAntiAffinity") -}}
{{- $terms := default list (get $pods "requiredDuringSchedulingIgnoredDuringExecution") -}}
{{- $_ := set $pods "requiredDuringSchedulingIgnoredDuringExecution" (append $terms $apart) -}}
{{- $_ := set $affinity "podAntiAffinity" $pods -}}
{{- end -}}
{{- toYaml $affinity -}}
{{- end -}}
