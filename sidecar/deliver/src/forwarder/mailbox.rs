//! What reaches a forwarder from other threads, and the ends they hold.
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use crossbeam_channel::{Receiver, Sender, unbounded};
use steno_commit::{Critical, Observer};

use super::Settings;
use crate::{Gate, Outcome, Refusal, Sink};

/// Makes a sink that reports to a channel.
pub type SinkFactory = Box<dyn Fn(Reporter) -> Result<Box<dyn Sink>, String> + Send>;

/// How a sink reports. Reports of a sink that was replaced are ignored.
#[derive(Clone)]
pub struct Reporter {
    events: Sender<Event>,
    generation: u64,
}

/// What a forwarder receives.
pub enum Event {
    /// More is synced.
    Synced(u64),
    /// A critical event was synced.
    Critical(Critical),
    /// A record came back, from a sink of this generation.
    Outcome(u64, Outcome),
    /// All records of a batch came back, from a sink of this generation.
    Outcomes(u64, Vec<u64>, Result<(), Refusal>),
    /// What the preflight found, for a sink of this generation.
    Preflight(u64, Vec<String>),
    /// Something from outside.
    Control(Control),
}

/// What others may ask.
pub enum Control {
    /// Use other settings; with a factory, another destination.
    Reload(Settings, Option<SinkFactory>),
    /// Advance together with other sinks, or alone.
    Gate(Option<Arc<Gate>>),
    /// Look for dead letters that somebody asked to deliver again.
    Requeue,
    /// Stop when everything is delivered, at the latest after this time; answers with the number of records left.
    Stop(Duration, Sender<u64>),
}

/// The sending end, for the commit loop and for others.
#[derive(Clone)]
pub struct Inbox {
    sender: Sender<Event>,
    told: Arc<AtomicBool>,
}

// === impl Reporter ===

impl Reporter {
    /// A reporter for the sink of a generation.
    pub fn new(events: Sender<Event>, generation: u64) -> Self {
        Self { events, generation }
    }

    /// What became of a record.
    pub fn outcome(&self, seq: u64, result: Result<(), Refusal>) {
        let _ = self.events.send(Event::Outcome(self.generation, Outcome { seq, result }));
    }

    /// What became of all records of a batch.
    pub fn outcomes(&self, seqs: Vec<u64>, result: Result<(), Refusal>) {
        let _ = self.events.send(Event::Outcomes(self.generation, seqs, result));
    }

    /// What a preflight found.
    pub fn preflight(&self, warnings: Vec<String>) {
        let _ = self.events.send(Event::Preflight(self.generation, warnings));
    }
}

// === impl Inbox ===

impl Inbox {
    /// A channel to a forwarder that is created later.
    pub fn channel() -> (Self, Receiver<Event>) {
        let (sender, events) = unbounded();
        (Self { sender, told: Arc::new(AtomicBool::new(false)) }, events)
    }

    /// Asks for something.
    pub fn ask(&self, control: Control) {
        let _ = self.sender.send(Event::Control(control));
    }

    /// The sending end for sinks and preflights.
    pub fn sender(&self) -> Sender<Event> {
        self.sender.clone()
    }

    /// From now on the next block that is synced sends a message again.
    pub(super) fn listen(&self) {
        self.told.store(false, Ordering::SeqCst);
    }
}

impl Observer for Inbox {
    fn synced(&mut self, next_seq: u64, critical: Vec<Critical>) {
        for event in critical {
            let _ = self.sender.send(Event::Critical(event));
        }
        // One message is enough until it is read.
        if !self.told.swap(true, Ordering::AcqRel) {
            let _ = self.sender.send(Event::Synced(next_seq));
        }
    }
}
