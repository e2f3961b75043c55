{{- define "duly.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "duly.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else if contains (include "duly.name" .) .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "duly.name" .) | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* What a selector may rest on: these never change. */}}
{{- define "duly.selector" -}}
app.kubernetes.io/name: {{ include "duly.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "duly.labels" -}}
{{ include "duly.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "duly.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{/* Every setting that is no secret, as the ConfigMap and the migration have it. toJson writes 26214400 as such; toString
would write 2.62144e+07. */}}
{{- define "duly.settings" -}}
{{- $derived := dict "HOST" "0.0.0.0" "PORT" "8000" "AUTO_MIGRATE" "false" "DATA_DIR" "/data" -}}
{{- $_ := set $derived "DRAIN_NOTICE_SECONDS" (toJson .Values.server.drainNoticeSeconds) -}}
{{- $_ := set $derived "ATTACHMENTS_ENABLED" (ternary "false" "true" (eq .Values.attachments.store "none")) -}}
{{- if eq .Values.attachments.store "volume" -}}
{{- $_ := set $derived "FILES_DIR" "/data/files" -}}
{{- end -}}
{{- if .Values.tls.existingSecret -}}
{{- $_ := set $derived "TLS_CERTIFICATE" "/etc/duly/tls/tls.crt" -}}
{{- $_ := set $derived "TLS_PRIVATE_KEY" "/etc/duly/tls/tls.key" -}}
{{- end -}}
{{- range $name, $value := .Values.settings -}}
{{- $_ := set $derived $name (ternary $value (toJson $value) (kindIs "string" $value)) -}}
{{- end -}}
{{- range $name := keys $derived | sortAlpha }}
{{ $name }}: {{ get $derived $name | quote }}
{{- end -}}
{{- end -}}

{{- define "duly.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "duly.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* Secrets are files: an environment is printed by more programs than a file is. */}}
{{- define "duly.secretEnv" -}}
{{- range .Values.secret.keys }}
- name: {{ . }}_FILE
  value: /etc/duly/secrets/{{ . }}
{{- end }}
{{- end -}}

{{- define "duly.mounts" -}}
- name: secrets
  mountPath: /etc/duly/secrets
  readOnly: true
{{- if .Values.tls.existingSecret }}
- name: tls
  mountPath: /etc/duly/tls
  readOnly: true
{{- end }}
- name: tmp
  mountPath: /tmp
- name: data
  mountPath: /data
{{- end -}}

{{- define "duly.volumes" -}}
- name: secrets
  secret:
    secretName: {{ .Values.secret.existingSecret }}
    defaultMode: 0440
    items:
      {{- range .Values.secret.keys }}
      - key: {{ . }}
        path: {{ . }}
      {{- end }}
{{- with .Values.tls.existingSecret }}
- name: tls
  secret:
    secretName: {{ . }}
    defaultMode: 0440
{{- end }}
- name: tmp
  emptyDir:
    sizeLimit: 512Mi
- name: data
  {{- if eq .Values.attachments.store "volume" }}
  persistentVolumeClaim:
    claimName: {{ .Values.attachments.volume.existingClaim | default (printf "%s-files" (include "duly.fullname" .)) }}
  {{- else }}
  emptyDir:
    sizeLimit: 64Mi
  {{- end }}
{{- end -}}

{{/* Servers and workers start anew when what they read at the start has changed. */}}
{{- define "duly.podAnnotations" -}}
checksum/settings: {{ include "duly.settings" . | sha256sum }}
{{- end -}}

{{/* With ALLOWED_HOSTS Duly answers to those names alone, so the probes name one. */}}
{{- define "duly.probe" -}}
httpGet:
  path: {{ .path }}
  port: http
  {{- if .root.Values.tls.existingSecret }}
  scheme: HTTPS
  {{- end }}
  {{- $hosts := get .root.Values.settings "ALLOWED_HOSTS" | default "" | toString }}
  {{- if and $hosts (ne $hosts "*") }}
  httpHeaders:
    - name: Host
      value: {{ splitList "," $hosts | first | trim | replace "*" "www" }}
  {{- end }}
{{- end -}}

{{/* What the schema cannot say. */}}
{{- define "duly.check" -}}
{{- if and (eq .Values.attachments.store "objectStore") (not (has "FILES_URL" .Values.secret.keys)) -}}
{{- fail "attachments.store is objectStore, so FILES_URL must be among secret.keys" -}}
{{- end -}}
{{- if and .Values.serviceMonitor.enabled (not (has "METRICS_TOKEN" .Values.secret.keys)) -}}
{{- fail "serviceMonitor.enabled needs METRICS_TOKEN among secret.keys: without it /metrics answers its own machine alone" -}}
{{- end -}}
{{- $hosts := get .Values.settings "ALLOWED_HOSTS" | default "*" | toString -}}
{{- if and .Values.serviceMonitor.enabled (ne $hosts "*") -}}
{{- fail "serviceMonitor.enabled and settings.ALLOWED_HOSTS exclude each other: Prometheus asks each pod by its address" -}}
{{- end -}}
{{- $least := add (ceil .Values.server.drainNoticeSeconds) 10 -}}
{{- if lt (int .Values.server.terminationGracePeriodSeconds) (int $least) -}}
{{- fail (printf "server.terminationGracePeriodSeconds must be at least %d: drainNoticeSeconds and ten seconds for what runs" (int $least)) -}}
{{- end -}}
{{- if and .Values.autoscaling.enabled (lt (int .Values.autoscaling.maxReplicas) (int .Values.autoscaling.minReplicas)) -}}
{{- fail "autoscaling.maxReplicas must not be below autoscaling.minReplicas" -}}
{{- end -}}
{{- end -}}
