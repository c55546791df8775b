//! Events that were still in a spool when its sidecar ended: counted until they stand in the policy's status, which keeps them.
use std::{
    collections::HashMap,
    sync::Mutex,
    time::{Duration, Instant},
};

use crate::rota::Of;

/// Events in the spools of sidecars that ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ended {
    /// Gone with the pod's volume.
    pub lost: u64,
    /// On a PersistentVolumeClaim, for another sidecar to deliver.
    pub left: u64,
}

/// For so long after a sidecar left events, what others tell of the volume may be older: they look at it every five seconds, and are asked every half
/// minute.
const SURE: Duration = Duration::from_mins(1);

/// Those that no status shows yet.
#[derive(Debug, Default)]
pub struct Losses {
    waiting: Mutex<HashMap<Of, Ended>>,
    /// When a sidecar of a policy last left events on a claim.
    left: Mutex<HashMap<Of, Instant>>,
}

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
            && let Ok(mut waiting) = self.waiting.lock()
        {
            let known = waiting.entry(of.clone()).or_default();
            *known = known.and(events);
        }
    }

    /// A sidecar of the policy ended just now, with these events in its spool.
    pub fn ended(&self, of: &Of, events: Ended, now: Instant) {
        if events.left > 0
            && let Ok(mut left) = self.left.lock()
        {
            left.retain(|_, when| now - *when < SURE);
            left.insert(of.clone(), now);
        }
        self.add(of, events);
    }

    /// Whether what sidecars tell of the volume is no older than the events that were left there last.
    pub fn is_sure(&self, of: &Of, now: Instant) -> bool {
        self.left.lock().is_ok_and(|left| left.get(of).is_none_or(|when| now - *when >= SURE))
    }

    /// Those of a policy, for its status. Whoever cannot write that adds them again.
    pub fn take(&self, of: &Of) -> Ended {
        self.waiting.lock().ok().and_then(|mut waiting| waiting.remove(of)).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_told_before_events_were_left_says_nothing_of_them() {
        let (losses, of, now) = (Losses::default(), ("shop".into(), "audit".into()), Instant::now());
        assert!(losses.is_sure(&of, now));
        losses.ended(&of, Ended { lost: 0, left: 5 }, now);
        assert!(!losses.is_sure(&of, now + SURE / 2) && losses.is_sure(&of, now + SURE));
        losses.ended(&of, Ended { lost: 1, left: 0 }, now + SURE);
        assert!(losses.is_sure(&of, now + SURE));
        assert_eq!((losses.take(&of), losses.take(&of)), (Ended { lost: 1, left: 5 }, Ended::default()));
    }
}
