{{- define "mercato.storeService" -}}
apiVersion: v1
kind: Service
metadata: {{- include "mercato.metadata" . | nindent 2 }}
spec:
  selector: {{- include "mercato.selector" . | nindent 4 }}
  ports: [{ name: store, port: {{ .port }}, targetPort: store }]
{{- end }}

{{/* What the StatefulSets have in common, down to the labels of the pod. */}}
{{- define "mercato.storeSpec" -}}
serviceName: {{ include "mercato.fullname" .root }}-{{ .component }}
replicas: 1
selector: { matchLabels: {{ include "mercato.selector" . | fromYaml | toJson }} }
template:
  metadata:
    labels: {{- include "mercato.podLabels" . | nindent 6 }}
{{- end }}

{{- define "mercato.storeClaim" -}}
volumeClaimTemplates:
  - metadata: { name: data }
    spec:
      accessModes: [ReadWriteOnce]
      {{- with .storageClass }}
      storageClassName: {{ . }}
      {{- end }}
      resources: { requests: { storage: {{ .storage }} } }
{{- end }}
