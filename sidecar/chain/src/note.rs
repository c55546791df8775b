//! Records that the sidecar writes about itself.
use std::{borrow::Cow, sync::Arc};

use steno_event::{
    Halves, SCHEMA_VERSION, encode,
    json::{Json, Object},
    lengthened,
};

/// Kinds of records that the sidecar writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A chain begins.
    Genesis,
    /// The sidecar stopped in good order.
    Close,
    /// Another configuration counts from here on.
    Config,
    /// A chain begins a new epoch.
    Epoch,
    /// Events were dropped.
    Drop,
    /// An event id was used again with another payload.
    Conflict,
    /// Input that could not be taken.
    Rejected,
    /// A part of the journal could not be read.
    Quarantine,
    /// The journal was recovered after damage.
    Recovered,
    /// A record that the destination refuses.
    DeadLetter,
    /// A dead letter that was delivered after all.
    Requeue,
    /// Written to learn whether a destination that refused a record takes any other.
    Probe,
    /// A write intent was never resolved.
    IntentExpired,
}

/// Records of a chain that are lost; both numbers included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    /// The chain.
    pub chain_id: String,
    /// First of its sequence numbers.
    pub first: u64,
    /// Last of them.
    pub last: u64,
}

/// A record of the sidecar, before it is in a chain.
#[derive(Debug, Clone, PartialEq)]
pub struct Note {
    /// What it tells.
    pub kind: Kind,
    /// One sentence for people.
    pub message: String,
    /// Details, as members of `metadata`.
    pub details: Vec<(&'static str, Json<'static>)>,
    /// What was lost.
    pub lost: Vec<Lost>,
    /// The tenant that it concerns; none: the sidecar's own.
    pub tenant: Option<String>,
}

/// What every record of the sidecar carries.
#[derive(Debug, Clone)]
pub struct NoteContext {
    /// Tenant of records that concern no tenant.
    pub tenant: String,
    /// The service.
    pub service: String,
    /// The `writer` member, canonical.
    pub writer: Arc<str>,
}

// === impl Kind ===

impl Kind {
    /// The word in a record.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Genesis => "Genesis",
            Self::Close => "Close",
            Self::Config => "Config",
            Self::Epoch => "Epoch",
            Self::Drop => "Drop",
            Self::Conflict => "Conflict",
            Self::Rejected => "Rejected",
            Self::Quarantine => "Quarantine",
            Self::Recovered => "Recovered",
            Self::DeadLetter => "DeadLetter",
            Self::Requeue => "Requeue",
            Self::Probe => "Probe",
            Self::IntentExpired => "IntentExpired",
        }
    }

    const fn action(self) -> &'static str {
        match self {
            Self::Genesis => "steno.genesis",
            Self::Close => "steno.close",
            Self::Config => "steno.config",
            Self::Epoch => "steno.epoch",
            Self::Drop => "steno.drop",
            Self::Conflict => "steno.conflict",
            Self::Rejected => "steno.rejected",
            Self::Quarantine => "steno.quarantine",
            Self::Recovered => "steno.recovered",
            Self::DeadLetter => "steno.dead-letter",
            Self::Requeue => "steno.requeue",
            Self::Probe => "steno.probe",
            Self::IntentExpired => "steno.intent-expired",
        }
    }

    /// How what it tells of went. Whether the write of an intent that expired was done is not known.
    const fn outcome(self) -> &'static str {
        if matches!(self, Self::IntentExpired) { "unknown" } else { "success" }
    }

    /// Whether it tells of something that an auditor must look at.
    const fn is_grave(self) -> bool {
        !matches!(self, Self::Genesis | Self::Close | Self::Config | Self::Requeue | Self::Probe)
    }
}

// === impl Note ===

impl Note {
    /// A note without details.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), details: Vec::new(), lost: Vec::new(), tenant: None }
    }

    /// Adds a text detail.
    #[must_use]
    pub fn text(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.details.push((name, Json::String(Cow::Owned(value.into()))));
        self
    }

    /// Adds a number. Numbers beyond 2^53 would not survive; they are written as text.
    #[must_use]
    pub fn number(mut self, name: &'static str, value: u64) -> Self {
        let value = if value <= 1 << 53 { Json::Number(value as f64) } else { Json::String(value.to_string().into()) };
        self.details.push((name, value));
        self
    }

    /// Adds a yes or no.
    #[must_use]
    pub fn flag(mut self, name: &'static str, value: bool) -> Self {
        self.details.push((name, Json::Bool(value)));
        self
    }

    /// Says what was lost.
    #[must_use]
    pub fn lost(mut self, lost: Vec<Lost>) -> Self {
        self.lost = lost;
        self
    }

    /// The record's canonical halves.
    pub fn encode(&self, context: &NoteContext, event_id: &str, now: &str) -> Halves {
        let text = |text: &str| Json::String(Cow::Owned(text.to_owned()));
        let mut record = Object::default();
        let actor = [("id", "steno-sidecar"), ("type", "system")].map(|(name, value)| (name, Json::text(value)));
        record.insert("action", Json::text(self.kind.action()));
        record.insert("actor", Json::Object(Object::of(actor)));
        record.insert("category", Json::text("system-event"));
        record.insert("eventId", text(event_id));
        record.insert("kind", Json::text(self.kind.word()));
        record.insert("message", text(&self.message));
        record.insert("occurredAt", text(&lengthened(now)));
        record.insert("outcome", Json::text(self.kind.outcome()));
        record.insert("receivedAt", text(now));
        record.insert("schemaVersion", Json::text(SCHEMA_VERSION));
        record.insert("service", text(&context.service));
        record.insert("severity", Json::text(if self.kind.is_grave() { "warning" } else { "info" }));
        record.insert("tenantId", text(self.tenant.as_deref().unwrap_or(&context.tenant)));
        record.insert("writer", Json::Raw(context.writer.clone()));
        if !self.details.is_empty() {
            record.insert("metadata", Json::Object(Object::of(self.details.iter().cloned())));
        }
        if !self.lost.is_empty() {
            let lost = self.lost.iter().map(|lost| {
                let number = |number: u64| Json::Number(number as f64);
                let members = [("chainId", text(&lost.chain_id)), ("first", number(lost.first)), ("last", number(lost.last))];
                Json::Object(Object::of(members))
            });
            record.insert("lost", Json::Array(lost.collect()));
        }
        encode(&record)
    }
}
