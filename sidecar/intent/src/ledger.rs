//! What a reader of the journal knows of the intents in it.
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use steno_commit::{Frame, frames};
use steno_journal::{Block, Next, Reader, Shared, Spot};

use crate::{Step, Stored};

/// How an intent ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ending {
    /// The application said how the write went.
    Resolved,
    /// It was open for too long.
    Expired,
}

/// Where an intent is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Open; its latest record is this one.
    Open {
        /// Sequence number in the intents' journal.
        seq: u64,
        /// Where its block lies.
        spot: Spot,
    },
    /// Ended.
    Closed {
        /// How.
        ending: Ending,
        /// How the write went, as the application said.
        outcome: Option<String>,
        /// The audit event.
        event_id: Option<String>,
        /// When, milliseconds since 1970.
        at_ms: u64,
        /// Its latest record.
        seq: u64,
        /// Where its block lies.
        spot: Spot,
    },
}

/// An intent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its place in the order of all: the sequence number of its first record. Unknown of one that ended, and whose first record is gone: 0.
    pub number: u64,
    /// When it came, milliseconds since 1970; of one that ended, and whose first record is gone, when it ended.
    pub created_ms: u64,
    /// When this process learned of it.
    pub seen: Instant,
    /// Whether that was at its start: then it came earlier, nobody knows how much by this clock.
    pub from_before: bool,
    /// What it was about, as a keyed hash; `None`: its first record is gone.
    pub print: Option<[u8; 16]>,
    /// Bytes that the record of its end needs at most.
    pub end_bytes: u64,
    /// Where it is.
    pub state: State,
}

/// What is to be done so that payloads of no more use go.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Chores {
    /// The segment in use must end.
    pub rotate: bool,
    /// Open intents that must stand further on, by id: those of the oldest segment that has some.
    pub carry: Vec<String>,
}

// === impl Ending ===

impl Ending {
    /// The word in records and answers.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Resolved => "resolved",
            Self::Expired => "expired",
        }
    }
}

// === impl Entry ===

impl Entry {
    /// Whether it is open.
    pub const fn is_open(&self) -> bool {
        matches!(self.state, State::Open { .. })
    }

    /// Its state, in one word.
    pub const fn word(&self) -> &'static str {
        match &self.state {
            State::Open { .. } => "open",
            State::Closed { ending, .. } => ending.word(),
        }
    }
}

/// All intents that the journal still holds, and for a while those that ended.
pub struct Ledger {
    shared: Arc<Shared>,
    reader: Reader,
    intents: HashMap<String, Entry>,
    /// Ids of open ones by number: the order in which they came.
    open: BTreeMap<u64, String>,
    /// Latest records of open ones, and whose they are.
    live: BTreeMap<u64, String>,
    /// Records with a payload that is of no more use, and since when.
    dead: BTreeMap<u64, Instant>,
    /// Ids of ended ones by their latest record, and when this process learned of it.
    closed: BTreeMap<u64, (String, Instant)>,
    /// Records that could not be read: sequence numbers from, up to.
    lost: Vec<(u64, u64)>,
    /// Records that could not be read since this process began.
    lost_total: u64,
    /// Bytes that the ends of all open ones need at most.
    end_bytes: u64,
    /// What is read is from before this process.
    at_start: bool,
}

/// So long, and at most so many, ended ones are remembered when their records are gone.
const REMEMBERED: Duration = Duration::from_hours(1);
const MOST_REMEMBERED: usize = 50_000;

// === impl Ledger ===

impl Ledger {
    /// What a journal holds.
    pub fn new(shared: Arc<Shared>) -> Self {
        let reader = Reader::new(shared.clone(), 0);
        Self {
            shared,
            reader,
            intents: HashMap::new(),
            open: BTreeMap::new(),
            live: BTreeMap::new(),
            dead: BTreeMap::new(),
            closed: BTreeMap::new(),
            lost: Vec::new(),
            lost_total: 0,
            end_bytes: 0,
            at_start: true,
        }
    }

    /// Reads what was synced since the last time.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub fn catch_up(&mut self) -> Result<(), steno_journal::Error> {
        let result = self.read_on();
        self.at_start &= result.is_err();
        // A segment that is held cannot be freed.
        self.reader.release();
        let oldest = self.shared.oldest();
        self.dead = self.dead.split_off(&oldest);
        let now = Instant::now();
        while let Some(first) = self.closed.first_entry() {
            let is_over = now.duration_since(first.get().1) > REMEMBERED;
            if *first.key() >= oldest || !(is_over || self.intents.len() > MOST_REMEMBERED) {
                break;
            }
            let (closed_at, (id, _)) = first.remove_entry();
            // Its id may be another one's by now.
            if matches!(self.intents.get(&id), Some(Entry { state: State::Closed { seq, .. }, .. }) if *seq == closed_at) {
                self.intents.remove(&id);
            }
        }
        result
    }

    fn read_on(&mut self) -> Result<(), steno_journal::Error> {
        loop {
            match self.reader.next()? {
                Next::CaughtUp => return Ok(()),
                Next::Lost(damage) => self.lost(damage.first_seq, damage.next_seq),
                Next::Block(block) => {
                    let Some(spot) = self.reader.spot() else { continue };
                    for (seq, frame) in (block.header.first_seq..).zip(frames(&block.payload)) {
                        self.enter(seq, spot, &frame);
                    }
                }
            }
        }
    }

    fn enter(&mut self, seq: u64, spot: Spot, frame: &Frame<'_>) {
        if frame.is_note {
            return;
        }
        let stored = match Stored::read(frame.json) {
            Ok(stored) => stored,
            Err(error) => {
                tracing::error!(seq, %error, "a record of the intents' journal cannot be read");
                self.lost(seq, seq + 1);
                return;
            }
        };
        let now = Instant::now();
        let known = self.intents.get(&stored.intent_id).cloned();
        if let Some(Entry { number, end_bytes, state: State::Open { seq: last, .. }, .. }) = &known {
            self.end_bytes -= end_bytes;
            self.open.remove(number);
            self.live.remove(last);
            self.dead.insert(*last, now);
        }
        let is_open = known.as_ref().is_some_and(Entry::is_open);
        if stored.step == Step::Carried && (stored.private.is_none() || (known.is_some() && !is_open)) {
            // It ended before: what it was about is of no use here either.
            self.dead.insert(seq, now);
            return;
        }
        let opened = (stored.step == Step::Opened).then_some(frame.print);
        let print = opened.or_else(|| known.as_ref().and_then(|known| known.print));
        let end_bytes = end_bytes(&stored);
        let (seen, from_before) = known.as_ref().map_or((now, self.at_start), |known| (known.seen, known.from_before));
        let entry = if stored.step == Step::Closed {
            self.closed.insert(seq, (stored.intent_id.clone(), now));
            Entry {
                number: known.as_ref().map_or(0, |known| known.number),
                created_ms: known.map_or(frame.received_ms, |known| known.created_ms),
                seen,
                from_before,
                print,
                end_bytes,
                state: State::Closed {
                    ending: stored.state.unwrap_or(Ending::Resolved),
                    outcome: stored.outcome,
                    event_id: stored.event_id,
                    at_ms: frame.received_ms,
                    seq,
                    spot,
                },
            }
        } else {
            let number = known.filter(|_| is_open).map_or(stored.number.unwrap_or(seq), |known| known.number);
            self.live.insert(seq, stored.intent_id.clone());
            self.open.insert(number, stored.intent_id.clone());
            self.end_bytes += end_bytes;
            Entry { number, created_ms: frame.received_ms, seen, from_before, print, end_bytes, state: State::Open { seq, spot } }
        };
        self.intents.insert(stored.intent_id, entry);
    }

    /// An intent.
    pub fn get(&self, id: &str) -> Option<&Entry> {
        self.intents.get(id)
    }

    /// How many are open.
    pub fn open(&self) -> usize {
        self.open.len()
    }

    /// Bytes that the ends of all open ones need at most: room for them is kept, so that what was taken can always end.
    pub const fn end_bytes(&self) -> u64 {
        self.end_bytes
    }

    /// Records that could not be read since this process began: intents may be missing.
    pub const fn lost_total(&self) -> u64 {
        self.lost_total
    }

    /// When the oldest open one came, milliseconds since 1970.
    pub fn oldest_ms(&self) -> Option<u64> {
        let id = self.open.values().next()?;
        self.intents.get(id).map(|entry| entry.created_ms)
    }

    /// Open ones behind a number, in the order in which they came.
    pub fn open_after(&self, number: Option<u64>) -> impl Iterator<Item = (&str, &Entry)> {
        let from = number.map_or(0, |number| number.saturating_add(1));
        self.open.range(from..).filter_map(|(_, id)| Some((id.as_str(), self.intents.get(id)?)))
    }

    /// Those that ended so, behind a record, in the order in which they ended.
    pub fn ended_after(&self, ending: Ending, seq: Option<u64>) -> impl Iterator<Item = (&str, &Entry)> {
        let from = seq.map_or(0, |seq| seq.saturating_add(1));
        let is_so = move |entry: &Entry| matches!(entry.state, State::Closed { ending: found, .. } if found == ending);
        let all = self.closed.range(from..).filter_map(|(_, (id, _))| Some((id.as_str(), self.intents.get(id)?)));
        all.filter(move |(_, entry)| is_so(entry))
    }

    /// The latest record of an intent; while it is open, with its payload. `None`: it is not there, or it is damaged.
    ///
    /// # Errors
    /// The disk did not give it: it may the next time.
    pub fn read(&self, id: &str) -> Result<Option<Stored>, steno_journal::Error> {
        let Some(entry) = self.intents.get(id) else { return Ok(None) };
        Records::of(&self.shared).read(id, entry)
    }

    /// Open ones that have been so for too long, by the wall clock and by that of this process: one of them may jump, and an application that was away
    /// as long as the sidecar gets `grace` to look at what it left.
    pub fn overdue(&self, wall_ms: u64, after: Duration, grace: Duration) -> Vec<String> {
        let is_overdue = |id: &&String| {
            self.intents.get(*id).is_some_and(|entry| {
                let after_ms = after.as_millis() as u64;
                // The clock was ahead when it came: then only that of this process says how long ago that is.
                let is_ahead = entry.created_ms > wall_ms;
                let least = if entry.from_before && !is_ahead { after.min(grace) } else { after };
                let is_old = is_ahead || wall_ms - entry.created_ms >= after_ms;
                is_old && entry.seen.elapsed() >= least
            })
        };
        self.open.values().filter(is_overdue).cloned().collect()
    }

    /// Records from here on are needed.
    pub fn pin(&self) -> u64 {
        self.live.first_key_value().map_or_else(|| self.reader.position(), |(seq, _)| *seq)
    }

    /// What is to be done for payloads that have been of no use since before a time, and that the topic (which has all below `delivered`) holds no longer;
    /// and for what stands below `renew`, which is to stand further on in any case.
    pub fn chores(&self, before: Instant, delivered: u64, renew: u64) -> Chores {
        let old = self.dead.range(..delivered).rev().find(|(_, since)| **since <= before);
        let newest = old.map(|(seq, _)| *seq).max(renew.min(delivered).checked_sub(1));
        let Some(newest) = newest.filter(|newest| old.is_some() || self.pin() <= *newest) else { return Chores::default() };
        let starts = self.shared.segment_starts();
        let end_of = |seq: u64| starts.iter().map(|(_, first)| *first).find(|first| *first > seq);
        let end = end_of(newest);
        // One segment after the other: each that goes makes room for the next.
        let first = self.live.keys().next().filter(|first| end.is_none_or(|end| **first < end));
        // What is in the segment in use waits for the next one.
        let until = first.and_then(|first| end_of(*first));
        let carry = until.map(|until| self.live.range(..until).map(|(_, id)| id.clone()).collect()).unwrap_or_default();
        Chores { rotate: end.is_none(), carry }
    }

    /// Takes out what cannot be read any more; its record is among those that are lost.
    pub fn lose(&mut self, id: &str) {
        let Some(Entry { number, end_bytes, state: State::Open { seq, .. }, .. }) = self.intents.get(id) else { return };
        let seq = *seq;
        self.end_bytes -= end_bytes;
        self.open.remove(number);
        self.live.remove(&seq);
        self.intents.remove(id);
        self.lost(seq, seq + 1);
    }

    /// Notes that records could not be read.
    pub fn lost(&mut self, first: u64, next: u64) {
        self.lost_total += next.saturating_sub(first);
        self.lost.push((first, next));
    }

    /// Counts records that could not be read, and were told of.
    pub fn count_lost(&mut self, first: u64, next: u64) {
        self.lost_total += next.saturating_sub(first);
    }

    /// Begins to count anew.
    pub const fn forget_lost(&mut self) {
        self.lost_total = 0;
    }

    /// Notes that records that could not be read are still to be told of.
    pub fn untold(&mut self, first: u64, next: u64) {
        self.lost.push((first, next));
    }

    /// Records that could not be read, and were not told of: sequence numbers from, up to.
    pub fn take_lost(&mut self) -> Vec<(u64, u64)> {
        std::mem::take(&mut self.lost)
    }
}

/// What an end adds to the public record of an intent, in JSON, frame and block, encrypted, in a block of its own.
const END_BYTES: u64 = 1536;

/// Bytes that the record of an intent's end needs at most.
fn end_bytes(stored: &Stored) -> u64 {
    stored.public.get().len() as u64 + END_BYTES
}

/// Latest records of intents, read without the ledger. Those of one block one after the other cost one reading.
pub struct Records {
    shared: Arc<Shared>,
    last: Option<(Spot, Block)>,
}

// === impl Records ===

impl Records {
    /// Those of a journal.
    pub fn of(shared: &Arc<Shared>) -> Self {
        Self { shared: shared.clone(), last: None }
    }

    /// The latest record of an intent. `None`: it stands elsewhere by now, or it is damaged; which of them the ledger knows, once it caught up.
    ///
    /// # Errors
    /// The disk did not give it: it may the next time.
    pub fn read(&mut self, id: &str, entry: &Entry) -> Result<Option<Stored>, steno_journal::Error> {
        let (State::Open { seq, spot } | State::Closed { seq, spot, .. }) = entry.state;
        if seq < self.shared.oldest() {
            return Ok(None);
        }
        if self.last.as_ref().is_none_or(|(known, _)| *known != spot) {
            let Next::Block(block) = Reader::at(self.shared.clone(), spot).next()? else { return Ok(None) };
            self.last = Some((spot, block));
        }
        let Some((_, block)) = &self.last else { return Ok(None) };
        let index = seq.checked_sub(block.header.first_seq);
        let frame = index.and_then(|index| frames(&block.payload).nth(index as usize));
        Ok(frame.and_then(|frame| Stored::read(frame.json).ok()).filter(|stored| stored.intent_id == id))
    }
}
