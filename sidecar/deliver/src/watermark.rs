//! Up to where everything is delivered, whatever the order of the reports.
use std::collections::BTreeMap;

/// The next record that is not known to be delivered, and those above it that are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Watermark {
    next: u64,
    /// Ranges that are delivered above: first record → the one behind the last. They do not touch.
    ahead: BTreeMap<u64, u64>,
}

impl Watermark {
    /// Everything below `next` is delivered.
    pub fn new(next: u64) -> Self {
        Self { next, ahead: BTreeMap::new() }
    }

    /// The first record that is not known to be delivered.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// A record is delivered.
    pub fn done(&mut self, seq: u64) {
        if seq == self.next {
            self.next = self.ahead.remove(&(seq + 1)).unwrap_or(seq + 1);
        } else if seq > self.next && !self.is_done(seq) {
            let end = self.ahead.remove(&(seq + 1)).unwrap_or(seq + 1);
            match self.ahead.range_mut(..seq).next_back() {
                Some((_, before)) if *before == seq => *before = end,
                _ => drop(self.ahead.insert(seq, end)),
            }
        }
    }

    /// Whether a record is delivered.
    pub fn is_done(&self, seq: u64) -> bool {
        seq < self.next || self.ahead.range(..=seq).next_back().is_some_and(|(_, end)| seq < *end)
    }

    /// Nothing below `next` is waited for any more.
    pub fn skip_to(&mut self, next: u64) {
        if next <= self.next {
            return;
        }
        self.next = next;
        while let Some((first, end)) = self.ahead.pop_first() {
            if first > self.next {
                self.ahead.insert(first, end);
                return;
            }
            self.next = self.next.max(end);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_watermark_is_the_first_record_without_a_report(mut seqs in prop::collection::vec(0u64..64, 0..80), skip in 0u64..70) {
            let mut mark = Watermark::new(0);
            for seq in &seqs {
                mark.done(*seq);
            }
            seqs.sort_unstable();
            seqs.dedup();
            let expected = (0..).find(|seq| !seqs.contains(seq)).unwrap();
            prop_assert_eq!(mark.next(), expected);
            prop_assert!((0..64).all(|seq| mark.is_done(seq) == seqs.contains(&seq)));
            let mut skipped = mark.clone();
            skipped.skip_to(skip);
            let expected = (skip..).find(|seq| !seqs.contains(seq)).unwrap().max(mark.next());
            prop_assert_eq!(skipped.next(), expected);
            prop_assert!((skip..64).all(|seq| skipped.is_done(seq) == (seqs.contains(&seq) || seq < expected)));
        }
    }
}
