{{- define "lethe.labels" -}}
app.kubernetes.io/name: lethe
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "lethe.selector" -}}
app.kubernetes.io/name: lethe
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "lethe.claim" -}}
{{ .Values.vault.claim | default (printf "%s-vault" .Release.Name) }}
{{- end }}

{{- define "lethe.secret" -}}
valueFrom:
  secretKeyRef: {name: {{ .name }}, key: {{ .key }}}
{{- end }}

{{/* What every process of ours is told. */}}
{{- define "lethe.environment" -}}
- name: DATABASE_URL
  {{- include "lethe.secret" .Values.secrets.databaseUrl | nindent 2 }}
- name: REDIS_URL
  {{- include "lethe.secret" .Values.secrets.redisUrl | nindent 2 }}
- name: LETHE_VAULT
  value: /srv/lethe/var/vault
{{- range $name, $value := .Values.settings }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- end }}

{{/* The sandbox takes rights away by itself; it needs none. A user namespace of its own gives it the empty network. */}}
{{- define "lethe.container" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- define "lethe.pod" -}}
runAsNonRoot: true
runAsUser: 10001
fsGroup: 10001
seccompProfile: {type: RuntimeDefault}
{{- end }}
