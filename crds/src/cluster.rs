//! The types of a ClusterAuditPolicy: what the platform sets for everyone. How it counts is in [`crate::merge()`].
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Ack, ByteSize, Fault, Kafka, LabelSelector, Limits, Rate, Redaction, Scope, VolumeType, validate::validate_cluster};

/// What the platform asks of every AuditPolicy that it covers. A namespace may tighten it and never loosen it; what is not set asks nothing.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "kube", derive(kube::CustomResource))]
#[cfg_attr(
    feature = "kube",
    kube(
        group = "audit.steno.dev",
        version = "v1alpha1",
        kind = "ClusterAuditPolicy",
        root = "ClusterAuditPolicyObject",
        doc = "What the platform asks of the AuditPolicies of many namespaces, and the Kafka that they use by default.",
        status = "crate::ClusterAuditPolicyStatus",
        shortname = "capol",
        category = "steno",
        category = "audit",
        printcolumn = r#"{"name":"Accepted","type":"string","jsonPath":".status.conditions[?(@.type==\"Accepted\")].status"}"#,
        printcolumn = r#"{"name":"Policies","type":"integer","jsonPath":".status.policies"}"#,
        printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
    )
)]
#[serde(rename_all = "camelCase", default)]
pub struct ClusterAuditPolicySpec {
    /// Namespaces that it covers, by their labels; all where it is not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<LabelSelector>,
    /// Kafka of policies that name no brokers (`brokers`, `tls`, `sasl`, `create` and `config` together) or no topic. Its other fields have no effect here. Secrets are those of that
    /// name in each namespace. Of several ClusterAuditPolicies the first by name counts.
    #[serde(skip_serializing_if = "Kafka::is_unset")]
    pub kafka: Kafka,
    /// Redaction that holds everywhere: `builtin` cannot be switched off or excepted from, and its rules come on top of a namespace's own.
    pub redaction: Redaction,
    /// Members that must be there, besides those that a namespace requires.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub require: Vec<String>,
    /// Whether namespaces may keep raw bodies.
    pub capture: CaptureCeiling,
    /// Upper bounds of what namespaces may set.
    pub limits: LimitsCeiling,
    /// What a 2xx means at least: `Written`, `Durable`, `Delivered`, weakest first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ack: Option<Ack>,
    /// What has a hash chain of its own at least: `None`, `Service`, `Tenant`, weakest first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub integrity_scope: Option<Scope>,
    /// Bounds of the journals.
    pub spool: SpoolCeiling,
    /// Where events may go.
    pub network: NetworkCeiling,
    /// Which pods get the sidecar.
    pub injection: InjectionCeiling,
}

/// Which pods get the sidecar.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct InjectionCeiling {
    /// `false`: a pod in a namespace that is labelled `audit.steno.dev/inject: "true"` gets the sidecar also if it is annotated `audit.steno.dev/inject: "false"`.
    /// Default true: such a pod has none, and is told of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub opt_out: Option<bool>,
}

/// Where events may go. What is not forbidden is a warning.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct NetworkCeiling {
    /// `false`: a policy whose Kafka or `Http` sinks go in plain text is not accepted, unless they are in the pod. Default true.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plain_text: Option<bool>,
    /// `false`: a policy with an `Http` sink to a link-local address or to a cloud's metadata service is not accepted. Default true.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub link_local: Option<bool>,
}

/// Whether raw bodies may be kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct CaptureCeiling {
    /// `false`: members named `requestBody` are removed, whatever a namespace says. Default true.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_bodies: Option<bool>,
    /// The same of `responseBody`. Default true.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_bodies: Option<bool>,
}

/// Upper bounds of limits.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct LimitsCeiling {
    /// Largest record.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_event_bytes: Option<ByteSize>,
    /// Largest request body.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_body_bytes: Option<ByteSize>,
    /// Most events in one batch request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_batch_items: Option<u64>,
    /// Most connections at a time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_connections: Option<u64>,
    /// Events a second.
    pub rate: RateCeiling,
}

/// Upper bounds of rates, in events a second.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RateCeiling {
    /// All events of a sidecar together, critical ones aside.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
    /// Each tenant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_tenant: Option<u64>,
    /// Size of a full bucket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub burst: Option<u64>,
    /// Critical events.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub critical: Option<u64>,
}

/// Bounds of the journals.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct SpoolCeiling {
    /// Most bytes of a pod's spool.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_bytes: Option<ByteSize>,
    /// `false`: nothing that was acknowledged or refused is dropped: `DropOldest` and `DropNewest` become `Reject`. Default true.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub may_drop: Option<bool>,
    /// Kinds of volumes that a namespace may choose; all where the list is empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub volume_types: Vec<VolumeType>,
}

// === impl LimitsCeiling ===

/// What a policy's own limits come to: bounds that are all set.
impl From<&Limits> for LimitsCeiling {
    fn from(limits: &Limits) -> Self {
        let Rate { total, per_tenant, burst, critical, .. } = limits.rate;
        Self {
            max_event_bytes: Some(limits.max_event_bytes),
            max_body_bytes: Some(limits.max_body_bytes),
            max_batch_items: Some(limits.max_batch_items),
            max_connections: Some(limits.max_connections),
            rate: RateCeiling { total, per_tenant, burst, critical },
        }
    }
}

// === impl ClusterAuditPolicySpec ===

impl ClusterAuditPolicySpec {
    /// What is wrong with it, in field order.
    pub fn faults(&self) -> Vec<Fault> {
        validate_cluster(self)
    }
}
