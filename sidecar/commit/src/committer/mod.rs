//! The loop itself: it takes commands, decides over events, and drives what the modules below do.
mod ids;
mod space;
mod startup;
mod write;

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use steno_chain::{Kind, Note};
use steno_event::{
    compare::{Comparison, compare},
    hex,
    json::{Json, parse},
};
use steno_journal::{Class, Damage, Disk, Journal, Shared, sink_id};
use tokio::sync::{mpsc, oneshot};

use crate::{
    chains::{Chains, Scope},
    clock::Clock,
    config::CommitConfig,
    conflicts::Conflicts,
    frame::{Held, frames},
    id_writer::{Sealer, Wait},
    index::{Entry, Index},
    metrics::Metrics,
    work::{Answer, Batch, Critical, Failure, Inbox, Item, Work},
};

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
                Work::Find { identity, reply } => {
                    self.flush_all(&mut open);
                    let oldest = self.journal_ms().saturating_sub(self.config.window_ms);
                    let _ = reply.send(self.index.find(&identity, oldest).map(|entry| entry.seq));
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
