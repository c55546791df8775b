//! The volume that the journal is on.
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ByteSize;

/// The volume of the journal: `type`, and the member of that name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Volume {
    /// Default `EmptyDir`.
    pub r#type: VolumeType,
    /// For `Ephemeral`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ephemeral: Option<EphemeralVolume>,
    /// For `PersistentVolumeClaim`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub persistent_volume_claim: Option<ClaimVolume>,
    /// For `HostPath`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_path: Option<HostPathVolume>,
    /// Whether the cluster autoscaler may remove a node with such a pod: a pod with an `emptyDir` keeps its node otherwise. The sidecar delivers before the pod is
    /// gone; what it cannot deliver is lost with an `EmptyDir`. Default false; with `PersistentVolumeClaim` it may anyway.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub safe_to_evict: bool,
}

/// Kinds of volumes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum VolumeType {
    /// Of the pod, on the node's disk. Gone with the pod.
    #[default]
    EmptyDir,
    /// A claim of the pod's own, made with it and gone with it (a generic ephemeral volume).
    Ephemeral,
    /// An existing claim. Pods share it, each with a directory of its own; one that starts takes up what an earlier one left.
    PersistentVolumeClaim,
    /// A directory of the node, with one below it for each pod. Only in namespaces that are labelled `pod-security.kubernetes.io/enforce: privileged`;
    /// pods of others get an `EmptyDir`, and are told.
    HostPath,
}

/// A claim of the pod's own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct EphemeralVolume {
    /// Storage class. Not set: the cluster's default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage_class_name: Option<String>,
    /// Size of the volume. Not set: a quarter more than `spool.maxBytes`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<ByteSize>,
}

/// An existing claim.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClaimVolume {
    /// Name of the PersistentVolumeClaim, in the pod's namespace.
    pub claim_name: String,
}

/// A directory of the node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HostPathVolume {
    /// Its absolute path. User 65532 may write to it; where it may not, or the directory is missing, the spool is on an `EmptyDir`, and the policy tells.
    pub path: String,
}

// === impl Volume ===

impl Volume {
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// What is wrong, by path below `spool.volume`.
    pub(crate) fn faults(&self, spool: ByteSize) -> Vec<(String, String)> {
        let mut faults = Vec::new();
        let mut add = |path: &str, message: String| faults.push((path.to_owned(), message));
        let members = [
            (VolumeType::Ephemeral, "ephemeral", self.ephemeral.is_some()),
            (VolumeType::PersistentVolumeClaim, "persistentVolumeClaim", self.persistent_volume_claim.is_some()),
            (VolumeType::HostPath, "hostPath", self.host_path.is_some()),
        ];
        for (kind, name, is_set) in members {
            if is_set && kind != self.r#type {
                add(name, format!("is set, and type is {:?}; write type: {kind:?}, or leave it out", self.r#type));
            }
            if !is_set && kind == self.r#type && kind != VolumeType::Ephemeral {
                add(name, format!("is not set; type {kind:?} needs it"));
            }
        }
        if let Some(size) = self.ephemeral.as_ref().and_then(|ephemeral| ephemeral.size)
            && size < spool
        {
            add("ephemeral.size", format!("is {size}, less than spool.maxBytes; raise it or lower that"));
        }
        if self.persistent_volume_claim.as_ref().is_some_and(|claim| !is_name(&claim.claim_name)) {
            add("persistentVolumeClaim.claimName", "is not the name of a claim; write a-z 0-9 . -".into());
        }
        if self.host_path.as_ref().is_some_and(|host| !is_path(&host.path)) {
            add("hostPath.path", "is not an absolute path below /; write one such as /var/lib/steno".into());
        }
        faults
    }
}

fn is_name(name: &str) -> bool {
    let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '-');
    !name.is_empty() && name.len() <= 253 && name.chars().all(legal)
}

fn is_path(path: &str) -> bool {
    path.starts_with('/') && path.len() > 1 && path.split('/').all(|step| step != "..")
}
