//! From what a client sent to what an event is: mapping, type checks, defaults.
use std::{borrow::Cow, fmt, sync::Arc};

use crate::{
    SCHEMA_VERSION, formats,
    json::{Json, Object},
    names::{self, Place, Takes},
    time,
};

/// An event as the client sent it, mapped to the model. Nothing that the sidecar adds is in it.
#[derive(Debug, Clone, PartialEq)]
pub struct Draft<'a> {
    /// The members.
    pub members: Object<'a>,
}

/// Why JSON is not an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalid {
    /// The member.
    pub field: String,
    /// What is wrong with it, and what to send.
    pub problem: String,
}

/// Values for members that a client leaves out, from the policy.
#[derive(Debug, Clone)]
pub struct Fill {
    /// The tenant.
    pub tenant: String,
    /// Whether a client may name no other tenant.
    pub tenant_enforced: bool,
    /// The service.
    pub service: String,
    /// The category.
    pub category: String,
    /// The outcome.
    pub outcome: String,
    /// The severity.
    pub severity: &'static str,
    /// Members that must be there afterwards, as steps.
    pub require: Vec<Vec<String>>,
    /// The `writer` member, canonical.
    pub writer: Arc<str>,
}

/// When events were received.
#[derive(Debug, Clone)]
pub struct Received {
    ms: u64,
    text: String,
}

impl Received {
    /// At a time in milliseconds since 1970.
    pub fn at(ms: u64) -> Self {
        Self { ms, text: time::format_millis(ms) }
    }

    /// Milliseconds since 1970.
    pub fn ms(&self) -> u64 {
        self.ms
    }
}

/// Members that [`Draft::complete`] filled in because the client left them out, as a set of bits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Filled(pub u8);

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.problem)
    }
}

impl std::error::Error for Invalid {}

fn invalid(field: impl Into<String>, problem: impl Into<String>) -> Invalid {
    Invalid { field: field.into(), problem: problem.into() }
}

// === impl Filled ===

impl Filled {
    /// Members that can be filled in, by bit.
    pub const NAMES: [&'static str; 7] = ["occurredAt", "service", "category", "outcome", "severity", "tenantId", "actor"];

    /// Whether this member was filled in.
    pub fn contains(self, name: &str) -> bool {
        Self::NAMES.iter().position(|known| *known == name).is_some_and(|bit| self.0 & (1 << bit) != 0)
    }
}

// === impl Draft ===

impl<'a> Draft<'a> {
    /// Maps and checks what a client sent.
    pub fn from_json(json: Json<'a>) -> Result<Self, Invalid> {
        let Json::Object(sent) = json else {
            return Err(invalid("(body)", format!("is {}; send a JSON object", json.kind())));
        };
        let mut members: Vec<(Cow<'a, str>, Json<'a>)> = Vec::with_capacity(sent.len() + 14);
        let mut others: Vec<(Cow<'a, str>, Json<'a>)> = Vec::new();
        for (name, value) in sent.into_members() {
            match names::takes(&name) {
                // An explicit null says "not set"; before and after may mean it.
                Some((known, Takes::Anything)) => members.push((known.into(), value)),
                Some(_) if value == Json::Null => {}
                Some((known, takes)) => members.push((known.into(), check(known, takes, value)?)),
                None if names::RESERVED.contains(&&*name) => {
                    return Err(invalid(name, "is filled in by the sidecar; leave it out"));
                }
                None => others.push((name, value)),
            }
        }
        let mut draft = Self { members: Object::from_members(members).map_err(|name| invalid(name, "stands twice"))? };
        for (name, value) in others {
            draft.place(name, value)?;
        }
        if !draft.members.contains("action") {
            return Err(invalid("action", "is missing; say what was done, such as \"user.login\""));
        }
        Ok(draft)
    }

    /// Puts a member that is not of the model where it belongs.
    fn place(&mut self, name: Cow<'a, str>, value: Json<'a>) -> Result<(), Invalid> {
        let place = names::ALIASES.iter().find(|(alias, _)| *alias == name).map(|(_, place)| *place);
        let Some(place) = place else { return self.keep(name, value) };
        if value == Json::Null {
            return Ok(());
        }
        match place {
            Place::Top(target) => {
                let takes = names::takes(target).map_or(Takes::Anything, |(_, takes)| takes);
                let value = check(&name, takes, value)?;
                match self.members.get(target) {
                    None => drop(self.members.insert(target, value)),
                    Some(there) if *there == value => {}
                    Some(_) => self.keep(name, value)?,
                }
            }
            Place::In(outer, inner) => {
                let takes = match names::takes(outer) {
                    Some((_, Takes::Members(known))) => known.iter().find(|(known, _)| *known == inner).map(|(_, takes)| *takes),
                    _ => None,
                };
                let value = check(&name, takes.unwrap_or(Takes::Anything), stringify(value))?;
                if !self.members.contains(outer) {
                    self.members.insert(outer, Json::Object(Object::default()));
                }
                let Some(Json::Object(there)) = self.members.get_mut(outer) else { return self.keep(name, value) };
                match there.get(inner) {
                    None => drop(there.insert(inner, value)),
                    Some(known) if *known == value => {}
                    Some(_) => self.keep(name, value)?,
                }
            }
        }
        Ok(())
    }

    /// Notes in `metadata` which values became text, or lost something that is no text: their paths.
    pub fn note_converted(&mut self, paths: Vec<String>) {
        if paths.is_empty() {
            return;
        }
        if !self.members.contains("metadata") {
            self.members.insert("metadata", Json::Object(Object::default()));
        }
        if let Some(Json::Object(metadata)) = self.members.get_mut("metadata") {
            metadata.insert_free(Cow::Borrowed(formats::CONVERTED), formats::listed(paths));
        }
    }

    /// Keeps a member of no known name in `metadata`; a name that is taken gets `~2`.
    fn keep(&mut self, name: Cow<'a, str>, value: Json<'a>) -> Result<(), Invalid> {
        if !self.members.contains("metadata") {
            self.members.insert("metadata", Json::Object(Object::default()));
        }
        let Some(Json::Object(metadata)) = self.members.get_mut("metadata") else {
            return Err(invalid("metadata", "is not an object"));
        };
        metadata.insert_free(name, value);
        Ok(())
    }

    /// A member of the top that is text.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.members.get(name).and_then(Json::as_str)
    }

    /// The tenant, as sent or by default; an error where the policy enforces another.
    pub fn tenant<'b>(&'b self, fill: &'b Fill) -> Result<&'b str, Invalid> {
        match self.text("tenantId") {
            Some(sent) if fill.tenant_enforced && sent != fill.tenant => {
                Err(invalid("tenantId", "is not the tenant that the policy enforces here; leave it out"))
            }
            Some(sent) => Ok(sent),
            None => Ok(&fill.tenant),
        }
    }

    /// The severity, as sent or by default.
    pub fn severity(&self, fill: &Fill) -> &'static str {
        self.text("severity").and_then(names::severity).unwrap_or(fill.severity)
    }

    /// Checks what the policy requires, counting what [`Self::complete`] will fill in.
    pub fn check_required(&self, fill: &Fill) -> Result<(), Invalid> {
        for steps in &fill.require {
            let filled = matches!(steps.as_slice(), [only] if only == "eventId" || Filled::NAMES.contains(&only.as_str()));
            if !filled && lookup(&self.members, steps).is_none() {
                return Err(invalid(steps.join("."), "is missing; the policy requires it"));
            }
        }
        Ok(())
    }

    /// Gives the event an id, if it has none. Before redaction, so that an id from a header passes it like one from the body.
    pub fn supply_id(&mut self, id: &str) {
        if !self.members.contains("eventId") {
            self.members.insert("eventId", Json::String(Cow::Owned(id.to_owned())));
        }
    }

    /// Fills in what is missing and adds the sidecar's members. Says which members were missing. Nothing that a client chose enters a record here: what was
    /// not there before redaction cannot come in behind it.
    pub fn complete(&mut self, fill: &Fill, received: &Received) -> Filled {
        let mut filled = Filled::default();
        let text = |text: &str| Json::String(Cow::Owned(text.to_owned()));
        let mut added: Vec<(Cow<'a, str>, Json<'a>)> = Vec::with_capacity(Filled::NAMES.len() + 5);
        for (bit, name) in Filled::NAMES.into_iter().enumerate() {
            if self.members.contains(name) {
                continue;
            }
            filled.0 |= 1 << bit;
            let value = match name {
                "occurredAt" => Json::String(time::lengthened(&received.text).into()),
                "service" => text(&fill.service),
                "category" => text(&fill.category),
                "outcome" => text(&fill.outcome),
                "severity" => Json::text(fill.severity),
                "tenantId" => text(&fill.tenant),
                _ => Json::Raw(anonymous()),
            };
            added.push((name.into(), value));
        }
        if let Some(Json::Object(actor)) = self.members.get_mut("actor")
            && !actor.contains("type")
        {
            let kind = if actor.contains("id") { "user" } else { "anonymous" };
            actor.insert("type", Json::text(kind));
        }
        added.push(("kind".into(), Json::text("Event")));
        added.push(("receivedAt".into(), text(&received.text)));
        added.push(("schemaVersion".into(), Json::text(SCHEMA_VERSION)));
        added.push(("writer".into(), Json::Raw(fill.writer.clone())));
        self.members.extend(added);
        filled
    }
}

fn anonymous() -> Arc<str> {
    static ANONYMOUS: std::sync::OnceLock<Arc<str>> = std::sync::OnceLock::new();
    ANONYMOUS.get_or_init(|| Arc::from(r#"{"type":"anonymous"}"#)).clone()
}

fn lookup<'b, 'a>(object: &'b Object<'a>, steps: &[String]) -> Option<&'b Json<'a>> {
    let (first, rest) = steps.split_first()?;
    let value = object.get(first)?;
    match (rest, value) {
        ([], Json::Null | Json::Removed) => None,
        ([], value) => Some(value),
        (rest, Json::Object(inner)) => lookup(inner, rest),
        _ => None,
    }
}

/// A number or boolean as text: flat spellings often carry numeric ids.
fn stringify(value: Json<'_>) -> Json<'_> {
    match value {
        Json::Number(_) | Json::Bool(_) => Json::String(Cow::Owned(crate::json::canonical(&value))),
        other => other,
    }
}

fn check<'a>(field: &str, takes: Takes, value: Json<'a>) -> Result<Json<'a>, Invalid> {
    let wrong = |wanted: &str, value: &Json<'_>| invalid(field, format!("is {}; send {wanted}", value.kind()));
    match (takes, value) {
        (Takes::Anything, value) => Ok(value),
        (Takes::Text, value @ Json::String(_)) => Ok(value),
        (Takes::Text, value) => Err(wrong("a string", &value)),
        (Takes::Word(_), Json::String(text)) if text.is_empty() => Err(invalid(field, "is empty; send a value or leave it out")),
        (Takes::Word(most), Json::String(text)) if text.len() > most => {
            Err(invalid(field, format!("has {} bytes; at most {most}", text.len())))
        }
        (Takes::Word(_), value @ Json::String(_)) => Ok(value),
        (Takes::Word(_), value) => Err(wrong("a string", &value)),
        (Takes::Time, value) => {
            let time = match &value {
                Json::String(text) => time::parse_time(text),
                Json::Number(number) => time::from_number(*number),
                _ => None,
            };
            time.map(|time| Json::String(time::canonical(time).into()))
                .ok_or_else(|| invalid(field, "is not a time; send RFC 3339 such as 2026-03-01T10:00:00Z, or epoch milliseconds"))
        }
        (Takes::Severity, Json::String(text)) => names::severity(&text)
            .map(Json::text)
            .ok_or_else(|| invalid(field, "is not a severity; send debug, info, notice, warning, error or critical")),
        // As Pino and Bunyan number them.
        (Takes::Severity, Json::Number(level)) if names::severity_of_level(level).is_some() => {
            Ok(Json::text(names::severity_of_level(level).unwrap_or("info")))
        }
        (Takes::Severity, value) => Err(wrong("a severity such as \"info\"", &value)),
        (Takes::Millis, Json::Number(number)) if number >= 0.0 => Ok(Json::Number(number)),
        (Takes::Millis, value) => Err(wrong("a number of milliseconds, not negative", &value)),
        (Takes::Object, value @ Json::Object(_)) => Ok(value),
        (Takes::Object, value) => Err(wrong("an object", &value)),
        (Takes::Members(known), Json::Object(object)) => {
            let members = object.into_members().into_iter().filter_map(|(name, value)| {
                let takes = known.iter().find(|(known, _)| *known == name).map(|(_, takes)| *takes);
                match takes {
                    Some(_) if value == Json::Null => None,
                    Some(takes) => Some(check(&format!("{field}.{name}"), takes, value).map(|value| (name, value))),
                    None => Some(Ok((name, value))),
                }
            });
            let members = members.collect::<Result<Vec<_>, _>>()?;
            Object::from_members(members).map(Json::Object).map_err(|name| invalid(format!("{field}.{name}"), "stands twice"))
        }
        (Takes::Members(_), value) => Err(wrong("an object", &value)),
    }
}

#[cfg(test)]
mod tests;
