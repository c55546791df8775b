//! Room: whether there is any, what may go, and what is told of it.
use std::{
    collections::{BTreeMap, VecDeque},
    sync::atomic::Ordering,
    time::Duration,
};

use steno_chain::{Kind, Note};
use steno_journal::{Class, sink_id};

use super::{Committer, DROPS, Open, Owed, positions_of};
use crate::{
    config::{Reserve, WhenFull},
    id_writer::Wait,
    losses::losses,
    work::{Answer, Failure, Item},
};

/// With less room than the largest event of a default policy needs, in bytes, the spool counts as full.
const FULL_BELOW: u64 = 64 << 10;

impl Committer {
    pub(super) fn positions(&mut self, positions: &BTreeMap<u64, u64>) {
        // As the configuration has them, also where that could not be saved when it came.
        let mut merged = positions_of(&self.config.sinks, self.journal.positions(), self.journal.shared().oldest());
        for (sink, position) in positions {
            // A sink that is gone holds nothing any more.
            if let Some(known) = merged.get_mut(sink) {
                *known = (*known).max(*position);
            }
        }
        if let Err(error) = self.journal.save_positions(&merged) {
            tracing::warn!(%error, "delivered positions could not be saved; some events may be delivered again after a crash");
            return;
        }
        self.free();
    }

    /// Segments from here on are needed to rebuild the index. On a full disk no file of ids can be written, and only freeing helps: then
    /// the ids stay in memory only until one can.
    pub(super) fn keep_from(&self) -> u64 {
        if self.ids_stuck { u64::MAX } else { self.index.unsealed_from() }
    }

    pub(super) fn free(&mut self) {
        self.seal_for_space(Wait::No);
        let now = self.clock.wall_ms();
        if let Err(error) = self.journal.free(now, self.keep_from(), false) {
            tracing::warn!(%error, "delivered space could not be freed");
        }
    }

    /// Frees delivered segments until a block of this class and size would be taken; `false`: none that is left can go just now.
    pub(super) fn free_for(&mut self, class: Class, bytes: u64) -> bool {
        let now = self.clock.wall_ms();
        loop {
            self.seal_for_space(Wait::Written);
            if self.journal.free(now, self.keep_from(), true).unwrap_or(0) == 0 {
                return false;
            }
            if self.has_room(class, bytes) {
                return true;
            }
        }
    }

    /// Drops the oldest segment, delivered or not, after records that say what each sink misses.
    pub(super) fn drop_oldest(&mut self) -> bool {
        let shared = self.journal.shared();
        let Some(end) = self.journal.droppable() else { return false };
        let oldest = shared.oldest();
        let mut waiting: Vec<(Option<String>, u64)> = match &*self.config.sinks {
            [] => vec![(None, self.journal.positions().values().min().copied().unwrap_or(0))],
            sinks => {
                let position = |sink: &String| self.journal.positions().get(&sink_id(sink)).copied().unwrap_or(0);
                sinks.iter().map(|sink| (Some(sink.clone()), position(sink))).collect()
            }
        };
        waiting.retain_mut(|(_, from)| {
            *from = (*from).max(oldest);
            *from < end
        });
        // What all sinks miss alike is told once.
        if waiting.len() == self.config.sinks.len() && waiting.windows(2).all(|pair| pair[0].1 == pair[1].1) {
            waiting.truncate(1);
            for (sink, _) in &mut waiting {
                *sink = None;
            }
        }
        let (mut records, mut most) = (VecDeque::new(), 0);
        for (sink, from) in waiting {
            let (lost, count) = losses(&shared, from, end, sink.as_deref());
            let mut note =
                Note::new(Kind::Drop, "The spool was full; the oldest undelivered events were dropped, as the policy says.");
            if let Some(sink) = sink {
                note = note.text("sink", sink);
            }
            let note = note.text("reason", "DropOldest").number("records", count).lost(lost);
            records.extend(self.by_chain(note).into_iter().map(|(chain, note)| Owed { note, chain, epoch: None }));
            most = most.max(count);
        }
        if self.write_all(&mut records).is_err() || !self.forget(oldest, end) {
            return false;
        }
        let positions = self.journal.positions().iter().map(|(sink, position)| (*sink, (*position).max(end))).collect();
        if self.journal.save_positions(&positions).is_err() {
            return false;
        }
        self.metrics.dropped.inc_by(most);
        tracing::warn!(records = most, "the spool was full: the oldest undelivered events were dropped");
        self.journal.free(self.clock.wall_ms(), u64::MAX, true).unwrap_or(0) > 0
    }

    pub(super) fn house_keeping(&mut self) {
        self.collect_sealed(Wait::No);
        let next_seq = self.journal.next_seq();
        if self.index.should_seal(next_seq) {
            self.seal_ids(next_seq, Wait::No);
        }
        let now = self.clock.elapsed();
        if now.saturating_sub(self.freed_at) < Duration::from_secs(1) {
            return;
        }
        self.freed_at = now;
        if self.untold_drops > 0 && self.journal.has_room(Class::Normal, 4096) {
            let count = std::mem::take(&mut self.untold_drops);
            let note = Note::new(Kind::Drop, "The spool was full; new events were dropped, as the policy says.");
            self.write_note(&note.text("reason", "DropNewest").number("records", count), "", None);
            self.flush_all(&mut []);
        }
        if !self.to_tell.is_empty() {
            self.tell_start();
        }
        self.end_former_chains();
        self.journal.keep_reserve();
        if let Err(error) = self.journal.save_progress() {
            tracing::warn!(%error, "failed to save how far the journal reaches");
        }
        let oldest = self.journal_ms().saturating_sub(self.config.window_ms);
        for gone in self.index.expire(oldest, self.config.journal.max_bytes / 4) {
            let _ = self.disk.remove(gone.name());
        }
        self.free();
        self.gauge();
    }

    pub(super) fn gauge(&mut self) {
        self.journal.set_extra(self.index.bytes() + self.disk.aside());
        let usage = self.journal.usage();
        self.metrics.spool_bytes.set((usage.live + usage.extra) as i64);
        self.metrics.undelivered_bytes.set(usage.undelivered as i64);
        self.metrics.spool_limit.set(usage.bound as i64);
        // What is delivered goes as soon as somebody needs its room.
        let delivered = self.journal.positions().values().min().copied().unwrap_or(0);
        let is_held = self.journal.droppable().is_none_or(|end| end > delivered);
        let full = is_held && self.config.when_full != WhenFull::DropOldest && !self.has_room(Class::Normal, FULL_BELOW);
        self.metrics.full.store(full, Ordering::Relaxed);
        self.metrics.dedupe_entries.set(self.index.len() as i64);
        self.metrics.chains.set(self.chains.len() as i64);
        self.metrics.head.set(self.journal.next_seq() as i64 - 1);
    }

    /// Whether a block of this class and size would be taken now, with what is promised to later records.
    pub(super) fn has_room(&self, class: Class, bytes: u64) -> bool {
        let Reserve { bytes: reserved, largest } = &self.config.reserve;
        match (class, reserved.load(Ordering::Acquire)) {
            (Class::Normal, later) if later > 0 => self.journal.has_room_for(class, bytes, later, *largest),
            _ => self.journal.has_room(class, bytes),
        }
    }

    /// Whether there is room for an event; else what to answer.
    pub(super) fn admit(&mut self, item: &Item, estimate: usize, open: &mut [Option<Open>]) -> Result<(), Answer> {
        if !self.to_tell.is_empty() {
            self.flush_all(open);
            if !self.tell_start() {
                return Err(Answer::Failed(Failure::Full));
            }
        }
        let class = item.class();
        let bytes = (self.block.payload.len() + estimate) as u64;
        if self.has_room(class, bytes) || self.free_for(class, bytes) {
            return Ok(());
        }
        self.metrics.full.store(self.config.when_full != WhenFull::DropOldest, Ordering::Relaxed);
        match self.config.when_full {
            WhenFull::DropOldest => {
                self.flush_all(open);
                // What tells of the drop takes room itself, with many chains most of what one segment frees.
                for _ in 0..DROPS {
                    if !self.drop_oldest() {
                        break;
                    }
                    if self.journal.has_room(class, estimate as u64) {
                        return Ok(());
                    }
                }
                Err(Answer::Failed(Failure::Full))
            }
            WhenFull::Reject => Err(Answer::Failed(Failure::Full)),
            WhenFull::DropNewest => {
                self.metrics.dropped.inc();
                self.untold_drops += 1;
                Err(Answer::Dropped)
            }
        }
    }
}
