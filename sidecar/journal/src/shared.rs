//! What the writer and its readers share.
use std::sync::Arc;

use parking_lot::Mutex;

use crate::{ChainRange, damage::HeadMap, segment::Segment};

/// What the writer and its readers share.
pub struct Shared {
    pub(crate) uuid: [u8; 16],
    pub(crate) inner: Mutex<SharedInner>,
}

pub(crate) struct SharedInner {
    pub(crate) segments: Vec<Arc<Segment>>,
    pub(crate) tail: Tail,
    pub(crate) heads: ChainHeads,
}

/// Up to where everything is synced.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tail {
    pub(crate) generation: u64,
    pub(crate) offset: u64,
    pub(crate) seq: u64,
}

/// Heads of the chains, and how many bytes they take in a snapshot.
#[derive(Default)]
pub(crate) struct ChainHeads {
    by_id: HeadMap,
    bytes: usize,
}

// === impl ChainHeads ===

impl ChainHeads {
    pub(crate) fn new(by_id: HeadMap) -> Self {
        let bytes = by_id.values().map(ChainRange::stored_len).sum();
        Self { by_id, bytes }
    }

    pub(crate) const fn all(&self) -> &HeadMap {
        &self.by_id
    }

    /// Bytes that they take in a snapshot.
    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn set(&mut self, head: ChainRange) {
        if let Some(known) = self.by_id.get_mut(&head.id) {
            *known = head;
        } else {
            self.bytes += head.stored_len();
            self.by_id.insert(head.id.clone(), head);
        }
    }

    pub(crate) fn remove(&mut self, id: &str) {
        if let Some(head) = self.by_id.remove(id) {
            self.bytes -= head.stored_len();
        }
    }
}

// === impl Shared ===

impl Shared {
    /// Sequence number after the last synced record.
    pub fn synced(&self) -> u64 {
        self.inner.lock().tail.seq
    }

    /// Oldest sequence number that is still on disk.
    pub fn oldest(&self) -> u64 {
        let inner = self.inner.lock();
        inner.segments.first().map_or(inner.tail.seq, |segment| segment.first_seq)
    }

    /// The oldest segment's first sequence number such that no more than `bytes` lie from there on; `None`: it is so from `seq` on already. Whole
    /// segments only, and never the one that is written to.
    pub fn cut_to(&self, seq: u64, bytes: u64) -> Option<u64> {
        let inner = self.inner.lock();
        let first = inner.segments.partition_point(|segment| segment.first_seq <= seq).saturating_sub(1);
        // Not the segment that holds `seq`: how much of it is behind that number is not known.
        let mut left: u64 = inner.segments.iter().skip(first + 1).map(|segment| inner.held(segment)).sum();
        if left <= bytes {
            return None;
        }
        let mut cut = first + 1;
        while left > bytes && cut + 1 < inner.segments.len() {
            left -= inner.segments.get(cut).map_or(0, |segment| inner.held(segment));
            cut += 1;
        }
        inner.segments.get(cut).map(|segment| segment.first_seq)
    }

    /// Bytes of the segments that hold records at or above a sequence number; 0 if there are no such records.
    pub fn bytes_from(&self, seq: u64) -> u64 {
        let inner = self.inner.lock();
        if seq >= inner.tail.seq {
            return 0;
        }
        let first = inner.segments.partition_point(|segment| segment.first_seq <= seq).saturating_sub(1);
        inner.segments.iter().skip(first).map(|segment| inner.held(segment)).sum()
    }

    /// First sequence numbers of the segments in use, oldest first.
    pub fn segment_starts(&self) -> Vec<(u64, u64)> {
        self.inner.lock().segments.iter().map(|segment| (segment.generation, segment.first_seq)).collect()
    }
}

// === impl SharedInner ===

impl SharedInner {
    /// Bytes that a segment holds; all of it if its end is not known.
    fn held(&self, segment: &Arc<Segment>) -> u64 {
        let end = if segment.generation == self.tail.generation { Some(self.tail.offset) } else { segment.end.get().copied() };
        end.unwrap_or(segment.bytes)
    }
}
