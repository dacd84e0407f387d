{{/* The settings of a role; what values say wins. */}}
{{- define "mercato.roleEnv" -}}
{{- $values := .root.Values }}
{{- $env := dict "MERCATO_GRPC_ADDR" "0.0.0.0:50051" "MERCATO_ADMIN_ADDR" "0.0.0.0:9464" "MERCATO_LOG" $values.telemetry.log }}
{{- $_ := set $env "MERCATO_LAME_DUCK_MS" (int $values.shutdown.lameDuckMs) }}
{{- $_ := set $env "MERCATO_DRAIN_MS" (int $values.shutdown.drainMs) }}
{{- $_ := set $env "MERCATO_CURRENCY" $values.shop.currency }}
{{- $_ := set $env "MERCATO_TOKEN_ISSUER" $values.shop.tokenIssuer }}
{{- $_ := set $env "MERCATO_TOKEN_AUDIENCE" $values.shop.tokenAudience }}
{{- if int .role.httpPort }}{{ $_ := set $env (printf "MERCATO_%s_HTTP_ADDR" (upper .name)) (printf "0.0.0.0:%d" (int .role.httpPort)) }}{{ end }}
{{- if .role.kafka }}{{ $_ := set $env "KAFKA_BROKERS" (include "mercato.brokers" .root) }}{{ end }}
{{- if .role.developmentProvider }}{{ $_ := set $env "MERCATO_PROVIDER_URL" "http://127.0.0.1:8090" }}{{ end }}
{{- with $values.telemetry.otlpEndpoint }}{{ $_ := set $env "OTEL_EXPORTER_OTLP_ENDPOINT" . }}{{ end }}
{{- range $peer := .role.calls }}
{{- $_ := set $env (printf "MERCATO_PEER_%s" (upper $peer)) (printf "http://%s:50051" (include "mercato.host" (dict "root" $.root "service" (printf "%s-pods" $peer)))) }}
{{- end }}
{{- if .role.database }}
{{- $_ := set $env "MERCATO_DB_CONNECTIONS" (int $values.postgres.connections) }}
{{- $_ := set $env (printf "%s_DATABASE_URL_FILE" (upper .name)) "/run/secrets/mercato/DATABASE_URL" }}
{{- end }}
{{- if and .role.redis $values.redis.enabled }}
{{- if $values.redis.inCluster.enabled }}{{ $_ := set $env "REDIS_URL" (printf "redis://%s:6379" (include "mercato.host" (dict "root" .root "service" "redis"))) }}
{{- else }}{{ $_ := set $env "REDIS_URL_FILE" "/run/secrets/mercato/REDIS_URL" }}{{ end }}
{{- end }}
{{- include "mercato.storeEnv" (dict "root" .root "env" $env "stores" (include "mercato.storesOf" . | fromJsonArray) "at" "/run/secrets/mercato") }}
{{- $_ := set $env "MERCATO_PEER_SECRET_FILE" "/run/secrets/mercato/MERCATO_PEER_SECRET" }}
{{- range $setting, $_ := .role.secretFiles }}{{ $_ := set $env (printf "%s_FILE" $setting) (printf "/run/secrets/mercato/%s" $setting) }}{{ end }}
{{- include "mercato.env" (mergeOverwrite $env (deepCopy $values.shop.env) (deepCopy .role.env)) }}
{{- end }}

{{/* The Secrets of a role, each key as a file named after its setting. */}}
{{- define "mercato.secretSources" -}}
{{- $files := dict "MERCATO_PEER_SECRET" (dict "secret" "-peer" "key" "secret") }}
{{- if .role.database }}
{{- $_ := set $files "DATABASE_URL" (dict "secret" (include "mercato.databaseSecret" (dict "root" .root "name" .name)) "key" "url") }}
{{- end }}
{{- if and .role.redis .root.Values.redis.enabled (not .root.Values.redis.inCluster.enabled) }}
{{- $_ := set $files "REDIS_URL" (dict "secret" "-redis" "key" "url") }}
{{- end }}
{{- range $setting, $from := merge $files .role.secretFiles }}
- secret:
    name: {{ include "mercato.secret" (dict "root" $.root "name" $from.secret) }}
    items: [{ key: {{ $from.key }}, path: {{ $setting }} }]
{{- end }}
{{- include "mercato.storeSources" (dict "root" .root "stores" (include "mercato.storesOf" . | fromJsonArray)) }}
{{- end }}

{{/* The stores a role uses, as JSON: (dict "root" $ "role" ..). */}}
{{- define "mercato.storesOf" -}}
{{- $stores := list }}
{{- if .role.database }}{{ $stores = append $stores "postgres" }}{{ end }}
{{- if and .role.redis .root.Values.redis.enabled }}{{ $stores = append $stores "redis" }}{{ end }}
{{- if .role.kafka }}{{ $stores = append $stores "kafka" }}{{ end }}
{{- toJson $stores }}
{{- end }}

{{/* (dict "root" $ "component" .. "spec" role-or-edge) */}}
{{- define "mercato.autoscaler" -}}
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {{- include "mercato.metadata" . | nindent 2 }}
spec:
  scaleTargetRef: { apiVersion: apps/v1, kind: Deployment, name: {{ include "mercato.fullname" .root }}-{{ .component }} }
  minReplicas: {{ int .spec.replicas }}
  maxReplicas: {{ int .spec.autoscaling.maxReplicas }}
  metrics:
    - type: Resource
      resource: { name: cpu, target: { type: Utilization, averageUtilization: {{ int .spec.autoscaling.cpuPercent }} } }
    {{- if int .spec.autoscaling.memoryPercent }}
    - type: Resource
      resource:
        name: memory
        target: { type: AverageValue, averageValue: {{ include "mercato.memoryShare" (dict "resources" .spec.resources "percent" .spec.autoscaling.memoryPercent) | quote }} }
    {{- end }}
  behavior:
    scaleDown: { stabilizationWindowSeconds: 300 }
{{- end }}
