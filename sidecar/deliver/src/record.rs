//! A record on its way to a sink that takes several at a time, and what is common to such sinks.
use steno_commit::Frame;
use steno_event::json;

/// A record, apart from the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its sequence number in the journal.
    pub seq: u64,
    /// Its text: canonical JSON, after the sink's own redaction.
    pub json: Vec<u8>,
    /// Its `eventId`.
    pub event_id: String,
    /// The type of its CloudEvent.
    pub kind: String,
    /// When it was received, milliseconds since 1970.
    pub received_ms: u64,
    /// Members that the client left out, as a frame has them.
    pub filled: u8,
    /// Its key, where the sink has keys.
    pub key: Option<Vec<u8>>,
}

// === impl Record ===

impl Record {
    /// A frame's record, with the text that the sink gets.
    pub fn new(seq: u64, frame: &Frame<'_>, json: Vec<u8>) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self {
            seq,
            json,
            event_id: text(&unescape(frame.event_id_text())),
            kind: text(&kind(frame)),
            received_ms: frame.received_ms,
            filled: frame.filled,
            key: None,
        }
    }
}

/// `steno.event.<action>` for events; a note's own action says `steno.…` already.
pub(crate) fn kind(frame: &Frame<'_>) -> Vec<u8> {
    let action = unescape(frame.action_text());
    if frame.is_note { action } else { [b"steno.event.", action.as_slice()].concat() }
}

/// The bytes of a JSON string's inside.
pub(crate) fn unescape(raw: &[u8]) -> Vec<u8> {
    if !raw.contains(&b'\\') {
        return raw.to_vec();
    }
    let quoted = format!("\"{}\"", String::from_utf8_lossy(raw));
    match json::parse(&quoted) {
        Ok(json::Json::String(text)) => text.as_bytes().to_vec(),
        _ => raw.to_vec(),
    }
}
