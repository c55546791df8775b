//! Records that are lost, and how their loss is named in the chains' own numbers.
use std::{collections::BTreeMap, ops::Range};

use crate::ChainRange;

/// How exactly a loss is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// All of these records existed.
    Exact,
    /// Upper bound: some of these records may never have existed, or never have been acknowledged.
    AtMost,
}

/// Records that were lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// First sequence number that is lost.
    pub first_seq: u64,
    /// First one that is not.
    pub next_seq: u64,
    /// The same in each chain's own numbers. A chain is missing if nothing is known of it.
    pub ranges: Vec<ChainRange>,
    /// How exactly the loss is known.
    pub extent: Extent,
}

/// Heads of chains at a place of the log, by chain id.
pub(crate) type HeadMap = BTreeMap<String, ChainRange>;

/// Heads of chains at a place of the log.
#[derive(Debug, Clone, Default)]
pub(crate) struct Heads {
    pub(crate) known: HeadMap,
    /// All chains that existed there are known. If not, a chain that is missing may have begun before.
    pub(crate) complete: bool,
    /// Sequence number behind the last block that was seen.
    pub(crate) reached: u64,
}

// === impl Damage ===

impl Damage {
    /// Number of records.
    #[must_use]
    pub const fn records(&self) -> u64 {
        self.next_seq.saturating_sub(self.first_seq)
    }

    /// Takes in a loss that follows directly.
    pub(crate) fn join(&mut self, next: Self) {
        self.next_seq = next.next_seq;
        if next.extent == Extent::AtMost {
            self.extent = Extent::AtMost;
        }
        for range in next.ranges {
            match self.ranges.iter_mut().find(|known| known.id == range.id) {
                Some(known) => {
                    known.first = known.first.min(range.first);
                    known.last = known.last.max(range.last);
                }
                None => self.ranges.push(range),
            }
        }
    }
}

/// What each chain lost with these sequence numbers of the log. `after`: the heads behind the loss, or further on.
pub(crate) fn between(before: &Heads, after: &Heads, lost_seqs: Range<u64>) -> Vec<ChainRange> {
    let lost = |id: &str, epoch: u64, before_head: Option<&ChainRange>, last: u64| {
        // A chain that nobody knew before the loss began in it at the earliest, with 0 or with a chain floor.
        let first = before_head.map_or(0, |head| head.last + 1);
        (first <= last).then(|| ChainRange { id: id.to_owned(), epoch, first, last, hash: [0; 32] })
    };
    let known_after = after.known.values().filter_map(|head| lost(&head.id, head.epoch, before.known.get(&head.id), head.last));
    // A chain that nobody knows behind the loss ended in it.
    let count = lost_seqs.end - lost_seqs.start;
    let ended = before.known.values().filter(|head| !after.known.contains_key(&head.id));
    let ended = ended.filter_map(|head| lost(&head.id, head.epoch, Some(head), head.last + count));
    known_after.chain(ended).collect()
}
