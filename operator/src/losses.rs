//! Events that were still in a spool when its sidecar ended: counted until they stand in the policy's status, which keeps them.
use std::{collections::HashMap, sync::Mutex};

use crate::rota::Of;

/// Events in the spools of sidecars that ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ended {
    /// Gone with the pod's volume.
    pub lost: u64,
    /// On a PersistentVolumeClaim, for another sidecar to deliver.
    pub left: u64,
}

/// Those that no status shows yet.
#[derive(Debug, Default)]
pub struct Losses(Mutex<HashMap<Of, Ended>>);

impl Ended {
    /// Both together.
    #[must_use]
    pub fn and(self, more: Self) -> Self {
        Self { lost: self.lost.saturating_add(more.lost), left: self.left.saturating_add(more.left) }
    }
}

impl Losses {
    /// So many events of a policy were in a spool.
    pub fn add(&self, of: &Of, events: Ended) {
        if events != Ended::default()
            && let Ok(mut waiting) = self.0.lock()
        {
            let known = waiting.entry(of.clone()).or_default();
            *known = known.and(events);
        }
    }

    /// Those of a policy, for its status. Whoever cannot write that adds them again.
    pub fn take(&self, of: &Of) -> Ended {
        self.0.lock().ok().and_then(|mut waiting| waiting.remove(of)).unwrap_or_default()
    }
}
