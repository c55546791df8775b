//! Names of members, and the one table of other spellings.

use crate::json::prefix;

/// Where a spelling that audit libraries send belongs.
pub const ALIASES: &[(&str, Place)] = &[
    ("event_id", Place::Top("eventId")),
    ("tenant_id", Place::Top("tenantId")),
    ("timestamp", Place::Top("occurredAt")),
    ("occurred_at", Place::Top("occurredAt")),
    ("level", Place::Top("severity")),
    ("service_name", Place::Top("service")),
    ("user_id", Place::In("actor", "id")),
    ("userId", Place::In("actor", "id")),
    ("session_id", Place::In("actor", "sessionId")),
    ("request_id", Place::Top("requestId")),
    ("trace_id", Place::Top("traceId")),
    ("span_id", Place::Top("spanId")),
    ("resource_type", Place::In("resource", "type")),
    ("resource_id", Place::In("resource", "id")),
    ("dtoType", Place::In("resource", "type")),
    ("entityId", Place::In("resource", "id")),
    ("event_type", Place::Top("action")),
    ("event_category", Place::Top("category")),
    ("description", Place::Top("message")),
    ("ip_address", Place::In("source", "ip")),
    ("user_agent", Place::In("source", "userAgent")),
    ("error_code", Place::In("error", "code")),
    ("error_message", Place::In("error", "message")),
    ("stack_trace", Place::In("error", "stack")),
    ("duration_ms", Place::Top("durationMs")),
];

/// Where a member belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// At the top, under this name.
    Top(&'static str),
    /// Inside this member, under this name.
    In(&'static str, &'static str),
}

/// Members that a client may send, and what each takes.
pub const CLIENT: &[(&str, Takes)] = &[
    ("action", Takes::Word(256)),
    ("actor", Takes::Members(&[("id", Takes::Word(512)), ("sessionId", Takes::Word(512)), ("type", Takes::Word(64))])),
    ("after", Takes::Anything),
    ("before", Takes::Anything),
    ("category", Takes::Word(128)),
    ("durationMs", Takes::Millis),
    ("error", Takes::Members(&[("code", Takes::Text), ("message", Takes::Text), ("stack", Takes::Text)])),
    ("eventId", Takes::Word(512)),
    ("message", Takes::Text),
    ("metadata", Takes::Object),
    ("occurredAt", Takes::Time),
    ("operation", Takes::Word(64)),
    ("outcome", Takes::Word(64)),
    ("reason", Takes::Text),
    ("requestId", Takes::Word(512)),
    ("resource", Takes::Members(&[("id", Takes::Word(1024)), ("type", Takes::Word(256))])),
    ("service", Takes::Word(256)),
    ("severity", Takes::Severity),
    ("source", Takes::Members(&[("ip", Takes::Word(256)), ("userAgent", Takes::Text)])),
    ("spanId", Takes::Word(64)),
    ("tenantId", Takes::Word(256)),
    ("traceId", Takes::Word(64)),
];

/// What a member takes.
#[derive(Debug, Clone, Copy)]
pub enum Takes {
    /// A string of 1 to so many bytes.
    Word(usize),
    /// A string.
    Text,
    /// A time: RFC 3339, or seconds or milliseconds since 1970.
    Time,
    /// One of the severities, or a level that means one.
    Severity,
    /// A number of milliseconds, not negative.
    Millis,
    /// An object.
    Object,
    /// An object whose listed members are checked; others are kept as they are.
    Members(&'static [(&'static str, Takes)]),
    /// Any value.
    Anything,
}

/// Members that only the sidecar fills in.
pub const RESERVED: &[&str] = &["schemaVersion", "kind", "receivedAt", "writer", "redactions", "truncation", "integrity"];

/// Members whose value is an identity: a detector's hit there becomes a hash, so that equal ids stay equal.
pub const IDENTIFIERS: &[&[&str]] =
    &[&["eventId"], &["tenantId"], &["actor", "id"], &["resource", "id"], &["requestId"], &["traceId"], &["spanId"]];

/// The severity that a word means.
pub fn severity(word: &str) -> Option<&'static str> {
    const WORDS: &[(&str, &str)] = &[
        ("info", "info"),
        ("warning", "warning"),
        ("error", "error"),
        ("critical", "critical"),
        ("debug", "debug"),
        ("notice", "notice"),
        ("warn", "warning"),
        ("trace", "debug"),
        ("information", "info"),
        ("informational", "info"),
        ("err", "error"),
        ("fatal", "critical"),
        ("crit", "critical"),
        ("alert", "critical"),
        ("emergency", "critical"),
    ];
    WORDS.iter().find(|(known, _)| known.eq_ignore_ascii_case(word)).map(|(_, severity)| *severity)
}

/// The severity that a level's number means, as Pino and Bunyan have them: 10 is trace, 60 fatal.
pub fn severity_of_level(level: f64) -> Option<&'static str> {
    const LEVELS: [(f64, &str); 6] =
        [(10.0, "debug"), (20.0, "debug"), (30.0, "info"), (40.0, "warning"), (50.0, "error"), (60.0, "critical")];
    LEVELS.iter().find(|(known, _)| (known - level).abs() < f64::EPSILON).map(|(_, severity)| *severity)
}

/// Prefixes of [`CLIENT`]'s names: no two are alike, so that one comparison of text is enough.
const PREFIXES: [u64; CLIENT.len()] = {
    let mut prefixes = [0; CLIENT.len()];
    let mut index = 0;
    while index < prefixes.len() {
        prefixes[index] = prefix(CLIENT[index].0);
        index += 1;
    }
    prefixes
};

/// What `name` takes from a client.
pub(crate) fn takes(name: &str) -> Option<(&'static str, Takes)> {
    let index = PREFIXES.binary_search(&prefix(name)).ok()?;
    (CLIENT[index].0 == name).then_some(CLIENT[index])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_members_is_sorted_and_aliases_lead_into_it() {
        assert!(CLIENT.is_sorted_by_key(|(name, _)| *name));
        assert!(PREFIXES.is_sorted_by(|a, b| a < b));
        for (alias, place) in ALIASES {
            assert!(takes(alias).is_none(), "{alias} is a member itself");
            let (Place::Top(target) | Place::In(target, _)) = place;
            assert!(takes(target).is_some(), "{alias}");
        }
        assert!(RESERVED.iter().all(|name| takes(name).is_none()));
    }
}
