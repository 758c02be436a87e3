{{- define "cachd.notes" -}}
{{- $name := include "cachd.fullname" . -}}
{{- $workload := printf "%s/%s" (ternary "statefulset" "daemonset" (eq .Values.cache.type "claimPerNode")) $name -}}
{{- if .Values.cleanUp.enabled -}}
The daemons end and their models go. When every pod is ready there is nothing left on the nodes:

  kubectl -n {{ .Release.Namespace }} rollout status {{ $workload }}
  helm -n {{ .Release.Namespace }} uninstall {{ .Release.Name }}
{{- else -}}
cachd {{ .Chart.AppVersion }} runs on {{ if eq .Values.cache.type "claimPerNode" }}{{ .Values.cache.claimPerNode.replicas }} of the nodes{{ else }}every node{{ end }} with the labels {{ toJson .Values.nodeSelector }}.

Wait for it, and see what a node holds:

  kubectl -n {{ .Release.Namespace }} rollout status {{ $workload }}
  kubectl -n {{ .Release.Namespace }} exec {{ $workload }} -- cachd ls
{{- if .Values.storageContainer.enabled }}
{{- $prefixes := default list .Values.storageContainer.prefixes }}
{{- if .Values.storageContainer.view.enabled }}
{{- $prefixes = concat $prefixes .Values.storageContainer.view.prefixes }}
{{- end }}

KServe brings models whose storageUri begins with {{ join ", " $prefixes }} from the cache{{ if .Values.storageContainer.api.enabled }}, over
TCP, once each namespace of services has the Secret {{ .Values.storageContainer.api.secret }} (token, ca.crt). Pods need no volume.
{{- else }}, once the
pods have the volume {{ .Values.storageContainer.volumes.socket }}{{ if .Values.storageContainer.token }} and the volume {{ .Values.storageContainer.volumes.token }}{{ end }}. For one runtime's services, all at once:

  kubectl patch clusterservingruntime RUNTIME --type merge -p '{"spec":{"volumes":[{"name":"{{ .Values.storageContainer.volumes.socket }}","hostPath":{"path":"{{ .Values.socket.hostPath.path }}","type":"Directory"}}]}}'

(A merge replaces the list: name the runtime's other volumes too.) docs/kserve.md has the other ways.
{{- end }}
{{- else }}

A pod asks for a model through {{ .Values.socket.hostPath.path }}/cachd.sock of its node:

  initContainers:
    - name: model
      image: {{ include "cachd.image" . }}
      args: [pull, s3://bucket/model, /mnt/models]
      env:
        - {name: CACHD_SOCKET, value: /run/cachd/cachd.sock}
      securityContext: {runAsUser: 1000}
      volumeMounts:
        - {name: cachd, mountPath: /run/cachd, readOnly: true}
        - {name: models, mountPath: /mnt/models}
  volumes:
    - name: cachd
      hostPath: {path: {{ .Values.socket.hostPath.path }}, type: Directory}
    - name: models
      emptyDir: {}

Its AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY go with the request.
{{- end }}
{{- range .Values.namespaces }}

Pods in {{ .name }} mount the claim {{ $name }}-socket instead of a hostPath{{ if .views }}, and {{ $name }}-views for views{{ end }}.
{{- end }}

What this install can't do:
- The namespace {{ .Release.Namespace }} must be privileged (Pod Security), for cachd's own pods use hostPath. Users' namespaces
  under baseline or restricted refuse a hostPath of theirs: list them in namespaces, and they get a claim.
{{- if not .Values.storageContainer.enabled }}
- KServe doesn't know of it: storageContainer.enabled is false.
{{- end }}
{{- if not (and .Values.storageContainer.enabled .Values.storageContainer.api.enabled) }}
- No webhook adds volumes to pods: each pod, or its runtime, names the socket's volume itself.
{{- else }}
- Over TCP pods get no views and no descriptors, and all who have the token are one caller.
{{- end }}
{{- if not .Values.kubernetes.enabled }}
- It doesn't speak to the API server: pods are known by their uid alone, and nothing learns when they are gone.
{{- end }}
{{- if ne .Values.cache.type "hostPath" }}
- Models on a claim can't be seen by other pods: they get copies through the socket, no views.
{{- end }}
{{- if and (eq .Values.cache.type "claimPerNode") (gt (int .Values.cache.claimPerNode.replicas) 1) }}
- A node without one of the {{ .Values.cache.claimPerNode.replicas }} pods has no cache, and pods there wait for one in vain.
{{- end }}
{{- if not .Values.prepareDirectories.enabled }}
- It prepares nothing on the nodes: {{ if eq .Values.cache.type "hostPath" }}{{ .Values.cache.hostPath.path }}, {{ end }}{{ .Values.socket.hostPath.path }} and {{ .Values.adminSocket.hostPath.path }}
  must exist there, owned by uid {{ .Values.podSecurityContext.runAsUser | int64 }}. Set prepareDirectories.enabled=true to have that done at each start.
{{- else if and (eq .Values.cache.type "hostPath") (not (dig "store" "expected_volume_id" "" .Values.config)) }}
- It can't tell a disk that isn't mounted from an empty one: {{ .Values.cache.hostPath.path }} would be made on the system's disk.
  If it is a disk of its own, set config.store.expected_volume_id.
{{- end }}
- Uninstalling leaves the models where they are: set cleanUp.enabled=true before, if they should go.
{{- end -}}
{{- end -}}
