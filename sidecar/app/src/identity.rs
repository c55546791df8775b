//! Who this sidecar is: what the pod says by environment.
use std::{path::PathBuf, sync::Arc};

use steno_event::json::{Json, Object, canonical};

/// Who writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod.
    pub pod: String,
    /// UID of the pod.
    pub pod_uid: String,
    /// Node.
    pub node: String,
    /// Container.
    pub container: String,
    /// Service: the pod's label.
    pub service: Option<String>,
    /// Where volumes of sinks that write files are mounted, each under its sink's name.
    pub files: PathBuf,
    /// The folder that is delivered for another sidecar, whose sinks write files of their own.
    pub adopts: Option<String>,
}

impl Identity {
    /// From `STENO_NAMESPACE`, `STENO_POD`, `STENO_POD_UID`, `STENO_NODE`, `STENO_CONTAINER`, `STENO_SERVICE` and `STENO_FILES`.
    pub fn from_env(namespace: &str) -> Self {
        let var = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned();
        Self {
            namespace: var("STENO_NAMESPACE").unwrap_or_else(|| namespace.to_owned()),
            pod: var("STENO_POD").unwrap_or_else(|| host.clone()),
            pod_uid: var("STENO_POD_UID").unwrap_or_else(|| "local".into()),
            node: var("STENO_NODE").unwrap_or(host),
            container: var("STENO_CONTAINER").unwrap_or_else(|| "steno".into()),
            service: var("STENO_SERVICE"),
            adopts: None,
            files: var("STENO_FILES").unwrap_or_else(|| "/var/lib/steno-files".into()).into(),
        }
    }

    /// The `writer` member, canonical.
    pub fn writer(&self, policy_hash: &str) -> Arc<str> {
        let mut writer = Object::default();
        for (name, value) in [
            ("namespace", &self.namespace),
            ("pod", &self.pod),
            ("podUid", &self.pod_uid),
            ("node", &self.node),
            ("container", &self.container),
        ] {
            writer.insert(name, Json::text(value.as_str()));
        }
        writer.insert("policyHash", Json::text(policy_hash));
        canonical(&Json::Object(writer)).into()
    }

    /// A directory of the pod's own, on a volume that many share.
    pub fn own_dir(&self) -> String {
        let own = format!("{}_{}_{}", self.namespace, self.pod, self.pod_uid);
        self.adopts.as_ref().map_or_else(|| own.clone(), |folder| format!("{own}_for_{folder}"))
    }

    /// `ce_source` of every record.
    pub fn source(&self) -> String {
        format!("/steno/{}/{}", self.namespace, self.pod)
    }
}
