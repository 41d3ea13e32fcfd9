{{- /*
The same objects as `storageformat render sidecar` prints, as templates for a pod's spec; a test compares both.
Options, in one dict:

  databases        a list of {name: STORAGEFORMAT, path: /data/orders.db}, required
  image            required, with its tag
  imagePullPolicy  Always, IfNotPresent or Never
  runAsUser        the uid that owns the database; 0 adds capabilities
  runAsGroup       default: the uid
  volume           the app's volume, default: data
  mount            where the app mounts it, default: the directory of the first database
  subPath          of the app's mount
  metricsPort      default: 9865
  requests         of the sidecar, default: {cpu: 10m, memory: 100Mi}
  limits           of both containers, default: none
  logFormat        of both containers: text or json, default: text
  variables        a dict of more variables of the sidecar, such as OTEL_EXPORTER_OTLP_ENDPOINT
  sidecarArgs      a list of more arguments of the sidecar
  migrations       a ConfigMap of migrations, for a format with migrationsFrom
  migrationsPath   where it is mounted, default: /migrations
*/ -}}

{{- define "storageformat.sidecar.initContainers" -}}
{{- include "storageformat.sidecar.check" . }}
{{- $args := list "sidecar" }}
{{- range .databases }}
{{- $args = concat $args (list "--database" (printf "%s=%s" .name .path)) }}
{{- end }}
{{- $port := int (.metricsPort | default 9865) }}
{{- if ne $port 9865 }}
{{- $args = concat $args (list "--metrics-port" (toString $port)) }}
{{- end }}
{{- $log := list }}
{{- if ne (.logFormat | default "text") "text" }}
{{- $log = list "--log-format" .logFormat }}
{{- end }}
{{- $args = concat $args $log (.sidecarArgs | default list) }}
# A native sidecar. It has no probe, on purpose: a failing one would take a healthy app out
# of its Services, and a startup probe would hold the pod back when the sidecar restarts.
- name: storageformat
  image: {{ .image | quote }}
  {{- with .imagePullPolicy }}
  imagePullPolicy: {{ . }}
  {{- end }}
  restartPolicy: Always
  args:
  {{- range $args }}
  - {{ toString . | replace "$(" "$$(" | quote }}
  {{- end }}
  env:
  - name: POD_NAME
    valueFrom: {fieldRef: {fieldPath: metadata.name}}
  - name: POD_UID
    valueFrom: {fieldRef: {fieldPath: metadata.uid}}
  - name: POD_NAMESPACE
    valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
  - name: NODE_NAME
    valueFrom: {fieldRef: {fieldPath: spec.nodeName}}
  # The formats that the app reads, such as v1,v2: an annotation of the pod.
  - name: STORAGEFORMAT_READS
    valueFrom: {fieldRef: {fieldPath: "metadata.annotations['storageformat.dev/reads']"}}
  {{- range $name, $value := .variables }}
  - name: {{ $name }}
    value: {{ toString $value | replace "$(" "$$(" | quote }}
  {{- end }}
  ports:
  - name: sf-metrics
    containerPort: {{ $port }}
    protocol: TCP
  {{- $requests := dict "cpu" "10m" "memory" "100Mi" }}
  {{- if hasKey . "requests" }}
  {{- $requests = .requests }}
  {{- end }}
  {{- include "storageformat.sidecar.resources" (dict "requests" $requests "limits" .limits) | nindent 2 }}
  securityContext: {{- include "storageformat.sidecar.securityContext" (dict "options" . "sidecar" true) | nindent 4 }}
  volumeMounts:
  - name: {{ .volume | default "data" }}
    mountPath: {{ include "storageformat.sidecar.mount" . | quote }}
    {{- with .subPath }}
    subPath: {{ . | quote }}
    {{- end }}
  - name: storageformat-run
    mountPath: /run/storageformat
  - name: storageformat-token
    mountPath: /var/run/secrets/kubernetes.io/serviceaccount
    readOnly: true
  {{- if .migrations }}
  - name: storageformat-migrations
    mountPath: {{ .migrationsPath | default "/migrations" | quote }}
    readOnly: true
  {{- end }}
# A plain init container: the app starts when it exits.
- name: storageformat-gate
  image: {{ .image | quote }}
  {{- with .imagePullPolicy }}
  imagePullPolicy: {{ . }}
  {{- end }}
  args: {{ concat (list "gate") $log | toJson }}
  {{- include "storageformat.sidecar.resources" (dict "requests" (dict "cpu" "10m" "memory" "32Mi") "limits" .limits) | nindent 2 }}
  securityContext: {{- include "storageformat.sidecar.securityContext" (dict "options" . "sidecar" false) | nindent 4 }}
  volumeMounts:
  - name: storageformat-run
    mountPath: /run/storageformat
{{- end }}

{{- define "storageformat.sidecar.volumes" -}}
# The socket between sidecar and gate.
- name: storageformat-run
  emptyDir: {medium: Memory, sizeLimit: 1Mi}
# A token of the sidecar's own: the app's containers need none.
- name: storageformat-token
  projected:
    sources:
    - serviceAccountToken: {path: token, expirationSeconds: 3607}
    - configMap:
        name: kube-root-ca.crt
        items:
        - {key: ca.crt, path: ca.crt}
    - downwardAPI:
        items:
        - {path: namespace, fieldRef: {fieldPath: metadata.namespace}}
{{- with .migrations }}
# Best an immutable ConfigMap per release, named after it.
- name: storageformat-migrations
  configMap:
    name: {{ . | quote }}
{{- end }}
{{- end }}

{{- define "storageformat.sidecar.mount" -}}
{{- .mount | default (dir (first .databases).path) }}
{{- end }}

{{- define "storageformat.sidecar.resources" -}}
{{- if or .requests .limits }}
resources:
  {{- with .requests }}
  requests: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .limits }}
  limits: {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}
{{- end }}

{{- define "storageformat.sidecar.securityContext" -}}
{{- $user := .options.runAsUser }}
{{- $group := .options.runAsGroup }}
{{- if kindIs "invalid" $group }}
{{- $group = $user }}
{{- end }}
{{- $isRoot := and (not (kindIs "invalid" $user)) (eq (int64 $user) 0) -}}
allowPrivilegeEscalation: false
capabilities:
  drop: [ALL]
  {{- if and $isRoot .sidecar }}
  # Not allowed by the pod security standard `restricted`, LEASE not by `baseline`.
  add: [LEASE, DAC_OVERRIDE, FOWNER, CHOWN]
  {{- end }}
readOnlyRootFilesystem: true
runAsNonRoot: {{ not $isRoot }}
seccompProfile: {type: RuntimeDefault}
{{- if not (kindIs "invalid" $user) }}
runAsUser: {{ int64 $user }}
{{- end }}
{{- if not (kindIs "invalid" $group) }}
runAsGroup: {{ int64 $group }}
{{- end }}
{{- end }}

{{- define "storageformat.sidecar.check" -}}
{{- $known := list "databases" "image" "imagePullPolicy" "runAsUser" "runAsGroup" "volume" "mount" "subPath" "metricsPort" "requests" "limits" "logFormat" "variables" "sidecarArgs" "migrations" "migrationsPath" }}
{{- range $key, $value := . }}
{{- if not (has $key $known) }}
{{- fail (printf "storageformat.sidecar: there is no option %q; there is %s" $key (join ", " $known)) }}
{{- end }}
{{- end }}
{{- if not .databases }}
{{- fail "storageformat.sidecar: databases: write at least one {name: STORAGEFORMAT, path: /data/orders.db}" }}
{{- end }}
{{- if not .image }}
{{- fail "storageformat.sidecar: image: write REPOSITORY:TAG" }}
{{- end }}
{{- range .databases }}
{{- if not (and .name (hasPrefix "/" (toString .path))) }}
{{- fail (printf "storageformat.sidecar: databases: %v: write {name: STORAGEFORMAT, path: /absolute/path.db}" .) }}
{{- end }}
{{- end }}
{{- if not (has (.logFormat | default "text") (list "text" "json")) }}
{{- fail (printf "storageformat.sidecar: logFormat: %v is none; write text or json" .logFormat) }}
{{- end }}
{{- $mount := include "storageformat.sidecar.mount" . }}
{{- range .databases }}
{{- if not (hasPrefix (printf "%s/" $mount) .path) }}
{{- fail (printf "storageformat.sidecar: mount: %s is not below %s; name the directory at which the app mounts the volume" .path $mount) }}
{{- end }}
{{- end }}
{{- if .migrations }}
{{- $path := .migrationsPath | default "/migrations" }}
{{- if not (and (hasPrefix "/" $path) (eq (clean $path) $path) (ne $path "/")) }}
{{- fail (printf "storageformat.sidecar: migrationsPath: %s is not an absolute path in its shortest form, below /" $path) }}
{{- end }}
{{- range list $mount "/run/storageformat" "/var/run/secrets/kubernetes.io/serviceaccount" }}
{{- if or (hasPrefix (printf "%s/" .) (printf "%s/" $path)) (hasPrefix (printf "%s/" $path) (printf "%s/" .)) }}
{{- fail (printf "storageformat.sidecar: migrationsPath: %s and %s overlap" $path .) }}
{{- end }}
{{- end }}
{{- else if .migrationsPath }}
{{- fail "storageformat.sidecar: migrationsPath: goes with migrations, the name of a ConfigMap" }}
{{- end }}
{{- end }}
