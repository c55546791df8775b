//! What can go wrong.
use std::time::Duration;

use serde::Deserialize;

/// Why an event was not taken, or a search not answered.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address cannot be used.
    #[error("{0} is no address of a sidecar; use http://127.0.0.1:9600 or unix:/path/to/steno.sock")]
    Address(String),
    /// The sidecar refused, and will again.
    #[error(transparent)]
    Refused(#[from] Problem),
    /// The sidecar could not be reached, or refused for now, until the time to give up came. It is safe to send the event again.
    #[error("gave up after {tries} tries; the last one: {last}")]
    GaveUp {
        /// How often it was tried.
        tries: usize,
        /// What the last try came to.
        last: Box<Self>,
    },
    /// No answer.
    #[error("the sidecar does not answer: {0}")]
    Unreachable(String),
    /// An answer that is none of the sidecar's.
    #[error("an answer that is not understood: {0}")]
    Answer(String),
}

/// A problem as the sidecar tells it (RFC 9457).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, thiserror::Error)]
#[serde(rename_all = "camelCase")]
#[error("{status} {reason}: {detail}")]
pub struct Problem {
    /// HTTP status.
    #[serde(default)]
    pub status: u16,
    /// The reason's word, such as `not_an_event`.
    #[serde(default)]
    pub reason: String,
    /// One sentence: what is wrong, and what to do.
    #[serde(default)]
    pub detail: String,
    /// When another try makes sense, in milliseconds.
    #[serde(default)]
    pub retry_after_ms: Option<u64>,
}

// === impl Error ===

impl Error {
    /// Whether another try may go well.
    pub fn passes(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::GaveUp { .. } => true,
            Self::Refused(problem) => problem.passes(),
            Self::Address(_) | Self::Answer(_) => false,
        }
    }

    /// When the sidecar says that another try makes sense.
    pub(crate) fn after(&self) -> Option<Duration> {
        match self {
            Self::Refused(problem) => problem.retry_after_ms.map(Duration::from_millis),
            _ => None,
        }
    }
}

// === impl Problem ===

impl Problem {
    /// Whether another try may go well.
    pub const fn passes(&self) -> bool {
        matches!(self.status, 408 | 429 | 503)
    }
}
