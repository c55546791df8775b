//! Whether a retry under other redaction rules is the same event.
//!
//! The fingerprint of an event depends on what was redacted. When the rules changed between two tries, the stored record and
//! the new one are compared member by member, outside the members that either side redacted or truncated.
use std::collections::BTreeMap;

use crate::{
    draft::Filled,
    json::{Json, canonical, parse},
    names,
};

/// How a comparison went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// Equal as far as can be seen.
    Same,
    /// They differ.
    Different,
    /// Too much was redacted to tell.
    Unknown,
}

/// Compares a stored record with a new one, both canonical; `filled` says what the new one's client left out.
pub fn compare(stored: &str, new: &str, filled: Filled) -> Comparison {
    let (Ok(stored), Ok(new)) = (parse(stored), parse(new)) else { return Comparison::Unknown };
    let (Some(hidden_stored), Some(hidden_new)) = (hidden(&stored), hidden(&new)) else { return Comparison::Unknown };
    let hidden: Vec<String> = hidden_stored.into_iter().chain(hidden_new).collect();
    let (stored, new) = (leaves(&stored, &hidden, filled), leaves(&new, &hidden, filled));
    if stored == new { Comparison::Same } else { Comparison::Different }
}

/// Paths that a record redacted or truncated; `None` where it folded them to counts or redacted a name.
fn hidden(record: &Json<'_>) -> Option<Vec<String>> {
    let mut paths = Vec::new();
    let record = record.as_object()?;
    if let Some(Json::Array(entries)) = record.get("redactions") {
        for entry in entries {
            let entry = entry.as_object()?;
            if entry.contains("count") || entry.contains("name") {
                return None;
            }
            paths.push(entry.get("path")?.as_str()?.to_owned());
        }
    }
    if let Some(Json::Object(truncation)) = record.get("truncation")
        && let Some(Json::Array(entries)) = truncation.get("fields")
    {
        for entry in entries {
            paths.push(entry.as_object()?.get("path")?.as_str()?.to_owned());
        }
    }
    Some(paths)
}

fn leaves(record: &Json<'_>, hidden: &[String], filled: Filled) -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    for (name, value) in record.as_object().into_iter().flat_map(super::json::Object::iter) {
        let sidecar = names::RESERVED.contains(&&**name) || matches!(&**name, "eventId" | "tenantId");
        if !sidecar && !filled.contains(name) {
            walk(name, value, hidden, &mut out);
        }
    }
    // The sidecar adds the actor's type where the client sent none.
    out.remove("actor.type");
    out
}

fn walk(path: &str, value: &Json<'_>, hidden: &[String], out: &mut BTreeMap<String, String>) {
    if hidden.iter().any(|hidden| hidden == path) {
        return;
    }
    match value {
        Json::Object(object) => {
            for (name, value) in object.iter() {
                walk(&format!("{path}.{name}"), value, hidden, out);
            }
        }
        Json::Array(items) => {
            for (index, value) in items.iter().enumerate() {
                walk(&format!("{path}[{index}]"), value, hidden, out);
            }
        }
        leaf => drop(out.insert(path.to_owned(), canonical(leaf))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_of_rules_does_not_make_an_honest_retry_differ() {
        let clear = r#"{"action":"pay","message":"hi","metadata":{"note":"4711"},"receivedAt":"x"}"#;
        let hashed = r#"{"action":"pay","message":"hi","metadata":{"note":"hmac"},"receivedAt":"y","redactions":[{"action":"Hash","path":"metadata.note","rule":"r"}]}"#;
        let removed = r#"{"action":"pay","message":"hi","metadata":{},"redactions":[{"action":"Remove","path":"metadata.note","rule":"r"}]}"#;
        for (a, b) in [(clear, hashed), (hashed, clear), (clear, removed), (removed, hashed)] {
            assert_eq!(compare(a, b, Filled::default()), Comparison::Same);
        }
    }

    #[test]
    fn a_tampered_retry_differs_whatever_was_redacted() {
        let stored = r#"{"action":"pay","metadata":{"amount":1,"note":"x"},"redactions":[{"path":"metadata.note"}]}"#;
        assert_eq!(
            compare(stored, r#"{"action":"pay","metadata":{"amount":2,"note":"y"}}"#, Filled::default()),
            Comparison::Different
        );
        assert_eq!(
            compare(stored, r#"{"action":"pay","metadata":{"amount":1,"note":"y","more":1}}"#, Filled::default()),
            Comparison::Different
        );
    }

    #[test]
    fn what_the_client_left_out_does_not_count_and_folded_redactions_cannot_be_compared() {
        let stored = r#"{"action":"a","occurredAt":"1"}"#;
        assert_eq!(compare(stored, r#"{"action":"a","occurredAt":"2"}"#, Filled(1)), Comparison::Same);
        assert_eq!(compare(r#"{"action":"a","redactions":[{"count":99,"rule":"r"}]}"#, stored, Filled(0)), Comparison::Unknown);
    }
}
