//! What a reader of the journal knows of the intents in it.
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use steno_commit::{Frame, Held, frames};
use steno_journal::{Next, Reader, Shared};

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
    },
}

/// An intent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its place in the order of all: the sequence number of its first record. Unknown of one that ended, and whose first record is gone: 0.
    pub number: u64,
    /// When it came, milliseconds since 1970.
    pub created_ms: u64,
    /// Where it is.
    pub state: State,
}

/// What is to be done so that payloads of no more use go.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Chores {
    /// The segment in use must end.
    pub rotate: bool,
    /// Open intents that must stand further on, by id.
    pub carry: Vec<String>,
}

/// All intents that the journal still holds.
pub struct Ledger {
    shared: Arc<Shared>,
    reader: Reader,
    intents: HashMap<String, Entry>,
    /// Ids of open ones by number: the order in which they came.
    open: BTreeMap<u64, String>,
    /// Latest records of open ones.
    live: BTreeSet<u64>,
    /// Records with a payload that is of no more use, and since when, milliseconds since 1970.
    dead: BTreeMap<u64, u64>,
    /// Ids of ended ones by their latest record.
    closed: BTreeMap<u64, String>,
}

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
            live: BTreeSet::new(),
            dead: BTreeMap::new(),
            closed: BTreeMap::new(),
        }
    }

    /// Reads what was synced since the last time.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub fn catch_up(&mut self) -> Result<(), steno_journal::Error> {
        loop {
            match self.reader.next()? {
                Next::CaughtUp => break,
                // Recovery has told so, by name.
                Next::Lost(_) => {}
                Next::Block(block) => {
                    let at_ms = block.header.wall_ms;
                    for (seq, frame) in (block.header.first_seq..).zip(frames(&block.payload)) {
                        self.enter(seq, &frame, at_ms);
                    }
                }
            }
        }
        // A segment that is held cannot be freed.
        self.reader.release();
        let oldest = self.shared.oldest();
        self.dead = self.dead.split_off(&oldest);
        let held = self.closed.split_off(&oldest);
        for id in std::mem::replace(&mut self.closed, held).into_values() {
            self.intents.remove(&id);
        }
        Ok(())
    }

    fn enter(&mut self, seq: u64, frame: &Frame<'_>, at_ms: u64) {
        if frame.is_note {
            return;
        }
        let stored = match Stored::read(frame.json) {
            Ok(stored) => stored,
            Err(error) => {
                tracing::error!(seq, %error, "a record of the intents' journal cannot be read");
                return;
            }
        };
        let known = self.intents.get(&stored.intent_id).cloned();
        let is_open = matches!(known, Some(Entry { state: State::Open { .. }, .. }));
        match stored.step {
            Step::Closed => {
                if let Some(Entry { number, state: State::Open { seq: last }, .. }) = &known {
                    self.open.remove(number);
                    self.live.remove(last);
                    self.dead.insert(*last, frame.received_ms);
                }
                self.closed.insert(seq, stored.intent_id.clone());
                let entry = Entry {
                    number: known.as_ref().map_or(0, |known| known.number),
                    created_ms: known.map_or(frame.received_ms, |known| known.created_ms),
                    state: State::Closed {
                        ending: stored.state.unwrap_or(Ending::Resolved),
                        outcome: stored.outcome,
                        event_id: stored.event_id,
                        at_ms: frame.received_ms,
                        seq,
                    },
                };
                self.intents.insert(stored.intent_id, entry);
            }
            // It ended before: what it was about is of no use here either.
            Step::Carried if known.is_some() && !is_open => drop(self.dead.insert(seq, at_ms)),
            Step::Carried | Step::Opened => {
                if let Some(Entry { state: State::Open { seq: last }, .. }) = &known {
                    self.live.remove(last);
                    self.dead.insert(*last, at_ms);
                }
                let number = known.filter(|_| is_open).map_or(stored.number.unwrap_or(seq), |known| known.number);
                self.live.insert(seq);
                self.open.insert(number, stored.intent_id.clone());
                let entry = Entry { number, created_ms: frame.received_ms, state: State::Open { seq } };
                self.intents.insert(stored.intent_id, entry);
            }
        }
    }

    /// An intent.
    pub fn get(&self, id: &str) -> Option<&Entry> {
        self.intents.get(id)
    }

    /// How many are open.
    pub fn open(&self) -> usize {
        self.open.len()
    }

    /// When the oldest open one came, milliseconds since 1970.
    pub fn oldest_ms(&self) -> Option<u64> {
        let id = self.open.values().next()?;
        self.intents.get(id).map(|entry| entry.created_ms)
    }

    /// Ids of open ones behind a number, in the order in which they came.
    pub fn open_after(&self, number: Option<u64>) -> impl Iterator<Item = (u64, &str)> {
        let from = number.map_or(0, |number| number + 1);
        self.open.range(from..).map(|(number, id)| (*number, id.as_str()))
    }

    /// Ids of those that ended so, behind a record, in the order in which they ended.
    pub fn ended_after(&self, ending: Ending, seq: Option<u64>) -> impl Iterator<Item = (u64, &str)> {
        let from = seq.map_or(0, |seq| seq + 1);
        let is_so = move |id: &str| matches!(self.intents.get(id), Some(Entry { state: State::Closed { ending: found, .. }, .. }) if *found == ending);
        self.closed.range(from..).map(|(seq, id)| (*seq, id.as_str())).filter(move |(_, id)| is_so(id))
    }

    /// The latest record of an intent; while it is open, with its payload.
    pub fn read(&self, id: &str) -> Option<Stored> {
        let (State::Open { seq } | State::Closed { seq, .. }) = self.intents.get(id)?.state;
        let held = Held::read(&self.shared, seq)?;
        let frame = held.frame()?;
        Stored::read(frame.json).ok().filter(|stored| stored.intent_id == id)
    }

    /// Ids of those that came before a time, milliseconds since 1970, and are open.
    pub fn open_since_before(&self, at_ms: u64) -> Vec<String> {
        // Clocks jump: the order of numbers need not be that of times.
        let old = |id: &&String| self.intents.get(*id).is_some_and(|entry| entry.created_ms <= at_ms);
        self.open.values().filter(old).cloned().collect()
    }

    /// Records from here on are needed.
    pub fn pin(&self) -> u64 {
        self.live.first().copied().unwrap_or_else(|| self.reader.position())
    }

    /// What is to be done for payloads that are of no use since before a time.
    pub fn chores(&self, before_ms: u64) -> Chores {
        let old = |(_, since): &(&u64, &u64)| **since <= before_ms;
        let Some((newest, _)) = self.dead.iter().rev().find(old) else { return Chores::default() };
        let starts = self.shared.segment_starts();
        // What is open up to the end of its segment holds it.
        let end = starts.iter().map(|(_, first)| *first).find(|first| first > newest);
        let held = self.live.range(..end.unwrap_or(u64::MAX));
        let by_seq: HashMap<u64, &String> = self
            .open
            .values()
            .filter_map(|id| match self.intents.get(id)?.state {
                State::Open { seq } => Some((seq, id)),
                State::Closed { .. } => None,
            })
            .collect();
        let carry = held.filter_map(|seq| by_seq.get(seq).map(|id| (*id).clone())).collect();
        Chores { rotate: end.is_none(), carry }
    }
}
