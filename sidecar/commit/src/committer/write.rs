//! Records on their way to a block, and the block on its way to the disk.
use std::{
    collections::{BTreeMap, VecDeque},
    sync::atomic::Ordering,
};

use steno_chain::{Kind, Lost, Note};
use steno_event::format_millis;
use steno_journal::{Class, NewBlock};
use tokio::sync::oneshot;

use super::{BLOCK_BYTES, Block, Committer, LOSSES_OF_A_NOTE, NOTE_BYTES, Open, Owed, Pending};
use crate::{
    chains::Scope,
    frame::Frame,
    id_writer::Wait,
    index::Entry,
    work::{Answer, Critical, Failure, Item},
};

impl Committer {
    /// Writes a record, and frees the ids of the events that it names as lost: first, because whoever asks for this again once it failed
    /// does both again.
    pub(super) fn write_loss(&mut self, note: Note, lost: Option<(u64, u64)>) -> Result<(), Failure> {
        if let Some((first, next)) = lost
            && !self.forget(first, next)
        {
            return Err(Failure::Disk("the list of lost records could not be written".into()));
        }
        let records = self.by_chain(note).into_iter().map(|(chain, note)| Owed { note, chain, epoch: None });
        self.write_all(&mut records.collect())?;
        if let Some((first, next)) = lost {
            self.metrics.lost.inc_by(next.saturating_sub(first));
            self.note_told([(first, next)]);
        }
        Ok(())
    }

    /// Writes records, as many blocks as that takes, and takes out those that are on disk. The block that is being made must be empty.
    pub(super) fn write_all(&mut self, owed: &mut VecDeque<Owed>) -> Result<(), Failure> {
        while !owed.is_empty() {
            let mut taken = 0;
            while let Some(Owed { note, chain, epoch }) = owed.get(taken) {
                let bytes = NOTE_BYTES + note.lost.iter().map(|lost| lost.chain_id.len() + 64).sum::<usize>();
                if taken > 0 && !self.fits(bytes, chain) {
                    break;
                }
                let (note, chain, epoch) = (note.clone(), chain.clone(), *epoch);
                if let Some(next) = epoch {
                    self.chains.new_epoch(&chain, next);
                }
                self.write_note(&note, &chain, None);
                taken += 1;
            }
            let bytes = self.block.payload.len() as u64;
            if !self.journal.has_room(Class::Control, bytes) {
                self.free_for(Class::Control, bytes);
            }
            self.flush(&mut [])?;
            owed.drain(..taken);
        }
        Ok(())
    }

    /// Bytes of payload of a block that touches chains of so many bytes, as a rule; one large event may have a larger block to itself.
    pub(super) fn block_bytes(&self, chains: usize) -> usize {
        let room = self.journal.payload_room(chains) as usize;
        BLOCK_BYTES.min(self.config.journal.segment_bytes as usize / 4).max(64 << 10).min(room)
    }

    /// Whether a record of so many bytes for a chain still fits into the block that is being made.
    pub(super) fn fits(&self, bytes: usize, chain: &str) -> bool {
        let chains = self.chains.touched_bytes() + self.chains.base.len() + chain.len() + 64;
        self.block.payload.len() + bytes <= self.block_bytes(chains)
    }

    pub(super) fn append(&mut self, item: &Item) -> u64 {
        let name = self.chains.name_for(item.tenant.as_deref()).to_owned();
        self.begin_chain(&name);
        let at = self.block.payload.len();
        let seq = self.journal.next_seq() + u64::from(self.block.count);
        let frame = Frame {
            is_note: false,
            is_critical: item.critical,
            identity: item.identity,
            print: item.print,
            rules: item.rules,
            filled: item.filled.0,
            received_ms: item.received_ms,
            action: item.halves.action,
            event_id: item.halves.event_id,
            split: if self.chains.scope == Scope::None { 0 } else { item.halves.split as u32 },
            json: &[],
        };
        let (head, tail) = item.halves.bytes.split_at(item.halves.split);
        frame.encode(&mut self.block.payload, |out| {
            self.chains.seal(&name, head, tail, out);
        });
        self.block.count += 1;
        let class = item.class();
        self.block.class = Some(self.block.class.map_or(class, |known| known.max(class)));
        self.block.pending.insert(item.identity, Pending { print: item.print, rules: item.rules, at });
        // Nobody sends again what stands for another record.
        if !item.frees {
            self.block.entries.push(Entry { identity: item.identity, print: item.print, seq, rules: item.rules, at_ms: 0 });
        }
        if item.critical {
            self.block.critical.push(Critical { seq, frame: self.block.payload[at..].to_vec() });
        }
        seq
    }

    /// A chain begins with a record that says so. After a loss in which it may have begun before, its numbers begin above, and the
    /// record names those below.
    pub(super) fn begin_chain(&mut self, name: &str) {
        if self.chains.scope == Scope::None || self.chains.has_begun(name) {
            return;
        }
        let floor = self.journal.chain_floor();
        if floor == 0 {
            self.write_note(&Note::new(Kind::Genesis, "A chain begins."), name, None);
            return;
        }
        self.chains.new_epoch(name, floor);
        let lost = Lost { chain_id: self.chains.id(name), first: 0, last: floor - 1 };
        let note =
            Note::new(Kind::Recovered, "A chain begins. The journal was damaged before; the chain may have had records then.")
                .flag("mayNeverHaveBeenAcknowledged", true);
        self.write_note(&note.lost(vec![lost]), name, None);
    }

    pub(super) fn write_note(&mut self, note: &Note, name: &str, reply: Option<oneshot::Sender<Result<u64, Failure>>>) {
        if note.kind != Kind::Genesis {
            self.begin_chain(name);
        }
        let now_ms = self.clock.wall_ms();
        let event_id = uuid::Uuid::now_v7().to_string();
        let halves = note.encode(&self.config.note, &event_id, &format_millis(now_ms));
        let frame = Frame::of_note(&halves, now_ms);
        let frame = if self.chains.scope == Scope::None { Frame { split: 0, ..frame } } else { frame };
        let (head, tail) = halves.bytes.split_at(halves.split);
        frame.encode(&mut self.block.payload, |out| {
            self.chains.seal(name, head, tail, out);
        });
        let seq = self.journal.next_seq() + u64::from(self.block.count);
        self.block.count += 1;
        // These come with events, and must not open the headroom to them.
        let class =
            if matches!(note.kind, Kind::Genesis | Kind::Conflict | Kind::Rejected) { Class::Normal } else { Class::Control };
        self.block.class = Some(self.block.class.map_or(class, |known| known.max(class)));
        if let Some(reply) = reply {
            self.block.notes.push((reply, seq));
        }
    }

    /// [`Self::flush`]: its failure is in the answers.
    pub(super) fn flush_all(&mut self, open: &mut [Option<Open>]) {
        let _ = self.flush(open);
    }

    /// Writes and syncs the block, enters its decisions and settles the answers that depend on it.
    pub(super) fn flush(&mut self, open: &mut [Option<Open>]) -> Result<(), Failure> {
        if self.block.count == 0 {
            return Ok(());
        }
        let block = std::mem::take(&mut self.block);
        let journal_ms = self.journal_ms();
        let new = NewBlock {
            class: block.class.unwrap_or(Class::Normal),
            count: block.count,
            ranges: self.chains.ranges(),
            ends: false,
            wall_ms: self.clock.wall_ms(),
            journal_ms,
            payload: &[&block.payload],
        };
        let asked = self.metrics.progress.ask();
        let mut result = self.journal.append(&new);
        if result.is_ok() && self.config.answer_written {
            // Who asked for no more than the write is answered now; the sync follows in the same turn.
            settle_replies(open, &block);
        }
        if result.is_ok() {
            let before = self.clock.elapsed();
            result = self.journal.sync();
            self.metrics.fsync.observe(self.clock.elapsed().saturating_sub(before).as_secs_f64());
            if result.is_err() && self.config.answer_written {
                // They were told yes: once more, on other pages.
                result = self.journal.append(&new).and_then(|()| self.journal.sync());
            }
        }
        drop(asked);
        match result {
            Ok(()) => {
                self.committed(block, journal_ms);
                Ok(())
            }
            Err(error) => Err(self.failed(block, &error, open)),
        }
    }

    pub(super) fn committed(&mut self, mut block: Block, journal_ms: u64) {
        self.metrics.writable.store(true, Ordering::Relaxed);
        self.chains.keep();
        let next_seq = self.journal.next_seq();
        if self.index.would_lose(block.entries.len(), next_seq) {
            // The file that is being written may be enough; else all that is not in one goes now.
            self.seal_ids(next_seq - u64::from(block.count), Wait::Written);
        }
        self.metrics.accepted.inc_by(block.entries.len() as u64);
        self.metrics.block_events.observe(f64::from(block.count));
        for entry in block.entries.drain(..) {
            self.index.insert(Entry { at_ms: journal_ms, ..entry });
        }
        for (reply, seq) in block.notes.drain(..) {
            let _ = reply.send(Ok(seq));
        }
        self.observer.synced(next_seq, std::mem::take(&mut block.critical));
        // The buffers are used again, unless they grew out of proportion.
        block.payload.clear();
        block.payload.shrink_to(256 << 10);
        block.pending.clear();
        block.depends.clear();
        self.block = Block { count: 0, class: None, ..block };
    }

    pub(super) fn failed(&mut self, block: Block, error: &steno_journal::Error, open: &mut [Option<Open>]) -> Failure {
        self.chains.undo();
        if matches!(error, steno_journal::Error::Full { .. }) {
            // The disk is well; the bound is reached, such as one that was lowered.
            self.metrics.full.store(true, Ordering::Relaxed);
            tracing::warn!(%error, records = block.count, "no room for a block; its events were refused");
        } else {
            self.metrics.writable.store(false, Ordering::Relaxed);
            self.metrics.failed_blocks.inc();
            tracing::error!(%error, events = block.count, "a block could not be written; its events were refused");
        }
        let failure = match error {
            error if error.is_full() => Failure::Full,
            steno_journal::Error::TooLarge { .. } => Failure::TooLarge,
            error => Failure::Disk(error.to_string()),
        };
        for (at, index) in block.depends {
            if let Some(Some(open)) = open.get_mut(at)
                && let Some(answer) = open.batch.answers.get_mut(index)
            {
                *answer = Answer::Failed(failure.clone());
            }
        }
        for (reply, _) in block.notes {
            let _ = reply.send(Err(failure.clone()));
        }
        failure
    }

    /// A note for each chain that it concerns, with the losses of that chain alone: there may be a thousand. The losses of chains that
    /// nobody knows any more stand in notes of the sidecar's own chain.
    pub(super) fn by_chain(&self, note: Note) -> Vec<(String, Note)> {
        if note.lost.is_empty() {
            return vec![(String::new(), note)];
        }
        let mut by_id: BTreeMap<String, Vec<Lost>> = BTreeMap::new();
        for lost in &note.lost {
            by_id.entry(lost.chain_id.clone()).or_default().push(lost.clone());
        }
        let own = |name: String| by_id.remove(&self.chains.id(&name)).map(|lost| (name, lost));
        let mut by_name: Vec<(String, Vec<Lost>)> = self.chains.names().into_iter().filter_map(own).collect();
        let others: Vec<Lost> = by_id.into_values().flatten().collect();
        if !others.is_empty() {
            by_name.push((String::new(), others));
        }
        let pieces = by_name.iter().flat_map(|(name, lost)| lost.chunks(LOSSES_OF_A_NOTE).map(move |piece| (name, piece)));
        pieces.map(|(name, piece)| (name.clone(), Note { lost: piece.to_vec(), ..note.clone() })).collect()
    }
}

fn settle_replies(open: &mut [Option<Open>], block: &Block) {
    // Only replies that are complete: the last one may have more events to come.
    let last = open.len().saturating_sub(1);
    for (at, _) in &block.depends {
        if *at < last
            && let Some(done) = open.get_mut(*at).and_then(Option::take)
        {
            let _ = done.reply.send(done.batch);
        }
    }
}
