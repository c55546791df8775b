//! Events.
use std::time::SystemTime;

use serde::Serialize;
use serde_json::{Map, Value};

/// An event, with its id from the start. Members are those of the sidecar's model; `docs/reference/events.md` describes each.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Event(Map<String, Value>);

// === impl Event ===

impl Event {
    /// An event: what was done, such as `order.delete`. It gets a UUID (version 7) as its id, and now as its time.
    pub fn new(action: impl Into<String>) -> Self {
        let id = uuid::Uuid::now_v7().to_string();
        let millis = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
        Self(Map::new()).set("action", action.into()).set("eventId", id).set("occurredAt", millis)
    }

    fn set(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.0.insert(name.to_owned(), value.into());
        self
    }

    fn within(self, outer: &str, members: &[(&str, String)]) -> Self {
        members.iter().fold(self, |event, (name, value)| event.inside(outer, name, value.clone().into()))
    }

    pub(crate) fn inside(mut self, outer: &str, inner: &str, value: Value) -> Self {
        if let Value::Object(there) = self.0.entry(outer).or_insert_with(|| Value::Object(Map::new())) {
            there.insert(inner.to_owned(), value);
        }
        self
    }

    /// Without id and time of its own.
    pub(crate) fn anonymous(mut self) -> Self {
        self.0.remove("eventId");
        self.0.remove("occurredAt");
        self
    }

    /// An id of your own, unique in its tenant: an event that is sent again under it is taken once.
    #[must_use]
    pub fn id(self, id: impl Into<String>) -> Self {
        self.set("eventId", id.into())
    }

    /// Who did it: type (`user`, `service`, …) and id.
    #[must_use]
    pub fn actor(self, kind: impl Into<String>, id: impl Into<String>) -> Self {
        self.within("actor", &[("type", kind.into()), ("id", id.into())])
    }

    /// What it was done to.
    #[must_use]
    pub fn resource(self, kind: impl Into<String>, id: impl Into<String>) -> Self {
        self.within("resource", &[("type", kind.into()), ("id", id.into())])
    }

    /// How it went: `success`, `failure`, `denied`, …
    #[must_use]
    pub fn outcome(self, outcome: impl Into<String>) -> Self {
        self.set("outcome", outcome.into())
    }

    /// `debug`, `info`, `notice`, `warning`, `error` or `critical`.
    #[must_use]
    pub fn severity(self, severity: impl Into<String>) -> Self {
        self.set("severity", severity.into())
    }

    /// The kind of event, such as `entity-mutation` or `authentication`.
    #[must_use]
    pub fn category(self, category: impl Into<String>) -> Self {
        self.set("category", category.into())
    }

    /// The tenant.
    #[must_use]
    pub fn tenant(self, tenant: impl Into<String>) -> Self {
        self.set("tenantId", tenant.into())
    }

    /// A sentence for people.
    #[must_use]
    pub fn message(self, message: impl Into<String>) -> Self {
        self.set("message", message.into())
    }

    /// The request that it belongs to.
    #[must_use]
    pub fn request(self, id: impl Into<String>) -> Self {
        self.set("requestId", id.into())
    }

    /// Where it came from.
    #[must_use]
    pub fn source(self, ip: impl Into<String>, user_agent: impl Into<String>) -> Self {
        self.within("source", &[("ip", ip.into()), ("userAgent", user_agent.into())])
    }

    /// What it was before and what it is after.
    #[must_use]
    pub fn change(self, before: impl Into<Value>, after: impl Into<Value>) -> Self {
        self.set("before", before).set("after", after)
    }

    /// Any other member, by its name; one that the model does not know goes to `metadata`.
    #[must_use]
    pub fn with(self, name: &str, value: impl Into<Value>) -> Self {
        self.set(name, value)
    }

    /// A member of `metadata`.
    #[must_use]
    pub fn metadata(self, name: &str, value: impl Into<Value>) -> Self {
        self.inside("metadata", name, value.into())
    }

    /// Its id.
    pub fn event_id(&self) -> &str {
        self.0.get("eventId").and_then(Value::as_str).unwrap_or_default()
    }
}
