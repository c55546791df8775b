//! The loop itself.
use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, atomic::Ordering, mpsc as sync_mpsc},
    time::Duration,
};

use steno_chain::{Kind, Lost, Note, NoteContext};
use steno_event::{
    compare::{Comparison, compare},
    format_millis, hex,
    json::{Json, parse},
};
use steno_journal::{Class, Damage, Disk, Envelope, Journal, NewBlock, Next, Options, Reader, Shared, sink_id};
use tokio::sync::{mpsc, oneshot};

use crate::{
    Answer, Batch, Clock, Critical, Failure, Frame, Inbox, Item, Metrics, Work,
    chains::{Chains, Scope},
    conflicts::Conflicts,
    frame::{Held, frames},
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
}

/// Largest payload of a block, in bytes, where the segment's size allows.
const BLOCK_BYTES: usize = 1 << 20;
/// Pieces of work taken in one turn.
const TURN: usize = 1024;
/// Segments that are dropped for one event at most.
const DROPS: usize = 8;
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
    /// What was found at start and could not be recorded yet: no event goes before it.
    to_tell: Option<(bool, Vec<Damage>)>,
    /// Ids could not be written to a file: space is freed without waiting for it.
    ids_stuck: bool,
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
        let opened = Journal::open(disk.clone(), config.journal, config.envelope.clone())?;
        let mut journal = opened.journal;
        let uuid = journal.uuid();
        let sealed = index::load(&*disk, uuid)?;
        let index = Index::new(config.max_entries.max(1024), sealed, journal.shared().oldest());
        let base = format!("{}/{}", config.pod_uid, uuid::Uuid::from_bytes(uuid));
        let chains = Chains::new(base, scope(&config), config.max_chains, journal.heads());
        let positions = positions_of(&config.sinks, journal.positions(), journal.shared().oldest());
        journal.save_positions(&positions)?;
        let shared = journal.shared();
        let id_key = journal.id_key();
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
            journal_base: opened.journal_ms,
            block: Block::default(),
            sealer,
            freed_at: Duration::ZERO,
            untold_drops: 0,
            closed: false,
            to_tell: Some((opened.fresh, opened.damage.clone())),
            ids_stuck: false,
        };
        committer.rebuild();
        committer.tell_start();
        committer.gauge();
        let started = Started { fresh: opened.fresh, damage: opened.damage, shared, id_key, uuid, positions };
        Ok((committer, started))
    }

    /// Enters what no file of ids has yet, from the journal.
    fn rebuild(&mut self) {
        let mut reader = Reader::new(self.journal.shared(), self.index.unsealed_from());
        while let Ok(next) = reader.next() {
            match next {
                Next::CaughtUp => break,
                Next::Lost(_) => {}
                Next::Block(block) => {
                    for (seq, frame) in (block.header.first_seq..).zip(frames(&block.payload)) {
                        if !frame.is_note {
                            let at_ms = block.header.journal_ms;
                            self.index.insert(Entry {
                                identity: frame.identity,
                                print: frame.print,
                                seq,
                                rules: frame.rules,
                                at_ms,
                            });
                        }
                    }
                    let reached = block.header.next_seq();
                    if self.index.should_seal(reached) {
                        self.seal_ids(reached, Wait::Written);
                    }
                }
            }
        }
    }

    /// Tells of damage, each chain of its own. Whether it is on disk; if not it is tried again before the next event.
    fn tell_start(&mut self) -> bool {
        let Some((fresh, damage)) = self.to_tell.take() else { return true };
        self.write_start(fresh, &damage);
        if self.block.count == 0 {
            return true;
        }
        let before = self.journal.next_seq();
        self.flush(&mut []);
        let told = self.journal.next_seq() > before;
        if !told {
            self.to_tell = Some((fresh, damage));
        }
        told
    }

    fn write_start(&mut self, fresh: bool, damage: &[Damage]) {
        let mut lost: BTreeMap<String, Vec<Lost>> = BTreeMap::new();
        for range in damage.iter().flat_map(|damage| &damage.ranges) {
            lost.entry(range.id.clone()).or_default().push(lost_range(range));
        }
        if !damage.is_empty() {
            let records: u64 = damage.iter().map(|damage| damage.next_seq - damage.first_seq).sum();
            tracing::error!(records, chains = lost.len(), "the journal was damaged; what was lost is recorded by name");
            let above = self.journal.next_seq();
            let at_tail = damage.iter().all(|damage| damage.at_tail);
            let note = Note::new(Kind::Recovered, "The journal was damaged; records are missing, a new epoch begins.")
                .number("records", records)
                .flag("mayNeverHaveBeenAcknowledged", at_tail);
            let is_unnamed = lost.is_empty();
            let names = self.chains.names();
            for name in if names.is_empty() { vec![String::new()] } else { names } {
                let own = lost.remove(&self.chains.id(&name));
                if own.is_some() || is_unnamed || self.chains.is_broken(&name) {
                    // Where the chain's own numbers are not known, no chain is further than the journal.
                    self.chains.new_epoch(&name, if own.is_some() { 0 } else { above });
                    self.write_note(&note.clone().lost(own.unwrap_or_default()), &name, None);
                }
            }
            if !lost.is_empty() {
                // Of chains that nobody knows any more.
                self.write_note(&note.lost(lost.into_values().flatten().collect()), "", None);
            }
        } else if fresh {
            self.write_note(&Note::new(Kind::Genesis, "A journal begins."), "", None);
        }
        for name in self.chains.names() {
            if self.chains.is_broken(&name) {
                self.chains.new_epoch(&name, 0);
                self.write_note(
                    &Note::new(Kind::Epoch, "The chain's last record could not be read; a new epoch begins."),
                    &name,
                    None,
                );
            }
        }
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
                Work::Note { note, reply } => {
                    let mut reply = reply;
                    for (name, note) in self.by_chain(note) {
                        self.write_note(&note, &name, reply.take());
                    }
                }
                Work::Positions(positions) => self.positions(&positions),
                Work::Rotate => {
                    self.flush(&mut open);
                    match self.journal.rotate(self.clock.wall_ms()) {
                        // Where there is no room, it is asked for again.
                        Err(error) if !error.is_full() => {
                            tracing::warn!(%error, "no new segment could be begun; what the one in use holds stays for now");
                        }
                        _ => {}
                    }
                }
                Work::Reload(config, note) => {
                    self.flush(&mut open);
                    self.reload(config);
                    self.write_note(&note, "", None);
                }
                Work::Close(done) => {
                    self.flush(&mut open);
                    self.close();
                    let _ = done.send(());
                }
                Work::End(done) => ending = Some(done),
            }
        }
        self.flush(&mut open);
        for open in open.into_iter().flatten() {
            let _ = open.reply.send(open.batch);
        }
        self.house_keeping();
        ending
    }

    // --- deciding ---

    fn take(&mut self, item: &Item, open: &mut [Option<Open>]) {
        let estimate = item.halves.bytes.len() + 512;
        let limit = BLOCK_BYTES.min(self.config.journal.segment_bytes as usize / 4).max(64 << 10);
        if self.block.payload.len() + estimate > limit && self.block.count > 0 {
            self.flush(open);
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
        let Some(known) = self.index.find(&item.identity, oldest) else { return Decision::New };
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
        if self.to_tell.is_some() {
            self.flush(open);
            if !self.tell_start() {
                return Err(Answer::Failed(Failure::Full));
            }
        }
        let class = item.class();
        let bytes = (self.block.payload.len() + estimate) as u64;
        if self.journal.has_room(class, bytes) {
            return Ok(());
        }
        if self.free_for(class, bytes) {
            return Ok(());
        }
        match self.config.when_full {
            WhenFull::DropOldest => {
                self.flush(open);
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

    /// A chain begins with a record that says so.
    fn begin_chain(&mut self, name: &str) {
        if self.chains.scope != Scope::None && !self.chains.has_begun(name) {
            self.write_note(&Note::new(Kind::Genesis, "A chain begins."), name, None);
        }
    }

    fn write_note(&mut self, note: &Note, name: &str, reply: Option<oneshot::Sender<Result<u64, Failure>>>) {
        if note.kind != Kind::Genesis {
            self.begin_chain(name);
        }
        let now_ms = self.clock.wall_ms();
        let event_id = uuid::Uuid::now_v7().to_string();
        let halves = note.encode(&self.config.note, &event_id, &format_millis(now_ms));
        let frame = Frame {
            is_note: true,
            is_critical: false,
            identity: [0; 16],
            print: [0; 16],
            rules: 0,
            filled: 0,
            received_ms: now_ms,
            action: halves.action,
            event_id: halves.event_id,
            split: if self.chains.scope == Scope::None { 0 } else { halves.split as u32 },
            json: &[],
        };
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

    /// Writes and syncs the block, enters its decisions and settles the answers that depend on it.
    fn flush(&mut self, open: &mut [Option<Open>]) {
        if self.block.count == 0 {
            return;
        }
        let block = std::mem::take(&mut self.block);
        let journal_ms = self.journal_ms();
        let new = NewBlock {
            class: block.class.unwrap_or(Class::Normal),
            count: block.count,
            ranges: self.chains.ranges(),
            wall_ms: self.clock.wall_ms(),
            journal_ms,
            payload: &[&block.payload],
        };
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
        match result {
            Ok(()) => self.committed(block, journal_ms),
            Err(error) => self.failed(block, &error, open),
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

    fn failed(&mut self, block: Block, error: &steno_journal::Error, open: &mut [Option<Open>]) {
        self.chains.undo();
        self.metrics.writable.store(false, Ordering::Relaxed);
        self.metrics.failed_blocks.inc();
        tracing::error!(%error, events = block.count, "a block could not be written; its events were refused");
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
            if self.journal.has_room(class, bytes) {
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
        let (mut all_told, mut most) = (Vec::new(), 0);
        for (sink, from) in waiting {
            let (lost, count) = losses(&shared, from, end, sink.as_deref());
            let mut note =
                Note::new(Kind::Drop, "The spool was full; the oldest undelivered events were dropped, as the policy says.");
            if let Some(sink) = sink {
                note = note.text("sink", sink);
            }
            let note = note.text("reason", "DropOldest").number("records", count).lost(lost);
            let (reply, told) = oneshot::channel();
            let mut reply = Some(reply);
            for (name, note) in self.by_chain(note) {
                self.write_note(&note, &name, reply.take());
            }
            all_told.push(told);
            most = most.max(count);
        }
        self.flush(&mut []);
        if !all_told.iter_mut().all(|told| matches!(told.try_recv(), Ok(Ok(_)))) {
            return false;
        }
        let positions = self.journal.positions().iter().map(|(sink, position)| (*sink, (*position).max(end))).collect();
        if self.journal.save_positions(&positions).is_err() {
            return false;
        }
        self.index.forget_below(end);
        self.metrics.dropped.inc_by(most);
        tracing::warn!(records = most, "the spool was full: the oldest undelivered events were dropped");
        self.journal.free(self.clock.wall_ms(), u64::MAX, true).unwrap_or(0) > 0
    }

    /// A note for each chain that it concerns, with the losses of that chain alone: there may be a thousand, and all notes go into one block. The
    /// losses of chains that nobody knows any more stand in the first.
    fn by_chain(&self, note: Note) -> Vec<(String, Note)> {
        if note.lost.is_empty() {
            return vec![(String::new(), note)];
        }
        let mut by_id: BTreeMap<String, Vec<Lost>> = BTreeMap::new();
        for lost in &note.lost {
            by_id.entry(lost.chain_id.clone()).or_default().push(lost.clone());
        }
        let own = |name: String| by_id.remove(&self.chains.id(&name)).map(|lost| (name, Note { lost, ..note.clone() }));
        let mut notes: Vec<(String, Note)> = self.chains.names().into_iter().filter_map(own).collect();
        let strangers = by_id.into_values().flatten();
        match notes.first_mut() {
            Some((_, first)) => first.lost.extend(strangers),
            None => notes.push((String::new(), Note { lost: strangers.collect(), ..note })),
        }
        notes
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
            self.flush(&mut []);
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
                Done::Written(Some(file)) => {
                    self.index.publish(file);
                    self.ids_stuck = false;
                }
                Done::Written(None) => {
                    self.index.take_back();
                    self.ids_stuck = true;
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
        for name in self.chains.used.clone() {
            self.write_note(&Note::new(Kind::Close, "The sidecar stopped in good order."), &name, None);
        }
        self.flush(&mut []);
        self.closed = true;
    }

    fn journal_ms(&self) -> u64 {
        self.journal_base + self.clock.elapsed().as_millis() as u64
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
    /// `None`: it failed, and its entries are in memory only.
    Written(Option<Arc<Sealed>>),
    Merged(Option<(Arc<Sealed>, Vec<Arc<Sealed>>)>),
}

struct Sealer {
    jobs: sync_mpsc::Sender<Job>,
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
                        Done::Written(index::write(&*disk, uuid, first, end, &entries).inspect_err(warn).ok().map(Arc::new))
                    }
                    Job::Merge(files) => Done::Merged(
                        index::merge(&*disk, uuid, &files).inspect_err(warn).ok().map(|file| (Arc::new(file), files)),
                    ),
                };
                if finished.send(result).is_err() {
                    return;
                }
            }
        };
        if let Err(error) = std::thread::Builder::new().name("steno-ids".into()).spawn(work) {
            tracing::error!(%error, "no thread for files of event ids");
        }
        Self { jobs, done, writing: false, merging: false, failed: None }
    }

    fn write(&mut self, first: u64, end: u64, entries: Vec<Entry>) {
        self.writing = self.jobs.send(Job::Write { first, end, entries }).is_ok();
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
            self.merging = self.jobs.send(Job::Merge(run.to_vec())).is_ok();
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
