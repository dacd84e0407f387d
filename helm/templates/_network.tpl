{{/* Pods of ours as a peer: (dict "root" $ "component" ..); in one line. */}}
{{- define "mercato.peer" -}}
{ podSelector: { matchLabels: {{ include "mercato.selector" . | fromYaml | toJson }} } }
{{- end }}

{{- define "mercato.dns" -}}
- to: {{- toYaml .Values.networkPolicy.dns | nindent 4 }}
  ports: [{ port: 53, protocol: UDP }, { port: 53, protocol: TCP }]
{{- end }}

{{- define "mercato.cidrs" -}}
{{- range . }}
- ipBlock: { cidr: {{ . }} }
{{- end }}
{{- end }}

{{/* The way to a store: (dict "root" $ "store" "postgres"). */}}
{{- define "mercato.toStore" -}}
{{- $values := get .root.Values .store }}
{{- if $values.inCluster.enabled }}
- to: [{{ include "mercato.peer" (dict "root" .root "component" .store) }}]
  ports: [{ port: store }]
{{- else }}
- ports: [{{ range $i, $port := ($values.ports | default (list $values.port)) }}{{ if $i }}, {{ end }}{ port: {{ int $port }} }{{ end }}]
  {{- with $values.cidrs }}
  to: {{- include "mercato.cidrs" . | nindent 4 }}
  {{- end }}
{{- end }}
{{- end }}

{{- define "mercato.toCollector" -}}
{{- with .Values.telemetry.otlpEndpoint }}
- to: {{- toYaml ($.Values.telemetry.collectors | default (list (dict "namespaceSelector" dict))) | nindent 4 }}
  ports: [{ port: {{ regexFind "[0-9]+/?$" . | trimSuffix "/" }} }]
{{- end }}
{{- end }}
