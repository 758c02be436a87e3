{{/*
KServe merges the container below over the init container that it makes, by Kubernetes' strategic
merge: args must not be here, for a list of them replaces the URI and the destination, and the name
must be KServe's own.
*/}}
{{- define "cachd.storageContainer" -}}
{{- $values := .root.Values.storageContainer -}}
apiVersion: serving.kserve.io/v1alpha1
kind: ClusterStorageContainer
metadata:
  name: {{ .name }}
  labels:
    {{- include "cachd.labels" .root | nindent 4 }}
spec:
  container:
    name: storage-initializer
    image: {{ include "cachd.storageImage" .root }}
    imagePullPolicy: {{ .root.Values.image.pullPolicy }}
    env:
      {{- if $values.api.enabled }}
      # Before the variable that names it: the environment is expanded in its order.
      - {name: HOST_IP, valueFrom: {fieldRef: {fieldPath: status.hostIP}}}
      - {name: CACHD_API, value: "https://$(HOST_IP):{{ .root.Values.api.port }}"}
      - {name: CACHD_API_TOKEN, valueFrom: {secretKeyRef: {name: {{ $values.api.secret }}, key: token}}}
      - {name: CACHD_API_CA, valueFrom: {secretKeyRef: {name: {{ $values.api.secret }}, key: ca.crt}}}
      - {name: CACHD_API_SERVER_NAME, value: {{ $values.api.serverName | quote }}}
      {{- else }}
      - {name: CACHD_SOCKET, value: /run/cachd/cachd.sock}
      {{- end }}
      - {name: POD_UID, valueFrom: {fieldRef: {fieldPath: metadata.uid}}}
      - {name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
      - {name: POD_NAMESPACE, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}}
      - {name: NODE_NAME, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
      - {name: CACHD_WAIT_DAEMON, value: {{ $values.waitDaemon | quote }}}
      {{- if .view }}
      - {name: CACHD_VIEW, value: always}
      - {name: CACHD_VIEW_MOUNT, value: /mnt/models}
      {{- end }}
      {{- if not $values.readOnly }}
      - {name: CACHD_READONLY, value: "false"}
      {{- end }}
      # The downward API gives nothing for an annotation that isn't there, and that counts as unset.
      {{- range $variable, $annotation := $values.annotations }}
      {{- if or $values.readOnly (ne $variable "CACHD_READONLY") }}
      - {name: {{ $variable }}, valueFrom: {fieldRef: {fieldPath: "metadata.annotations['{{ $annotation }}']"}}}
      {{- end }}
      {{- end }}
      {{- with $values.modelRegistry }}
      - {name: MODEL_REGISTRY_BASE_URL, value: {{ . | quote }}}
      {{- end }}
      {{- with $values.mlflow }}
      - {name: MLFLOW_TRACKING_URI, value: {{ . | quote }}}
      {{- end }}
      {{- with $values.env }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
    {{- if not $values.api.enabled }}
    volumeMounts:
      - {name: {{ $values.volumes.socket }}, mountPath: /run/cachd, readOnly: true}
      {{- if $values.token }}
      - {name: {{ $values.volumes.token }}, mountPath: /var/run/secrets/cachd, readOnly: true}
      {{- end }}
      {{- if .view }}
      # Merged by mountPath over KServe's mount: the destination is this pod's own directory of views.
      - {name: kserve-provision-location, mountPath: /mnt/models, subPathExpr: $(POD_UID), readOnly: true}
      {{- end }}
    {{- end }}
    {{- with $values.resources }}
    resources:
      {{- toYaml . | nindent 6 }}
    {{- end }}
    {{- with $values.securityContext }}
    securityContext:
      {{- toYaml . | nindent 6 }}
    {{- end }}
  supportedUriFormats:
    {{- range .prefixes }}
    - prefix: {{ . | quote }}
    {{- end }}
    {{- range .regexes }}
    - regex: {{ . | quote }}
    {{- end }}
  workloadType: initContainer
  # KServe names the volume of several models by their common path, and the view's mount knows one name.
  supportsMultiModelDownload: {{ not .view }}
{{- end -}}

{{- define "cachd.storageImage" -}}
{{- $image := .Values.storageContainer.image -}}
{{- if or $image.repository $image.tag $image.digest -}}
{{- $repository := default .Values.image.repository $image.repository -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $repository $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $repository (default .Chart.AppVersion $image.tag) -}}
{{- end -}}
{{- else -}}
{{- include "cachd.image" . -}}
{{- end -}}
{{- end -}}
