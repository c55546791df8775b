//! Records that the destination refused alone, before they become dead letters.
//!
//! A refusal proves nothing about a record if the destination refuses everything. So a record at fault is kept until the destination has taken
//! another one after it. Then it is tried alone once more: what refused it may be fixed. If it is refused again it becomes a dead letter.
//! After a few of those in a row the others wait for another success: the destination may refuse everything again.
//!
//! Refusals without a success between them are the destination's fault: the breaker opens, and the records stay in the journal. A failure of
//! the destination itself makes all that is known worthless.
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// So many refusals in a row are the destination's fault, however fast they come.
const MAX_IN_A_ROW: u32 = 100;
/// Dead letters between two successes.
const MAX_BURIED_IN_A_ROW: u32 = 5;
/// So many are kept; more are not tried.
pub(super) const MAX_CONDEMNED: usize = 10_000;

/// Records at fault.
#[derive(Debug, Default)]
pub(super) struct Condemned {
    /// Those that wait for a success, and why they were refused.
    records: BTreeMap<u64, String>,
    /// Those that are tried once more after a success.
    retried: BTreeSet<u64>,
    /// Dead letters since the last success.
    buried: u32,
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

    /// Whether no record waits or is tried once more.
    pub(super) fn is_idle(&self) -> bool {
        self.records.is_empty() && self.retried.is_empty()
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
        self.records.values().next().map(String::as_str)
    }

    /// A record was refused alone. It counts against the destination unless others are in flight. The reason comes back if the record is a dead
    /// letter now.
    pub(super) fn refuse(&mut self, seq: u64, reason: String, now: Duration, counts: bool) -> Option<String> {
        if self.in_a_row == 0 {
            self.first_at = now;
        }
        self.in_a_row += u32::from(counts);
        if self.retried.remove(&seq) && self.buried < MAX_BURIED_IN_A_ROW {
            self.buried += 1;
            return Some(reason);
        }
        self.records.insert(seq, reason);
        None
    }

    /// A record is no longer refused, or no longer there.
    pub(super) fn remove(&mut self, seq: u64) {
        self.records.remove(&seq);
        self.retried.remove(&seq);
    }

    /// Whether the refusals are the destination's fault: nothing was taken between so many of them, for so long.
    pub(super) fn blames_destination(&self, now: Duration, threshold: u32, lasting: Duration) -> bool {
        self.in_a_row >= MAX_IN_A_ROW || (self.in_a_row >= threshold && now.saturating_sub(self.first_at) >= lasting)
    }

    /// The destination itself failed: what it refused before says nothing any more.
    pub(super) fn forget_refusals(&mut self) {
        self.retried.clear();
        self.in_a_row = 0;
    }

    /// The destination took a record. Returns the records that must be tried once more, alone.
    pub(super) fn success(&mut self) -> Vec<u64> {
        (self.in_a_row, self.buried, self.is_probed) = (0, 0, false);
        let again: Vec<u64> = std::mem::take(&mut self.records).into_keys().collect();
        self.retried.extend(&again);
        again
    }

    /// Whether a record was written for the destination to take or to refuse, since it last took one.
    pub(super) fn is_probed(&self) -> bool {
        self.is_probed
    }

    /// One was written.
    pub(super) fn probed(&mut self) {
        self.is_probed = true;
    }

    /// Puts a record back whose dead letter could not be kept.
    pub(super) fn put_back(&mut self, seq: u64, reason: String) {
        self.records.insert(seq, reason);
    }

    /// Forgets all, as when the destination changes.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(1);

    fn refuse(condemned: &mut Condemned, seq: u64) -> Option<String> {
        condemned.refuse(seq, "no".into(), NOW, true)
    }

    #[test]
    fn a_record_that_is_refused_before_and_after_a_success_is_at_fault() {
        let mut condemned = Condemned::default();
        assert_eq!(refuse(&mut condemned, 3), None);
        assert_eq!(condemned.success(), [3]);
        assert_eq!(refuse(&mut condemned, 3), Some("no".into()));
        assert_eq!(condemned.len(), 0);
    }

    #[test]
    fn a_failure_of_the_destination_begins_it_all_anew() {
        let mut condemned = Condemned::default();
        refuse(&mut condemned, 3);
        condemned.success();
        condemned.forget_refusals();
        assert_eq!(refuse(&mut condemned, 3), None, "nothing was taken since");
    }

    #[test]
    fn a_few_dead_letters_in_a_row_need_another_success() {
        let mut condemned = Condemned::default();
        (0..8).for_each(|seq| drop(refuse(&mut condemned, seq)));
        assert_eq!(condemned.success().len(), 8);
        let buried = (0..8).filter(|seq| refuse(&mut condemned, *seq).is_some()).count();
        assert_eq!((buried, condemned.len()), (5, 3));
    }

    #[test]
    fn refusals_without_a_success_are_the_destinations_fault() {
        let mut condemned = Condemned::default();
        (0..5).for_each(|seq| drop(refuse(&mut condemned, seq)));
        assert!(!condemned.blames_destination(NOW * 2, 5, NOW * 10), "too early to tell");
        assert!(condemned.blames_destination(NOW * 11, 5, NOW * 10));
        condemned.success();
        assert!(!condemned.blames_destination(NOW * 20, 5, NOW * 10));
        (0..u64::from(MAX_IN_A_ROW)).for_each(|seq| drop(refuse(&mut condemned, seq)));
        assert!(condemned.blames_destination(NOW, 5, NOW * 10), "so many at once");
    }
}
