//! CloudEvents 1.0: structured and binary mode of the HTTP protocol binding
//! (<https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/http-protocol-binding.md>).
use std::borrow::Cow;

use super::{BYTE_ORDER_MARK, NO_UTF8, Sheet};
use crate::{
    Invalid,
    json::{self, Json, Object},
    names::Place,
};

/// The `dataschema` under which `data` is an event of Steno's own model, not a payload.
pub const EVENT_SCHEMA: &str = "urn:steno:event";

/// Extension attributes that say what the model has a member for. Their names are lower case by the specification.
const EXTENSIONS: &[(&str, Place)] = &[
    ("actorid", Place::In("actor", "id")),
    ("actortype", Place::In("actor", "type")),
    ("sessionid", Place::In("actor", "sessionId")),
    ("category", Place::Top("category")),
    ("message", Place::Top("message")),
    ("operation", Place::Top("operation")),
    ("outcome", Place::Top("outcome")),
    ("reason", Place::Top("reason")),
    ("requestid", Place::Top("requestId")),
    ("resourcetype", Place::In("resource", "type")),
    ("resourceid", Place::In("resource", "id")),
    ("service", Place::Top("service")),
    ("severity", Place::Top("severity")),
    ("sourceip", Place::In("source", "ip")),
    ("tenantid", Place::Top("tenantId")),
    ("useragent", Place::In("source", "userAgent")),
];

/// What a CloudEvent carries.
#[derive(Debug)]
pub enum Data<'a> {
    /// Nothing.
    None,
    /// JSON, and where in it values became text (see [`json::parse_repaired`]).
    Json(Json<'a>, Vec<String>),
    /// Bytes, as base64 says them.
    Base64(Cow<'a, str>),
}

fn invalid(field: &str, problem: &str) -> Invalid {
    Invalid { field: field.into(), problem: problem.into() }
}

/// A CloudEvent in structured mode, and where in it values became text, such as `data.total`.
pub fn structured(tree: Json<'_>, converted: Vec<String>) -> Result<(Json<'_>, Vec<String>), Invalid> {
    let Json::Object(mut attributes) = tree else {
        return Err(Invalid { field: "(body)".into(), problem: format!("is {}; send a CloudEvent", tree.kind()) });
    };
    // Of a member that is null the JSON format says that it is unset; in headers there is none.
    let is_null = |attributes: &Object<'_>, name| attributes.get(name) == Some(&Json::Null);
    if is_null(&attributes, "data") && attributes.contains("data_base64") {
        attributes.remove("data");
    }
    if is_null(&attributes, "data_base64") {
        attributes.remove("data_base64");
    }
    let data = match (attributes.remove("data"), attributes.remove("data_base64")) {
        (Some(_), Some(_)) => return Err(invalid("data_base64", "stands beside data; send one of them")),
        // Attributes are text in either mode; that one became text says nothing.
        (Some(data), None) => Data::Json(data, converted.iter().filter_map(|path| within_data(path)).collect()),
        (None, Some(Json::String(text))) => decoded(text, attributes.get("datacontenttype").and_then(Json::as_str))?,
        (None, Some(_)) => return Err(invalid("data_base64", "is not a string")),
        (None, None) => Data::None,
    };
    event(attributes, data)
}

/// A path of the whole as one of its data; `None`: it is none of an attribute, or of nothing.
fn within_data(path: &str) -> Option<String> {
    match path.strip_prefix("data") {
        Some("") => Some(String::new()),
        Some(rest) if rest.starts_with('[') => Some(rest.to_owned()),
        Some(rest) => rest.strip_prefix('.').map(ToOwned::to_owned),
        // What is said of the whole body.
        None => path.starts_with('(').then(|| path.to_owned()),
    }
}

/// Data that came as base64 is what the same bytes would be as a body.
fn decoded<'a>(text: Cow<'a, str>, content: Option<&str>) -> Result<Data<'a>, Invalid> {
    use base64::Engine as _;
    let bytes = base64::engine::general_purpose::STANDARD.decode(text.as_bytes());
    let bytes = bytes.map_err(|_| invalid("data_base64", "is not base64"))?;
    let media = content.and_then(|content| content.split(';').next()).unwrap_or_default().trim().to_ascii_lowercase();
    Ok(match body_data(&media, &bytes)? {
        Data::None => Data::None,
        Data::Json(tree, converted) => Data::Json(tree.into_static(), converted),
        Data::Base64(_) => Data::Base64(text),
    })
}

/// A CloudEvent in binary mode: its attributes from headers without `ce-`, as sent, and its data. Gives what [`structured`] gives.
pub fn binary<'a>(
    headers: impl IntoIterator<Item = (&'a str, &'a [u8])>,
    data: Data<'a>,
) -> Result<(Json<'a>, Vec<String>), Invalid> {
    let mut members = Vec::new();
    for (name, value) in headers {
        let text = header_text(value).ok_or_else(|| invalid(name, "is not UTF-8 after percent-decoding"))?;
        members.push((Cow::Borrowed(name), Json::String(Cow::Owned(text))));
    }
    let attributes = Object::from_members(members).map_err(|name| invalid(&name, "stands twice"))?;
    event(attributes, data)
}

/// An attribute's value in a header: percent-encoded, maybe in double quotes (HTTP protocol binding, 3.1.3.2). Clients that do not encode
/// (such as the SDK for Python) send UTF-8 or, as HTTP once said, ISO 8859-1.
fn header_text(value: &[u8]) -> Option<String> {
    let value = value.trim_ascii();
    if std::str::from_utf8(value).is_err() {
        return Some(value.iter().map(|byte| char::from(*byte)).collect());
    }
    let unquoted: Vec<u8> = match value {
        [b'"', inner @ .., b'"'] => {
            let mut out = Vec::with_capacity(inner.len());
            let mut bytes = inner.iter();
            while let Some(byte) = bytes.next() {
                out.push(if *byte == b'\\' { *bytes.next()? } else { *byte });
            }
            out
        }
        _ => value.to_vec(),
    };
    let decoded = percent_encoding::percent_decode(&unquoted).collect::<Vec<u8>>();
    String::from_utf8(decoded).ok()
}

fn event<'a>(mut attributes: Object<'a>, data: Data<'a>) -> Result<(Json<'a>, Vec<String>), Invalid> {
    let mut take = |name: &str| match attributes.remove(name) {
        Some(Json::String(text)) if !text.is_empty() => Ok(Some(text)),
        None | Some(Json::Null) => Ok(None),
        Some(_) => Err(invalid(name, "is not a string that says something")),
    };
    let missing = |name: &'static str| move || invalid(name, "is missing; CloudEvents 1.0 requires it");
    let version = take("specversion")?.ok_or_else(missing("specversion"))?;
    if version != "1.0" {
        return Err(invalid("specversion", "is not 1.0, the version that is understood here"));
    }
    let id = take("id")?.ok_or_else(missing("id"))?;
    let source = take("source")?.ok_or_else(missing("source"))?;
    let kind = take("type")?.ok_or_else(missing("type"))?;
    let (subject, time) = (take("subject")?, take("time")?);
    let (schema, trace) = (take("dataschema")?, take("traceparent")?);
    let mut rest: Vec<(Cow<'a, str>, Json<'a>)> = Vec::new();
    let mut keep = |name: &'static str, value: Option<Json<'a>>| rest.extend(value.map(|value| (Cow::Borrowed(name), value)));

    let is_event = schema.as_deref() == Some(EVENT_SCHEMA);
    let mut converted = Vec::new();
    let mut sheet = match data {
        Data::Json(Json::Object(mut members), kept) if is_event => {
            converted = kept;
            // The envelope says who the event is.
            keep("dataEventId", members.remove("eventId"));
            Sheet::of(members)
        }
        _ if is_event => return Err(invalid("data", "is not an object, though dataschema says that it is an event")),
        Data::None => Sheet::default(),
        Data::Json(value, kept) => {
            converted.extend(kept.into_iter().map(|path| match path.as_bytes().first() {
                None => "data".into(),
                Some(b'[') => format!("data{path}"),
                Some(b'(') => path,
                Some(_) => format!("data.{path}"),
            }));
            let mut sheet = Sheet::default();
            sheet.meta("data", value);
            sheet
        }
        Data::Base64(text) => {
            let mut sheet = Sheet::default();
            sheet.meta("dataBase64", Json::String(text));
            sheet
        }
    };
    // A URI has no "|", so source and id stay apart (the specification asks for both to tell events apart).
    let event_id = format!("{}|{id}", source.replace('|', "%7C"));
    sheet.put(Place::Top("eventId"), Json::String(event_id.into()));
    keep("source", Some(Json::String(source)));
    keep("dataschema", schema.map(Json::String));
    keep("type", sheet.put(Place::Top("action"), Json::String(kind)));
    if let Some(subject) = subject {
        keep("subject", sheet.put(Place::In("resource", "id"), Json::String(subject)));
    }
    if let Some(time) = time {
        keep("time", sheet.put(Place::Top("occurredAt"), Json::String(time)));
    }
    if let Some(trace) = trace {
        match trace_parent(&trace) {
            Some((trace_id, span_id)) => {
                sheet.put(Place::Top("traceId"), Json::String(trace_id.to_owned().into()));
                sheet.put(Place::Top("spanId"), Json::String(span_id.to_owned().into()));
            }
            None => keep("traceparent", Some(Json::String(trace))),
        }
    }
    for (name, value) in attributes.into_members().into_iter().filter(|(_, value)| *value != Json::Null) {
        let place = EXTENSIONS.iter().find(|(known, _)| *known == name).map(|(_, place)| *place);
        // In headers all are text: an attribute is the same in either mode.
        let value = match value {
            Json::Bool(_) | Json::Number(_) => Json::String(json::canonical(&value).into()),
            value => value,
        };
        let left = match place {
            _ if name == "datacontenttype" && value.as_str().is_some_and(is_plain_json) => None,
            Some(place) => sheet.put(place, value),
            None => Some(value),
        };
        rest.extend(left.map(|value| (name, value)));
    }
    let rest = Object::from_members(rest).map_err(|name| invalid(&name, "stands twice"))?;
    sheet.meta("cloudevent", Json::Object(rest));
    Ok((sheet.finish(Vec::new()), converted))
}

/// The type that data has where none is named (JSON format, 3.1.1), in whatever way it is written.
fn is_plain_json(media: &str) -> bool {
    let mut parts = media.split(';').map(str::trim);
    let is_json = parts.next().is_some_and(|kind| kind.eq_ignore_ascii_case("application/json"));
    is_json && parts.all(|part| part.is_empty() || part.replace([' ', '"'], "").eq_ignore_ascii_case("charset=utf-8"))
}

/// Trace and span of a W3C `traceparent`: `00-<32 hex>-<16 hex>-<2 hex>`.
fn trace_parent(text: &str) -> Option<(&str, &str)> {
    let mut parts = text.split('-');
    let (_, trace, span) = (parts.next()?, parts.next()?, parts.next()?);
    let hex = |text: &str, length| text.len() == length && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    (hex(trace, 32) && hex(span, 16)).then_some((trace, span))
}

/// Data of a body in binary mode, by its media type.
pub fn body_data<'a>(media: &str, body: &'a [u8]) -> Result<Data<'a>, Invalid> {
    use base64::Engine as _;
    if body.is_empty() {
        return Ok(Data::None);
    }
    let is_json = media == "application/json" || media == "text/json" || media.ends_with("+json");
    if is_json {
        return json_data(body);
    }
    match super::readable(body) {
        // No type was said; what is JSON is meant as JSON.
        Some(text) if media.is_empty() => {
            let read = json::parse_repaired(text).ok();
            let (tree, kept) = read.unwrap_or_else(|| (Json::String(text.into()), Vec::new()));
            Ok(Data::Json(tree, kept))
        }
        // Readable text is kept as such whatever its type is: redaction does not look into base64.
        Some(text) => Ok(Data::Json(Json::String(text.into()), Vec::new())),
        None => Ok(Data::Base64(base64::engine::general_purpose::STANDARD.encode(body).into())),
    }
}

/// Data of a body that is said to be JSON.
fn json_data(body: &[u8]) -> Result<Data<'_>, Invalid> {
    let fault = |fault: json::Fault| Invalid { field: "(body)".into(), problem: fault.to_string() };
    let body = body.strip_prefix(BYTE_ORDER_MARK).unwrap_or(body);
    if let Ok(text) = std::str::from_utf8(body) {
        return json::parse_repaired(text).map(|(tree, kept)| Data::Json(tree, kept)).map_err(fault);
    }
    let text = String::from_utf8_lossy(body);
    let (tree, mut kept) = json::parse_repaired(&text).map_err(fault)?;
    kept.push(NO_UTF8.into());
    Ok(Data::Json(tree.into_static(), kept))
}

#[cfg(test)]
mod tests;
