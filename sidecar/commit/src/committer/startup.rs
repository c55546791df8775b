//! Opening: what is there, what must be told of it, and what was left by others.
use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use steno_chain::{Kind, Lost, Note};
use steno_event::format_millis;
use steno_journal::{ChainRange, Class, Damage, Disk, Extent, Journal, NewBlock, Next, Opened, Reader};

use super::{
    Block, Committer, LOSSES_OF_A_NOTE, NOTE_BYTES, Observer, Owed, Started,
    ids::{entry_of, sorted},
    positions_of, scope,
};
use crate::{
    chains::{Chains, base_of},
    clock::Clock,
    config::CommitConfig,
    conflicts::Conflicts,
    frame::{Frame, frames},
    gone::Gone,
    id_writer::{Sealer, Wait},
    index::{self, Index},
    losses::lost_range,
    metrics::Metrics,
};

impl Committer {
    /// Opens the journal of a directory and writes what there is to tell about it.
    pub fn open(
        disk: Arc<dyn Disk>,
        config: Arc<CommitConfig>,
        clock: Box<dyn Clock>,
        observer: Box<dyn Observer>,
        metrics: Metrics,
    ) -> Result<(Self, Started), steno_journal::Error> {
        let reached = |uuid: &[u8; 16]| index::reached(&disk, uuid);
        let opened = Journal::open_beside(disk.clone(), config.journal, config.envelope.clone(), &reached)?;
        let Opened { mut journal, fresh, damage, journal_ms, unusable, state_lost, id_key_changed, .. } = opened;
        let uuid = journal.uuid();
        let oldest = journal.shared().oldest();
        let index = if id_key_changed {
            // Its files were made with the key that was in clear.
            for file in index::load(&disk, uuid)? {
                let _ = disk.remove(file.name());
            }
            Index::new(config.max_entries.max(1024), Vec::new(), journal.next_seq(), Gone::load(&*disk, &uuid))
        } else {
            Index::new(config.max_entries.max(1024), index::load(&disk, uuid)?, oldest, Gone::load(&*disk, &uuid))
        };
        // What the chains name already is not named again at each start.
        let told = index.gone().told.clone();
        let (known, damage): (Vec<Damage>, Vec<Damage>) =
            damage.into_iter().partition(|lost| lost.records() > 0 && told.contains_all(lost.first_seq, lost.next_seq));
        let bare = |(first_seq, next_seq)| Damage { first_seq, next_seq, ranges: Vec::new(), extent: Extent::AtMost };
        let unseen =
            told.iter().filter(|(first, next)| !known.iter().any(|lost| (lost.first_seq, lost.next_seq) == (*first, *next)));
        let unseen: Vec<Damage> = unseen.map(bare).collect();
        metrics.losses.lock().extend(known.into_iter().chain(unseen).chain(damage.iter().cloned()));
        let plain = format!("{}/{}", config.pod_uid, uuid::Uuid::from_bytes(uuid));
        let base = base_of(&plain, &journal.heads(), fresh || !damage.is_empty(), journal.next_seq());
        let chains = Chains::new(base, scope(&config), config.max_chains, journal.heads());
        let positions = positions_of(&config.sinks, journal.positions(), oldest);
        journal.save_positions(&positions)?;
        let (shared, id_key) = (journal.shared(), journal.id_key());
        let sealer = Sealer::new(disk.clone(), uuid);
        let mut committer = Self {
            journal,
            disk,
            index,
            chains,
            config,
            conflicts: Conflicts::default(),
            clock,
            observer,
            metrics,
            journal_base: journal_ms,
            block: Block::default(),
            sealer,
            freed_at: Duration::ZERO,
            untold_drops: 0,
            closed: false,
            to_tell: VecDeque::new(),
            telling: damage.iter().map(|lost| (lost.first_seq, lost.next_seq)).collect(),
            gone_saved: true,
            unread: BTreeMap::new(),
            ids_stuck: false,
        };
        if state_lost {
            tracing::error!("the journal's state could not be read; sinks get what is there once more");
        }
        for lost in &damage {
            committer.metrics.lost.inc_by(lost.records());
            if !committer.forget(lost.first_seq, lost.next_seq) {
                tracing::warn!("failed to save which records are gone; until the next start their events may be sent again");
            }
        }
        let starts: Vec<u64> = shared.segment_starts().into_iter().map(|(_, first)| first).collect();
        // The newest one was read to open the journal.
        committer.unread = starts.windows(2).map(|pair| (pair[0], pair[1])).filter(|(first, end)| first < end).collect();
        committer.fill_holes();
        committer.rebuild();
        let records = committer.start_records(fresh, id_key_changed, &damage);
        for record in records.into_iter().rev() {
            committer.to_tell.push_front(record);
        }
        committer.tell_start();
        committer.end_former_chains();
        committer.gauge();
        let started = Started { fresh, damage, shared, id_key, uuid, positions, unusable };
        Ok((committer, started))
    }

    /// Makes again the files of ids that are missing, as far as the journal has their events.
    pub(super) fn fill_holes(&mut self) {
        for (first, end) in self.index.holes(self.journal.shared().oldest()) {
            tracing::warn!(first, end, "a file of event ids is missing; it is made again from the journal");
            let entries = self.entries_of(first, end);
            match index::write(&self.disk, self.journal.uuid(), first, end, &sorted(entries)) {
                Ok(file) => self.index.renew(Arc::new(file)),
                Err(error) => tracing::error!(%error, "failed to write a file of event ids; its retries will be taken as new"),
            }
        }
    }

    /// Enters what no file of ids has yet, from the journal.
    pub(super) fn rebuild(&mut self) {
        let mut reader = Reader::new(self.journal.shared(), self.index.unsealed_from());
        loop {
            match reader.next() {
                Ok(Next::CaughtUp) => break,
                Ok(Next::Lost(lost)) => self.note_loss(&lost),
                Ok(Next::Block(block)) => {
                    for (seq, frame) in (block.header.first_seq..).zip(frames(&block.payload)) {
                        if !frame.is_note && seq >= self.index.unsealed_from() {
                            self.index.insert(entry_of(seq, &frame, block.header.journal_ms));
                        }
                    }
                    let reached = block.header.next_seq();
                    if self.index.should_seal(reached) {
                        self.seal_ids(reached, Wait::Written);
                    }
                }
                Err(error) => {
                    tracing::error!(%error, from = reader.position(), "the journal cannot be read; later retries will be taken as new");
                    break;
                }
            }
        }
    }

    /// Writes what must be told before the first event, each chain its own. Whether all of it is on disk; the rest is tried again.
    pub(super) fn tell_start(&mut self) -> bool {
        let mut owed = std::mem::take(&mut self.to_tell);
        let told = self.write_all(&mut owed);
        self.to_tell = owed;
        if told.is_ok() && !self.telling.is_empty() {
            let telling = std::mem::take(&mut self.telling);
            self.note_told(telling);
        }
        told.is_ok()
    }

    /// What there is to tell at start.
    pub(super) fn start_records(&mut self, fresh: bool, id_key_changed: bool, damage: &[Damage]) -> Vec<Owed> {
        let mut records = Vec::new();
        if !damage.is_empty() {
            self.damage_records(damage, &mut records);
        } else if fresh {
            records.push(Owed { note: Note::new(Kind::Genesis, "A journal begins."), chain: String::new(), epoch: None });
        }
        for chain in self.chains.names() {
            let is_told = records.iter().any(|owed| owed.chain == chain && owed.epoch.is_some());
            if self.chains.is_broken(&chain) && !is_told {
                let note = Note::new(Kind::Epoch, "The chain's last record could not be read; a new epoch begins.");
                records.push(Owed { note, chain, epoch: Some(0) });
            }
        }
        if id_key_changed {
            let text = "Encryption is on: the key that event ids are hashed with was replaced, because it was on the disk in clear. Retries of earlier events are taken as new.";
            records.push(Owed { note: Note::new(Kind::Config, text), chain: String::new(), epoch: None });
        }
        records
    }

    pub(super) fn damage_records(&mut self, damage: &[Damage], records: &mut Vec<Owed>) {
        let mut lost: BTreeMap<String, Vec<Lost>> = BTreeMap::new();
        for range in damage.iter().flat_map(|damage| &damage.ranges) {
            lost.entry(range.id.clone()).or_default().push(lost_range(range));
        }
        let count: u64 = damage.iter().map(Damage::records).sum();
        let first = damage.iter().map(|damage| damage.first_seq).min().unwrap_or(0);
        let next = damage.iter().map(|damage| damage.next_seq).max().unwrap_or(0);
        let at_most = damage.iter().any(|damage| damage.extent == Extent::AtMost);
        let maybe = damage.iter().all(|damage| damage.extent == Extent::AtMost);
        tracing::error!(
            records = count,
            atMost = at_most,
            first,
            next,
            chains = lost.len(),
            "the journal was damaged; what was lost is recorded by name"
        );
        let above = self.journal.next_seq();
        let note = Note::new(Kind::Recovered, "The journal was damaged; records are missing, a new epoch begins.")
            .number("records", count)
            .number("firstRecord", first)
            .number("nextRecord", next)
            .flag("recordsAtMost", at_most)
            .flag("mayNeverHaveBeenAcknowledged", maybe);
        let is_unnamed = lost.is_empty();
        let names = self.chains.names();
        for chain in if names.is_empty() { vec![String::new()] } else { names } {
            let own = lost.remove(&self.chains.id(&chain));
            if own.is_some() || is_unnamed || self.chains.is_broken(&chain) {
                // If the chain's own numbers are not known, any of them up to the journal's may be missing: no chain is further.
                let epoch = if own.is_some() { 0 } else { above };
                let next = self.chains.next(&chain);
                let any = || Lost { chain_id: self.chains.id(&chain), first: next, last: above.saturating_sub(1) };
                let own = own.unwrap_or_else(|| if next < above { vec![any()] } else { Vec::new() });
                let mut pieces = own.chunks(LOSSES_OF_A_NOTE);
                let first = note.clone().lost(pieces.next().unwrap_or_default().to_vec());
                records.push(Owed { note: first, chain: chain.clone(), epoch: Some(epoch) });
                let more =
                    pieces.map(|piece| Owed { note: note.clone().lost(piece.to_vec()), chain: chain.clone(), epoch: None });
                records.extend(more);
            }
        }
        // Of chains that nobody goes on with.
        let others: Vec<Lost> = lost.into_values().flatten().collect();
        let pieces = others.chunks(LOSSES_OF_A_NOTE);
        records.extend(pieces.map(|piece| Owed { note: note.clone().lost(piece.to_vec()), chain: String::new(), epoch: None }));
    }

    /// Ends the chains of pods that had this volume before: each gets a last record that says so, and its head goes with the block that holds
    /// it. What cannot be written now is tried again.
    pub(super) fn end_former_chains(&mut self) {
        while !self.chains.former.is_empty() {
            let (mut payload, mut ranges, mut bytes) = (Vec::new(), Vec::new(), 0);
            let now_ms = self.clock.wall_ms();
            let note = Note::new(Kind::Close, "The pod of this chain is gone; the chain ends here.")
                .text("reason", "PodGone")
                .text("successor", self.chains.base.clone());
            for state in self.chains.former.values() {
                let mut state = if state.prev == [0; 32] && state.next > 0 { state.clone().new_epoch(0) } else { state.clone() };
                let first = state.next;
                let halves = note.encode(&self.config.note, &uuid::Uuid::now_v7().to_string(), &format_millis(now_ms));
                let frame = Frame::of_note(&halves, now_ms);
                let (head, tail) = halves.bytes.split_at(halves.split);
                frame.encode(&mut payload, |out| {
                    steno_chain::seal(&mut state, head, tail, out);
                });
                bytes += state.id.len() + 64;
                ranges.push(ChainRange { id: state.id, epoch: state.epoch, first, last: first, hash: state.prev });
                if payload.len() + bytes + NOTE_BYTES > self.block_bytes(bytes) {
                    break;
                }
            }
            let ended: Vec<String> = ranges.iter().map(|range| range.id.clone()).collect();
            let (wall_ms, journal_ms) = (now_ms, self.journal_ms());
            let count = ranges.len() as u32;
            let block = NewBlock { class: Class::Control, count, ranges, ends: true, wall_ms, journal_ms, payload: &[&payload] };
            if let Err(error) = self.journal.append(&block).and_then(|()| self.journal.sync()) {
                tracing::debug!(%error, "chains of a former pod stay open for now");
                return;
            }
            for id in &ended {
                self.chains.former.remove(id);
            }
            self.observer.synced(self.journal.next_seq(), Vec::new());
            tracing::info!(chains = ended.len(), "chains of pods that are gone were ended");
        }
    }
}
