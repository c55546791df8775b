//! Event ids inside the window: the newest in a table in memory, older ones in sorted files.
//!
//! Every file covers a range of sequence numbers; together with the table they cover the window without holes. A
//! file is written by [`Index::take_unsealed`]'s caller, away from the loop; until it is published its entries stay in the table.
use std::sync::Arc;

use hashbrown::HashTable;

mod sealed;

pub use sealed::{Sealed, load, merge, reached, write};

use crate::gone::Gone;

/// What is remembered of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Who it is.
    pub identity: [u8; 16],
    /// What the client sent.
    pub print: [u8; 16],
    /// Its sequence number.
    pub seq: u64,
    /// Generation of redaction rules of `print`.
    pub rules: u32,
    /// Journal clock when it was committed, in milliseconds.
    pub at_ms: u64,
}

/// The index.
pub struct Index {
    ring: Vec<Entry>,
    /// Where the next entry goes.
    next: usize,
    most: usize,
    table: HashTable<u32>,
    sealed: Vec<Arc<Sealed>>,
    /// Entries from this sequence number on are in the ring only.
    unsealed_from: u64,
    /// Entries from this sequence number on were not even handed out to be sealed.
    handed_to: u64,
    /// Records that are gone: their ids are free again.
    gone: Gone,
}

fn hash(identity: &[u8; 16]) -> u64 {
    // The identity is a keyed hash already.
    u64::from_le_bytes([identity[0], identity[1], identity[2], identity[3], identity[4], identity[5], identity[6], identity[7]])
}

// === impl Index ===

impl Index {
    /// An index with room for `most` entries in memory, over files that were loaded.
    pub(crate) fn new(most: usize, mut sealed: Vec<Arc<Sealed>>, first_seq: u64, gone: Gone) -> Self {
        sealed.sort_by_key(|file| file.first_seq);
        let from = sealed.last().map_or(first_seq, |file| file.end_seq);
        Self {
            ring: Vec::with_capacity(most),
            next: 0,
            most,
            table: HashTable::with_capacity(most),
            sealed,
            unsealed_from: from,
            handed_to: from,
            gone,
        }
    }

    /// Sequence number from which on entries must be entered after a start.
    pub fn unsealed_from(&self) -> u64 {
        self.unsealed_from
    }

    /// Entries in memory and on disk.
    pub fn len(&self) -> u64 {
        self.sealed.iter().map(|file| file.count).sum::<u64>()
            + self.ring.iter().filter(|entry| entry.seq >= self.unsealed_from).count() as u64
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Enters what was committed; an older entry of the same identity gives way.
    pub fn insert(&mut self, entry: Entry) {
        let key = hash(&entry.identity);
        if let Ok(found) = self.table.find_entry(key, |slot| self.ring[*slot as usize].identity == entry.identity) {
            found.remove();
        }
        let slot = self.next;
        if slot < self.ring.len() {
            let old = self.ring[slot].identity;
            if let Ok(found) = self.table.find_entry(hash(&old), |index| *index as usize == slot) {
                found.remove();
            }
            self.ring[slot] = entry;
        } else {
            self.ring.push(entry);
        }
        let ring = &self.ring;
        self.table.insert_unique(key, slot as u32, |index| hash(&ring[*index as usize].identity));
        self.next = (slot + 1) % self.most;
    }

    /// The newest entry of an identity that is not older than `oldest_ms`.
    pub fn find(&self, identity: &[u8; 16], oldest_ms: u64) -> Option<Entry> {
        let slot = self.table.find(hash(identity), |slot| self.ring[*slot as usize].identity == *identity);
        if let Some(slot) = slot {
            let entry = self.ring[*slot as usize];
            return (entry.at_ms >= oldest_ms && !self.gone.ids.contains(entry.seq)).then_some(entry);
        }
        self.sealed
            .iter()
            .rev()
            .filter(|file| file.newest_ms >= oldest_ms)
            .find_map(|file| file.find(identity))
            .filter(|entry| entry.at_ms >= oldest_ms && !self.gone.ids.contains(entry.seq))
    }

    /// A file in which a page could not be read.
    pub(crate) fn damaged(&self) -> Option<Arc<Sealed>> {
        self.sealed.iter().find(|file| file.is_damaged()).cloned()
    }

    /// A file was made again.
    pub(crate) fn renew(&mut self, file: Arc<Sealed>) {
        self.sealed.retain(|old| old.first_seq != file.first_seq);
        self.sealed.push(file);
        self.sealed.sort_by_key(|file| file.first_seq);
    }

    /// Ranges of sequence numbers from `oldest` on that files should cover and none does.
    pub(crate) fn holes(&self, oldest: u64) -> Vec<(u64, u64)> {
        let mut holes = Vec::new();
        let mut covered = oldest;
        for file in &self.sealed {
            if file.first_seq > covered {
                holes.push((covered, file.first_seq));
            }
            covered = covered.max(file.end_seq);
        }
        holes
    }

    /// Most events that one block may enter: so many never push out what no file has yet.
    pub const fn block_limit(&self) -> usize {
        self.most / 4
    }

    /// Records that are gone.
    pub(crate) const fn gone(&self) -> &Gone {
        &self.gone
    }

    /// Frees the ids of records that are gone.
    pub(crate) fn set_gone(&mut self, mut gone: Gone) {
        gone.ids.prune(self.sealed.first().map_or(0, |file| file.first_seq));
        self.gone = gone;
    }

    /// Whether so many sequence numbers are in memory only that they should be sealed before more come.
    pub fn should_seal(&self, next_seq: u64) -> bool {
        next_seq.saturating_sub(self.handed_to) >= self.most as u64 / 4
    }

    /// Whether entering so many more would push out entries that no file has yet.
    pub fn would_lose(&self, more: usize, next_seq: u64) -> bool {
        next_seq.saturating_sub(self.unsealed_from) + more as u64 > self.most as u64
    }

    /// Hands out the entries below `end_seq` that are in memory only, sorted, to be written; they stay findable here.
    pub fn take_unsealed(&mut self, end_seq: u64) -> Vec<Entry> {
        let mut entries: Vec<Entry> =
            self.ring.iter().filter(|entry| (self.handed_to..end_seq).contains(&entry.seq)).copied().collect();
        entries.sort_unstable_by(|a, b| a.identity.cmp(&b.identity).then(b.seq.cmp(&a.seq)));
        // Of an identity that was used again after its window, the newest counts.
        entries.dedup_by_key(|entry| entry.identity);
        self.handed_to = end_seq;
        entries
    }

    /// First sequence number that [`Self::take_unsealed`] would hand out.
    pub fn handed_to(&self) -> u64 {
        self.handed_to
    }

    /// Writing failed: what was handed out must be handed out again.
    pub fn take_back(&mut self) {
        self.handed_to = self.unsealed_from;
    }

    /// A file of handed-out entries is durable.
    pub fn publish(&mut self, file: Arc<Sealed>) {
        self.unsealed_from = self.unsealed_from.max(file.end_seq);
        self.sealed.push(file);
        self.sealed.sort_by_key(|file| file.first_seq);
    }

    /// Files were merged into one.
    pub fn replace(&mut self, merged: &Arc<Sealed>) {
        self.sealed.retain(|file| file.first_seq < merged.first_seq || file.end_seq > merged.end_seq);
        self.publish(merged.clone());
    }

    /// Takes out files that are older than the window, or the oldest while they are more than `most_bytes` together.
    pub fn expire(&mut self, oldest_ms: u64, most_bytes: u64) -> Vec<Arc<Sealed>> {
        let mut gone = Vec::new();
        while let Some(oldest) = self.sealed.first()
            && (oldest.newest_ms < oldest_ms || self.bytes() > most_bytes)
        {
            gone.push(self.sealed.remove(0));
        }
        gone
    }

    /// Bytes of the files.
    pub fn bytes(&self) -> u64 {
        self.sealed.iter().map(|file| file.bytes).sum()
    }

    /// The files, oldest first.
    pub fn files(&self) -> &[Arc<Sealed>] {
        &self.sealed
    }
}
