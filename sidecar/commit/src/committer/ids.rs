//! Ids of events: which are known, which are free again, and their files.
use std::sync::Arc;

use steno_chain::{Kind, Note};
use steno_journal::{Damage, Next, Reader};

use super::{Committer, Owed};
use crate::{
    frame::{Frame, frames},
    id_writer::{Done, Wait},
    index::{self, Entry},
    losses::lost_range,
};

impl Committer {
    /// Has the ids of lost records be free again. Whether that is durable; it counts at once in any case.
    pub(super) fn forget(&mut self, first: u64, next: u64) -> bool {
        let mut gone = self.index.gone().clone();
        if !gone.ids.add(first, next) && self.gone_saved {
            return true;
        }
        self.index.set_gone(gone);
        self.save_gone()
    }

    /// Notes that the chains name losses, so that no later start names them again.
    pub(super) fn note_told(&mut self, ranges: impl IntoIterator<Item = (u64, u64)>) {
        let mut gone = self.index.gone().clone();
        // What was delivered is not met again.
        gone.told.prune(self.journal.positions().values().min().copied().unwrap_or(0));
        let mut is_new = false;
        for (first, next) in ranges {
            is_new |= gone.told.add(first, next);
        }
        if is_new {
            self.index.set_gone(gone);
            self.save_gone();
        }
    }

    pub(super) fn save_gone(&mut self) -> bool {
        self.gone_saved = self.index.gone().save(&*self.disk, &self.journal.uuid()).is_ok();
        self.gone_saved
    }

    /// Makes a file of ids again in which a page cannot be read, so that a retry is known for certain. Whether there was one.
    pub(super) fn mend_index(&mut self) -> bool {
        let Some(file) = self.index.damaged() else { return false };
        let (mut entries, pages) = file.entries();
        let held = self.journal.shared().oldest();
        if file.first_seq < held {
            tracing::error!(
                file = file.name(),
                pages,
                "event ids are lost whose events the journal no longer has; their retries will be taken as new"
            );
        }
        entries.retain(|entry| entry.seq < held);
        entries.extend(self.entries_of(file.first_seq.max(held), file.end_seq));
        let uuid = self.journal.uuid();
        match index::write(&self.disk, uuid, file.first_seq, file.end_seq, &sorted(entries)) {
            Ok(file) => {
                self.index.renew(Arc::new(file));
                true
            }
            Err(error) => {
                tracing::error!(%error, "failed to make a file of event ids again");
                false
            }
        }
    }

    /// Reads the segment that holds a record, if nobody has since the start. Whether records in it are lost.
    pub(super) fn read_segment_of(&mut self, seq: u64) -> bool {
        let Some((first, end)) = self.unread.range(..=seq).next_back().map(|(first, end)| (*first, *end)) else { return false };
        if seq >= end {
            return false;
        }
        self.unread.remove(&first);
        let mut reader = Reader::new(self.journal.shared(), first);
        let mut found = false;
        loop {
            match reader.next() {
                Ok(Next::Block(block)) if block.header.next_seq() < end => {}
                Ok(Next::Lost(lost)) => {
                    found = true;
                    self.note_loss(&lost);
                    if lost.next_seq >= end {
                        return found;
                    }
                }
                Ok(_) => return found,
                Err(error) => {
                    tracing::error!(%error, first, end, "a segment cannot be read; retries of its events are believed for now");
                    return found;
                }
            }
        }
    }

    /// Notes that undelivered records cannot be read: their ids are free, and a record will say so. What was delivered is not missed.
    pub(super) fn note_loss(&mut self, lost: &Damage) {
        let delivered = self.journal.positions().values().min().copied().unwrap_or(0);
        let first = lost.first_seq.max(delivered);
        let gone = self.index.gone();
        let is_known = gone.ids.contains_all(first, lost.next_seq) || gone.told.contains_all(first, lost.next_seq);
        if first >= lost.next_seq || is_known {
            return;
        }
        self.metrics.losses.lock().push(Damage { first_seq: first, ..lost.clone() });
        self.telling.push((first, lost.next_seq));
        tracing::error!(first, next = lost.next_seq, "a part of the journal cannot be read; its loss is recorded by name");
        self.metrics.lost.inc_by(lost.next_seq - first);
        if !self.forget(first, lost.next_seq) {
            tracing::warn!("failed to save which records are gone; until the next start their events may be sent again");
        }
        let note = Note::new(Kind::Quarantine, "A part of the journal could not be read any more.")
            .number("records", lost.next_seq - first)
            .lost(lost.ranges.iter().map(lost_range).collect());
        let records = self.by_chain(note);
        self.to_tell.extend(records.into_iter().map(|(chain, note)| Owed { note, chain, epoch: None }));
    }

    /// Ids of the events that the journal holds in a range of sequence numbers.
    pub(super) fn entries_of(&self, first: u64, end: u64) -> Vec<Entry> {
        let mut entries = Vec::new();
        let mut reader = Reader::new(self.journal.shared(), first);
        loop {
            match reader.next() {
                Ok(Next::Block(block)) if block.header.first_seq < end => {
                    let events = (block.header.first_seq..).zip(frames(&block.payload)).filter(|(_, frame)| !frame.is_note);
                    let in_range = events.filter(|(seq, _)| (first..end).contains(seq));
                    entries.extend(in_range.map(|(seq, frame)| entry_of(seq, &frame, block.header.journal_ms)));
                }
                Ok(Next::Lost(lost)) if lost.first_seq < end => {}
                Err(error) => {
                    tracing::error!(%error, first, end, "the journal cannot be read; some retries will be taken as new");
                    return entries;
                }
                _ => return entries,
            }
        }
    }

    /// Has the ids below a number written to a file that are in none. One is written at a time: who waits has the one that is on its way, which may not
    /// have all of them, and the next.
    pub(super) fn seal_ids(&mut self, end_seq: u64, wait: Wait) {
        self.collect_sealed(wait);
        let first = self.index.handed_to();
        if end_seq > first && !self.sealer.writing {
            let entries = self.index.take_unsealed(end_seq);
            self.sealer.write(first, end_seq, entries);
            self.collect_sealed(wait);
        }
    }

    pub(super) fn collect_sealed(&mut self, wait: Wait) {
        let collected = self.sealer.collect(wait);
        if collected.is_empty() {
            return;
        }
        for done in collected {
            match done {
                Done::Written(Ok(file)) => {
                    self.index.publish(file);
                    self.ids_stuck = false;
                }
                Done::Written(Err(full)) => {
                    self.index.take_back();
                    // The reserve makes room for ids. Only if there is none they may go with their segments.
                    self.ids_stuck = full && !self.journal.give_up_reserve();
                }
                Done::Merged(None) => self.sealer.failed = Some(self.index.files().len()),
                Done::Merged(Some((file, old))) => {
                    self.index.replace(&file);
                    for old in old {
                        let _ = self.disk.remove(old.name());
                    }
                }
            }
        }
        if !self.closed {
            self.sealer.merge(self.index.files());
        }
    }

    /// Delivered segments are held by ids that no file has yet: have them written.
    pub(super) fn seal_for_space(&mut self, wait: Wait) {
        self.collect_sealed(wait);
        let delivered = self.journal.positions().values().min().copied().unwrap_or(0);
        if self.journal.droppable().is_some_and(|end| end <= delivered && end > self.index.handed_to()) {
            self.seal_ids(delivered.min(self.journal.next_seq()), wait);
        }
    }
}

pub(super) fn entry_of(seq: u64, frame: &Frame<'_>, at_ms: u64) -> Entry {
    Entry { identity: frame.identity, print: frame.print, seq, rules: frame.rules, at_ms }
}

/// As a file of ids has them: by identity, of each the newest.
pub(super) fn sorted(mut entries: Vec<Entry>) -> Vec<Entry> {
    entries.sort_unstable_by(|a, b| a.identity.cmp(&b.identity).then(b.seq.cmp(&a.seq)));
    entries.dedup_by_key(|entry| entry.identity);
    entries
}
