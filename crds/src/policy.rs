//! The types of an AuditPolicy. Field descriptions here are what users read in the CRD and the reference page.
use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{ByteSize, FanOut, Intents, ListenerSpec, SinkSpec, Span, Volume, bounds};

/// An AuditPolicy: what is audited, how it is made safe, and where it goes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuditPolicy {
    /// Always `audit.steno.dev/v1alpha1`.
    pub api_version: String,
    /// Always `AuditPolicy`.
    pub kind: String,
    /// Name and namespace.
    pub metadata: Metadata,
    /// What the policy asks for.
    pub spec: AuditPolicySpec,
}

/// The part of an object's metadata that Steno reads.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Metadata {
    /// Name of the policy.
    pub name: String,
    /// Namespace of the policy; also the default tenant.
    #[serde(default = "default_namespace")]
    pub namespace: String,
}

/// What an AuditPolicy asks for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "kube", derive(kube::CustomResource))]
#[cfg_attr(
    feature = "kube",
    kube(
        group = "audit.steno.dev",
        version = "v1alpha1",
        kind = "AuditPolicy",
        root = "AuditPolicyObject",
        doc = "What is audited in a namespace, how it is made safe, and where it goes.",
        namespaced,
        status = "crate::AuditPolicyStatus",
        shortname = "apol",
        category = "steno",
        category = "audit",
        printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].status"}"#,
        printcolumn = r#"{"name":"Pods","type":"integer","jsonPath":".status.pods.injected"}"#,
        printcolumn = r#"{"name":"Ready pods","type":"integer","jsonPath":".status.pods.ready"}"#,
        printcolumn = r#"{"name":"Breaker open","type":"integer","jsonPath":".status.pods.breakerOpen"}"#,
        printcolumn = r#"{"name":"Spooled","type":"integer","jsonPath":".status.pods.spooledEvents"}"#,
        printcolumn = r#"{"name":"Lost","type":"integer","priority":1,"jsonPath":".status.abandonedEvents"}"#,
        printcolumn = r#"{"name":"Reason","type":"string","priority":1,"jsonPath":".status.conditions[?(@.type==\"Ready\")].reason"}"#,
        printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
    )
)]
#[serde(rename_all = "camelCase")]
pub struct AuditPolicySpec {
    /// Pods that the policy may serve; all pods of the namespace where it is not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
    /// Where events go. What is not set comes from the platform's ClusterAuditPolicy.
    #[serde(default, skip_serializing_if = "Kafka::is_unset")]
    pub kafka: Kafka,
    /// Values for members that a client leaves out.
    #[serde(default)]
    pub defaults: Defaults,
    /// Members that must be there after normalisation, such as `resource.id`; without them the event is refused (422).
    #[serde(default)]
    pub require: Vec<String>,
    /// What never leaves the pod in clear.
    #[serde(default)]
    pub redaction: Redaction,
    /// Which raw bodies are kept.
    #[serde(default)]
    pub capture: Capture,
    /// Bounds on events, bodies and rates.
    #[serde(default)]
    pub limits: Limits,
    /// How long and how many event ids are remembered.
    #[serde(default)]
    pub dedupe: Dedupe,
    /// What a 2xx means.
    #[serde(default)]
    pub ack: Ack,
    /// Events that are delivered ahead of others and whose answer waits for it.
    #[serde(default)]
    pub critical: Critical,
    /// When delivery is paused, and what happens to new events meanwhile.
    #[serde(default)]
    pub breaker: Breaker,
    /// The journal on disk.
    #[serde(default)]
    pub spool: Spool,
    /// The hash chain.
    #[serde(default)]
    pub integrity: Integrity,
    /// Where records go that Kafka refuses for good.
    #[serde(default)]
    pub dead_letter: DeadLetter,
    /// Further places that records go to, beside Kafka. Up to 8.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sinks: Vec<SinkSpec>,
    /// How Kafka and the further sinks go together.
    #[serde(default, skip_serializing_if = "is_default")]
    pub fan_out: FanOut,
    /// Further listeners, beside loopback. Up to 8.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub listeners: Vec<ListenerSpec>,
    /// Looking back at the records that the sidecar still has.
    // Not rendered where it says nothing: a sidecar of the version before would report it as a field that it does not know.
    #[serde(default, skip_serializing_if = "is_default")]
    pub query: Query,
    /// Write intents: an application's own write-ahead log.
    #[serde(default, skip_serializing_if = "is_default")]
    pub intents: Intents,
    /// The sidecar process itself.
    #[serde(default)]
    pub sidecar: Sidecar,
}

impl AuditPolicySpec {
    /// Secrets that the connection to Kafka needs.
    pub fn kafka_secrets(&self) -> impl Iterator<Item = &SecretRef> {
        let tls = self.kafka.tls.iter().flat_map(Tls::secrets);
        tls.chain(self.kafka.sasl.iter().flat_map(|sasl| sasl.password_secret_ref.iter().chain(&sasl.token_secret_ref)))
    }

    /// All Secrets that a sidecar needs.
    pub fn secrets(&self) -> impl Iterator<Item = &SecretRef> {
        let spool = self.spool.encryption.iter().flat_map(|keys| keys.key_secret_ref.iter().chain(&keys.old_key_secret_refs));
        self.kafka_secrets()
            .chain(&self.redaction.key_secret_ref)
            .chain(&self.query.token_secret_ref)
            .chain(&self.intents.token_secret_ref)
            .chain(spool)
            .chain(self.sinks.iter().flat_map(SinkSpec::secrets))
            .chain(self.listeners.iter().flat_map(ListenerSpec::secrets))
    }
}

/// A Kubernetes label selector.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LabelSelector {
    /// Labels that must be equal.
    #[serde(default)]
    pub match_labels: BTreeMap<String, String>,
    /// Expressions that must all hold.
    #[serde(default)]
    pub match_expressions: Vec<LabelExpression>,
}

/// One expression of a label selector.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LabelExpression {
    /// The label.
    pub key: String,
    /// How it is compared.
    pub operator: LabelOperator,
    /// The values for `In` and `NotIn`.
    #[serde(default)]
    pub values: Vec<String>,
}

/// How a label is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs)]
pub enum LabelOperator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
}

/// A key of a Secret. The operator never reads it; the sidecar reads the mounted file `<name>/<key>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SecretRef {
    /// Name of the Secret, in the policy's namespace.
    pub name: String,
    /// Key inside the Secret.
    pub key: String,
}

/// Kafka: brokers, topic, guarantee, security.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Kafka {
    /// Bootstrap brokers, `host:port` each, 1 to 64. Not set: those of the ClusterAuditPolicy, and with them its `tls`, `sasl` and `create`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub brokers: Vec<String>,
    /// Topic that events go to. 1 to 249 of `a-z A-Z 0-9 . _ -`. Not set: that of the ClusterAuditPolicy.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub topic: String,
    /// Create the topic where it is missing. Not set: a missing topic opens the breaker until somebody creates it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub create: Option<TopicCreate>,
    /// What a record's key is made of; it decides the partition. With `Chain` a chain stays in order in one partition.
    #[serde(default)]
    pub key: KafkaKey,
    /// Codec of the batches.
    #[serde(default)]
    pub compression: Compression,
    /// What delivery promises. `AtLeastOnce`: nothing is lost, a crash may send some records again with the same hash. `ExactlyOnce`: a transaction for each batch, with
    /// the journal's position in it; consumers that read committed records only see each once. It covers Kafka, not further sinks, and critical events do
    /// not overtake others. The user needs Write and Describe on the transactional id and Read on the group `steno-<journal's UUID>`.
    #[serde(default)]
    pub guarantee: Guarantee,
    /// Batch sizes by backlog: the row with the largest `backlog` not above the number of waiting records counts. Default
    /// 100 records from 1, 300 from 5000 and 1000 from 10000 waiting. Up to 8 rows.
    #[serde(default = "default_batch")]
    pub batch: Vec<BatchStep>,
    /// TLS to the brokers. Not set: plain text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// SASL authentication. Not set: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sasl: Option<Sasl>,
    /// Further librdkafka properties, from an allow list; see the reference page.
    #[serde(default)]
    pub config: BTreeMap<String, String>,
}

/// How a missing topic is created.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct TopicCreate {
    /// Number of partitions.
    pub partitions: u64,
    /// Copies of each partition.
    pub replication_factor: u64,
}

/// One step of the batch sizes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BatchStep {
    /// Records that wait, at least.
    pub backlog: u64,
    /// Records in a batch.
    pub size: u64,
}

/// What a record's Kafka key is made of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs)]
pub enum KafkaKey {
    #[default]
    Chain,
    Tenant,
    Actor,
    Resource,
    EventId,
    None,
}

/// Codec of Kafka batches.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Compression {
    None,
    Gzip,
    Snappy,
    Lz4,
    #[default]
    Zstd,
}

/// What delivery promises.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs)]
pub enum Guarantee {
    #[default]
    AtLeastOnce,
    ExactlyOnce,
}

/// TLS to the brokers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Tls {
    /// CA certificates (PEM) that the brokers' certificates are checked against. Not set: the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_secret_ref: Option<SecretRef>,
    /// Client certificate (PEM), for mutual TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cert_secret_ref: Option<SecretRef>,
    /// Key of the client certificate (PEM).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_secret_ref: Option<SecretRef>,
}

/// SASL authentication.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Sasl {
    /// The mechanism.
    pub mechanism: SaslMechanism,
    /// The user name. Not with `OAUTHBEARER`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub username: String,
    /// The password. Not with `OAUTHBEARER`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_secret_ref: Option<SecretRef>,
    /// For `OAUTHBEARER`: the token, a JWT; read again before it expires. Its `sub` is the principal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_secret_ref: Option<SecretRef>,
}

/// SASL mechanisms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs)]
pub enum SaslMechanism {
    #[serde(rename = "PLAIN")]
    Plain,
    #[serde(rename = "SCRAM-SHA-256")]
    ScramSha256,
    #[serde(rename = "SCRAM-SHA-512")]
    ScramSha512,
    #[serde(rename = "OAUTHBEARER")]
    OauthBearer,
}

/// Values for members that a client leaves out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Defaults {
    /// The tenant. Default: the namespace, mode `Default`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant_id: Option<TenantDefault>,
    /// The service. Default: the pod's label `app.kubernetes.io/name` or `app`, else the policy's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// The category. Default `user-action`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub category: Option<String>,
    /// The outcome. Default `unknown`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
    /// The severity. Default `info`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub severity: Option<Severity>,
}

/// The tenant of events that name none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TenantDefault {
    /// The tenant's id.
    pub value: String,
    /// `Default`: a client may name another. `Enforced`: an event that names another is refused (422).
    #[serde(default)]
    pub mode: DefaultMode,
}

/// Whether a default may be overridden by a client.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs)]
pub enum DefaultMode {
    #[default]
    Default,
    Enforced,
}

/// How grave an event is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Severity {
    Debug,
    Info,
    Notice,
    Warning,
    Error,
    Critical,
}

/// What never leaves the pod in clear. Unknown fields here are refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Redaction {
    /// The builtin rules: secret names, card numbers, tokens, keys, credentials. Default true.
    pub builtin: bool,
    /// Further rules; the strongest action that matches a value wins, so that a rule never loosens another. Up to 256.
    pub rules: Vec<RedactionRule>,
    /// Key for `Hash`. Without it `Hash` removes the value and says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_secret_ref: Option<SecretRef>,
}

/// One redaction rule: exactly one of `path`, `detector` and `regex`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RedactionRule {
    /// Members by path: `actor.id`, `metadata.*.ssn`, `**.password`. Case, `-` and `_` do not matter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Values of a kind, anywhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detector: Option<Detector>,
    /// Text that matches, anywhere. Linear time; compiled size at most 256 KiB; no look-around or back-references.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub regex: Option<String>,
    /// What happens to it.
    pub action: RedactionAction,
    /// Paths where the rule does not apply. A `detector` rule stands for the builtin one too; where several rules name one detector, a value
    /// stays only where each of them makes an exception.
    #[serde(default)]
    pub except: Vec<String>,
}

/// Kinds of values that are found anywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Detector {
    /// Members with a secret name (`password`, `authorization`, …), whole.
    SecretName,
    /// Payment card numbers: issuer prefix, length and Luhn.
    Pan,
    /// JSON Web Tokens.
    Jwt,
    /// PEM private keys.
    Pem,
    /// Access keys and tokens of cloud and code platforms.
    CloudKey,
    /// `Bearer` and `Basic` credentials.
    Bearer,
    /// Credentials in URLs and query strings.
    UrlCredentials,
    /// `password=…` and the like in free text and connection strings.
    Kv,
    /// US social security numbers.
    Ssn,
    /// International bank account numbers.
    Iban,
    /// E-mail addresses. Only where a rule asks for it.
    Email,
    /// IPv4 and IPv6 addresses. Only where a rule asks for it.
    Ip,
    /// Telephone numbers, by the numbering plans or by name. Only where a rule asks for it.
    Phone,
    /// Dates of birth, where a name or a word says what they are. Only where a rule asks for it.
    DateOfBirth,
    /// Identity numbers of the large countries, by check digits or by name. Only where a rule asks for it.
    NationalId,
}

/// What redaction does to a value, weakest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum RedactionAction {
    /// Keeps the last four characters.
    Mask,
    /// Replaces it by `hmac-sha256:<keyId>:<hex>`, so that equal values can be correlated.
    Hash,
    /// Replaces it by `[REDACTED]`.
    Replace,
    /// Removes the member, or cuts the text out.
    Remove,
}

/// Which raw bodies are kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Capture {
    /// Keep members named `requestBody` (redacted like all else). Default false: they are removed, and marked.
    pub request_bodies: bool,
    /// Keep members named `responseBody` (redacted like all else). Default false: they are removed, and marked.
    pub response_bodies: bool,
}

/// Bounds on events, bodies and rates.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Limits {
    /// Largest record, sidecar members included.
    pub max_event_bytes: ByteSize,
    /// Largest request body, after decompression.
    pub max_body_bytes: ByteSize,
    /// Most events in one batch request.
    pub max_batch_items: u64,
    /// Most connections at a time on the ingest listener.
    pub max_connections: u64,
    /// What happens to a larger event: `Truncate` cuts its largest values and marks them, `Reject` answers 413.
    pub on_oversize: OnOversize,
    /// Events a second.
    pub rate: Rate,
}

/// What happens to an event larger than `maxEventBytes`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs)]
pub enum OnOversize {
    #[default]
    Truncate,
    Reject,
}

/// Token buckets, in events a second. What is not set is not limited.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Rate {
    /// All events together, critical ones aside.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
    /// Each tenant. Without `total`, all tenants together have `perTenant` times `maxTenants`, whatever names events carry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_tenant: Option<u64>,
    /// Size of a full bucket. Default: one second's worth.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub burst: Option<u64>,
    /// Critical events, which have a bucket of their own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub critical: Option<u64>,
    /// Tenants whose buckets are remembered; the least recently seen is forgotten first.
    pub max_tenants: u64,
}

/// How long and how many event ids are remembered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Dedupe {
    /// How long a retry is recognised, in time that the sidecar ran.
    pub window: Span,
    /// Ids in memory, 64 bytes each; older ones are looked up on disk.
    pub max_entries: u64,
}

/// What a 2xx means.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Ack {
    /// Written to the operating system: survives the process, not a power cut.
    Written,
    /// On disk (fdatasync).
    #[default]
    Durable,
    /// On disk, and waited for Kafka up to `critical.timeout`; the answer's `delivery` says how it went.
    Delivered,
}

/// Events that are delivered ahead of others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Critical {
    /// Severities that are critical. Default `critical`.
    pub severities: Vec<Severity>,
    /// How long an answer waits for delivery before it says `spooled`.
    pub timeout: Span,
}

/// When delivery is paused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Breaker {
    /// Failed batches in a row that open it.
    pub failure_threshold: u64,
    /// How long it stays open before one batch is tried.
    pub cooldown: Span,
    /// No delivery and no broker for so long opens it, too.
    pub no_broker_for: Span,
    /// New events while it is open: `Spool` takes them, `Reject` answers 503 `circuit_open`.
    pub when_open: WhenOpen,
}

/// New events while the breaker is open.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs)]
pub enum WhenOpen {
    #[default]
    Spool,
    Reject,
}

/// The journal on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Spool {
    /// Bound of everything in the directory.
    pub max_bytes: ByteSize,
    /// New events while it is full.
    pub when_full: WhenFull,
    /// Delivered events that stay on disk.
    pub retain: Retain,
    /// The volume that the journal is on: `type`, and the member of that name. All survive a container's restart. The pod's deletion is survived
    /// by `PersistentVolumeClaim` (a later pod of the policy takes the spool up and delivers it) and `HostPath` (it stays on the node until somebody
    /// takes it up), not by `EmptyDir` and `Ephemeral`. The node's loss is survived by a claim whose storage is not the node's. A
    /// change counts for pods that are made from then on.
    #[serde(skip_serializing_if = "Volume::is_default")]
    pub volume: Volume,
    /// Blocks are compressed. It costs CPU on the way of every event, and saves space where a spool must last.
    #[serde(skip_serializing_if = "is_default")]
    pub compression: SpoolCompression,
    /// Blocks are encrypted (AES-256-GCM). Without its key nothing is stored: events get 503.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encryption: Option<Encryption>,
}

/// How the spool's blocks are compressed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs)]
pub enum SpoolCompression {
    #[default]
    None,
    Zstd,
}

/// Keys of the spool. A key is 32 random bytes, as they are, in hexadecimal or in base64 (`openssl rand -base64 32`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Encryption {
    /// The key that new segments are encrypted with. Not set: new ones are not, and the old keys are for reading.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_secret_ref: Option<SecretRef>,
    /// Keys that older segments were encrypted with, at most 8. To rotate, put the key in use here and another one above; take it out once no segment needs it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub old_key_secret_refs: Vec<SecretRef>,
}

pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// New events while the spool is full.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum WhenFull {
    /// 503 `spool_full`.
    #[default]
    Reject,
    /// Wait up to the request's time-out, then 503.
    Block,
    /// 202 `dropped`, counted and recorded.
    DropNewest,
    /// The oldest undelivered events are dropped, counted and recorded. Gives up the promise that a 2xx is delivered.
    DropOldest,
}

/// Delivered events that stay on disk. What is not set is not kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Retain {
    /// At least so long, where `maxBytes` allows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub age: Option<Span>,
    /// At most so many bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<ByteSize>,
}

/// The hash chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Integrity {
    /// `Service`: one chain a pod; `Tenant`: one a tenant too; `None`: no chain.
    pub scope: Scope,
    /// Most chains of one sidecar; further tenants share the pod's.
    pub max_chains: u64,
}

/// What has a chain of its own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs)]
pub enum Scope {
    None,
    #[default]
    Service,
    Tenant,
}

/// Looking back: `GET /v1/events` and `POST /v1/events/query` of the pod's own sidecar. What is delivered is there for as long as `spool.retain` says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Query {
    /// Whether the pod's containers may ask. An index of 64 bytes a record is kept in the spool then.
    pub enabled: bool,
    /// A bearer token that a request must carry; not set: every container of the pod may ask.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_secret_ref: Option<SecretRef>,
}

/// Where records go that Kafka refuses for good.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct DeadLetter {
    /// A topic. Not set, or the record is too large for it: the folder `dead/` in the spool.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
}

/// The sidecar process itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Sidecar {
    /// Least grave log lines that are written.
    pub log_level: LogLevel,
    /// A sidecar that finds no configuration, nor a last good one: `Open` takes events and spools them until it comes, with the builtin
    /// redaction; `Closed` does not start, and holds the pod up.
    pub startup: Startup,
    /// How long a stopping sidecar delivers what it has.
    pub drain_timeout: Span,
    /// How long a request may take, its body's arrival included.
    pub request_timeout: Span,
    /// Log lines a second for requests that went well; those that did not are always written. 0: none.
    pub request_log_rate: u64,
    /// Add a tenant label to the intake metrics. Default false: tenants can be many.
    pub tenant_metrics: bool,
    /// Requests and limits of the sidecar's container, and bounds of what a pod's annotations may ask for.
    #[serde(skip_serializing_if = "is_default")]
    pub resources: ResourceBounds,
}

/// The sidecar's requests and limits: a pod's annotation wins over the policy, and the policy over the chart's `sidecar.resources`. What an annotation asks for
/// beyond a bound is the bound, with a warning.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ResourceBounds {
    /// Most CPU, in thousandths of a core.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_cpu_millis: Option<u64>,
    /// CPU that the sidecar requests, in thousandths of a core. Not set: what the chart says (10). A pod's annotation `audit.steno.dev/cpu-request` wins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_request_millis: Option<u64>,
    /// Limit of the sidecar's CPU, in thousandths of a core. Not set: what the chart says (none). A pod's annotation `audit.steno.dev/cpu-limit` wins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_limit_millis: Option<u64>,
    /// Memory that the sidecar requests. Not set: what the chart says (32Mi). A pod's annotation `audit.steno.dev/memory-request` wins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_request: Option<ByteSize>,
    /// Limit of the sidecar's memory. Not set: what the chart says (128Mi). A pod's annotation `audit.steno.dev/memory-limit` wins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_limit: Option<ByteSize>,
    /// Most memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_memory: Option<ByteSize>,
    /// Least grave log lines that `audit.steno.dev/log-level` may ask for. Not set: no bound.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_log_level: Option<LogLevel>,
}

/// What a sidecar without a configuration does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs)]
pub enum Startup {
    #[default]
    Open,
    Closed,
}

/// Least grave log lines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum LogLevel {
    Error,
    Warn,
    #[default]
    Info,
    Debug,
}

// === defaults, from the table ===

fn default_namespace() -> String {
    "default".into()
}

fn default_batch() -> Vec<BatchStep> {
    [(1, 100), (5_000, 300), (10_000, 1_000)].map(|(backlog, size)| BatchStep { backlog, size }).to_vec()
}

impl Default for Kafka {
    fn default() -> Self {
        Self {
            brokers: Vec::new(),
            topic: String::new(),
            create: None,
            key: KafkaKey::default(),
            compression: Compression::default(),
            guarantee: Guarantee::default(),
            batch: default_batch(),
            tls: None,
            sasl: None,
            config: BTreeMap::new(),
        }
    }
}

impl Default for TopicCreate {
    fn default() -> Self {
        Self { partitions: bounds::CREATE_PARTITIONS.value(), replication_factor: bounds::CREATE_REPLICATION.value() }
    }
}

impl Default for Redaction {
    fn default() -> Self {
        Self { builtin: true, rules: Vec::new(), key_secret_ref: None }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_event_bytes: bounds::MAX_EVENT_BYTES.value(),
            max_body_bytes: bounds::MAX_BODY_BYTES.value(),
            max_batch_items: bounds::MAX_BATCH_ITEMS.value(),
            max_connections: bounds::MAX_CONNECTIONS.value(),
            on_oversize: OnOversize::default(),
            rate: Rate::default(),
        }
    }
}

impl Default for Rate {
    fn default() -> Self {
        Self { total: None, per_tenant: None, burst: None, critical: None, max_tenants: bounds::RATE_TENANTS.value() }
    }
}

impl Default for Dedupe {
    fn default() -> Self {
        Self { window: bounds::DEDUPE_WINDOW.value(), max_entries: bounds::DEDUPE_ENTRIES.value() }
    }
}

impl Default for Critical {
    fn default() -> Self {
        Self { severities: vec![Severity::Critical], timeout: bounds::CRITICAL_TIMEOUT.value() }
    }
}

impl Default for Breaker {
    fn default() -> Self {
        Self {
            failure_threshold: bounds::BREAKER_THRESHOLD.value(),
            cooldown: bounds::BREAKER_COOLDOWN.value(),
            no_broker_for: bounds::BREAKER_NO_BROKER.value(),
            when_open: WhenOpen::default(),
        }
    }
}

impl Default for Spool {
    fn default() -> Self {
        Self {
            max_bytes: bounds::SPOOL_BYTES.value(),
            when_full: WhenFull::default(),
            retain: Retain::default(),
            volume: Volume::default(),
            compression: SpoolCompression::None,
            encryption: None,
        }
    }
}

impl Default for Integrity {
    fn default() -> Self {
        Self { scope: Scope::default(), max_chains: bounds::MAX_CHAINS.value() }
    }
}

impl Default for Sidecar {
    fn default() -> Self {
        Self {
            log_level: LogLevel::default(),
            startup: Startup::default(),
            drain_timeout: bounds::DRAIN_TIMEOUT.value(),
            request_timeout: bounds::REQUEST_TIMEOUT.value(),
            request_log_rate: bounds::REQUEST_LOG_RATE.value(),
            tenant_metrics: false,
            resources: ResourceBounds::default(),
        }
    }
}

// === impl Kafka ===

impl Kafka {
    /// Nothing is set.
    pub fn is_unset(&self) -> bool {
        *self == Self::default()
    }
}

// === impl Detector ===

impl Detector {
    /// Looks without being asked, where `redaction.builtin` is on.
    pub const fn is_builtin(self) -> bool {
        !matches!(self, Self::Email | Self::Ip | Self::Phone | Self::DateOfBirth | Self::NationalId)
    }
}

// === impl Severity ===

impl Severity {
    /// All severities, least grave first.
    pub const ALL: [Self; 6] = [Self::Debug, Self::Info, Self::Notice, Self::Warning, Self::Error, Self::Critical];

    /// The word in an event.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Notice => "notice",
            Self::Warning => "warning",
            Self::Error => "error",
            Self::Critical => "critical",
        }
    }
}
