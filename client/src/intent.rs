//! Write intents: the write-ahead log of an application's own writes.
use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;

use crate::{Client, Error, Event};

/// Your own label of a write, by which you find out after a crash whether it was done. Several intents may share one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplayKey {
    /// Environment, such as `prod`.
    pub env: String,
    /// Short name of the application or the tenant.
    pub slug: String,
    /// Version of the application or of the payload's form.
    pub version: String,
    /// Type of what is written.
    pub dto_type: String,
    /// Its id.
    pub entity_id: String,
}

/// What you are about to write, with an id from the start: all tries carry it, and so does your own retry of the same value.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Intent {
    #[serde(rename = "intentId")]
    id: String,
    operation: String,
    dto_type: String,
    entity_id: String,
    payload: Box<RawValue>,
    replay_key: ReplayKey,
}

/// What the sidecar did with an intent.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Opened {
    /// Its id.
    pub intent_id: String,
    /// `open`: you may write. `resolved` or `expired`: the same intent was there before, and has ended.
    pub state: String,
}

/// What the sidecar did with the end of an intent.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Resolved {
    /// `resolved`, `duplicate_accepted`, or `late`: it had expired, and the audit trail says so.
    pub status: String,
    /// Its audit event.
    pub event_id: String,
}

/// An intent that is open: to be done again, or found done.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OpenIntent {
    /// Its id.
    pub intent_id: String,
    /// When it came, RFC 3339.
    pub created_at: String,
    /// What was about to be done.
    pub operation: String,
    /// Type of what was about to be written.
    pub dto_type: String,
    /// Its id.
    pub entity_id: String,
    /// The payload, byte for byte.
    pub payload: Box<RawValue>,
    /// Your label.
    pub replay_key: ReplayKey,
}

/// Pages of open intents, oldest first.
#[derive(Debug)]
pub struct OpenIntents {
    client: Client,
    next: Option<String>,
    ended: bool,
}

#[derive(Deserialize)]
struct Page {
    intents: Vec<OpenIntent>,
    next: Option<String>,
}

#[derive(Serialize)]
struct Resolution<'a> {
    outcome: &'a str,
    event: Event,
}

// === impl Intent ===

impl Intent {
    /// An intent to do something with what the key names. It gets a UUID (version 7) as its id.
    ///
    /// # Errors
    /// A payload that is no JSON.
    pub fn new(operation: impl Into<String>, replay_key: ReplayKey, payload: &impl Serialize) -> Result<Self, serde_json::Error> {
        Ok(Self {
            id: uuid::Uuid::now_v7().to_string(),
            operation: operation.into(),
            dto_type: replay_key.dto_type.clone(),
            entity_id: replay_key.entity_id.clone(),
            payload: serde_json::value::to_raw_value(payload)?,
            replay_key,
        })
    }

    /// Its id.
    pub fn id(&self) -> &str {
        &self.id
    }
}

// === impl OpenIntent ===

impl OpenIntent {
    /// The payload.
    ///
    /// # Errors
    /// It is of another form.
    pub fn payload<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_str(self.payload.get())
    }
}

// === impl Client ===

impl Client {
    /// Writes an intent; when this is `Ok` it is on the sidecar's disk, and you may write. Tries again what passes.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn intend(&self, intent: &Intent) -> Result<Opened, Error> {
        let body = serde_json::to_vec(intent).map_err(|error| Error::Answer(error.to_string()))?;
        self.insist_on("/v1/intents", body.into()).await
    }

    /// Ends an intent: how the write went (`success`, `failure`, …), and its audit event, which is on disk when this is `Ok`. Safe to do again: the event's
    /// id is made from the intent's, and its time is the sidecar's.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn resolve(&self, intent_id: &str, outcome: &str, event: Event) -> Result<Resolved, Error> {
        let resolution = Resolution { outcome, event: event.anonymous() };
        let body = serde_json::to_vec(&resolution).map_err(|error| Error::Answer(error.to_string()))?;
        self.insist_on(&format!("/v1/intents/{intent_id}/resolve"), Bytes::from(body)).await
    }

    /// Intents that are open, in the order in which they came: what to look at when you start.
    pub fn open_intents(&self) -> OpenIntents {
        OpenIntents { client: self.clone(), next: None, ended: false }
    }
}

// === impl OpenIntents ===

impl OpenIntents {
    /// The next page; `None` after the last one.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn next(&mut self) -> Result<Option<Vec<OpenIntent>>, Error> {
        if self.ended {
            return Ok(None);
        }
        let cursor = self.next.as_ref().map(|next| format!("&cursor={next}")).unwrap_or_default();
        let answer = self.client.get(&format!("/v1/intents?state=open{cursor}")).await?;
        let page: Page = serde_json::from_slice(&answer).map_err(|error| Error::Answer(error.to_string()))?;
        self.ended = page.next.is_none();
        self.next = page.next;
        Ok(Some(page.intents))
    }
}
