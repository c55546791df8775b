//! What the topic gets: who was about to write what, and how it ended. Never the payload.
use std::borrow::Cow;

use steno_event::{
    Fill, SCHEMA_VERSION, format_millis,
    json::{Json, Object, canonical, parse},
};
use steno_redact::{HashKey, Redactor};

use crate::{Ending, Private};

/// What the sidecar knows of an intent besides what came.
pub struct Made<'a> {
    /// Its id.
    pub id: &'a str,
    /// When it came, milliseconds since 1970.
    pub at_ms: u64,
    /// Tenant, service and writer.
    pub fill: &'a Fill,
    /// The policy's redaction.
    pub redactor: &'a Redactor,
    /// What the payload's hash is keyed with.
    pub key: &'a HashKey,
}

fn text(text: impl Into<String>) -> Json<'static> {
    Json::String(Cow::Owned(text.into()))
}

fn object<'a>(members: impl IntoIterator<Item = (&'static str, Json<'a>)>) -> Object<'a> {
    let mut object = Object::default();
    for (name, value) in members {
        object.insert(name, value);
    }
    object
}

/// The public record of an intent that came: canonical JSON.
pub fn opened(private: &Private, made: &Made<'_>) -> String {
    let key = &private.replay_key;
    let label = |entity: Json<'static>| {
        Json::Object(object([
            ("dtoType", text(&key.dto_type)),
            ("entityId", entity),
            ("env", text(&key.env)),
            ("slug", text(&key.slug)),
            ("version", text(&key.version)),
        ]))
    };
    // Only what the application chose is redacted; the rest is the sidecar's own.
    let mut chosen = object([
        ("resource", Json::Object(object([("id", text(&private.entity_id)), ("type", text(&private.dto_type))]))),
        ("intent", Json::Object(object([("operation", text(&private.operation)), ("replayKey", label(text(&key.entity_id)))]))),
    ]);
    let report = made.redactor.apply(&mut chosen);
    let mut record = Object::default();
    if report.failed {
        // Fail closed: what could not be made safe does not leave the pod.
        record.insert("redactionFailed", Json::Bool(true));
    } else {
        if private.entity_id == key.entity_id
            && let Some(shown) = chosen.get("resource").and_then(Json::as_object).map(|resource| resource.get("id").cloned())
            && let Some(Json::Object(intent)) = chosen.get_mut("intent")
            && let Some(Json::Object(replay)) = intent.get_mut("replayKey")
        {
            // A rule for `resource.id` is meant for the id wherever it stands.
            let own = replay.remove("entityId");
            if let Some(shown) = stricter(shown, own, &private.entity_id) {
                replay.insert("entityId", shown);
            }
        }
        for (name, value) in chosen.into_members() {
            record.insert(name, value);
        }
        if let Some(redactions) = report.redactions {
            record.insert("redactions", redactions);
        }
    }
    if !matches!(record.get("intent"), Some(Json::Object(_))) {
        record.insert("intent", Json::Object(Object::default()));
    }
    if let Some(Json::Object(intent)) = record.get_mut("intent") {
        intent.insert("id", text(made.id));
        intent.insert("state", Json::text("open"));
        intent.insert("createdAt", text(format_millis(made.at_ms)));
        intent.insert("payloadBytes", Json::Number(private.payload.get().len() as f64));
        if let Some(hash) = made.key.hash(private.payload.get()) {
            intent.insert("payloadHash", text(hash));
        }
    }
    let at = format_millis(made.at_ms);
    record.insert("action", Json::text("steno.intent.open"));
    record.insert("eventId", text(format!("{}/open", made.id)));
    record.insert("kind", Json::text("Intent"));
    record.insert("occurredAt", text(&at));
    record.insert("receivedAt", text(&at));
    record.insert("schemaVersion", Json::text(SCHEMA_VERSION));
    record.insert("service", text(&made.fill.service));
    record.insert("tenantId", text(&made.fill.tenant));
    record.insert("writer", Json::Raw(made.fill.writer.clone()));
    canonical(&Json::Object(record))
}

/// Of two ways to show one id the one that is not the id itself.
fn stricter<'a>(shown: Option<Json<'a>>, own: Option<Json<'a>>, id: &str) -> Option<Json<'a>> {
    let is_plain = |value: &Option<Json<'_>>| value.as_ref().and_then(Json::as_str) == Some(id);
    if is_plain(&shown) { own } else { shown }
}

/// The public record of an intent that ended, from that of the one that came. What cannot be read comes back with nothing in it but the ending.
pub fn closed(opened: &str, id: &str, ending: Ending, outcome: Option<&str>, event_id: Option<&str>, at_ms: u64) -> String {
    let mut record = match parse(opened) {
        Ok(Json::Object(record)) => record,
        _ => Object::default(),
    };
    let word = match ending {
        Ending::Resolved => "resolved",
        Ending::Expired => "expired",
    };
    let at = format_millis(at_ms);
    if !matches!(record.get("intent"), Some(Json::Object(_))) {
        record.insert("intent", Json::Object(object([("id", text(id))])));
    }
    if let Some(Json::Object(intent)) = record.get_mut("intent") {
        intent.insert("state", Json::text(word));
        intent.insert("closedAt", text(&at));
        if let Some(event_id) = event_id {
            intent.insert("eventId", text(event_id));
        }
    }
    if let Some(outcome) = outcome {
        record.insert("outcome", text(outcome));
    }
    record.insert("action", text(format!("steno.intent.{word}")));
    record.insert("eventId", text(format!("{id}/{word}")));
    record.insert("occurredAt", text(&at));
    record.insert("receivedAt", text(&at));
    canonical(&Json::Object(record))
}
