//! What the topic gets: who was about to write what, and how it ended. Never the payload.
use std::borrow::Cow;

use steno_event::{
    Fill, SCHEMA_VERSION, format_millis,
    json::{Json, Object, canonical, parse},
    lengthened,
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

/// The public record of an intent that came: canonical JSON.
pub fn opened(private: &Private, made: &Made<'_>) -> String {
    let key = &private.replay_key;
    let label = Object::of([
        ("dtoType", text(&key.dto_type)),
        ("entityId", text(&key.entity_id)),
        ("env", text(&key.env)),
        ("slug", text(&key.slug)),
        ("version", text(&key.version)),
    ]);
    // Only what the application chose is redacted; the rest is the sidecar's own.
    let resource = Object::of([("id", text(&private.entity_id)), ("type", text(&private.dto_type))]);
    let intent = Object::of([("operation", text(&private.operation)), ("replayKey", Json::Object(label))]);
    let mut chosen = Object::of([("resource", Json::Object(resource)), ("intent", Json::Object(intent))]);
    let report = made.redactor.apply(&mut chosen, Some(made.key));
    let mut record = Object::default();
    if report.failed {
        // Fail closed: what could not be made safe does not leave the pod.
        record.insert("redactionFailed", Json::Bool(true));
    } else {
        if private.entity_id == key.entity_id {
            alike(&mut chosen, &private.entity_id);
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
    record.insert("occurredAt", text(lengthened(&at)));
    record.insert("receivedAt", text(&at));
    record.insert("schemaVersion", Json::text(SCHEMA_VERSION));
    record.insert("service", text(&made.fill.service));
    record.insert("tenantId", text(&made.fill.tenant));
    record.insert("writer", Json::Raw(made.fill.writer.clone()));
    canonical(&Json::Object(record))
}

/// One id in two places: where a rule changed one of them, the other becomes the same.
fn alike(chosen: &mut Object<'_>, id: &str) {
    const PLACES: [&[&str]; 2] = [&["resource", "id"], &["intent", "replayKey", "entityId"]];
    fn at<'b, 'a>(object: &'b mut Object<'a>, path: &[&str]) -> Option<&'b mut Json<'a>> {
        let (first, rest) = path.split_first()?;
        let value = object.get_mut(first)?;
        if rest.is_empty() {
            return Some(value);
        }
        match value {
            Json::Object(inner) => at(inner, rest),
            _ => None,
        }
    }
    let changed = PLACES.iter().find_map(|path| match at(chosen, path) {
        Some(value) if value.as_str() == Some(id) && !matches!(value, Json::Redacted(_)) => None,
        Some(value) => Some(value.clone()),
        None => Some(Json::Removed),
    });
    let Some(changed) = changed else { return };
    for path in PLACES {
        if let Some(value) = at(chosen, path) {
            *value = changed.clone();
        }
    }
}

/// The public record of an intent that ended, from that of the one that came. What cannot be read comes back with nothing in it but the ending.
pub fn closed(opened: &str, id: &str, ending: Ending, outcome: Option<&str>, event_id: Option<&str>, at_ms: u64) -> String {
    let mut record = match parse(opened) {
        Ok(Json::Object(record)) => record,
        _ => Object::default(),
    };
    let word = ending.word();
    let at = format_millis(at_ms);
    if !matches!(record.get("intent"), Some(Json::Object(_))) {
        record.insert("intent", Json::Object(Object::of([("id", text(id))])));
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
    record.insert("occurredAt", text(lengthened(&at)));
    record.insert("receivedAt", text(&at));
    canonical(&Json::Object(record))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, value::RawValue};
    use steno_crds::{Capture, Redaction};

    use super::*;
    use crate::ReplayKey;

    fn private(entity: &str, payload: &str) -> Private {
        let replay_key = ReplayKey {
            env: "prod".into(),
            slug: "shop".into(),
            version: "1.2".into(),
            dto_type: "Payment".into(),
            entity_id: entity.into(),
        };
        Private {
            operation: "insert".into(),
            dto_type: "Payment".into(),
            entity_id: entity.into(),
            payload: RawValue::from_string(payload.into()).unwrap(),
            replay_key,
        }
    }

    fn shown(private: &Private, rules: &str) -> String {
        let redaction = Redaction { rules: serde_json::from_str(rules).unwrap(), ..Redaction::default() };
        let redactor = Redactor::compile(&redaction, &Capture::default(), None).unwrap();
        let fill = Fill {
            tenant: "t".into(),
            tenant_enforced: false,
            service: "s".into(),
            category: "c".into(),
            outcome: "unknown".into(),
            severity: "info",
            require: Vec::new(),
            writer: r#"{"pod":"p"}"#.into(),
        };
        let key = HashKey { id: "k".into(), key: b"key".to_vec() };
        opened(private, &Made { id: "i-1", at_ms: 1_772_359_200_000, fill: &fill, redactor: &redactor, key: &key })
    }

    #[test]
    fn what_is_plain_is_shown_as_it_is_and_the_hash_is_that_of_the_bytes() {
        let read: Value = serde_json::from_str(&shown(&private("p-17", r#"{"a": 1}"#), "[]")).unwrap();
        let pointers =
            ["/resource/id", "/resource/type", "/intent/operation", "/intent/replayKey/entityId", "/intent/replayKey/env"];
        let found: Vec<&str> = pointers.iter().map(|at| read.pointer(at).unwrap().as_str().unwrap()).collect();
        assert_eq!(found, ["p-17", "Payment", "insert", "p-17", "prod"]);
        assert_eq!((&read["redactions"], &read["intent"]["payloadBytes"]), (&Value::Null, &8.into()));
        // printf '{"a": 1}' | openssl dgst -sha256 -hmac key
        let hash = "hmac-sha256:k:85e7b68cdf027474f0f0b8e2e63c4afb88cacf8a3e503aa13160f290dfc506d4";
        assert_eq!(read["intent"]["payloadHash"], hash);
    }

    #[test]
    fn an_id_that_must_not_be_seen_is_seen_nowhere() {
        // By a detector, by the path of events, and by the path of the label.
        let card = shown(&private("4111111111111111", "1"), "[]");
        assert!(!card.contains("4111111111111111"), "{card}");
        for path in ["resource.id", "intent.replayKey.entityId", "**.entityId"] {
            let rules = format!(r#"[{{"path":"{path}","action":"Remove"}}]"#);
            let text = shown(&private("alice@example.com", "1"), &rules);
            let read: Value = serde_json::from_str(&text).unwrap();
            assert!(!text.contains("alice"), "{path}: {text}");
            assert_eq!(read["intent"]["replayKey"]["env"], "prod", "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_part_of_a_payload_is_public(payload in "[a-z]{12,40}", entity in "[A-Z]{1,20}", outcome in "[A-Z]{1,20}") {
            let open = shown(&private(&entity, &format!("{payload:?}")), "[]");
            prop_assert!(!open.contains(&payload));
            let ended = closed(&open, "i-1", Ending::Resolved, Some(&outcome), Some("e"), 1_772_359_200_001);
            prop_assert!(!ended.contains(&payload));
            let read: Value = serde_json::from_str(&ended).unwrap();
            prop_assert_eq!((&read["intent"]["state"], &read["outcome"], &read["eventId"]), (&"resolved".into(), &outcome.into(), &"i-1/resolved".into()));
        }
    }
}
