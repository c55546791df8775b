//! Write intents: an application's own write-ahead log, beside its audit events.
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{AuditPolicySpec, ByteSize, SecretRef, Span, VolumeType, bounds};

/// Write intents (`POST /v1/intents`): what an application is about to write, durable before it writes, given back after a crash. Their payloads are kept as
/// they are, encrypted, in a journal of their own in the spool, and never leave the pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Intents {
    /// Whether the pod's containers may write intents. Needs `intents.topic` and `spool.encryption`. Default false.
    pub enabled: bool,
    /// Topic that the intents' metadata goes to, on the brokers of `kafka`: who was about to write what, how it ended, and a keyed hash of the payload.
    pub topic: String,
    /// An intent that is open for so long becomes an `IntentExpired` record in the audit chain, and its payload goes. Set it well above the time that your
    /// application may be away.
    pub expire_after: Span,
    /// Bound of the intents' journal, a part of `spool.maxBytes`; at most half of it.
    pub max_bytes: ByteSize,
    /// Largest payload.
    pub max_payload_bytes: ByteSize,
    /// Most intents that are open at a time; further ones get 503.
    pub max_open: u64,
    /// On a volume that does not come back with a later pod, open intents are gone with the pod. `true` says that you know; else intents are refused
    /// on any volume but `PersistentVolumeClaim`.
    pub allow_pod_loss: bool,
    /// A bearer token that a request must carry; not set: every container of the pod may write and read intents.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_secret_ref: Option<SecretRef>,
}

impl Default for Intents {
    fn default() -> Self {
        Self {
            enabled: false,
            topic: String::new(),
            expire_after: bounds::INTENT_EXPIRE.value(),
            max_bytes: bounds::INTENT_BYTES.value(),
            max_payload_bytes: bounds::INTENT_PAYLOAD.value(),
            max_open: bounds::INTENT_OPEN.value(),
            allow_pod_loss: false,
            token_secret_ref: None,
        }
    }
}

impl Intents {
    /// Whether the intents of a pod would be found by a later one.
    pub fn survive(&self, volume: VolumeType) -> bool {
        self.allow_pod_loss || volume == VolumeType::PersistentVolumeClaim
    }

    /// What is wrong with it, by path below `intents`.
    pub(crate) fn faults(&self, spec: &AuditPolicySpec) -> Vec<(&'static str, &'static str)> {
        let mut faults = Vec::new();
        if !self.enabled {
            return faults;
        }
        if self.topic == spec.kafka.topic || spec.dead_letter.topic.as_ref() == Some(&self.topic) {
            faults.push(("topic", "is that of the audit events or of dead letters; intents need one of their own"));
        }
        if spec.spool.encryption.as_ref().is_none_or(|keys| keys.key_secret_ref.is_none()) {
            faults.push(("enabled", "is true, and payloads are kept as they are; set spool.encryption.keySecretRef"));
        }
        if !self.survive(spec.spool.volume.r#type) {
            faults.push((
                "allowPodLoss",
                "is false, and open intents would be gone with the pod; use spool.volume.type PersistentVolumeClaim, or say true",
            ));
        }
        if self.max_bytes.0 > spec.spool.max_bytes.0 / 2 {
            faults.push(("maxBytes", "is more than half of spool.maxBytes; lower it or raise that"));
        }
        faults
    }
}
