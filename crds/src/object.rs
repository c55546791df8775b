//! AuditPolicy and ClusterAuditPolicy as Kubernetes objects: the CRDs and the statuses (feature `kube`).
//!
//! The schema is the types' own. What types cannot say is said in CEL: the bounds, from the same table that the sidecar checks by, and
//! [`RULES`], for fields that need each other. So `kubectl apply` refuses what would not render, with the field and the fix; what CEL cannot
//! say (a regex that does not compile) is left to the operator's validating webhook and its condition `Accepted`.
use std::collections::BTreeMap;

use kube::CustomResourceExt as _;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::{
    AuditPolicy, AuditPolicyObject, ClusterAuditPolicyObject, Metadata,
    bounds::{self, Row},
    render::MAX_NAME,
    schema::{describe, describe_ceiling, field_mut},
};

/// What the operator tells about a policy.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct AuditPolicyStatus {
    /// Generation of the specification that this status is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Hash of the rendered configuration that pods should run by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config_hash: Option<String>,
    /// `Accepted`, `Rendered`, `SecretsResolved`, `Delivering`, `Lossy`, `Ready`.
    pub conditions: Vec<Condition>,
    /// The pods that it serves.
    pub pods: Fleet,
    /// Events that were lost with pods: their sidecars had not delivered them when they ended, and the volume of the spool went with the pod. It is kept as
    /// long as the policy.
    pub abandoned_events: u64,
    /// Events that sidecars left on the policy's PersistentVolumeClaim when they ended, while no running sidecar has told that nothing is left there.
    pub left_events: u64,
    /// Fields that a ClusterAuditPolicy set or tightened, by path.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub inherited: Vec<String>,
}

/// What the operator tells about a ClusterAuditPolicy.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ClusterAuditPolicyStatus {
    /// Generation of the specification that this status is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Accepted`: while one is not, the policies that it covers are not either, and their pods go on as before. `Satisfied`: every policy that it covers is
    /// accepted under it; the message names those that are not.
    pub conditions: Vec<Condition>,
    /// AuditPolicies in the namespaces that it covers.
    pub policies: u64,
}

/// One aspect of how a policy stands.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Condition {
    /// Which aspect.
    pub r#type: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// Generation that it was found at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// When the status changed last, RFC 3339.
    pub last_transition_time: String,
    /// One word for programs.
    pub reason: String,
    /// A sentence for people.
    pub message: String,
}

/// The pods of a policy, added up.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Fleet {
    /// Pods that ask for the policy.
    pub matched: u64,
    /// Of these, pods that have the sidecar.
    pub injected: u64,
    /// Of these, pods whose sidecar is ready.
    pub ready: u64,
    /// Injected pods whose sidecar has not begun, or was not asked yet.
    pub pending: u64,
    /// Injected pods whose sidecar does not answer.
    pub unknown: u64,
    /// Injected pods on the host's network that run and have no port to be asked on: how they stand is not known here.
    pub not_asked: u64,
    /// Pods that run by the current configuration.
    pub current: u64,
    /// Pods that do not take the current configuration, or not all of it.
    pub config_errors: u64,
    /// Pods whose breaker is open, or half-open: one batch is being tried.
    pub breaker_open: u64,
    /// Pods with a sink that stands still, or is slower than intake, though its breaker is closed.
    pub stalled: u64,
    /// Dead letters that are kept in pods: records that a sink refused, and that nobody delivered again or removed.
    pub dead_letters: u64,
    /// Events that wait for delivery, all pods together.
    pub spooled_events: u64,
    /// Folders of a shared volume that hold events and have no sidecar, as the pod tells that sees most of them.
    pub folders_left: u64,
    /// Bytes of their spools.
    pub spooled_bytes: u64,
    /// Age of the oldest undelivered event, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oldest_undelivered_seconds: Option<u64>,
    /// Pods by version of their sidecar.
    pub versions: BTreeMap<String, u64>,
}

impl AuditPolicyObject {
    /// The object as the rest of Steno reads it: what [`crate::render()`] takes.
    pub fn to_policy(&self) -> AuditPolicy {
        AuditPolicy {
            api_version: crate::API_VERSION.into(),
            kind: "AuditPolicy".into(),
            metadata: Metadata {
                name: self.metadata.name.clone().unwrap_or_default(),
                namespace: self.metadata.namespace.clone().unwrap_or_default(),
            },
            spec: self.spec.clone(),
        }
    }
}

/// Rules over several fields: where (below `spec`; `[]` is each item), the rule in CEL, and what to do.
const RULES: &[(&str, &str, &str)] = &[
    (
        "redaction.rules[]",
        "[has(self.path), has(self.detector), has(self.regex)].filter(x, x).size() == 1",
        "set exactly one of path, detector and regex",
    ),
    (
        "kafka.tls",
        "has(self.certSecretRef) == has(self.keySecretRef)",
        "a client certificate needs both certSecretRef and keySecretRef",
    ),
    (
        "kafka.sasl",
        "self.mechanism == 'OAUTHBEARER' ? (has(self.tokenSecretRef) && !has(self.passwordSecretRef)) : \
         (has(self.passwordSecretRef) && has(self.username) && !has(self.tokenSecretRef))",
        "set tokenSecretRef with OAUTHBEARER, username and passwordSecretRef with the others",
    ),
    (
        "sinks[]",
        "(!has(self.file) || self.type == 'File') && has(self.http) == (self.type == 'Http') && \
         has(self.postgres) == (self.type == 'Postgres')",
        "set the member that type names, and no other",
    ),
    ("sinks[]", "!(self.name in ['kafka', 'intents'])", "name is that of spec.kafka or of intents; name another"),
    (
        "intents",
        "!has(self.enabled) || !self.enabled || (has(self.topic) && self.topic != '')",
        "enabled needs a topic of its own",
    ),
    (
        "",
        "!has(self.intents) || !has(self.intents.enabled) || !self.intents.enabled || \
         (has(self.spool) && has(self.spool.encryption) && has(self.spool.encryption.keySecretRef))",
        "intents keep payloads as they are; set spool.encryption.keySecretRef",
    ),
    (
        "",
        "!has(self.intents) || !has(self.intents.enabled) || !self.intents.enabled || \
         (has(self.intents.allowPodLoss) && self.intents.allowPodLoss) || (has(self.spool) && has(self.spool.volume) && \
         has(self.spool.volume.type) && self.spool.volume.type == 'PersistentVolumeClaim')",
        "open intents would be gone with the pod; use spool.volume.type PersistentVolumeClaim, or set intents.allowPodLoss",
    ),
    ("sinks[]", "!has(self.maxLag) || (has(self.required) && !self.required)", "maxLag is for a sink with required: false"),
    (
        "",
        "!has(self.fanOut) || self.fanOut != 'AllOrNothing' || !has(self.sinks) || self.sinks.all(s, !has(s.required) || s.required)",
        "fanOut AllOrNothing waits for every sink; make all of them required",
    ),
    (
        "",
        "!has(self.deadLetter) || !has(self.deadLetter.topic) || !has(self.kafka) || !has(self.kafka.topic) || \
         self.deadLetter.topic != self.kafka.topic",
        "deadLetter.topic is the audit topic itself; name another",
    ),
    (
        "",
        "!has(self.limits) || !has(self.limits.maxEventBytes) || !has(self.limits.maxBodyBytes) || \
         quantity(self.limits.maxEventBytes).compareTo(quantity(self.limits.maxBodyBytes)) <= 0",
        "limits.maxEventBytes is larger than limits.maxBodyBytes, so that such an event could never arrive",
    ),
    (
        "",
        "!has(self.limits) || !has(self.limits.maxEventBytes) || !has(self.spool) || !has(self.spool.maxBytes) || \
         quantity(self.spool.maxBytes).asInteger() >= 32 * quantity(self.limits.maxEventBytes).asInteger()",
        "spool.maxBytes is smaller than 32 events of limits.maxEventBytes; raise it or lower that",
    ),
];

/// Rules over the fields of a volume, of an AuditPolicy only.
const VOLUME: (&str, &str, &str) = (
    "spool.volume",
    "(has(self.ephemeral) ? self.type == 'Ephemeral' : true) && \
     has(self.persistentVolumeClaim) == (has(self.type) && self.type == 'PersistentVolumeClaim') && \
     has(self.hostPath) == (has(self.type) && self.type == 'HostPath')",
    "set the member that type names, and no other",
);

/// Bounds on lengths, which keep the cost of the rules within what an apiserver allows: path, member, value.
const LENGTHS: &[(&str, &str, u64)] = &[
    ("redaction.rules", "maxItems", 256),
    ("redaction.rules[].except", "maxItems", 64),
    ("redaction.rules[].path", "maxLength", 512),
    ("redaction.rules[].regex", "maxLength", 4096),
    ("require", "maxItems", 64),
    ("kafka.brokers", "minItems", 1),
    ("kafka.brokers", "maxItems", 64),
    ("kafka.batch", "minItems", 1),
    ("kafka.batch", "maxItems", 8),
    ("kafka.topic", "minLength", 1),
    ("kafka.topic", "maxLength", 249),
    ("deadLetter.topic", "maxLength", 249),
    ("intents.topic", "maxLength", 249),
    ("critical.severities", "maxItems", 6),
    ("spool.volumeTypes", "maxItems", 4),
    ("sinks", "maxItems", 8),
    ("listeners", "maxItems", 8),
    ("listeners[].address", "maxLength", 64),
    ("listeners[].allow", "maxItems", 4),
    ("sinks[].name", "maxLength", 32),
    ("sinks[].redaction.rules", "maxItems", 256),
    ("sinks[].redaction.rules[].except", "maxItems", 64),
    ("sinks[].redaction.rules[].path", "maxLength", 512),
    ("sinks[].redaction.rules[].regex", "maxLength", 4096),
    ("sinks[].http.url", "maxLength", 2048),
    ("sinks[].postgres.host", "maxLength", 253),
    ("sinks[].postgres.database", "maxLength", 63),
    ("sinks[].postgres.user", "maxLength", 63),
    ("sinks[].postgres.schema", "maxLength", 63),
    ("spool.volume.hostPath.path", "maxLength", 1024),
    ("spool.volume.persistentVolumeClaim.claimName", "maxLength", 253),
];

/// How server-side apply merges lists that several owners may write: path, kind. Others are one value.
const LISTS: &[(&str, &str)] = &[
    ("kafka.brokers", "set"),
    ("require", "set"),
    ("critical.severities", "set"),
    ("spool.volumeTypes", "set"),
    ("redaction.rules[].except", "set"),
    ("redaction.rules", "atomic"),
    ("kafka.batch", "atomic"),
    ("listeners[].allow", "set"),
    ("sinks[].redaction.rules", "atomic"),
    ("sinks[].redaction.rules[].except", "set"),
];

/// Lists whose items are merged one by one: path, and the member that tells them apart.
const MAPS: &[(&str, &str)] = &[("sinks", "name"), ("listeners", "address")];

/// The CustomResourceDefinitions, each with its plural name.
pub fn crds() -> [(&'static str, Value); 2] {
    let mut policy = finish(serde_json::to_value(AuditPolicyObject::crd()).unwrap_or_default());
    if let Some(schema) = policy.pointer_mut(SCHEMA).and_then(Value::as_object_mut) {
        // `steno-<name>` names the ConfigMap, and a label of the pods has the name.
        let rule = format!("self.metadata.name.size() <= {MAX_NAME}");
        validate(schema, &rule, &format!("metadata.name is longer than {MAX_NAME} characters; shorten it"));
    }
    let cluster = finish(serde_json::to_value(ClusterAuditPolicyObject::crd()).unwrap_or_default());
    [("auditpolicies", policy), ("clusterauditpolicies", cluster)]
}

/// A CRD as YAML, as the chart carries it.
pub fn crd_yaml(crd: &Value) -> String {
    serde_yaml::to_string(crd).unwrap_or_default()
}

/// Where a CRD has its schema.
const SCHEMA: &str = "/spec/versions/0/schema/openAPIV3Schema";

fn finish(mut crd: Value) -> Value {
    if let Some(schema) = crd.pointer_mut(SCHEMA) {
        plain(schema);
        bound(schema);
        if let Some(status) = schema.pointer_mut("/properties/status/properties/conditions").and_then(Value::as_object_mut) {
            map_list(status, "type");
            if let Some(item) = status.get_mut("items").and_then(Value::as_object_mut) {
                // A key of a list map has no default; it is there.
                if let Some(kind) =
                    item.get_mut("properties").and_then(|fields| fields.get_mut("type")).and_then(Value::as_object_mut)
                {
                    kind.remove("default");
                }
                item.insert("required".into(), json!(["type", "status"]));
            }
        }
    }
    crd
}

/// What a structural schema may not say, or says otherwise.
fn plain(node: &mut Value) {
    if let Some(object) = node.as_object_mut() {
        if object.contains_key("properties") && object.get("additionalProperties") == Some(&Value::Bool(false)) {
            // Unknown fields are pruned, or refused by `kubectl apply`, which validates strictly.
            object.remove("additionalProperties");
        }
        if matches!(object.get("format").and_then(Value::as_str), Some("uint64" | "uint32" | "uint")) {
            object.insert("format".into(), "int64".into());
        }
        for value in object.values_mut() {
            plain(value);
        }
    } else if let Some(list) = node.as_array_mut() {
        list.iter_mut().for_each(plain);
    }
}

fn bound(schema: &mut Value) {
    let is_policy = field_mut(schema, "dedupe").is_some();
    for row in bounds::TABLE {
        let Some(field) = field_mut(schema, row.path()) else { continue };
        if is_policy {
            describe(field, row);
        } else {
            describe_ceiling(field, row);
        }
        let (_, min, max) = row.shown();
        let fix = format!("write from {min} to {max}");
        match row {
            Row::Count(bound) => {
                field.insert("minimum".into(), json!(bound.min));
                field.insert("maximum".into(), json!(bound.max));
            }
            Row::Size(_) => {
                field.insert("maxLength".into(), json!(24));
                let rule = format!(
                    "quantity(self).compareTo(quantity('{min}')) >= 0 && quantity(self).compareTo(quantity('{max}')) <= 0"
                );
                validate(field, &rule, &fix);
            }
            Row::Time(bound) => {
                field.insert("maxLength".into(), json!(24));
                // CEL knows no days; a sum with days in it is checked by the webhook.
                let (min, max) = (bound.min.duration().as_millis(), bound.max.duration().as_millis());
                let (from_days, to_days) = (min.div_ceil(86_400_000), max / 86_400_000);
                let rule = format!(
                    "self.matches('^[0-9]{{1,9}}d$') ? int(self.replace('d', '')) >= {from_days} && int(self.replace('d', '')) <= {to_days} : self.contains('d') || (duration(self) >= duration('{min}ms') && duration(self) <= duration('{max}ms'))"
                );
                validate(field, &rule, &fix);
            }
        }
    }
    for (path, name, value) in LENGTHS {
        if let Some(field) = field_mut(schema, path) {
            field.insert((*name).into(), json!(value));
        }
    }
    for (path, key) in MAPS {
        if let Some(field) = field_mut(schema, path) {
            map_list(field, key);
        }
    }
    for (path, kind) in LISTS {
        if let Some(field) = field_mut(schema, path) {
            field.insert("x-kubernetes-list-type".into(), json!(kind));
        }
    }
    for (path, rule, fix) in RULES.iter().chain([&VOLUME]) {
        // Those over the whole specification are about fields that a ClusterAuditPolicy does not have, or has as bounds.
        if path.is_empty() && !is_policy {
            continue;
        }
        if let Some(field) = field_mut(schema, path) {
            validate(field, rule, fix);
        }
    }
}

fn map_list(field: &mut Map<String, Value>, key: &str) {
    field.insert("x-kubernetes-list-type".into(), json!("map"));
    field.insert("x-kubernetes-list-map-keys".into(), json!([key]));
}

fn validate(field: &mut Map<String, Value>, rule: &str, message: &str) {
    let rules = field.entry("x-kubernetes-validations").or_insert_with(|| Value::Array(Vec::new()));
    if let Some(rules) = rules.as_array_mut() {
        rules.push(json!({"rule": rule, "message": message}));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_crds_of_the_chart_are_what_the_types_say() {
        for (name, crd) in crds() {
            let path = format!("{}/../charts/steno/crds-source/{name}.yaml", env!("CARGO_MANIFEST_DIR"));
            let text = crd_yaml(&crd);
            if std::env::var_os("UPDATE").is_some() {
                std::fs::write(&path, &text).unwrap();
            }
            assert!(
                std::fs::read_to_string(&path).unwrap_or_default() == text,
                "{path} is not what the types say: run `make generate`"
            );
        }
    }

    #[test]
    fn every_rule_length_and_bound_has_its_field() {
        let [(_, mut policy), (_, mut cluster)] = crds();
        let schema = policy.pointer_mut(SCHEMA).unwrap();
        for path in RULES.iter().chain([&VOLUME]).map(|rule| rule.0).chain(LENGTHS.iter().map(|length| length.0)) {
            assert!(path == "spool.volumeTypes" || field_mut(schema, path).is_some(), "{path}");
        }
        for row in bounds::TABLE {
            assert!(field_mut(schema, row.path()).is_some(), "{}", row.path());
        }
        let schema = cluster.pointer_mut(SCHEMA).unwrap();
        for path in ["redaction.rules[]", "kafka.tls", "limits.maxEventBytes"] {
            assert!(field_mut(schema, path).unwrap().contains_key("x-kubernetes-validations"), "{path}");
        }
    }
}
