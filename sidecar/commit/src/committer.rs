//! The loop itself.
use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc as sync_mpsc,
    },
    time::Duration,
};

use steno_chain::{Kind, Lost, Note, NoteContext};
use steno_event::{
    compare::{Comparison, compare},
    format_millis, hex,
    json::{Json, parse},
};
use steno_journal::{
    ChainRange, Class, Damage, Disk, Envelope, Extent, Journal, NewBlock, Next, Opened, Options, Reader, Shared, sink_id,
};
use tokio::sync::{mpsc, oneshot};

use crate::{
    Answer, Batch, Clock, Critical, Failure, Frame, Inbox, Item, Metrics, Work,
    chains::{Chains, Scope},
    conflicts::Conflicts,
    frame::{Held, frames},
    gone::Gone,
    index::{self, Entry, Index, Sealed},
    losses::{losses, lost_range},
};

/// What new events meet while the spool is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenFull {
    /// They are refused.
    Reject,
    /// They are dropped, and the client is told.
    DropNewest,
    /// The oldest undelivered ones are dropped.
    DropOldest,
}

/// What the loop goes by.
#[derive(Debug, Clone)]
pub struct CommitConfig {
    /// What the sidecar's own records carry.
    pub note: NoteContext,
    /// First part of every chain's id: the pod's UID.
    pub pod_uid: String,
    /// Whether there are chains at all, and one a tenant.
    pub chains: bool,
    /// One chain a tenant.
    pub by_tenant: bool,
    /// Most chains.
    pub max_chains: usize,
    /// How long a retry is recognised, in milliseconds of the journal's clock.
    pub window_ms: u64,
    /// Event ids in memory. Counts at start only.
    pub max_entries: usize,
    /// What new events meet while the spool is full.
    pub when_full: WhenFull,
    /// Answer after the write, before the sync.
    pub answer_written: bool,
    /// Bounds of the journal.
    pub journal: Options,
    /// Compression and encryption of the journal.
    pub envelope: Envelope,
    /// Names of the sinks whose positions hold the journal; empty: it is not known yet which there are.
    pub sinks: Vec<String>,
    /// Room that later critical records need, of which an ordinary event must leave enough.
    pub reserve: Reserve,
}

/// Room that is promised to records that come later: what was taken in must be able to end.
#[derive(Debug, Clone, Default)]
pub struct Reserve {
    /// Bytes of all of them. Whoever makes the promise keeps it up to date.
    pub bytes: Arc<AtomicU64>,
    /// Bytes of the largest of them.
    pub largest: u64,
}

/// Is told what the loop has synced.
pub trait Observer: Send {
    /// All below `next_seq` is synced; these critical events came with it.
    fn synced(&mut self, next_seq: u64, critical: Vec<Critical>);
}

/// What was found at start.
#[derive(Clone)]
pub struct Started {
    /// Whether there was no journal before.
    pub fresh: bool,
    /// What was lost.
    pub damage: Vec<Damage>,
    /// For readers.
    pub shared: Arc<Shared>,
    /// The journal's key for ids and fingerprints.
    pub id_key: [u8; 32],
    /// The journal's UUID.
    pub uuid: [u8; 16],
    /// Durable positions of the sinks.
    pub positions: BTreeMap<u64, u64>,
    /// Files that are named like segments and could not be used, with the reason.
    pub unusable: Vec<String>,
}

/// Largest payload of a block, in bytes, where the segment's size allows.
const BLOCK_BYTES: usize = 1 << 20;
/// Pieces of work taken in one turn.
const TURN: usize = 1024;
/// Segments that are dropped for one event at most.
const DROPS: usize = 8;
/// Bytes that a record of the sidecar takes besides its losses, rounded up.
const NOTE_BYTES: usize = 2048;
/// Losses that one record names at most: the rest stands in further records.
const LOSSES_OF_A_NOTE: usize = 64;
/// Files of ids of one size that are merged into one.
const MERGE: usize = 8;

/// The loop's state.
pub struct Committer {
    journal: Journal,
    disk: Arc<dyn Disk>,
    index: Index,
    chains: Chains,
    config: Arc<CommitConfig>,
    conflicts: Conflicts,
    clock: Box<dyn Clock>,
    observer: Box<dyn Observer>,
    metrics: Metrics,
    journal_base: u64,
    block: Block,
    sealer: Sealer,
    freed_at: Duration,
    /// Drops that no record tells of yet: how many, and why none could be written.
    untold_drops: u64,
    /// No more events are taken.
    closed: bool,
    /// Records of what was found at start that are not on disk yet: no event goes before them.
    to_tell: VecDeque<Owed>,
    /// Losses that these records name: from, up to.
    telling: Vec<(u64, u64)>,
    /// Segments from before this start that nobody has read since: sequence numbers from, up to. A retry is called a duplicate of what
    /// one of them holds only once that was read.
    unread: BTreeMap<u64, u64>,
    /// The list of records that are gone is on disk as it is here.
    gone_saved: bool,
    /// Ids could not be written to a file: space is freed without waiting for it.
    ids_stuck: bool,
}

/// A record of the sidecar that must be written.
struct Owed {
    note: Note,
    /// The chain that it goes to.
    chain: String,
    /// That chain begins a new epoch with it, from this number on at the earliest.
    epoch: Option<u64>,
}

/// The block that is being made.
#[derive(Default)]
struct Block {
    payload: Vec<u8>,
    count: u32,
    /// Whether it holds something other than ordinary events, and may use the headroom.
    class: Option<Class>,
    pending: HashMap<[u8; 16], Pending>,
    entries: Vec<Entry>,
    critical: Vec<Critical>,
    /// Answers that depend on this block: which of the open replies, and which of its answers.
    depends: Vec<(usize, usize)>,
    notes: Vec<(oneshot::Sender<Result<u64, Failure>>, u64)>,
}

#[derive(Clone, Copy)]
struct Pending {
    print: [u8; 16],
    rules: u32,
    at: usize,
}

struct Open {
    reply: oneshot::Sender<Batch>,
    batch: Batch,
}

enum Decision {
    New,
    Known { compared: bool, depends: bool },
    Clash { depends: bool },
    Refused(Answer),
}

// === impl Committer ===

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
        let base = format!("{}/{}", config.pod_uid, uuid::Uuid::from_bytes(uuid));
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

    /// Has the ids of lost records be free again. Whether that is durable; it counts at once in any case.
    fn forget(&mut self, first: u64, next: u64) -> bool {
        let mut gone = self.index.gone().clone();
        if !gone.ids.add(first, next) && self.gone_saved {
            return true;
        }
        self.index.set_gone(gone);
        self.save_gone()
    }

    /// Notes that the chains name losses, so that no later start names them again.
    fn note_told(&mut self, ranges: impl IntoIterator<Item = (u64, u64)>) {
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

    fn save_gone(&mut self) -> bool {
        self.gone_saved = self.index.gone().save(&*self.disk, &self.journal.uuid()).is_ok();
        self.gone_saved
    }

    /// Makes again the files of ids that are missing, as far as the journal has their events.
    fn fill_holes(&mut self) {
        for (first, end) in self.index.holes(self.journal.shared().oldest()) {
            tracing::warn!(first, end, "a file of event ids is missing; it is made again from the journal");
            let entries = self.entries_of(first, end);
            match index::write(&self.disk, self.journal.uuid(), first, end, &sorted(entries)) {
                Ok(file) => self.index.renew(Arc::new(file)),
                Err(error) => tracing::error!(%error, "failed to write a file of event ids; its retries will be taken as new"),
            }
        }
    }

    /// Makes a file of ids again in which a page cannot be read, so that a retry is known for certain. Whether there was one.
    fn mend_index(&mut self) -> bool {
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
    fn read_segment_of(&mut self, seq: u64) -> bool {
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
    fn note_loss(&mut self, lost: &Damage) {
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
    fn entries_of(&self, first: u64, end: u64) -> Vec<Entry> {
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

    /// Enters what no file of ids has yet, from the journal.
    fn rebuild(&mut self) {
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
    fn tell_start(&mut self) -> bool {
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
    fn start_records(&mut self, fresh: bool, id_key_changed: bool, damage: &[Damage]) -> Vec<Owed> {
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

    fn damage_records(&mut self, damage: &[Damage], records: &mut Vec<Owed>) {
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

    /// Writes a record, and frees the ids of the events that it names as lost: first, because whoever asks for this again once it failed
    /// does both again.
    fn write_loss(&mut self, note: Note, lost: Option<(u64, u64)>) -> Result<(), Failure> {
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
    fn write_all(&mut self, owed: &mut VecDeque<Owed>) -> Result<(), Failure> {
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

    /// Ends the chains of pods that had this volume before: each gets a last record that says so, and its head goes with the block that holds
    /// it. What cannot be written now is tried again.
    fn end_former_chains(&mut self) {
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

    /// Bytes of payload of a block that touches chains of so many bytes, as a rule; one large event may have a larger block to itself.
    fn block_bytes(&self, chains: usize) -> usize {
        let room = self.journal.payload_room(chains) as usize;
        BLOCK_BYTES.min(self.config.journal.segment_bytes as usize / 4).max(64 << 10).min(room)
    }

    /// Whether a record of so many bytes for a chain still fits into the block that is being made.
    fn fits(&self, bytes: usize, chain: &str) -> bool {
        let chains = self.chains.touched_bytes() + self.chains.base.len() + chain.len() + 64;
        self.block.payload.len() + bytes <= self.block_bytes(chains)
    }

    /// Works until it is told to close or everybody is gone.
    pub fn run(mut self, inbox: Inbox) {
        let Inbox { mut queue, bell } = inbox;
        let mut taken = Vec::with_capacity(64);
        loop {
            bell.wait();
            let ended = loop {
                match queue.try_recv() {
                    Ok(work) if taken.len() + 1 < TURN => taken.push(work),
                    Ok(work) => {
                        taken.push(work);
                        // There may be more.
                        bell.ring();
                        break false;
                    }
                    Err(error) => break error == mpsc::error::TryRecvError::Disconnected,
                }
            };
            if taken.is_empty() {
                if ended {
                    return;
                }
                continue;
            }
            if let Some(done) = self.turn(&mut taken) {
                let next_seq = self.journal.next_seq();
                self.seal_ids(next_seq, Wait::All);
                // The journal is closed before anybody is told, so that its directory can be opened again.
                drop(self);
                let _ = done.send(());
                return;
            }
            if ended {
                bell.ring();
            }
        }
    }

    /// One turn over what was taken. Gives back whom to tell at the end.
    pub fn turn(&mut self, taken: &mut Vec<Work>) -> Option<oneshot::Sender<()>> {
        let mut open: Vec<Option<Open>> = Vec::with_capacity(taken.len());
        let mut ending = None;
        for work in taken.drain(..) {
            match work {
                Work::Items { mut batch, reply } => {
                    if self.closed {
                        batch.answers.resize(batch.items.len(), Answer::Failed(Failure::Stopping));
                        let _ = reply.send(batch);
                        continue;
                    }
                    let items = std::mem::take(&mut batch.items);
                    open.push(Some(Open { reply, batch }));
                    for item in &items {
                        self.take(item, &mut open);
                    }
                    if let Some(Some(open)) = open.last_mut() {
                        open.batch.items = items;
                    }
                }
                Work::Note { note, lost, reply } => {
                    self.flush_all(&mut open);
                    let first = self.journal.next_seq();
                    let written = self.write_loss(note, lost);
                    if let Some(reply) = reply {
                        let _ = reply.send(written.map(|()| first));
                    }
                }
                Work::Positions(positions) => self.positions(&positions),
                Work::Rotate => {
                    self.flush_all(&mut open);
                    match self.journal.rotate(self.clock.wall_ms()) {
                        // Where there is no room, it is asked for again.
                        Err(error) if !error.is_full() => {
                            tracing::warn!(%error, "no new segment could be begun; what the one in use holds stays for now");
                        }
                        _ => {}
                    }
                }
                Work::Reload(config, note) => {
                    self.flush_all(&mut open);
                    self.reload(config);
                    self.write_note(&note, "", None);
                }
                Work::Close(done) => {
                    self.flush_all(&mut open);
                    self.close();
                    let _ = done.send(());
                }
                Work::End(done) => ending = Some(done),
            }
        }
        self.flush_all(&mut open);
        for open in open.into_iter().flatten() {
            let _ = open.reply.send(open.batch);
        }
        self.house_keeping();
        ending
    }

    // --- deciding ---

    fn take(&mut self, item: &Item, open: &mut [Option<Open>]) {
        if self.chains.scope == Scope::Tenant {
            let more = self.chains.touched_bytes() + self.chains.head_bytes(item.tenant.as_deref().unwrap_or_default());
            self.chains.heads_full = !self.journal.has_head_room(more);
        }
        // The chain may begin with it, and a conflict is a record, too.
        let estimate = item.halves.bytes.len() + 512;
        let is_full = !self.fits(estimate + NOTE_BYTES, item.tenant.as_deref().unwrap_or_default())
            || self.block.entries.len() >= self.index.block_limit();
        if is_full && self.block.count > 0 {
            self.flush_all(open);
        }
        let decision = match self.decide(item) {
            Decision::New => self.admit(item, estimate, open).map_or_else(Decision::Refused, |()| Decision::New),
            known => known,
        };
        let at = open.len() - 1;
        let Some(Some(mine)) = open.last_mut() else { return };
        let place = (at, mine.batch.answers.len());
        let answer = match decision {
            Decision::Known { compared, depends } => {
                self.metrics.duplicates.inc();
                if depends {
                    self.block.depends.push(place);
                }
                Answer::Duplicate { compared }
            }
            Decision::Clash { depends } => {
                if depends || self.block.count > 0 {
                    self.block.depends.push(place);
                }
                Answer::Conflict
            }
            Decision::New => {
                self.block.depends.push(place);
                Answer::Created(self.append(item))
            }
            Decision::Refused(answer) => answer,
        };
        mine.batch.answers.push(answer);
    }

    fn decide(&mut self, item: &Item) -> Decision {
        if let Some(pending) = self.block.pending.get(&item.identity).copied() {
            if pending.print == item.print {
                return Decision::Known { compared: true, depends: true };
            }
            if pending.rules != item.rules {
                let stored = frames(&self.block.payload[pending.at..])
                    .next()
                    .map(|frame| String::from_utf8_lossy(frame.json).into_owned());
                return self.settle(item, stored.as_deref(), &pending.print, true);
            }
            self.record_conflict(item, &pending.print, true);
            return Decision::Clash { depends: true };
        }
        let oldest = self.journal_ms().saturating_sub(self.config.window_ms);
        let mut known = self.index.find(&item.identity, oldest);
        if known.is_none() && self.mend_index() {
            known = self.index.find(&item.identity, oldest);
        }
        if let Some(entry) = known
            && self.read_segment_of(entry.seq)
        {
            // Something in it is lost: maybe this one.
            known = self.index.find(&item.identity, oldest);
        }
        let Some(known) = known else { return Decision::New };
        if known.print == item.print {
            return Decision::Known { compared: true, depends: false };
        }
        if known.rules != item.rules {
            let stored = self.stored(known.seq, &item.identity);
            return self.settle(item, stored.as_deref(), &known.print, false);
        }
        self.record_conflict(item, &known.print, true);
        Decision::Clash { depends: false }
    }

    /// The prints differ, but so do the rules under which they were made: the records themselves decide.
    fn settle(&mut self, item: &Item, stored: Option<&str>, print: &[u8; 16], depends: bool) -> Decision {
        let new = String::from_utf8_lossy(&item.halves.bytes);
        match stored.map_or(Comparison::Unknown, |stored| compare(stored, &new, item.filled)) {
            Comparison::Same => Decision::Known { compared: true, depends },
            Comparison::Different => {
                self.record_conflict(item, print, true);
                Decision::Clash { depends }
            }
            Comparison::Unknown => {
                self.record_conflict(item, print, false);
                Decision::Known { compared: false, depends }
            }
        }
    }

    fn stored(&self, seq: u64, identity: &[u8; 16]) -> Option<String> {
        let held = Held::read(&self.journal.shared(), seq)?;
        let frame = held.frame().filter(|frame| frame.identity == *identity)?;
        Some(String::from_utf8_lossy(frame.json).into_owned())
    }

    fn record_conflict(&mut self, item: &Item, stored: &[u8; 16], comparable: bool) {
        if item.may_reuse {
            return;
        }
        if comparable {
            self.metrics.conflicts.inc();
        }
        let text = String::from_utf8_lossy(&item.halves.bytes);
        let Ok(Json::Object(record)) = parse(&text) else { return };
        let text_of = |name: &str| record.get(name).and_then(Json::as_str).unwrap_or_default().to_owned();
        let tenant = text_of("tenantId");
        let Some(count) = self.conflicts.count(item.identity, item.print, &tenant) else { return };
        if !self.journal.has_room(Class::Normal, self.block.payload.len() as u64 + 4096) {
            return;
        }
        let actor = record.get("actor").and_then(Json::as_object);
        let actor = actor.and_then(|actor| actor.get("id")).and_then(Json::as_str).unwrap_or_default();
        let mut note = Note::new(Kind::Conflict, "An event id was used again for another payload; the second one was refused.")
            .text("eventId", text_of("eventId"))
            .text("actorId", actor)
            .text("action", text_of("action"))
            .text("fingerprint", hex(&item.print))
            .text("storedFingerprint", hex(stored))
            .number("count", count)
            .flag("comparable", comparable);
        note.tenant = Some(tenant.clone());
        let name = self.chains.name_for(Some(&tenant)).to_owned();
        self.write_note(&note, &name, None);
    }

    /// Whether there is room for an event; else what to answer.
    fn admit(&mut self, item: &Item, estimate: usize, open: &mut [Option<Open>]) -> Result<(), Answer> {
        if !self.to_tell.is_empty() {
            self.flush_all(open);
            if !self.tell_start() {
                return Err(Answer::Failed(Failure::Full));
            }
        }
        let class = item.class();
        let bytes = (self.block.payload.len() + estimate) as u64;
        if self.has_room(class, bytes) || self.free_for(class, bytes) {
            self.metrics.full.store(false, Ordering::Relaxed);
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

    /// Whether a block of this class and size would be taken now, with what is promised to later records.
    fn has_room(&self, class: Class, bytes: u64) -> bool {
        let Reserve { bytes: reserved, largest } = &self.config.reserve;
        match (class, reserved.load(Ordering::Acquire)) {
            (Class::Normal, later) if later > 0 => self.journal.has_room_for(class, bytes, later, *largest),
            _ => self.journal.has_room(class, bytes),
        }
    }

    // --- writing ---

    fn append(&mut self, item: &Item) -> u64 {
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
    fn begin_chain(&mut self, name: &str) {
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

    fn write_note(&mut self, note: &Note, name: &str, reply: Option<oneshot::Sender<Result<u64, Failure>>>) {
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
    fn flush_all(&mut self, open: &mut [Option<Open>]) {
        let _ = self.flush(open);
    }

    /// Writes and syncs the block, enters its decisions and settles the answers that depend on it.
    fn flush(&mut self, open: &mut [Option<Open>]) -> Result<(), Failure> {
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

    fn committed(&mut self, mut block: Block, journal_ms: u64) {
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

    fn failed(&mut self, block: Block, error: &steno_journal::Error, open: &mut [Option<Open>]) -> Failure {
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

    // --- positions, space and the rest ---

    fn positions(&mut self, positions: &BTreeMap<u64, u64>) {
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
    fn keep_from(&self) -> u64 {
        if self.ids_stuck { u64::MAX } else { self.index.unsealed_from() }
    }

    /// Delivered segments are held by ids that no file has yet: have them written.
    fn seal_for_space(&mut self, wait: Wait) {
        self.collect_sealed(wait);
        let delivered = self.journal.positions().values().min().copied().unwrap_or(0);
        if self.journal.droppable().is_some_and(|end| end <= delivered && end > self.index.handed_to()) {
            self.seal_ids(delivered.min(self.journal.next_seq()), wait);
        }
    }

    fn free(&mut self) {
        self.seal_for_space(Wait::No);
        let now = self.clock.wall_ms();
        if let Err(error) = self.journal.free(now, self.keep_from(), false) {
            tracing::warn!(%error, "delivered space could not be freed");
        }
    }

    /// Frees delivered segments until a block of this class and size would be taken; `false`: none that is left can go just now.
    fn free_for(&mut self, class: Class, bytes: u64) -> bool {
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
    fn drop_oldest(&mut self) -> bool {
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

    /// A note for each chain that it concerns, with the losses of that chain alone: there may be a thousand. The losses of chains that
    /// nobody knows any more stand in notes of the sidecar's own chain.
    fn by_chain(&self, note: Note) -> Vec<(String, Note)> {
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

    fn house_keeping(&mut self) {
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
        if self.metrics.full.load(Ordering::Relaxed) && self.has_room(Class::Normal, 4096) {
            self.metrics.full.store(false, Ordering::Relaxed);
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

    fn gauge(&mut self) {
        self.journal.set_extra(self.index.bytes() + self.disk.aside());
        let usage = self.journal.usage();
        self.metrics.spool_bytes.set((usage.live + usage.extra) as i64);
        self.metrics.undelivered_bytes.set(usage.undelivered as i64);
        self.metrics.spool_limit.set(usage.bound as i64);
        self.metrics.dedupe_entries.set(self.index.len() as i64);
        self.metrics.chains.set(self.chains.len() as i64);
        self.metrics.head.set(self.journal.next_seq() as i64 - 1);
    }

    /// Has the ids below a number written to a file that are in none. One is written at a time: who waits has the one that is on its way, which may not
    /// have all of them, and the next.
    fn seal_ids(&mut self, end_seq: u64, wait: Wait) {
        self.collect_sealed(wait);
        let first = self.index.handed_to();
        if end_seq > first && !self.sealer.writing {
            let entries = self.index.take_unsealed(end_seq);
            self.sealer.write(first, end_seq, entries);
            self.collect_sealed(wait);
        }
    }

    fn collect_sealed(&mut self, wait: Wait) {
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

    fn reload(&mut self, config: Arc<CommitConfig>) {
        self.journal.set_options(config.journal);
        self.journal.set_envelope(config.envelope.clone());
        self.chains.scope = scope(&config);
        self.chains.most = config.max_chains;
        let positions = positions_of(&config.sinks, self.journal.positions(), self.journal.shared().oldest());
        if let Err(error) = self.journal.save_positions(&positions) {
            tracing::warn!(%error, "the sinks' positions could not be saved; a sink that was removed holds the spool until they can");
        }
        self.config = config;
    }

    /// Says in each chain that was used that the sidecar ends in good order.
    fn close(&mut self) {
        let mut records = VecDeque::new();
        if self.untold_drops > 0 {
            let count = std::mem::take(&mut self.untold_drops);
            let note = Note::new(Kind::Drop, "The spool was full; new events were dropped, as the policy says.");
            let note = note.text("reason", "DropNewest").number("records", count);
            records.push_back(Owed { note, chain: String::new(), epoch: None });
        }
        for chain in self.chains.used.clone() {
            let note = Note::new(Kind::Close, "The sidecar stopped in good order.");
            records.push_back(Owed { note, chain, epoch: None });
        }
        if let Err(error) = self.write_all(&mut records) {
            tracing::warn!(%error, records = records.len(), "failed to record in all chains that the sidecar stopped");
        }
        let _ = self.journal.save_progress();
        self.closed = true;
    }

    fn journal_ms(&self) -> u64 {
        self.journal_base + self.clock.elapsed().as_millis() as u64
    }
}

fn entry_of(seq: u64, frame: &Frame<'_>, at_ms: u64) -> Entry {
    Entry { identity: frame.identity, print: frame.print, seq, rules: frame.rules, at_ms }
}

/// As a file of ids has them: by identity, of each the newest.
fn sorted(mut entries: Vec<Entry>) -> Vec<Entry> {
    entries.sort_unstable_by(|a, b| a.identity.cmp(&b.identity).then(b.seq.cmp(&a.seq)));
    entries.dedup_by_key(|entry| entry.identity);
    entries
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

fn scope(config: &CommitConfig) -> Scope {
    match (config.chains, config.by_tenant) {
        (false, _) => Scope::None,
        (true, false) => Scope::Writer,
        (true, true) => Scope::Tenant,
    }
}

/// Positions of these sinks and no others; one that is new begins with the oldest record that is held. None at all: nobody has said yet which there are,
/// and all keep theirs.
fn positions_of(sinks: &[String], known: &BTreeMap<u64, u64>, oldest: u64) -> BTreeMap<u64, u64> {
    if sinks.is_empty() {
        let mut known = known.clone();
        known.entry(sink_id("kafka")).or_insert(oldest);
        return known;
    }
    sinks.iter().map(|sink| sink_id(sink)).map(|id| (id, known.get(&id).copied().unwrap_or(oldest))).collect()
}

// === the thread that writes files of ids ===

enum Job {
    Write { first: u64, end: u64, entries: Vec<Entry> },
    Merge(Vec<Arc<Sealed>>),
}

enum Done {
    /// `Err`: it failed, and its entries are in memory only; whether because the disk is full.
    Written(Result<Arc<Sealed>, bool>),
    Merged(Option<(Arc<Sealed>, Vec<Arc<Sealed>>)>),
}

struct Sealer {
    /// `None`: it is ending.
    jobs: Option<sync_mpsc::Sender<Job>>,
    thread: Option<std::thread::JoinHandle<()>>,
    done: sync_mpsc::Receiver<Done>,
    writing: bool,
    merging: bool,
    /// How many files there were when they could not be merged: it is not tried again before there are more, or fewer.
    failed: Option<usize>,
}

/// What a look at the files of ids waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wait {
    /// For nothing.
    No,
    /// For a file that is being written. Merging, which frees nothing, goes on.
    Written,
    /// For all.
    All,
}

impl Sealer {
    fn new(disk: Arc<dyn Disk>, uuid: [u8; 16]) -> Self {
        let (jobs, todo) = sync_mpsc::channel::<Job>();
        let (finished, done) = sync_mpsc::channel();
        let work = move || {
            let warn = |error: &steno_journal::Error| tracing::warn!(%error, "a file of event ids could not be written; it is tried again later");
            for job in todo {
                let result = match job {
                    Job::Write { first, end, entries } => {
                        let written = index::write(&disk, uuid, first, end, &entries).inspect_err(warn);
                        Done::Written(written.map(Arc::new).map_err(|error| error.is_full()))
                    }
                    Job::Merge(files) => {
                        Done::Merged(index::merge(&disk, uuid, &files).inspect_err(warn).ok().map(|file| (Arc::new(file), files)))
                    }
                };
                if finished.send(result).is_err() {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("steno-ids".into()).spawn(work);
        let thread = thread.inspect_err(|error| tracing::error!(%error, "no thread for files of event ids")).ok();
        Self { jobs: Some(jobs), thread, done, writing: false, merging: false, failed: None }
    }

    fn send(&self, job: Job) -> bool {
        self.jobs.as_ref().is_some_and(|jobs| jobs.send(job).is_ok())
    }

    fn write(&mut self, first: u64, end: u64, entries: Vec<Entry>) {
        self.writing = self.send(Job::Write { first, end, entries });
    }

    /// Merges neighbouring files of like size, once there are enough of them.
    fn merge(&mut self, files: &[Arc<Sealed>]) {
        if self.merging || files.len() < MERGE || self.failed == Some(files.len()) {
            return;
        }
        let run = files.windows(MERGE).rev().find(|run| {
            let (small, large) = (run.iter().map(|file| file.count).min(), run.iter().map(|file| file.count).max());
            small.zip(large).is_some_and(|(small, large)| large <= small.max(1) * 4)
        });
        if let Some(run) = run {
            self.merging = self.send(Job::Merge(run.to_vec()));
        }
    }

    /// What was done since.
    fn collect(&mut self, wait: Wait) -> Vec<Done> {
        let mut all = Vec::new();
        while self.writing || self.merging {
            let waits = wait == Wait::All || (wait == Wait::Written && self.writing);
            let next = if waits { self.done.recv().ok() } else { self.done.try_recv().ok() };
            let Some(next) = next else { break };
            match next {
                Done::Written(_) => self.writing = false,
                Done::Merged(_) => self.merging = false,
            }
            all.push(next);
        }
        all
    }
}

/// Nothing is written to the directory any more once the loop is gone.
impl Drop for Sealer {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
