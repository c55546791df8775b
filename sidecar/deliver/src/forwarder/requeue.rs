//! Dead letters that somebody asked to deliver again.
use std::{
    collections::VecDeque,
    time::{Duration, SystemTime},
};

use steno_chain::{Kind, Note};
use steno_commit::Frame;
use steno_event::{
    encode,
    json::{Json, parse},
};

use super::{Forwarder, name_record};
use crate::{DeadLetter, Refusal, State};

/// Time between two looks at `dead/`; a look costs one `stat`.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// Letters to be sent again.
#[derive(Default)]
pub(super) struct Requeue {
    letters: VecDeque<DeadLetter>,
    /// The letter that is under way, to the sink of a generation.
    sent: Option<(DeadLetter, u64)>,
    look_at: Duration,
    retry_at: Duration,
    /// When `dead/` was changed, as of the last look.
    seen: Option<SystemTime>,
}

// === impl Requeue ===

impl Requeue {
    pub(super) fn is_empty(&self) -> bool {
        self.letters.is_empty() && self.sent.is_none()
    }

    /// The next turn looks at `dead/`.
    pub(super) fn look_now(&mut self) {
        self.look_at = Duration::ZERO;
        self.seen = None;
    }
}

// === impl Forwarder ===

impl Forwarder {
    /// Sends one dead letter again, if one is asked for and records go through.
    pub(super) fn send_requeued(&mut self) {
        let now = self.now.since_start;
        if now >= self.requeue.look_at {
            self.requeue.look_at = now + LOOK_INTERVAL;
            let modified = self.dead.modified();
            if self.requeue.is_empty() && modified != self.requeue.seen {
                self.requeue.seen = modified;
                match self.dead.requeued(&self.name, &self.settings.keys) {
                    Ok(letters) => self.requeue.letters = letters.into(),
                    Err(error) => tracing::error!(sink = self.name, %error, "dead letters cannot be read"),
                }
            }
        }
        // Its sink is gone, and with it the answer.
        if let Some((letter, _)) = self.requeue.sent.take_if(|(_, generation)| *generation != self.generation) {
            self.requeue.letters.push_front(letter);
        }
        let is_free = self.breaker.state() == State::Closed && self.bisect.is_idle() && self.refused.is_empty();
        if self.requeue.letters.is_empty()
            || self.requeue.sent.is_some()
            || now < self.requeue.retry_at
            || !is_free
            || self.sink.is_none()
        {
            return;
        }
        let (Some(letter), Some(sink)) = (self.requeue.letters.pop_front(), &mut self.sink) else { return };
        let seq = letter.seq;
        let sent = match frame_of(&letter.record) {
            Some(owned) => sink.send_again(seq, &owned.frame(&letter.record)),
            None => Err(Refusal::Unfit("it is not a record".into())),
        };
        self.requeue.sent = Some((letter, self.generation));
        if sent.is_err() {
            self.requeued(seq, sent);
        }
    }

    /// What became of the letter that was under way.
    pub(super) fn requeued(&mut self, seq: u64, result: Result<(), Refusal>) {
        let Some((letter, _)) = self.requeue.sent.take_if(|(letter, _)| letter.seq == seq) else { return };
        let retry_at = self.now.since_start + LOOK_INTERVAL;
        match result {
            Ok(()) | Err(Refusal::NotNeeded) => {
                let note = Note::new(Kind::Requeue, "A dead letter was delivered to its sink after all.");
                let (note, _) = name_record(note, &self.name, seq, &letter.record);
                if let Err(error) = self.trail.write(note) {
                    // It is sent once more, for that record is missing.
                    tracing::warn!(sink = self.name, seq, error, "the delivery of a dead letter could not be recorded yet");
                    self.requeue.retry_at = retry_at;
                    self.requeue.letters.push_front(letter);
                    return;
                }
                tracing::info!(sink = self.name, seq, "a dead letter was delivered");
                if let Err(error) = self.dead.remove(&letter) {
                    tracing::error!(sink = self.name, seq, %error, "a delivered dead letter could not be removed");
                }
            }
            Err(Refusal::Refused(reason) | Refusal::Unfit(reason)) => {
                tracing::error!(sink = self.name, seq, reason, "a dead letter was refused again; it stays in dead/");
                if let Err(error) = self.dead.keep(&letter) {
                    tracing::error!(sink = self.name, seq, %error, "dead/ cannot be written");
                }
            }
            Err(refusal) => {
                tracing::warn!(sink = self.name, seq, ?refusal, "a dead letter could not be sent yet");
                self.requeue.retry_at = retry_at;
                self.requeue.letters.push_front(letter);
            }
        }
    }
}

/// Where the members of a record stand that a sink needs.
struct Spans {
    is_note: bool,
    received_ms: u64,
    action: (u32, u32),
    event_id: (u32, u32),
    split: u32,
}

impl Spans {
    fn frame<'a>(&self, record: &'a str) -> Frame<'a> {
        Frame {
            is_note: self.is_note,
            is_critical: false,
            identity: [0; 16],
            print: [0; 16],
            rules: 0,
            filled: 0,
            received_ms: self.received_ms,
            action: self.action,
            event_id: self.event_id,
            split: self.split,
            json: record.as_bytes(),
        }
    }
}

/// Finds those members in a record's canonical text.
fn frame_of(record: &str) -> Option<Spans> {
    let Ok(Json::Object(mut members)) = parse(record) else { return None };
    let is_note = members.get("kind").and_then(Json::as_str) != Some("Event");
    let received = members.get("receivedAt").and_then(Json::as_str).and_then(|text| text.parse::<jiff::Timestamp>().ok());
    let has_chain = members.remove("integrity").is_some();
    let halves = encode(&members);
    let more = record.len().checked_sub(halves.bytes.len())? as u32;
    let split = halves.split as u32;
    let shifted = |(start, length): (u32, u32)| if start >= split { (start + more, length) } else { (start, length) };
    Some(Spans {
        is_note,
        received_ms: received.map_or(0, |at| at.as_millisecond().max(0) as u64),
        action: shifted(halves.action),
        event_id: shifted(halves.event_id),
        split: if has_chain { split } else { 0 },
    })
}
