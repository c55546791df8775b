//! Kubernetes audit events (`audit.k8s.io/v1`, <https://kubernetes.io/docs/reference/config-api/apiserver-audit.v1/>).
use std::borrow::Cow;

use super::Sheet;
use crate::{
    json::{self, Json, Object, lax},
    names::Place,
    time,
};

/// An audit event, mapped.
#[derive(Debug)]
pub struct Audit<'a> {
    /// The event.
    pub event: Json<'a>,
    /// What tells it from others: `<auditID>/<stage>`.
    pub key: String,
}

/// An item that could not be read, as far as it could.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    /// What is wrong, and where; never a value.
    pub fault: String,
    /// Its `auditID`, where that was readable.
    pub audit_id: Option<String>,
    /// Its `stage`, where that was readable.
    pub stage: Option<String>,
}

/// Most items of one request. An API server sends 400 at a time unless it is told otherwise.
pub const MOST_ITEMS: usize = 10_000;

/// The items of an `EventList`, each as the text it stands in: one that is damaged does not spoil the others. One more than [`MOST_ITEMS`] where there
/// are too many; `None`: the body is no such list.
pub fn items(body: &str) -> Option<Vec<&str>> {
    let members = lax::members(body)?;
    let (_, list) = members.into_iter().find(|(name, _)| *name == "items")?;
    lax::items(list, MOST_ITEMS + 1)
}

/// An item's members. What cannot be read of one, such as a body with a name that stands twice, is kept as its text.
fn read<'a>(text: &'a str, converted: &mut Vec<String>) -> Result<Object<'a>, String> {
    let members = lax::members(text).ok_or("it is no JSON object")?;
    let mut read = Vec::with_capacity(members.len());
    for (name, value) in members {
        let is_body = name == "requestObject" || name == "responseObject";
        let value = if let Ok((tree, kept)) = json::parse_kept(value) {
            // The names in a body may be more than the policy keeps of it.
            converted.extend(
                kept.into_iter().map(|path| if is_body || path.is_empty() { name.to_owned() } else { format!("{name}.{path}") }),
            );
            tree
        } else {
            converted.push(name.to_owned());
            Json::String(Cow::Borrowed(value))
        };
        read.push((Cow::Borrowed(name), value));
    }
    converted.dedup();
    Object::from_members(read).map_err(|name| format!("the member {name:?} stands twice"))
}

/// Maps one item.
pub fn audit(text: &str) -> Result<Audit<'_>, Unreadable> {
    let mut converted = Vec::new();
    let mut item = read(text, &mut converted).map_err(|fault| unreadable(text, fault))?;
    // What is no text is not what it should be, and stays where it is.
    let take = |item: &mut Object<'_>, name: &str| match item.get(name) {
        Some(Json::String(text)) if !text.is_empty() => match item.remove(name) {
            Some(Json::String(text)) => Some(text.into_owned()),
            _ => None,
        },
        _ => None,
    };
    let (Some(id), Some(stage)) = (take(&mut item, "auditID"), take(&mut item, "stage")) else {
        return Err(unreadable(text, "has no auditID or no stage".into()));
    };
    let key = format!("{id}/{stage}");
    let mut sheet = Sheet::default();
    let mut shortened = Vec::new();
    let mut unread = Vec::new();
    let mut put = |place: Place, text: &str, most: usize| {
        let kept = clip(text, most);
        if kept.len() < text.len() {
            let (Place::Top(name) | Place::In(_, name)) = place;
            shortened.push(Json::text(name));
        }
        sheet.put(place, Json::String(Cow::Owned(kept)));
    };
    put(Place::Top("eventId"), &key, 512);
    put(Place::Top("requestId"), &id, 512);

    let verb = take(&mut item, "verb").unwrap_or_else(|| "unknown".into());
    let reference = match take_object(&mut item, "objectRef") {
        Some(Json::Object(reference)) => reference,
        _ => Object::default(),
    };
    let text_of = |object: &Object<'_>, name: &str| object.get(name).and_then(Json::as_str).unwrap_or_default().to_owned();
    let (resource, sub) = (text_of(&reference, "resource"), text_of(&reference, "subresource"));
    let kind = [&*resource, &*sub].iter().filter(|part| !part.is_empty()).copied().collect::<Vec<_>>().join("/");
    let action = if kind.is_empty() { format!("kubernetes.{verb}") } else { format!("kubernetes.{verb} {kind}") };
    put(Place::Top("action"), &action, 256);
    put(Place::Top("operation"), &verb, 64);
    let writes = ["create", "update", "patch", "delete", "deletecollection"].contains(&&*verb);
    put(Place::Top("category"), if writes { "entity-mutation" } else { "user-action" }, 128);
    if !kind.is_empty() {
        put(Place::In("resource", "type"), &kind, 256);
    }
    let name = [text_of(&reference, "namespace"), text_of(&reference, "name")];
    let name = name.iter().filter(|part| !part.is_empty()).map(String::as_str).collect::<Vec<_>>().join("/");
    if !name.is_empty() {
        put(Place::In("resource", "id"), &name, 1024);
    }

    let mut user = match take_object(&mut item, "user") {
        Some(Json::Object(user)) => user,
        _ => Object::default(),
    };
    if let Some(name) = take(&mut user, "username") {
        put(Place::In("actor", "type"), actor_type(&name), 64);
        put(Place::In("actor", "id"), &name, 512);
    }
    if let Some(Json::Array(addresses)) = item.get_mut("sourceIPs")
        && matches!(addresses.first(), Some(Json::String(_)))
        && let Json::String(first) = addresses.remove(0)
    {
        put(Place::In("source", "ip"), &first, 256);
        if addresses.is_empty() {
            item.remove("sourceIPs");
        }
    }
    if let Some(agent) = take(&mut item, "userAgent") {
        put(Place::In("source", "userAgent"), &agent, usize::MAX);
    }

    let times = times(&mut item, &mut unread);
    if let Some(at) = times[1].or(times[0]) {
        put(Place::Top("occurredAt"), &at.to_string(), usize::MAX);
    }
    if let [Some(from), Some(to)] = times {
        let millis = (to.as_microsecond() - from.as_microsecond()).max(0) as f64 / 1000.0;
        sheet.put(Place::Top("durationMs"), Json::Number(millis));
    }

    let (outcome, severity) = outcome(&item, &stage);
    sheet.put(Place::Top("outcome"), Json::text(outcome));
    sheet.put(Place::Top("severity"), Json::text(severity));
    if !shortened.is_empty() {
        sheet.meta("shortened", Json::Array(shortened));
    }
    // Bodies stand where the policy's `capture` looks for them.
    for name in ["requestObject", "responseObject"] {
        if let Some(body) = item.remove(name) {
            sheet.meta(name, body);
        }
    }
    item.insert("stage", Json::String(stage.into()));
    // What stands in `resource` has no copy here: a rule that names that member would miss it.
    let mapped = ["resource", "subresource", "namespace", "name"];
    let left: Vec<_> = reference.into_members().into_iter().filter(|(name, _)| !mapped.contains(&&**name)).collect();
    if !left.is_empty() {
        item.insert("objectRef", Json::Object(Object::from_members(left).unwrap_or_default()));
    }
    if !user.is_empty() {
        item.insert("user", Json::Object(user));
    }
    sheet.meta("kubernetes", Json::Object(item));
    converted.extend(unread);
    Ok(Audit { event: sheet.finish(converted), key })
}

/// When the request came, and when this stage was. A time that is none stays as it came, and its name is kept.
fn times(item: &mut Object<'_>, unread: &mut Vec<String>) -> [Option<jiff::Timestamp>; 2] {
    ["requestReceivedTimestamp", "stageTimestamp"].map(|name| {
        let time = item.get(name).and_then(Json::as_str).and_then(time::parse_time);
        if time.is_some() {
            item.remove(name);
        } else if item.get(name).is_some() {
            unread.push(name.to_owned());
        }
        time
    })
}

/// A member that is an object; anything else stays where it is.
fn take_object<'a>(item: &mut Object<'a>, name: &'static str) -> Option<Json<'a>> {
    item.remove(name).and_then(|value| match value {
        Json::Object(_) => Some(value),
        other => {
            item.insert(name, other);
            None
        }
    })
}

/// How the request went, and how grave that is.
fn outcome(item: &Object<'_>, stage: &str) -> (&'static str, &'static str) {
    let status = item.get("responseStatus").and_then(Json::as_object);
    let code = match status.and_then(|status| status.get("code")) {
        Some(Json::Number(code)) => Some(*code as u16),
        _ => None,
    };
    match (stage, code) {
        ("Panic", _) | (_, Some(500..)) => ("failure", "error"),
        (_, Some(401 | 403)) => ("denied", "warning"),
        (_, Some(400..)) => ("failure", "info"),
        (_, Some(1..400)) => ("success", "info"),
        _ => ("unknown", "info"),
    }
}

fn actor_type(name: &str) -> &'static str {
    match name.strip_prefix("system:") {
        Some(rest) if rest.starts_with("serviceaccount:") => "serviceaccount",
        Some(rest) if rest.starts_with("node:") => "node",
        Some("anonymous") => "anonymous",
        Some(_) => "system",
        None => "user",
    }
}

/// At most so many bytes, cut at a character: the apiserver cannot be told to send less.
fn clip(text: &str, most: usize) -> String {
    let mut end = most.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

/// What can be said of an item that cannot be read.
fn unreadable(text: &str, fault: String) -> Unreadable {
    let of = |name: &str| {
        let found = json::member_text(text, name)?;
        let sane = (1..=64).contains(&found.len()) && found.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        sane.then_some(found)
    };
    Unreadable { fault, audit_id: of("auditID"), stage: of("stage") }
}

#[cfg(test)]
mod tests;
