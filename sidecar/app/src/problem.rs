//! Errors to clients: RFC 9457, one table of reasons.
use std::time::Duration;

use serde_json::{Value, json};
use steno_limit::Quota;

/// Why a request or an event was not taken.
#[derive(Debug, Clone, PartialEq)]
pub struct Problem {
    /// The reason.
    pub reason: Reason,
    /// One sentence: what is wrong, and what to do.
    pub detail: String,
    /// When to try again.
    pub retry_after: Option<Duration>,
    /// The quota that ran out.
    pub quota: Option<Quota>,
    /// Methods that are allowed, for 405.
    pub allow: Option<String>,
}

macro_rules! reasons {
    ($($name:ident $status:literal $word:literal $title:literal;)*) => {
        /// Reasons, each with its status.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Reason {
            $(#[doc = $title] $name,)*
        }

        impl Reason {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// HTTP status.
            pub const fn status(self) -> u16 {
                match self { $(Self::$name => $status,)* }
            }

            /// The word in `reason`, in logs and in metrics.
            pub const fn word(self) -> &'static str {
                match self { $(Self::$name => $word,)* }
            }

            /// The title.
            pub const fn title(self) -> &'static str {
                match self { $(Self::$name => $title,)* }
            }
        }
    };
}

reasons! {
    NotJson 400 "not_json" "The body is not JSON";
    BadRequest 400 "bad_request" "The request is malformed";
    Unauthorized 401 "unauthorized" "The bearer token is missing or wrong";
    QueryOff 403 "query_disabled" "Looking back is not allowed here";
    IntentsOff 403 "intents_disabled" "Write intents are not allowed here";
    Forbidden 403 "forbidden" "The request is not allowed here";
    NotFound 404 "not_found" "There is nothing here";
    Method 405 "method_not_allowed" "The method is not allowed here";
    Timeout 408 "request_timeout" "The request took too long to arrive";
    Conflict 409 "conflict" "The event id was used for another payload";
    BodyTooLarge 413 "body_too_large" "The body is too large";
    IntentConflict 409 "intent_conflict" "The write intent is another one, or ended otherwise";
    IntentTooLarge 413 "intent_too_large" "The payload is too large";
    EventTooLarge 413 "event_too_large" "The event is too large";
    UriTooLong 414 "uri_too_long" "The path is too long";
    MediaType 415 "unsupported_media_type" "The content type is not supported";
    NotEvent 422 "not_an_event" "The JSON is not an event";
    TooManyItems 422 "too_many_items" "The batch has too many events";
    Limited 429 "rate_limited" "Too many events";
    NotIntent 422 "not_an_intent" "The JSON is not a write intent";
    HeadersTooLarge 431 "headers_too_large" "The headers are too large";
    CircuitOpen 503 "circuit_open" "Kafka is away, and the policy refuses new events meanwhile";
    Overloaded 503 "overloaded" "Too many bytes are in flight";
    Dependency 503 "dependency_failure" "The journal cannot be written";
    SpoolFull 503 "spool_full" "The spool is full";
    TooManyIntents 503 "too_many_intents" "Too many write intents are open";
    ShuttingDown 503 "shutting_down" "The sidecar is shutting down";
    NotDelivered 504 "not_delivered" "Not everything was delivered in time";
}

impl Problem {
    /// A problem without a time to try again.
    pub fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into(), retry_after: None, quota: None, allow: None }
    }

    /// A problem that passes.
    pub fn later(reason: Reason, detail: impl Into<String>, retry_after: Duration) -> Self {
        Self { retry_after: Some(retry_after), ..Self::new(reason, detail) }
    }

    /// The `type`: a registered one where there is one.
    pub fn kind(&self) -> String {
        match self.reason {
            Reason::Limited => "https://iana.org/assignments/http-problem-types#quota-exceeded".into(),
            reason => format!("urn:steno:problem:{}", reason.word()),
        }
    }

    /// Milliseconds until a new try makes sense.
    pub fn retry_ms(&self) -> Option<u64> {
        self.retry_after.map(|wait| (wait.as_nanos().div_ceil(1_000_000) as u64).max(1))
    }

    /// The body.
    pub fn body(&self, request_id: &str) -> Value {
        let mut body = json!({
            "type": self.kind(),
            "title": self.reason.title(),
            "status": self.reason.status(),
            "reason": self.reason.word(),
            "detail": self.detail,
            "requestId": request_id,
        });
        if let (Some(ms), Some(object)) = (self.retry_ms(), body.as_object_mut()) {
            object.insert("retryAfterMs".into(), ms.into());
        }
        body
    }
}
