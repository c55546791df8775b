//! What is asked, and the cursor between pages.
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::Timestamp;
use steno_event::{json::Object, parse_time};

use crate::columns::{MEMBERS, text_at, time_of};

/// Most records of a page.
pub const MOST_RECORDS: usize = 1000;
/// Most values of one member.
const MOST_VALUES: usize = 100;
/// Records of a page where nothing is said.
const RECORDS: usize = 100;

/// Which record comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Order {
    /// The newest.
    #[default]
    Newest,
    /// The oldest.
    Oldest,
}

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// For each of [`MEMBERS`], values of which it must have one; empty: any.
    pub(crate) wanted: [Vec<String>; MEMBERS.len()],
    /// Earliest and first too late `occurredAt`, to the nanosecond.
    pub(crate) from: Option<Timestamp>,
    pub(crate) to: Option<Timestamp>,
    pub(crate) order: Order,
    pub(crate) limit: usize,
    /// Sequence number where the page before ended.
    pub(crate) after: Option<u64>,
}

/// A question that cannot be answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct BadQuestion {
    /// The parameter.
    pub field: String,
    /// What is wrong with it, and what to send.
    pub problem: String,
}

fn bad(field: &str, problem: impl Into<String>) -> BadQuestion {
    BadQuestion { field: field.chars().take(64).collect(), problem: problem.into() }
}

// === impl Question ===

impl Question {
    /// A question from its parameters; one that stands more than once means any of its values.
    pub fn new<'a>(parameters: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self, BadQuestion> {
        let mut question =
            Self { wanted: Default::default(), from: None, to: None, order: Order::Newest, limit: RECORDS, after: None };
        let mut cursor = None;
        for (name, value) in parameters {
            match name {
                "from" => question.from = Some(time(name, value)?),
                "to" => question.to = Some(time(name, value)?),
                "limit" => {
                    let limit = value.parse().ok().filter(|limit| (1..=MOST_RECORDS).contains(limit));
                    question.limit = limit.ok_or_else(|| bad(name, format!("takes 1 to {MOST_RECORDS}")))?;
                }
                "order" => {
                    question.order = match value {
                        "newest" => Order::Newest,
                        "oldest" => Order::Oldest,
                        _ => return Err(bad(name, "takes newest or oldest")),
                    }
                }
                "cursor" => cursor = Some(value),
                _ => {
                    let Some(column) = MEMBERS.iter().position(|member| *member == name) else {
                        let known = MEMBERS.join(", ");
                        return Err(bad(name, format!("is not known; ask by {known}, from, to, order, limit or cursor")));
                    };
                    if name == "severity" && steno_event::names::severity(value) != Some(value) {
                        return Err(bad(name, "takes debug, info, notice, warning, error or critical"));
                    }
                    question.wanted[column].push(value.to_owned());
                    if question.wanted[column].len() > MOST_VALUES {
                        return Err(bad(name, format!("has more than {MOST_VALUES} values")));
                    }
                }
            }
        }
        let kinds = &mut question.wanted[MEMBERS.len() - 1];
        if kinds.is_empty() {
            kinds.push("Event".into());
        } else if kinds.iter().any(|kind| kind == "any") {
            kinds.clear();
        }
        if let Some(cursor) = cursor {
            question.after =
                Some(question.read_cursor(cursor).ok_or_else(|| bad("cursor", "is not one of this question; leave it out"))?);
        }
        Ok(question)
    }

    /// Whether a record is asked for.
    pub(crate) fn fits(&self, record: &Object<'_>) -> bool {
        let members = self.wanted.iter().zip(MEMBERS);
        let mut asked = members.filter(|(wanted, _)| !wanted.is_empty());
        let all =
            asked.all(|(wanted, member)| text_at(record, member).is_some_and(|text| wanted.iter().any(|value| value == text)));
        all && ((self.from.is_none() && self.to.is_none()) || time_of(record).is_some_and(|at| self.fits_time(at)))
    }

    fn fits_time(&self, at: Timestamp) -> bool {
        self.from.is_none_or(|from| at >= from) && self.to.is_none_or(|to| at < to)
    }

    /// Whether a record between these times may be asked for. The index knows milliseconds; the record itself decides.
    pub(crate) fn may_fit(&self, earliest_ms: i64, latest_ms: i64) -> bool {
        self.from.is_none_or(|from| latest_ms >= from.as_millisecond())
            && self.to.is_none_or(|to| earliest_ms <= to.as_millisecond())
    }

    /// Whether a sequence number is behind the page before.
    pub(crate) fn fits_place(&self, seq: u64) -> bool {
        match (self.order, self.after) {
            (_, None) => true,
            (Order::Newest, Some(after)) => seq < after,
            (Order::Oldest, Some(after)) => seq > after,
        }
    }

    /// The cursor behind a record.
    pub(crate) fn cursor(&self, seq: u64) -> String {
        let mut bytes = self.mark().to_le_bytes().to_vec();
        bytes.extend_from_slice(&seq.to_le_bytes());
        URL_SAFE_NO_PAD.encode(bytes)
    }

    fn read_cursor(&self, text: &str) -> Option<u64> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (mark, seq) = bytes.split_first_chunk::<4>()?;
        let seq = u64::from_le_bytes(seq.try_into().ok()?);
        (u32::from_le_bytes(*mark) == self.mark()).then_some(seq)
    }

    /// Tells questions apart, so that a cursor is not used for another one. Not a secret.
    fn mark(&self) -> u32 {
        crc32c::crc32c(format!("{:?} {:?} {:?} {:?}", self.wanted, self.from, self.to, self.order).as_bytes())
    }
}

fn time(name: &str, value: &str) -> Result<Timestamp, BadQuestion> {
    parse_time(value).ok_or_else(|| bad(name, "is not a time; send RFC 3339 such as 2026-03-01T10:00:00Z"))
}
