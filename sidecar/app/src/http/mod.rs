//! The two listeners: intake (TCP on loopback, Unix socket) and status.
//!
//! No connection is ever without a deadline: the first bytes, the head, the body and idling between requests each have one.

mod audit;
mod body;
mod budget;
mod cloud;
mod guard;
mod ingest;
mod intents;
mod listen;
mod logs;
mod query;
mod routes;
mod sniff;
mod status;

pub use budget::{Payload, give_back};
pub use ingest::Ingest;
pub use listen::{Listener, Stop, serve};
pub use status::StatusPort;

use bytes::Bytes;
use hyper::{Response, header};
use serde_json::Value;

use crate::problem::{Problem, Reason};

/// What handlers answer.
pub type Answer = Response<Payload>;

/// A JSON answer.
pub(crate) fn json(status: u16, body: Vec<u8>) -> Answer {
    let mut answer = Response::new(Payload::from(Bytes::from(body)));
    *answer.status_mut() = hyper::StatusCode::from_u16(status).unwrap_or(hyper::StatusCode::INTERNAL_SERVER_ERROR);
    answer.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    answer
}

/// A problem as RFC 9457 says, with the headers that belong to it.
pub(crate) fn problem(problem: &Problem, request_id: &str, more: Option<Value>) -> Answer {
    let mut body = problem.body(request_id);
    if let (Some(object), Some(results)) = (body.as_object_mut(), more) {
        object.insert("results".into(), results);
    }
    let mut answer = json(problem.reason.status(), body.to_string().into_bytes());
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/problem+json"));
    let mut set = |name: &'static str, value: String| {
        if let Ok(value) = header::HeaderValue::from_str(&value) {
            headers.insert(name, value);
        }
    };
    if let Some(wait) = problem.retry_after {
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        set("retry-after", seconds.max(1).to_string());
        if let Some(quota) = problem.quota {
            set("ratelimit", format!("\"events\";r=0;t={}", seconds.max(1)));
            set("ratelimit-policy", format!("\"events\";q={};w=1;burst={}", quota.rate, quota.burst));
        }
    }
    if problem.reason == Reason::Unauthorized {
        set("www-authenticate", "Bearer".into());
    }
    if let Some(allow) = &problem.allow {
        set("allow", allow.clone());
    }
    if matches!(problem.reason, Reason::Timeout | Reason::BodyTooLarge) {
        // The rest of the body will not be read.
        set("connection", "close".into());
    }
    answer
}
