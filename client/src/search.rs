//! Looking back.
use serde::Deserialize;
use serde_json::Value;

use crate::{Client, Error};

/// What is searched for. Several values of one member: any of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Search(Vec<(String, String)>);

/// Pages of a search, one request each.
#[derive(Debug)]
pub struct Pages {
    client: Client,
    search: Search,
    next: Option<String>,
    ended: bool,
}

#[derive(Deserialize)]
struct Page {
    events: Vec<Value>,
    next: Option<String>,
}

// === impl Search ===

impl Search {
    /// All events, newest first.
    pub fn new() -> Self {
        Self::default()
    }

    /// Only where a member is equal to this: `actor.id`, `action`, `resource.id`, …; see `docs/how-to/query.md`.
    #[must_use]
    pub fn with(mut self, member: &str, value: impl Into<String>) -> Self {
        self.0.push((member.to_owned(), value.into()));
        self
    }

    /// Only what happened at or after this time (RFC 3339).
    #[must_use]
    pub fn from(self, time: impl Into<String>) -> Self {
        self.with("from", time)
    }

    /// Only what happened before this time (RFC 3339).
    #[must_use]
    pub fn to(self, time: impl Into<String>) -> Self {
        self.with("to", time)
    }

    /// Oldest first.
    #[must_use]
    pub fn oldest_first(self) -> Self {
        self.with("order", "oldest")
    }

    /// Records of a page, 1 to 1000 (default 100).
    #[must_use]
    pub fn page_of(self, records: usize) -> Self {
        self.with("limit", records.to_string())
    }
}

// === impl Pages ===

impl Pages {
    pub(crate) const fn new(client: Client, search: Search) -> Self {
        Self { client, search, next: None, ended: false }
    }

    /// The next page; `None` after the last one.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn next(&mut self) -> Result<Option<Vec<Value>>, Error> {
        if self.ended {
            return Ok(None);
        }
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.extend_pairs(&self.search.0);
        if let Some(next) = &self.next {
            query.append_pair("cursor", next);
        }
        let answer = self.client.get(&format!("/v1/events?{}", query.finish())).await?;
        let page: Page = serde_json::from_slice(&answer).map_err(|error| Error::Answer(error.to_string()))?;
        self.ended = page.next.is_none();
        self.next = page.next;
        Ok(Some(page.events))
    }
}
