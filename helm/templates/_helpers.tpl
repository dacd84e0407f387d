{{- define "mercato.fullname" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 30 | trimSuffix "-" }}
{{- else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 30 | trimSuffix "-" }}{{ end }}
{{- end }}

{{/* The entry of a role with its defaults: (dict "root" $ "name" "catalog"); as JSON. */}}
{{- define "mercato.role" -}}
{{- mergeOverwrite (deepCopy .root.Values.roleDefaults) (deepCopy (get .root.Values.roles .name | default dict)) | toJson }}
{{- end }}

{{/* The names of the roles that are on, with commas. */}}
{{- define "mercato.roles" -}}
{{- $names := list }}
{{- range $name, $_ := .Values.roles }}
{{- if (include "mercato.role" (dict "root" $ "name" $name) | fromJson).enabled }}{{ $names = append $names $name }}{{ end }}
{{- end }}
{{- join "," (sortAlpha $names) }}
{{- end }}

{{/* The same, those with a database alone. */}}
{{- define "mercato.stored" -}}
{{- $names := list }}
{{- range $name := splitList "," (include "mercato.roles" $) }}
{{- if (include "mercato.role" (dict "root" $ "name" $name) | fromJson).database }}{{ $names = append $names $name }}{{ end }}
{{- end }}
{{- join "," $names }}
{{- end }}

{{- define "mercato.image" -}}
{{- $tag := .image.tag | default .root.Chart.AppVersion }}
{{- if .image.digest }}{{ .image.repository }}@{{ .image.digest }}{{ else }}{{ .image.repository }}:{{ $tag }}{{ end }}
{{- end }}

{{/* (dict "root" $ "component" "catalog"): what pods are selected by; never changes in an upgrade. */}}
{{- define "mercato.selector" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/* The labels of pods. Nothing that a release changes is among them: a pod is replaced when what it runs has changed, and for nothing else. */}}
{{- define "mercato.podLabels" -}}
{{ include "mercato.selector" . }}
app.kubernetes.io/part-of: mercato
{{- end }}

{{- define "mercato.labels" -}}
{{ include "mercato.podLabels" . }}
app.kubernetes.io/version: {{ .root.Values.image.tag | default .root.Chart.AppVersion | trunc 63 | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | quote }}
{{- end }}

{{/* Name and labels of an object. */}}
{{- define "mercato.metadata" -}}
name: {{ include "mercato.fullname" .root }}-{{ .suffix | default .component }}
namespace: {{ .root.Release.Namespace }}
labels: {{- include "mercato.labels" . | nindent 2 }}
{{- end }}

{{/* A host name inside the cluster: (dict "root" $ "service" "catalog-pods"). */}}
{{- define "mercato.host" -}}
{{ include "mercato.fullname" .root }}-{{ .service }}.{{ .root.Release.Namespace }}.svc.{{ .root.Values.clusterDomain }}
{{- end }}

{{/* What Pod Security "restricted" demands of a pod and of a container; there is nothing to loosen. */}}
{{- define "mercato.podSecurity" -}}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: {{ .user | default 65532 }}
  runAsGroup: {{ .user | default 65532 }}
  fsGroup: {{ .user | default 65532 }}
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: { type: RuntimeDefault }
{{- end }}
{{- define "mercato.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: { drop: [ALL] }
{{- end }}

{{/* Where pods may go: (dict "root" $ "spec" role-or-edge). What a role or Envoy says for itself wins, each of the four for itself; jobs and
stores have what `placement` says. */}}
{{- define "mercato.placement" -}}
{{- $spec := .spec | default dict }}
{{- $common := .root.Values.placement }}
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets: {{- range . }}
  - name: {{ . }}{{ end }}
{{- end }}
{{- with $spec.priorityClassName | default $common.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- range $key := list "nodeSelector" "tolerations" "affinity" }}
{{- with get $spec $key | default (get $common $key) }}
{{ $key }}: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- end }}

{{/* How pods are spread. A node that is being drained takes none, so it must not count as one that has fewest: with DoNotSchedule the pods that
leave it would have nowhere to go, and the drain would never end. */}}
{{- define "mercato.spread" -}}
{{- $spread := .root.Values.topologySpread }}
topologySpreadConstraints:
{{- $keys := list "kubernetes.io/hostname" }}
{{- if $spread.zones }}{{ $keys = append $keys "topology.kubernetes.io/zone" }}{{ end }}
{{- range $key := $keys }}
  - maxSkew: 1
    topologyKey: {{ $key }}
    whenUnsatisfiable: {{ $spread.whenUnsatisfiable }}
    nodeTaintsPolicy: Honor
    labelSelector: { matchLabels: {{ include "mercato.selector" $ | fromYaml | toJson }} }
    matchLabelKeys: [pod-template-hash]
{{- end }}
{{- end }}

{{- define "mercato.env" -}}
{{- range $name, $value := . }}
- { name: {{ $name }}, value: {{ $value | toString | quote }} }
{{- end }}
{{- end }}

{{/* Name of a Secret: "-key" is PREFIX-key. */}}
{{- define "mercato.secret" -}}
{{- if hasPrefix "-" .name }}{{ .root.Values.secrets.prefix }}{{ end }}{{ .name }}
{{- end }}
{{- define "mercato.databaseSecret" -}}
{{- $role := include "mercato.role" . | fromJson }}
{{- $role.databaseSecret | default (printf "%s-db-%s" .root.Values.secrets.prefix .name) }}
{{- end }}

{{- define "mercato.brokers" -}}
{{- if .Values.kafka.inCluster.enabled }}{{ include "mercato.host" (dict "root" . "service" "kafka") }}:9092
{{- else }}{{ .Values.kafka.brokers }}{{ end }}
{{- end }}

{{/* The kubelet waits for all of it and five seconds more. */}}
{{- define "mercato.grace" -}}
{{- add (div (add .Values.shutdown.drainMs 999) 1000) 5 }}
{{- end }}

{{/* A quantity of Kubernetes in thousandths: "500m" is 500, "1Gi" 1073741824000. */}}
{{- define "mercato.milli" -}}
{{- $text := ternary (printf "%.3f" .) (toString .) (kindIs "float64" .) }}
{{- $units := dict "m" 1 "k" 1000000 "M" 1000000000 "G" 1000000000000 "Ki" 1024000 "Mi" 1048576000 "Gi" 1073741824000 "Ti" 1099511627776000 }}
{{- $unit := regexFind "[a-zA-Z]*$" $text }}
{{- mulf (float64 (trimSuffix $unit $text)) (ternary 1000 (get $units $unit) (empty $unit)) | int64 }}
{{- end }}

{{/* A share of a limit of memory in bytes: (dict "resources" .. "percent" 75). */}}
{{- define "mercato.memoryShare" -}}
{{- div (mul (include "mercato.milli" .resources.limits.memory | int64) (int64 .percent)) 100000 }}
{{- end }}

{{/* How many pods of it there may be: (dict "spec" role-or-edge). */}}
{{- define "mercato.most" -}}
{{- ternary (int .spec.autoscaling.maxReplicas) (int .spec.replicas) .spec.autoscaling.enabled }}
{{- end }}

{{/* Seconds a rollout takes at most, with the most pods there may be: each round as many as maxSurge says, and each pod a minute to start. */}}
{{- define "mercato.rolloutOf" -}}
{{- $most := include "mercato.most" . | int }}
{{- $surge := toString .spec.maxSurge }}
{{- $each := int (trimSuffix "%" $surge) }}
{{- if hasSuffix "%" $surge }}{{ $each = div (add (mul $most $each) 99) 100 }}{{ end }}
{{- mul (div (add $most $each -1) $each) (add (int .spec.minReadySeconds) 60) }}
{{- end }}
{{- define "mercato.rollout" -}}
{{- $longest := include "mercato.rolloutOf" (dict "spec" .Values.edge) | int }}
{{- range $name := splitList "," (include "mercato.roles" .) }}
{{- $longest = max $longest (include "mercato.rolloutOf" (dict "spec" (include "mercato.role" (dict "root" $ "name" $name) | fromJson)) | int) }}
{{- end }}
{{- max (int .Values.migrations.deadlineSeconds) (add $longest (include "mercato.grace" .)) | add 30 }}
{{- end }}

{{/* Whether the migration runs in pods of the roles, because the stores are there no sooner than they. */}}
{{- define "mercato.early" -}}
{{- if or .Values.postgres.inCluster.enabled .Values.kafka.inCluster.enabled }}yes{{ end }}
{{- end }}

{{/* Adds to `env` how the stores in `stores` are spoken to, with files at `at`: (dict "root" $ "env" .. "stores" (list "postgres") "at" ..). */}}
{{- define "mercato.storeEnv" -}}
{{- $values := .root.Values }}
{{- $security := $values.kafka.security }}
{{- if and (has "postgres" .stores) (include "mercato.hasCa" $values.postgres.ca) }}{{ $_ := set .env "DATABASE_SSL_CA_FILE" (printf "%s/postgres-ca.pem" .at) }}{{ end }}
{{- if and (has "redis" .stores) (include "mercato.hasCa" $values.redis.ca) }}{{ $_ := set .env "REDIS_SSL_CA_FILE" (printf "%s/redis-ca.pem" .at) }}{{ end }}
{{- if and (has "kafka" .stores) (ne $security.protocol "PLAINTEXT") }}
{{- $_ := set .env "KAFKA_SECURITY_PROTOCOL" $security.protocol }}
{{- if hasPrefix "SASL" $security.protocol }}
{{- $_ := set .env "KAFKA_SASL_MECHANISM" $security.mechanism }}
{{- $_ := set .env "KAFKA_SASL_USERNAME" $security.username }}
{{- $_ := set .env "KAFKA_SASL_PASSWORD_FILE" (printf "%s/KAFKA_SASL_PASSWORD" .at) }}
{{- end }}
{{- if include "mercato.hasCa" $security.ca }}{{ $_ := set .env "KAFKA_SSL_CA_FILE" (printf "%s/kafka-ca.pem" .at) }}{{ end }}
{{- if $security.certificateSecret }}
{{- $_ := set .env "KAFKA_SSL_CERT_FILE" (printf "%s/kafka-tls.crt" .at) }}
{{- $_ := set .env "KAFKA_SSL_KEY_FILE" (printf "%s/kafka-tls.key" .at) }}
{{- end }}
{{- end }}
{{- end }}

{{/* The files for it, as sources of a projected volume: (dict "root" $ "stores" (list "postgres")). */}}
{{- define "mercato.storeSources" -}}
{{- $values := .root.Values }}
{{- $security := $values.kafka.security }}
{{- range $store, $ca := dict "postgres" $values.postgres.ca "redis" $values.redis.ca "kafka" $security.ca }}
{{- if and (has $store $.stores) (include "mercato.hasCa" $ca) }}
- {{ ternary "configMap" "secret" (not (empty $ca.configMap)) }}:
    name: {{ $ca.configMap | default $ca.secret }}
    items: [{ key: {{ $ca.key }}, path: {{ $store }}-ca.pem }]
{{- end }}
{{- end }}
{{- if has "kafka" .stores }}
{{- if hasPrefix "SASL" $security.protocol }}
- secret:
    name: {{ $values.secrets.prefix }}-kafka
    items: [{ key: password, path: KAFKA_SASL_PASSWORD }]
{{- end }}
{{- with $security.certificateSecret }}
- secret:
    name: {{ . }}
    items: [{ key: tls.crt, path: kafka-tls.crt }, { key: tls.key, path: kafka-tls.key }]
{{- end }}
{{- end }}
{{- end }}

{{- define "mercato.hasCa" -}}
{{- if or .configMap .secret }}yes{{ end }}
{{- end }}

{{/* The settings of a migration; `roles` has the names, with commas. */}}
{{- define "mercato.migrateEnv" -}}
{{- $env := dict "KAFKA_BROKERS" (include "mercato.brokers" .root) "MERCATO_TOPIC_PARTITIONS" .root.Values.kafka.partitions }}
{{- $_ := set $env "MERCATO_TOPIC_REPLICATION" (ternary 1 .root.Values.kafka.replication .root.Values.kafka.inCluster.enabled) }}
{{- $_ := set $env "MERCATO_LOG" .root.Values.telemetry.log }}
{{- range $name := splitList "," .roles }}
{{- $_ := set $env (printf "%s_DATABASE_URL_FILE" (upper $name)) (printf "/run/secrets/migrate/%s" $name) }}
{{- end }}
{{- include "mercato.storeEnv" (dict "root" .root "env" $env "stores" (list "postgres" "kafka") "at" "/run/secrets/migrate") }}
{{- include "mercato.env" $env }}
{{- end }}
{{- define "mercato.migrateVolume" -}}
- name: migrate
  projected:
    defaultMode: 0440
    sources:
    {{- range $name := splitList "," .roles }}
      - secret:
          name: {{ include "mercato.databaseSecret" (dict "root" $.root "name" $name) }}
          items: [{ key: migrate-url, path: {{ $name }} }]
    {{- end }}
    {{- include "mercato.storeSources" (dict "root" .root "stores" (list "postgres" "kafka")) | nindent 6 }}
{{- end }}
