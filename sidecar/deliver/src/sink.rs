//! Where records go, as the forwarder sees it.
use std::time::Duration;

use steno_commit::Frame;

/// Why a record was not delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The sink takes no more just now; nothing is wrong.
    Busy,
    /// It may go later. The text says why and what to do.
    Later(String),
    /// It may go later, and not before so long: the destination says so.
    Wait(Duration, String),
    /// Nothing is wrong with it: one before it must go first.
    Behind,
    /// This record, or one that it was sent together with, is refused. `alone`: it is known to be this one.
    Refused {
        /// Why.
        reason: String,
        /// Whether no other record can be the cause.
        alone: bool,
    },
    /// The sink itself is broken and must be made anew.
    Broken(String),
}

/// What became of a record that was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The record.
    pub seq: u64,
    /// How it went.
    pub result: Result<(), Refusal>,
}

/// A destination. Outcomes come by the channel that it was made with, one for each record that [`Sink::send`] took.
pub trait Sink: Send {
    /// Sends a record; returns at once.
    fn send(&mut self, seq: u64, frame: &Frame<'_>) -> Result<(), Refusal>;

    /// Sends a record to the dead-letter destination; `Refused` where there is none or it is too large.
    fn send_dead(&mut self, seq: u64, frame: &Frame<'_>, reason: &str) -> Result<(), Refusal>;

    /// All that was sent has come back, and what comes now begins at the first record that is not delivered.
    fn resume(&mut self) {}

    /// Asks whether the destination is there. May wait up to `wait`.
    fn probe(&mut self, wait: Duration) -> Result<(), String>;

    /// How long there has been no connection at all; `None` while there is one.
    fn absent_for(&self) -> Option<Duration>;

    /// Where it leads, for people: no secrets.
    fn describe(&self) -> String;
}
