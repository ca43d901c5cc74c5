{{/* Egress that the operator and every pod of a job have: names, and the API server. */}}
{{- define "finetune-operator.egress" -}}
{{- if not .Values.networkPolicy.apiServer.cidrs -}}
{{- fail "networkPolicy.apiServer.cidrs is needed; `kubectl get service,endpointslices -n default` shows the API server's addresses" -}}
{{- end -}}
- ports:
  - {protocol: UDP, port: 53}
  - {protocol: TCP, port: 53}
- to:
  {{- range .Values.networkPolicy.apiServer.cidrs }}
  - {ipBlock: {cidr: {{ . | quote }}}}
  {{- end }}
  ports:
  {{- range .Values.networkPolicy.apiServer.ports }}
  - {protocol: TCP, port: {{ . }}}
  {{- end }}
{{- end }}

{{/* What the operator adds to the rule about a job's own pods. */}}
{{- define "finetune-operator.jobNetworkRules" -}}
{{- $jobs := .Values.networkPolicy.jobs -}}
ingress:
- from: {{- toYaml $jobs.kubeRay | nindent 2 }}
  ports: [{protocol: TCP, port: 8265}]
{{- with $jobs.metricsFrom }}
- from: {{- toYaml . | nindent 2 }}
  ports: [{protocol: TCP, port: 8080}]
{{- end }}
egress:
{{ include "finetune-operator.egress" . }}
{{- with $jobs.egress }}
{{ toYaml . }}
{{- end }}
{{- end }}
