//! The topic of write intents: their public records on the way to Kafka, never what an application will write.
use std::time::Duration;

use steno_commit::Frame;
use steno_event::{
    Halves, encode,
    json::{Json, parse},
};
use steno_intent::public_of;

use crate::{
    Refusal, Reporter, Sink, as_it_is,
    kafka::{Destination, KafkaSink},
};

/// Delivers the public records of the intents' journal.
pub struct Intents {
    kafka: KafkaSink,
}

// === impl Intents ===

impl Intents {
    /// A producer for a destination, reporting to a channel.
    ///
    /// # Errors
    /// No client can be made for it.
    pub fn new(destination: Destination, reporter: Reporter) -> Result<Self, String> {
        Ok(Self { kafka: KafkaSink::new(destination, reporter)? })
    }
}

/// The public record of a frame; `None`: the topic has it already. What cannot be read does not go.
fn public(frame: &Frame<'_>) -> Result<Option<Halves>, Refusal> {
    let broken = |_| Refusal::Unfit("it is no record of an intent".into());
    let Some(public) = public_of(frame.json).map_err(broken)? else { return Ok(None) };
    match parse(&public) {
        Ok(Json::Object(record)) => Ok(Some(encode(&record))),
        _ => Err(Refusal::Unfit("its public record cannot be read".into())),
    }
}

/// What may be kept of a record outside its journal.
pub fn shown(frame: &Frame<'_>) -> String {
    if frame.is_note {
        return as_it_is(frame);
    }
    public_of(frame.json).ok().flatten().unwrap_or_else(|| "{}".into())
}

/// As a record of the sidecar: its action is its type.
fn dressed<'a>(frame: &Frame<'a>, halves: &'a Halves) -> Frame<'a> {
    Frame { is_note: true, action: halves.action, event_id: halves.event_id, split: 0, json: &halves.bytes, ..*frame }
}

impl Sink for Intents {
    fn lanes(&self) -> usize {
        self.kafka.lanes()
    }

    fn lane(&mut self, seq: u64, frame: &Frame<'_>, is_open: &dyn Fn(u32) -> bool) -> u32 {
        match public(frame) {
            Ok(Some(halves)) if !frame.is_note => self.kafka.lane(seq, &dressed(frame, &halves), is_open),
            _ => self.kafka.lane(seq, frame, is_open),
        }
    }

    fn send(&mut self, seq: u64, frame: &Frame<'_>) -> Result<(), Refusal> {
        if frame.is_note {
            return self.kafka.send(seq, frame);
        }
        if let Some(halves) = public(frame)? {
            return self.kafka.send(seq, &dressed(frame, &halves));
        }
        Err(Refusal::NotNeeded)
    }

    fn send_dead(&mut self, seq: u64, frame: &Frame<'_>, reason: &str) -> Result<(), Refusal> {
        if frame.is_note {
            return self.kafka.send_dead(seq, frame, reason);
        }
        match public(frame)? {
            Some(halves) => self.kafka.send_dead(seq, &dressed(frame, &halves), reason),
            None => Ok(()),
        }
    }

    /// A dead letter of the intents' topic is a public record already.
    fn send_again(&mut self, seq: u64, frame: &Frame<'_>) -> Result<(), Refusal> {
        self.kafka.send_again(seq, &Frame { is_note: true, ..*frame })
    }

    fn last_error(&self) -> Option<String> {
        self.kafka.last_error()
    }

    fn resume(&mut self) {
        self.kafka.resume();
    }

    fn probe(&mut self, wait: Duration) -> Result<(), String> {
        self.kafka.probe(wait)
    }

    fn absent_for(&self) -> Option<Duration> {
        self.kafka.absent_for()
    }

    fn describe(&self) -> String {
        self.kafka.describe()
    }
}
