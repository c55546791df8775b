//! What of a record can be asked for, and its row.
use steno_event::{
    IdKey, identity,
    json::{Json, Object},
    parse_time,
};

/// Members that can be asked for, by the paths that a client says.
pub const MEMBERS: [&str; 12] = [
    "tenantId",
    "actor.id",
    "action",
    "service",
    "category",
    "resource.type",
    "resource.id",
    "outcome",
    "severity",
    "requestId",
    "traceId",
    "kind",
];

/// Columns of hashes: the members, and the event's identity.
pub(crate) const COLUMNS: usize = MEMBERS.len() + 1;
/// The column of identities.
pub(crate) const IDENTITY: usize = MEMBERS.len();

/// The rows of a piece, by column.
#[derive(Debug, Default)]
pub(crate) struct Columns {
    pub(crate) hashes: [Vec<u32>; COLUMNS],
    /// Sequence numbers less the piece's first.
    pub(crate) seqs: Vec<u32>,
    /// `occurredAt`, milliseconds since 1970.
    pub(crate) times: Vec<i64>,
}

// === impl Columns ===

impl Columns {
    pub(crate) fn push(&mut self, key: &IdKey, delta: u32, identity: &[u8; 16], record: &Object<'_>) {
        for (column, member) in MEMBERS.iter().enumerate() {
            self.hashes[column].push(text_at(record, member).map_or(0, |text| hash(key, column, text)));
        }
        self.hashes[IDENTITY].push(short(identity));
        self.seqs.push(delta);
        self.times.push(time_of(record).map_or(0, jiff::Timestamp::as_millisecond));
    }

    pub(crate) const fn len(&self) -> usize {
        self.seqs.len()
    }
}

/// The text of a member of a record, by its path.
pub(crate) fn text_at<'a>(record: &'a Object<'_>, path: &str) -> Option<&'a str> {
    match path.split_once('.') {
        None => record.get(path)?.as_str(),
        Some((outer, inner)) => record.get(outer).and_then(Json::as_object)?.get(inner)?.as_str(),
    }
}

/// When a record's event happened.
pub(crate) fn time_of(record: &Object<'_>) -> Option<jiff::Timestamp> {
    text_at(record, "occurredAt").and_then(parse_time)
}

/// The hash of a member's value; 0 stands for none.
pub(crate) fn hash(key: &IdKey, column: usize, text: &str) -> u32 {
    short(&identity(key, MEMBERS[column], text)).max(1)
}

pub(crate) fn short(identity: &[u8; 16]) -> u32 {
    u32::from_le_bytes([identity[0], identity[1], identity[2], identity[3]])
}
