//! Finds which records of a refused batch are at fault.
//!
//! A pure state machine. It holds groups of records that the destination refused together. [`Bisect::start`] names the group to send next, and
//! [`Bisect::settle`] takes what became of each of its records. A group that is refused again is split in halves; a record that is refused
//! as a group of one is at fault.
//!
//! # Rules
//! - The caller starts a trial only while nothing is in flight, and sends nothing else until the trial has ended. So a refusal can only
//!   concern the trial itself.
//! - Each record that [`Bisect::start`] names is settled exactly once.
//! - Records are tried in the order of the journal, except those that could not be sent in an earlier trial.

/// What became of a record on trial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is delivered, or a dead letter, or gone: nothing more is to be done for it.
    Done,
    /// The destination refused it, alone or together with others.
    Refused(String),
    /// It was not sent, or failed for a reason that is not its own.
    NotNow,
}

/// A record that the destination refused while nothing else was in flight.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AtFault {
    /// Its sequence number in the journal.
    pub(super) seq: u64,
    /// Why the destination refused it.
    pub(super) reason: String,
}

/// Groups of suspects, and the one on trial.
#[derive(Debug, Default)]
pub(super) struct Bisect {
    /// Groups that were refused; the last one is tried next.
    groups: Vec<Vec<u64>>,
    trial: Option<Trial>,
}

#[derive(Debug)]
struct Trial {
    size: usize,
    pending: usize,
    refused: Vec<(u64, String)>,
    not_now: Vec<u64>,
}

// === impl Bisect ===

impl Bisect {
    /// Whether no record is under suspicion.
    pub(super) fn is_idle(&self) -> bool {
        self.groups.is_empty() && self.trial.is_none()
    }

    /// Whether a trial is under way.
    pub(super) fn is_on_trial(&self) -> bool {
        self.trial.is_some()
    }

    /// Takes records that were refused together.
    pub(super) fn suspect(&mut self, mut refused: Vec<u64>) {
        refused.sort_unstable();
        refused.dedup();
        self.split(refused);
    }

    /// Takes one record that must be tried again, before all others.
    pub(super) fn suspect_alone(&mut self, seq: u64) {
        self.groups.push(vec![seq]);
    }

    /// Begins the next trial and returns its records; empty if there is none, or if one is under way.
    pub(super) fn start(&mut self) -> Vec<u64> {
        if self.trial.is_some() {
            return Vec::new();
        }
        let Some(group) = self.groups.pop() else { return Vec::new() };
        self.trial = Some(Trial { size: group.len(), pending: group.len(), refused: Vec::new(), not_now: Vec::new() });
        group
    }

    /// Takes what became of one record of the trial; returns the record at fault if this ends a trial of one.
    pub(super) fn settle(&mut self, seq: u64, verdict: Verdict) -> Option<AtFault> {
        let trial = self.trial.as_mut()?;
        trial.pending = trial.pending.saturating_sub(1);
        match verdict {
            Verdict::Done => {}
            Verdict::Refused(reason) => trial.refused.push((seq, reason)),
            Verdict::NotNow => trial.not_now.push(seq),
        }
        if trial.pending > 0 {
            return None;
        }
        let Trial { size, mut refused, mut not_now, .. } = self.trial.take()?;
        if !not_now.is_empty() {
            not_now.sort_unstable();
            self.groups.push(not_now);
        }
        if size == 1 {
            return refused.pop().map(|(seq, reason)| AtFault { seq, reason });
        }
        self.suspect(refused.into_iter().map(|(seq, _)| seq).collect());
        None
    }

    /// Forgets all suspects, as when the destination changes.
    pub(super) fn clear(&mut self) {
        self.groups.clear();
        self.trial = None;
    }

    fn split(&mut self, mut group: Vec<u64>) {
        if group.len() > 1 {
            let second = group.split_off(group.len().div_ceil(2));
            self.groups.push(second);
        }
        if !group.is_empty() {
            self.groups.push(group);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// A destination that cuts what it gets into batches of its own and refuses each batch that holds poison.
    fn batches(group: &[u64], cuts: &mut impl Iterator<Item = usize>) -> Vec<Vec<u64>> {
        let (mut rest, mut out) = (group.to_vec(), Vec::new());
        while !rest.is_empty() {
            let size = cuts.next().unwrap_or(1).clamp(1, rest.len());
            let tail = rest.split_off(size);
            out.push(std::mem::replace(&mut rest, tail));
        }
        out
    }

    proptest! {
        #[test]
        fn only_a_record_refused_alone_is_at_fault_and_all_others_arrive_once(
            count in 1u64..200,
            poison in prop::collection::btree_set(0u64..200, 0..40),
            cuts in prop::collection::vec(1usize..60, 1..50),
            mut away in prop::collection::vec(0u8..8, 1..50),
            backwards in prop::collection::vec(any::<bool>(), 1..20),
        ) {
            // Some day a batch comes through.
            away.push(1);
            let poison: BTreeSet<u64> = poison.into_iter().filter(|seq| *seq < count).collect();
            let (mut cuts, mut away, mut backwards) = (cuts.into_iter().cycle(), away.into_iter().cycle(), backwards.into_iter().cycle());
            let (mut delivered, mut at_fault) = (Vec::new(), BTreeSet::new());
            let mut bisect = Bisect::default();
            bisect.suspect((0..count).collect());
            let mut trials = 0;
            while !bisect.is_idle() {
                trials += 1;
                prop_assert!(trials < 20_000, "it does not end");
                let group = bisect.start();
                prop_assert!(bisect.start().is_empty(), "two trials at a time");
                let mut outcomes = Vec::new();
                for batch in batches(&group, &mut cuts) {
                    // Now and then a batch does not come through for another reason.
                    let verdict = if away.next() == Some(0) {
                        Verdict::NotNow
                    } else if batch.iter().any(|seq| poison.contains(seq)) {
                        Verdict::Refused("poison".into())
                    } else {
                        delivered.extend(batch.iter().copied());
                        Verdict::Done
                    };
                    outcomes.extend(batch.into_iter().map(|seq| (seq, verdict.clone())));
                }
                if backwards.next() == Some(true) {
                    outcomes.reverse();
                }
                for (seq, verdict) in outcomes {
                    if let Some(found) = bisect.settle(seq, verdict) {
                        prop_assert_eq!(&group, &[found.seq], "it was not alone");
                        prop_assert!(at_fault.insert(found.seq));
                    }
                }
            }
            prop_assert_eq!(&at_fault, &poison);
            delivered.sort_unstable();
            let innocent: Vec<u64> = (0..count).filter(|seq| !poison.contains(seq)).collect();
            prop_assert_eq!(delivered, innocent);
        }
    }
}
