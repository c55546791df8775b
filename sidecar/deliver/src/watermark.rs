//! Up to where everything is delivered, whatever the order of the reports.
use std::collections::BTreeSet;

/// The next record that is not known to be delivered, and those above it that are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Watermark {
    next: u64,
    ahead: BTreeSet<u64>,
}

impl Watermark {
    /// Everything below `next` is delivered.
    pub fn new(next: u64) -> Self {
        Self { next, ahead: BTreeSet::new() }
    }

    /// The first record that is not known to be delivered.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// A record is delivered.
    pub fn done(&mut self, seq: u64) {
        if seq > self.next {
            self.ahead.insert(seq);
        } else if seq == self.next {
            self.next += 1;
            while self.ahead.remove(&self.next) {
                self.next += 1;
            }
        }
    }

    /// Whether a record is delivered.
    pub fn is_done(&self, seq: u64) -> bool {
        seq < self.next || self.ahead.contains(&seq)
    }

    /// Nothing below `next` is waited for any more.
    pub fn skip_to(&mut self, next: u64) {
        if next > self.next {
            self.ahead = self.ahead.split_off(&next);
            self.next = next;
            while self.ahead.remove(&self.next) {
                self.next += 1;
            }
        }
    }

    /// Records that were delivered ahead of others.
    pub fn ahead(&self) -> usize {
        self.ahead.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_watermark_is_the_first_record_without_a_report(mut seqs in prop::collection::vec(0u64..64, 0..80)) {
            let mut mark = Watermark::new(0);
            for seq in &seqs {
                mark.done(*seq);
            }
            seqs.sort_unstable();
            seqs.dedup();
            let expected = (0..).find(|seq| !seqs.contains(seq)).unwrap();
            prop_assert_eq!(mark.next(), expected);
            prop_assert!((0..64).all(|seq| mark.is_done(seq) == seqs.contains(&seq)));
        }
    }
}
