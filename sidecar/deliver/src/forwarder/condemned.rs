//! Records that the destination refused alone, before they become dead letters.
//!
//! A refusal proves nothing about a record if the destination refuses everything. So a record at fault is kept until the destination has taken
//! another one after it: then it is the record, and it becomes a dead letter. Refusals without a success between them are the destination's
//! fault: the breaker opens, and the records stay in the journal.
//!
//! An era ends with each failure that is the destination's. A record that was refused in an earlier era is tried once more before anything
//! is concluded: what refused it may be fixed.
use std::{collections::BTreeMap, time::Duration};

/// So many refusals in a row are the destination's fault, however fast they come.
const MAX_IN_A_ROW: u32 = 100;
/// So many are kept; more are not tried.
pub(super) const MAX_CONDEMNED: usize = 10_000;

#[derive(Debug, Clone)]
struct Sentence {
    reason: String,
    era: u64,
}

/// Records at fault.
#[derive(Debug, Default)]
pub(super) struct Condemned {
    records: BTreeMap<u64, Sentence>,
    era: u64,
    in_a_row: u32,
    first_at: Duration,
    /// A record was written for the destination to take or to refuse, since it last took one.
    is_probed: bool,
}

// === impl Condemned ===

impl Condemned {
    /// How many records wait.
    pub(super) fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether this record waits.
    pub(super) fn contains(&self, seq: u64) -> bool {
        !self.records.is_empty() && self.records.contains_key(&seq)
    }

    /// The first one.
    pub(super) fn first(&self) -> Option<u64> {
        self.records.keys().next().copied()
    }

    /// Why the first one was refused.
    pub(super) fn reason(&self) -> Option<&str> {
        self.records.values().next().map(|sentence| &*sentence.reason)
    }

    /// A record was refused alone.
    pub(super) fn add(&mut self, seq: u64, reason: String, now: Duration) {
        if self.in_a_row == 0 {
            self.first_at = now;
        }
        self.in_a_row += 1;
        self.records.insert(seq, Sentence { reason, era: self.era });
    }

    /// A record is no longer refused, or no longer there.
    pub(super) fn remove(&mut self, seq: u64) {
        self.records.remove(&seq);
    }

    /// Whether the refusals are the destination's fault: nothing was taken between so many of them, for so long.
    pub(super) fn blames_destination(&self, now: Duration, threshold: u32, lasting: Duration) -> bool {
        self.in_a_row >= MAX_IN_A_ROW || (self.in_a_row >= threshold && now.saturating_sub(self.first_at) >= lasting)
    }

    /// The destination itself failed: what it refused before says nothing any more.
    pub(super) fn end_era(&mut self) {
        self.era += 1;
        self.in_a_row = 0;
    }

    /// The destination took a record. Returns the records that are thereby proven to be at fault, with the reasons, and those that must be tried
    /// once more.
    pub(super) fn success(&mut self) -> (Vec<(u64, String)>, Vec<u64>) {
        self.in_a_row = 0;
        self.is_probed = false;
        if self.records.is_empty() {
            return Default::default();
        }
        let era = self.era;
        let (proven, again): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.records).into_iter().partition(|(_, sentence)| sentence.era == era);
        let proven = proven.into_iter().map(|(seq, sentence)| (seq, sentence.reason)).collect();
        (proven, again.into_iter().map(|(seq, _)| seq).collect())
    }

    /// Whether a record should be written for the destination to take or to refuse. True once between two successes.
    pub(super) fn takes_probe(&mut self) -> bool {
        !std::mem::replace(&mut self.is_probed, true)
    }

    /// Puts a record back whose dead letter could not be kept.
    pub(super) fn put_back(&mut self, seq: u64, reason: String) {
        self.records.insert(seq, Sentence { reason, era: self.era });
    }

    /// Forgets all, as when the destination changes.
    pub(super) fn clear(&mut self) {
        self.records.clear();
        self.in_a_row = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_success_after_the_refusal_proves_a_record_at_fault() {
        let mut condemned = Condemned::default();
        condemned.add(3, "no".into(), Duration::ZERO);
        assert_eq!(condemned.success(), (vec![(3, "no".into())], vec![]));
        assert_eq!(condemned.len(), 0);
    }

    #[test]
    fn a_refusal_before_an_outage_is_tried_again() {
        let mut condemned = Condemned::default();
        condemned.add(3, "no".into(), Duration::ZERO);
        condemned.end_era();
        condemned.add(4, "no".into(), Duration::ZERO);
        assert_eq!(condemned.success(), (vec![(4, "no".into())], vec![3]));
    }

    #[test]
    fn refusals_without_a_success_are_the_destinations_fault() {
        let (mut condemned, second) = (Condemned::default(), Duration::from_secs(1));
        for seq in 0..5 {
            condemned.add(seq, "no".into(), second);
        }
        assert!(!condemned.blames_destination(second * 2, 5, second * 10), "too early to tell");
        assert!(condemned.blames_destination(second * 11, 5, second * 10));
        condemned.success();
        assert!(!condemned.blames_destination(second * 20, 5, second * 10));
        (0..MAX_IN_A_ROW).for_each(|seq| condemned.add(seq.into(), "no".into(), second * 20));
        assert!(condemned.blames_destination(second * 20, 5, second * 10), "so many at once");
    }
}
