//! CloudEvents on `/v1/events`: which mode a request is in, and its attributes from headers.
use hyper::{HeaderMap, header};
use steno_event::formats::cloudevents;

use super::body;
use crate::{
    intake::Sent,
    problem::{Problem, Reason},
};

/// Media type of one CloudEvent in structured mode.
pub(super) const STRUCTURED: &str = "application/cloudevents+json";
/// Media type of several.
pub(super) const BATCH: &str = "application/cloudevents-batch+json";

/// How a request carries CloudEvents.
pub(super) enum Mode {
    /// The body is a CloudEvent.
    Structured,
    /// The body is a list of CloudEvents.
    Batch,
    /// Headers are the attributes, the body is the data.
    Binary,
}

/// The mode; `None`: the request carries no CloudEvent.
pub(super) fn mode(media: Option<&str>, headers: &HeaderMap) -> Option<Mode> {
    match media {
        Some(STRUCTURED) => Some(Mode::Structured),
        Some(BATCH) => Some(Mode::Batch),
        _ if headers.contains_key("ce-specversion") => Some(Mode::Binary),
        _ => None,
    }
}

/// The event of a request in binary mode.
pub(super) fn binary<'a>(headers: &'a HeaderMap, body: &'a [u8]) -> Result<Sent<'a>, Problem> {
    let invalid = |invalid: steno_event::Invalid| Problem::new(Reason::NotEvent, format!("{invalid}."));
    let media = headers.get(header::CONTENT_TYPE).map(|value| value.to_str().unwrap_or_default());
    let media_type = body::media_type(headers).unwrap_or_default();
    let data = cloudevents::body_data(&media_type, body).map_err(invalid)?;
    let attributes = headers.iter().filter_map(|(name, value)| Some((name.as_str().strip_prefix("ce-")?, value.as_bytes())));
    // The body's own type is the attribute `datacontenttype` in this mode.
    let content = media.filter(|_| !body.is_empty()).map(|media| ("datacontenttype", media.as_bytes()));
    let (tree, converted) = cloudevents::binary(attributes.chain(content), data).map_err(invalid)?;
    Ok(Sent::Made { tree, converted, deaf: false, ends: false })
}
