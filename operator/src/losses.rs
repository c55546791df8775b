//! Events that pods took with them: counted until they stand in the policy's status, which keeps them.
use std::{collections::HashMap, sync::Mutex};

use crate::rota::Of;

/// Losses that no status shows yet.
#[derive(Debug, Default)]
pub struct Losses(Mutex<HashMap<Of, u64>>);

impl Losses {
    /// So many events of a policy are gone.
    pub fn add(&self, of: &Of, events: u64) {
        if events > 0
            && let Ok(mut waiting) = self.0.lock()
        {
            let known = waiting.entry(of.clone()).or_default();
            *known = known.saturating_add(events);
        }
    }

    /// Those of a policy, for its status. Whoever cannot write that adds them again.
    pub fn take(&self, of: &Of) -> u64 {
        self.0.lock().ok().and_then(|mut waiting| waiting.remove(of)).unwrap_or_default()
    }
}
