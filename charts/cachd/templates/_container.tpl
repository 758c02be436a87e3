{{- define "cachd.container" -}}
- name: cachd
  image: {{ include "cachd.image" . }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  args: [serve, --config, /etc/cachd/config.yaml]
  env:
    - {name: NODE_NAME, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
    - {name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
    - {name: POD_UID, valueFrom: {fieldRef: {fieldPath: metadata.uid}}}
    - {name: POD_NAMESPACE, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}}
    - {name: CACHD_STORE_ROOT, value: /var/cache/cachd}
    - {name: CACHD_SOCKET, value: /run/cachd/cachd.sock}
    - {name: CACHD_ADMIN_SOCKET, value: /run/cachd-admin/admin.sock}
    - {name: CACHD_LISTEN_HEALTH_ADDRESS, value: "0.0.0.0:{{ .Values.health.port }}"}
    {{- if .Values.cache.descriptors }}
    - {name: CACHD_STORE_READONLY_ROOT, value: /var/cache/cachd-readonly}
    {{- end }}
    {{- if and .Values.kubernetes.enabled (not (dig "leases" "provider" "" (default dict .Values.config))) }}
    - {name: CACHD_LEASES_PROVIDER, value: kubernetes}
    {{- end }}
    {{- if .Values.hostPID }}
    - {name: CACHD_LEASES_CGROUP_ROOT, value: /host/cgroup}
    {{- end }}
    {{- if not (hasKey (default dict (default dict .Values.config).access) "trust_own_uid") }}
    # Whoever makes a pod chooses its uid, with an API server to ask or without.
    - {name: CACHD_ACCESS_TRUST_OWN_UID, value: "false"}
    {{- end }}
    - {name: CACHD_ACCESS_RULES_FILE, value: /etc/cachd/rules.yaml}
    - {name: CACHD_KUBERNETES_ENABLED, value: {{ .Values.kubernetes.enabled | quote }}}
    {{- if .Values.kubernetes.enabled }}
    - {name: CACHD_KUBERNETES_EVENTS, value: {{ .Values.kubernetes.events | quote }}}
    {{- end }}
    {{- with .Values.upstream }}
    {{- if .endpoints }}
    - {name: CACHD_UPSTREAM_ENDPOINTS, value: {{ toJson .endpoints | quote }}}
    - {name: CACHD_UPSTREAM_TOKEN_FILE, value: "/etc/cachd-upstream-token/{{ .tokenKey }}"}
    {{- if .caSecret }}
    - {name: CACHD_UPSTREAM_CA_BUNDLE, value: "/etc/cachd-upstream-ca/{{ .caKey }}"}
    {{- end }}
    {{- end }}
    {{- end }}
    {{- if .Values.api.enabled }}
    - {name: CACHD_LISTEN_API_ADDRESS, value: "0.0.0.0:{{ .Values.api.port }}"}
    - {name: CACHD_LISTEN_API_CERTIFICATE, value: /etc/cachd-api-tls/tls.crt}
    - {name: CACHD_LISTEN_API_PRIVATE_KEY, value: /etc/cachd-api-tls/tls.key}
    - {name: CACHD_LISTEN_API_TOKEN_FILE, value: "/etc/cachd-api-token/{{ .Values.api.tokenKey }}"}
    - {name: CACHD_LISTEN_API_ROLE, value: {{ .Values.api.role }}}
    {{- end }}
    {{- with .Values.extraEnv }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with .Values.extraEnvFrom }}
  envFrom:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  ports:
    - {name: health, containerPort: {{ .Values.health.port }}}
    {{- if .Values.api.enabled }}
    - {name: api, containerPort: {{ .Values.api.port }}{{ if .Values.api.hostPort }}, hostPort: {{ .Values.api.port }}{{ end }}}
    {{- end }}
  startupProbe:
    httpGet: {path: /livez, port: health}
    periodSeconds: 2
    failureThreshold: 90
  readinessProbe:
    httpGet: {path: /readyz, port: health}
    periodSeconds: 5
    timeoutSeconds: 3
  livenessProbe:
    httpGet: {path: /livez, port: health}
    periodSeconds: 10
    timeoutSeconds: 5
    failureThreshold: 6
  securityContext:
    {{- include "cachd.securityContext" . | nindent 4 }}
  {{- with .Values.resources }}
  resources:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  volumeMounts:
    {{- include "cachd.directoryMounts" . | nindent 4 }}
    {{- if .Values.cache.descriptors }}
    # The same volume again: what is opened here can't be reopened for writing.
    - {name: cache, mountPath: /var/cache/cachd-readonly{{ include "cachd.cacheSubPath" . }}, readOnly: true}
    {{- end }}
    {{- if .Values.hostPID }}
    - {name: cgroup, mountPath: /host/cgroup, readOnly: true}
    {{- end }}
    - {name: config, mountPath: /etc/cachd, readOnly: true}
    - {name: tmp, mountPath: /tmp}
    {{- if .Values.api.enabled }}
    - {name: api-tls, mountPath: /etc/cachd-api-tls, readOnly: true}
    - {name: api-token, mountPath: /etc/cachd-api-token, readOnly: true}
    {{- end }}
    {{- if .Values.upstream.endpoints }}
    - {name: upstream-token, mountPath: /etc/cachd-upstream-token, readOnly: true}
    {{- if .Values.upstream.caSecret }}
    - {name: upstream-ca, mountPath: /etc/cachd-upstream-ca, readOnly: true}
    {{- end }}
    {{- end }}
    {{- with .Values.extraVolumeMounts }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end -}}

{{/* The mount of the cache; on a claim that all nodes share each has a directory of its own. */}}
{{- define "cachd.cacheSubPath" -}}
{{- if eq .Values.cache.type "claim" }}, subPathExpr: "{{ with .Values.cache.claim.directory }}{{ . }}/{{ end }}$(NODE_NAME)"{{ end -}}
{{- end -}}

{{- define "cachd.directoryMounts" -}}
- {name: cache, mountPath: /var/cache/cachd{{ include "cachd.cacheSubPath" . }}}
- {name: socket, mountPath: /run/cachd}
- {name: admin-socket, mountPath: /run/cachd-admin}
{{- end -}}

{{- define "cachd.volumes" -}}
{{- if eq .Values.cache.type "hostPath" }}
- name: cache
  hostPath:
    path: {{ .Values.cache.hostPath.path }}
    type: {{ include "cachd.hostPathType" (dict "root" $ "type" .Values.cache.hostPath.type) }}
{{- else if eq .Values.cache.type "claim" }}
- name: cache
  persistentVolumeClaim:
    claimName: {{ .Values.cache.claim.name }}
{{- end }}
- name: socket
  hostPath:
    path: {{ .Values.socket.hostPath.path }}
    type: {{ include "cachd.hostPathType" (dict "root" $ "type" .Values.socket.hostPath.type) }}
- name: admin-socket
  hostPath:
    path: {{ .Values.adminSocket.hostPath.path }}
    type: {{ include "cachd.hostPathType" (dict "root" $ "type" .Values.adminSocket.hostPath.type) }}
- name: config
  configMap:
    name: {{ include "cachd.fullname" . }}
- name: tmp
  emptyDir: {}
{{- if and .Values.hostPID (not .Values.cleanUp.enabled) }}
- name: cgroup
  hostPath: {path: /sys/fs/cgroup, type: Directory}
{{- end }}
{{- if .Values.api.enabled }}
- name: api-tls
  secret:
    secretName: {{ .Values.api.tlsSecret }}
- name: api-token
  secret:
    secretName: {{ .Values.api.tokenSecret }}
{{- end }}
{{- if .Values.upstream.endpoints }}
- name: upstream-token
  secret:
    secretName: {{ .Values.upstream.tokenSecret }}
{{- if .Values.upstream.caSecret }}
- name: upstream-ca
  secret:
    secretName: {{ .Values.upstream.caSecret }}
{{- end }}
{{- end }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}
