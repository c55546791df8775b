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
    /// The destination needs nothing of this record. It counts as delivered, but says nothing about the destination.
    NotNeeded,
    /// The destination refused this record, or one that it was sent together with. The text says why. From [`Sink::send`]: it is known to refuse
    /// this record, and was not asked.
    Refused(String),
    /// This record cannot be sent to the destination, whatever it is sent with; the destination was not asked. The text says why.
    Unfit(String),
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

/// Marks the outcome of a dead letter that was sent once more.
pub const AGAIN: u64 = 1 << 62;

/// A destination. Outcomes come by the channel that it was made with, one for each record that [`Sink::send`] took.
pub trait Sink: Send {
    /// How many lanes there are: parts of the destination that confirm records on their own.
    fn lanes(&self) -> usize {
        1
    }

    /// The lane of a record. Order is kept within a lane. A record that may go to any lane gets one that is open.
    fn lane(&mut self, _seq: u64, _frame: &Frame<'_>, _is_open: &dyn Fn(u32) -> bool) -> u32 {
        0
    }

    /// Sends a record; returns at once.
    fn send(&mut self, seq: u64, frame: &Frame<'_>) -> Result<(), Refusal>;

    /// Sends a record to the dead-letter destination and waits until it is there; `Unfit` if there is none, or if it does not take the record.
    fn send_dead(&mut self, seq: u64, frame: &Frame<'_>, reason: &str) -> Result<(), Refusal>;

    /// Sends a dead letter to the destination once more; returns at once. Its outcome comes under its number with [`AGAIN`].
    fn send_again(&mut self, seq: u64, frame: &Frame<'_>) -> Result<(), Refusal>;

    /// All that was sent has come back, and what comes now begins at the first record that is not delivered.
    fn resume(&mut self) {}

    /// Asks whether the destination is there. May wait up to `wait`.
    fn probe(&mut self, wait: Duration) -> Result<(), String>;

    /// How long there has been no connection at all; `None` while there is one.
    fn absent_for(&self) -> Option<Duration>;

    /// The connection's last error in the client's own words, if it has not gone away since.
    fn last_error(&self) -> Option<String> {
        None
    }

    /// How long an answer may take before it counts as none; the breaker's `noBrokerFor` applies if that is longer.
    fn patience(&self) -> Duration {
        Duration::ZERO
    }

    /// Where it leads, for people: no secrets.
    fn describe(&self) -> String;
}
