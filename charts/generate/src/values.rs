//! The values of the chart. What stands here as a comment is what users read in `values.yaml`, in its schema and in the chart's README.
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value, json};
use steno_crds::LogLevel;

/// Settings of the chart. Everything about events, redaction and Kafka is in AuditPolicy and ClusterAuditPolicy objects, not here.
#[derive(Debug, Clone, Default, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Values {
    /// Read by Helm where the chart is a dependency of another one, with `condition: steno.enabled`.
    pub enabled: Enabled,
    /// Images of operator and sidecar.
    pub image: Image,
    /// The CustomResourceDefinitions.
    pub crds: Crds,
    /// Namespaces that Steno works in, which must be there. Its rights on policies, ConfigMaps, pods and Events are then given in each of them, by a
    /// RoleBinding; on the whole cluster it reads the platform's policies and the namespaces' labels. Empty: all.
    #[schemars(inner(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")), extend("uniqueItems" = true))]
    pub namespaces: Vec<String>,
    /// The operator: policies, status, certificates, missed pods. One of its replicas works at a time.
    pub operator: Operator,
    /// The webhooks: injection, and the validation of policies. All replicas serve.
    pub webhook: Webhook,
    /// The sidecars that pods get.
    pub sidecar: Sidecar,
    /// NetworkPolicies of operator and webhooks.
    pub network_policy: NetworkPolicy,
    /// Metrics, alerts and dashboards.
    pub monitoring: Monitoring,
    /// A sidecar by itself, for events that come from elsewhere than a pod: an API server's audit webhook, machines, CI.
    pub collector: Collector,
    /// What `helm test` uses.
    pub test: Test,
}

/// Whether a chart that brings this one along installs it.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(transparent)]
pub struct Enabled(pub bool);

impl Default for Enabled {
    fn default() -> Self {
        Self(true)
    }
}

/// The collector.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Collector {
    /// Whether there is one.
    pub enabled: bool,
    /// Replicas, 1 to 10; each with a volume and chains of its own.
    #[schemars(range(min = 1, max = 10))]
    pub replicas: u32,
    /// What it runs by: the `spec` of an AuditPolicy, without `listeners`. A File sink writes to the volume of `storage`.
    pub policy: Map<String, Value>,
    /// Formats it takes: `Events`, `CloudEvents`, `Otlp`, `KubernetesAudit`. Empty: all.
    pub allow: Vec<String>,
    /// Secret with `tls.crt` and `tls.key`, in the release's namespace. Read again when it changes.
    pub tls_secret: String,
    /// Who sends must show a certificate of `ca.crt` in `tlsSecret`.
    pub client_certificates: bool,
    /// Secret with `token`: who sends must carry it as a bearer token.
    pub token_secret: String,
    /// Further Secrets that `policy` refers to, for Kafka and the like.
    pub secrets: Vec<String>,
    /// Address of the Service; empty: any. An API server's webhook names it, for it asks no DNS of the cluster.
    #[serde(rename = "clusterIP")]
    pub cluster_ip: String,
    /// Volume of each replica.
    pub storage: CollectorStorage,
    /// Seconds that a replica has for delivering what it holds when it stops; more than `policy.sidecar.drainTimeout`.
    #[schemars(range(min = 10, max = 3600))]
    pub termination_grace_period_seconds: u32,
    /// Requests and limits.
    pub resources: Map<String, Value>,
    /// Priority class of the pods.
    pub priority_class_name: String,
    /// Node selector of the pods.
    pub node_selector: Map<String, Value>,
    /// Tolerations of the pods.
    pub tolerations: Vec<Map<String, Value>>,
}

/// The sidecars that pods get.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Sidecar {
    /// Requests and limits of CPU and memory, as far as neither a pod's annotations nor its namespace's `LimitRange` ask for others. A limit of CPU is set where all
    /// of a pod's containers have one.
    pub resources: Map<String, Value>,
    /// Names of Secrets that injected pods pull the sidecar's image with, besides those that they name themselves. The Secrets must be in each namespace.
    pub image_pull_secrets: Vec<String>,
    /// Names of the containers of meshes' proxies. As a native sidecar one starts before the sidecar and ends after it, for the sidecar needs the network.
    pub mesh_proxies: Vec<String>,
}

impl Default for Sidecar {
    fn default() -> Self {
        Self {
            resources: object(json!({"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "128Mi"}})),
            image_pull_secrets: Vec::new(),
            mesh_proxies: ["istio-proxy", "linkerd-proxy"].map(str::to_owned).into(),
        }
    }
}

/// Volume of a collector's replica.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct CollectorStorage {
    /// Its size; a quarter more than `policy.spool.maxBytes` at least.
    pub size: String,
    /// Its class; empty: the cluster's default.
    pub class_name: String,
}

impl Default for Collector {
    fn default() -> Self {
        Self {
            enabled: false,
            replicas: 1,
            policy: Map::new(),
            allow: vec!["KubernetesAudit".into()],
            tls_secret: String::new(),
            client_certificates: false,
            token_secret: String::new(),
            secrets: Vec::new(),
            cluster_ip: String::new(),
            storage: CollectorStorage::default(),
            termination_grace_period_seconds: 60,
            resources: Map::new(),
            priority_class_name: String::new(),
            node_selector: Map::new(),
            tolerations: Vec::new(),
        }
    }
}

impl Default for CollectorStorage {
    fn default() -> Self {
        Self { size: "2Gi".into(), class_name: String::new() }
    }
}

/// Images.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Image {
    /// Where the images are: `<registry>/<name>`. Empty: the name alone, which nodes look up where they are set up to.
    pub registry: String,
    /// Registries of one image, where they differ.
    pub registries: Registries,
    /// Name of the operator's.
    pub operator: String,
    /// Name of the sidecar's.
    pub sidecar: String,
    /// Tag of both; empty: the chart's appVersion.
    pub tag: String,
    /// Digests instead of the tag.
    pub digests: Digests,
    /// `Always`, `IfNotPresent`, `Never`; empty: the cluster's default.
    pub pull_policy: PullPolicy,
    /// Pull secrets of operator and webhooks, as `{name: …}`. Pods with the sidecar need their own.
    pub pull_secrets: Vec<Map<String, Value>>,
}

/// Registries of one image each; empty: `image.registry`.
#[derive(Debug, Clone, Default, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Registries {
    /// Of the operator's.
    pub operator: String,
    /// Of the sidecar's.
    pub sidecar: String,
}

/// Digests of the images, `sha256:…`.
#[derive(Debug, Clone, Default, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Digests {
    /// Of the operator's.
    pub operator: String,
    /// Of the sidecar's.
    pub sidecar: String,
}

/// When images are pulled.
#[derive(Debug, Clone, Copy, Default, Serialize, JsonSchema)]
#[allow(missing_docs)]
pub enum PullPolicy {
    #[default]
    #[serde(rename = "")]
    Default,
    Always,
    IfNotPresent,
    Never,
}

/// CustomResourceDefinitions.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Crds {
    /// Install and upgrade them. They stay when the chart is uninstalled, and with them the policies.
    pub install: bool,
}

/// The operator.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Operator {
    /// Replicas, 1 to 5. Those that do not lead wait.
    #[schemars(range(min = 1, max = 5))]
    pub replicas: u32,
    /// Least grave log lines, of the webhooks too: `error`, `warn`, `info`, `debug`.
    pub log_level: LogLevel,
    /// Pods a second that are told of a changed configuration, 1 to 10000.
    #[schemars(range(min = 1, max = 10_000))]
    pub pods_per_second: u32,
    /// Seconds after which another replica takes over from one that was killed, 3 to 300. One that stops in order hands over at once.
    #[schemars(range(min = 3, max = 300))]
    pub lease_seconds: u32,
    /// Requests and limits.
    pub resources: Map<String, Value>,
    /// Priority class of the pods.
    pub priority_class_name: String,
    /// Node selector of the pods.
    pub node_selector: Map<String, Value>,
    /// Tolerations of the pods.
    pub tolerations: Vec<Map<String, Value>>,
    /// Affinity of the pods. They are spread over nodes and zones anyway.
    pub affinity: Map<String, Value>,
    /// Further environment variables.
    pub env: Vec<Map<String, Value>>,
    /// Further labels of the pods.
    pub pod_labels: Map<String, Value>,
    /// Annotations of the pods.
    pub pod_annotations: Map<String, Value>,
    /// Annotations of the `ServiceAccount`, such as those of a cloud's workload identity.
    pub service_account_annotations: Map<String, Value>,
    /// Members of the pods' `securityContext`, over those that the chart sets.
    pub pod_security_context: Map<String, Value>,
    /// Members of the container's `securityContext`, over those that the chart sets.
    pub security_context: Map<String, Value>,
    /// Old `ReplicaSet`s that are kept for `kubectl rollout undo`, 0 to 10.
    #[schemars(range(min = 0, max = 10))]
    pub revision_history_limit: u32,
}

/// The webhooks.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Webhook {
    /// Replicas, 1 to 20.
    #[schemars(range(min = 1, max = 20))]
    pub replicas: u32,
    /// What happens to pods that ask for the sidecar while no webhook answers. `Ignore`: they start without it, and are reported as missed. `Fail`:
    /// they do not start.
    pub failure_policy: FailurePolicy,
    /// `Deny` or `Warn`: pods that ask for the sidecar and come out of admission without it are refused, or warned of, for whatever reason. Empty:
    /// they start, and are reported.
    pub require_sidecar: Require,
    /// Namespaces whose pods are never looked at, besides kube-system, kube-node-lease and the operator's own.
    pub exclude_namespaces: Vec<String>,
    /// Port of the pods that API servers connect to. On EKS Fargate the kubelet has 10250: take another.
    #[schemars(range(min = 1024, max = 65535))]
    pub port: u16,
    /// The pods are on the host's network, for API servers that reach nodes only.
    pub host_network: bool,
    /// Seconds that an API server waits for an answer, 1 to 30.
    #[schemars(range(min = 1, max = 30))]
    pub timeout_seconds: u32,
    /// Time between the steps when the authority of the webhooks is replaced, such as `10m`; 5s to 1d.
    pub ca_overlap: String,
    /// A Secret with ca.crt, tls.crt and tls.key that somebody else keeps. Empty: the operator keeps an authority of its own.
    pub tls_secret: String,
    /// Certificates by cert-manager.
    pub cert_manager: CertManager,
    /// Requests and limits.
    pub resources: Map<String, Value>,
    /// Priority class of the pods. With `failurePolicy: Fail`, `system-cluster-critical` is wise.
    pub priority_class_name: String,
    /// Node selector of the pods.
    pub node_selector: Map<String, Value>,
    /// Tolerations of the pods.
    pub tolerations: Vec<Map<String, Value>>,
    /// Affinity of the pods. They are spread over nodes and zones anyway.
    pub affinity: Map<String, Value>,
    /// Further environment variables.
    pub env: Vec<Map<String, Value>>,
    /// Further labels of the pods.
    pub pod_labels: Map<String, Value>,
    /// Annotations of the pods.
    pub pod_annotations: Map<String, Value>,
    /// Annotations of the `ServiceAccount`, such as those of a cloud's workload identity.
    pub service_account_annotations: Map<String, Value>,
    /// Members of the pods' `securityContext`, over those that the chart sets.
    pub pod_security_context: Map<String, Value>,
    /// Members of the container's `securityContext`, over those that the chart sets.
    pub security_context: Map<String, Value>,
    /// Old `ReplicaSet`s that are kept for `kubectl rollout undo`, 0 to 10.
    #[schemars(range(min = 0, max = 10))]
    pub revision_history_limit: u32,
}

/// What happens while no webhook answers.
#[derive(Debug, Clone, Copy, Default, Serialize, JsonSchema)]
#[allow(missing_docs)]
pub enum FailurePolicy {
    #[default]
    Ignore,
    Fail,
}

/// What happens to pods without the sidecar that they ask for.
#[derive(Debug, Clone, Copy, Default, Serialize, JsonSchema)]
#[allow(missing_docs)]
pub enum Require {
    #[default]
    #[serde(rename = "")]
    Nothing,
    Warn,
    Deny,
}

/// Certificates by cert-manager.
#[derive(Debug, Clone, Default, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct CertManager {
    /// Use it.
    pub enabled: bool,
    /// The issuer, as `{name, kind, group}`. Empty: a self-signed one, made by the chart.
    pub issuer_ref: Map<String, Value>,
}

/// NetworkPolicies.
#[derive(Debug, Clone, Default, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct NetworkPolicy {
    /// Let in only what is needed, and out as well. Pods with the sidecar need their own way to Kafka.
    pub enabled: bool,
    /// Ports of the API server besides 443 and 6443.
    pub api_server_ports: Vec<u16>,
    /// Ports that pods have given their sidecars by the annotation `audit.steno.dev/status-port`.
    pub status_ports: Vec<u16>,
}

/// Metrics, alerts and dashboards; the first two need the Prometheus operator.
#[derive(Debug, Clone, Default, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Monitoring {
    /// PodMonitors of operator, webhooks and all sidecars.
    pub pod_monitors: bool,
    /// A PrometheusRule with alerts.
    pub rules: bool,
    /// Grafana dashboards, as ConfigMaps with the label `grafana_dashboard`.
    pub dashboards: bool,
    /// Further labels of PodMonitors and PrometheusRule, such as the one that Prometheus selects by.
    pub labels: Map<String, Value>,
}

/// What `helm test` uses: in a namespace of its own it makes a policy and an injected pod, posts an event and reads it back from the topic.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Test {
    /// A Kafka without TLS, `host:port`. Empty, or with `namespaces`: there is no test.
    pub brokers: String,
    /// The topic; it is made where it is missing.
    pub topic: String,
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

impl Default for Image {
    fn default() -> Self {
        Self {
            registry: String::new(),
            registries: Registries::default(),
            operator: "steno-operator".into(),
            sidecar: "steno-sidecar".into(),
            tag: String::new(),
            digests: Digests::default(),
            pull_policy: PullPolicy::default(),
            pull_secrets: Vec::new(),
        }
    }
}

impl Default for Crds {
    fn default() -> Self {
        Self { install: true }
    }
}

impl Default for Operator {
    fn default() -> Self {
        Self {
            replicas: 2,
            log_level: LogLevel::default(),
            pods_per_second: 100,
            lease_seconds: 15,
            resources: object(json!({"requests": {"cpu": "20m", "memory": "48Mi"}, "limits": {"memory": "128Mi"}})),
            priority_class_name: String::new(),
            node_selector: Map::new(),
            tolerations: Vec::new(),
            affinity: Map::new(),
            env: Vec::new(),
            pod_labels: Map::new(),
            pod_annotations: Map::new(),
            service_account_annotations: Map::new(),
            pod_security_context: Map::new(),
            security_context: Map::new(),
            revision_history_limit: 3,
        }
    }
}

impl Default for Webhook {
    fn default() -> Self {
        Self {
            replicas: 2,
            failure_policy: FailurePolicy::default(),
            require_sidecar: Require::default(),
            exclude_namespaces: Vec::new(),
            port: 10250,
            host_network: false,
            timeout_seconds: 5,
            ca_overlap: "10m".into(),
            tls_secret: String::new(),
            cert_manager: CertManager::default(),
            resources: object(json!({"requests": {"cpu": "20m", "memory": "32Mi"}, "limits": {"memory": "128Mi"}})),
            priority_class_name: String::new(),
            node_selector: Map::new(),
            tolerations: Vec::new(),
            affinity: Map::new(),
            env: Vec::new(),
            pod_labels: Map::new(),
            pod_annotations: Map::new(),
            service_account_annotations: Map::new(),
            pod_security_context: Map::new(),
            security_context: Map::new(),
            revision_history_limit: 3,
        }
    }
}

impl Default for Test {
    fn default() -> Self {
        Self { brokers: String::new(), topic: "steno-test".into() }
    }
}
