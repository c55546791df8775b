//! `GET /v1/events`, `POST /v1/events/query` and `GET /v1/events/{id}`: the local journal.
use std::borrow::Cow;

use hyper::{Request, body::Incoming};
use serde_json::Value;
use steno_event::escape_into;
use steno_query::{Error, Found, Question};
use tokio::sync::Semaphore;

use super::{
    body,
    budget::Claim,
    ingest::{Done, Ingest},
    json as json_answer, routes,
};
use crate::{
    look::apart,
    policy::{Compiled, QueryAccess},
    problem::{Problem, Reason},
};

/// Searches at a time: each reads the disk that events are written to.
static SEARCHES: Semaphore = Semaphore::const_new(2);

/// Bytes that a search claims before it begins.
const PAGE: usize = 1 << 20;

/// A parameter and its value.
type Pair<'a> = (Cow<'a, str>, Cow<'a, str>);

// === impl Ingest ===

impl Ingest {
    /// Whether this request may look back.
    fn check_access(&self, compiled: &Compiled, headers: &hyper::HeaderMap) -> Result<(), Problem> {
        match &compiled.query {
            QueryAccess::Anyone => Ok(()),
            QueryAccess::Nobody(why) => Err(Problem::new(Reason::QueryOff, format!("Nobody may look back: {why}."))),
            QueryAccess::Bearer(token) => {
                if self.carries(headers, token) {
                    return Ok(());
                }
                Err(Problem::new(Reason::Unauthorized, "Send Authorization: Bearer with the token of query.tokenSecretRef."))
            }
        }
    }

    pub(super) async fn list(&self, compiled: &Compiled, request: &Request<Incoming>) -> Result<Done, Problem> {
        self.check_access(compiled, request.headers())?;
        let pairs: Vec<Pair<'_>> = form_urlencoded::parse(request.uri().query().unwrap_or_default().as_bytes()).collect();
        self.answer(&pairs).await
    }

    pub(super) async fn query(&self, compiled: &Compiled, request: Request<Incoming>) -> Result<Done, Problem> {
        self.check_access(compiled, request.headers())?;
        if body::media_type(request.headers()).as_deref() != Some("application/json") {
            return Err(Problem::new(Reason::MediaType, "A query is application/json."));
        }
        let (text, _claim) = body::read(request, compiled.max_body, compiled.request_timeout).await?;
        let asked: Value = serde_json::from_str(&text).map_err(|error| Problem::new(Reason::NotJson, format!("{error}.")))?;
        let pairs = parameters(&asked)?;
        self.answer(&pairs).await
    }

    pub(super) async fn event(&self, compiled: &Compiled, request: &Request<Incoming>, id: &str) -> Result<Done, Problem> {
        self.check_access(compiled, request.headers())?;
        let id = routes::decoded(id);
        let mut tenant = None;
        for (name, value) in form_urlencoded::parse(request.uri().query().unwrap_or_default().as_bytes()) {
            match &*name {
                "tenantId" => tenant = Some(value.into_owned()),
                _ => return Err(Problem::new(Reason::BadRequest, "An event is asked for by its id and tenantId only.")),
            }
        }
        let tenant = tenant.unwrap_or_else(|| compiled.fill.tenant.clone());
        let found = self.search(move |catalog| catalog.event(&tenant, &id)).await?;
        let Some(Found { json, .. }) = found else {
            let detail = "There is no such event here: it never was, or the journal has let go of it (spool.retain).";
            return Err(Problem::new(Reason::NotFound, detail));
        };
        Ok(json_answer(200, json.into_bytes()).into())
    }

    async fn answer(&self, pairs: &[Pair<'_>]) -> Result<Done, Problem> {
        let question = Question::new(pairs.iter().map(|(name, value)| (&**name, &**value)))
            .map_err(|bad| Problem::new(Reason::BadRequest, format!("{bad}.")))?;
        // What a page may have; who does not read the answer holds on to its room.
        let mut claim = Claim::default();
        claim.grow(PAGE)?;
        let page = self.search(move |catalog| catalog.search(&question)).await?;
        let bytes: usize = page.records.iter().map(|record| record.json.len()).sum();
        claim.grow(bytes.saturating_sub(PAGE))?;
        let records = page.records.iter().map(|record| record.json.as_str());
        let mut answer = json_answer(200, write_page("events", records, page.next.as_deref()));
        answer.body_mut().hold(claim);
        Ok(answer.into())
    }

    /// Searches on a thread that nobody else waits for.
    async fn search<T: Send + 'static>(
        &self,
        search: impl FnOnce(&steno_query::Catalog) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Problem> {
        let intake = self.intake.clone();
        let done = apart(&SEARCHES, move || search(&*intake.look.catalog()?)).await;
        let failed = |error: &dyn std::fmt::Display| {
            tracing::warn!(%error, "a query failed");
            Problem::later(
                Reason::Dependency,
                "The journal cannot be searched; the sidecar's log says why.",
                std::time::Duration::from_secs(1),
            )
        };
        match done {
            Ok(Ok(found)) => Ok(found),
            Ok(Err(error)) => Err(failed(&error)),
            Err(error) => Err(failed(&error)),
        }
    }
}

/// The parameters of a query's body: `{"action": "a", "actor.id": ["u1", "u2"], "limit": 10}`.
fn parameters(asked: &Value) -> Result<Vec<Pair<'_>>, Problem> {
    let bad = |detail: String| Problem::new(Reason::BadRequest, detail);
    let Some(members) = asked.as_object() else { return Err(bad("A query is a JSON object.".into())) };
    let mut pairs = Vec::new();
    for (name, value) in members {
        let values = match value {
            Value::Array(values) => &values[..],
            other => std::slice::from_ref(other),
        };
        if values.is_empty() {
            let name: String = name.chars().take(64).collect();
            return Err(bad(format!("{name}: is an empty list, which nothing is among; send a value, or leave it out for any.")));
        }
        for value in values {
            let value: Cow<'_, str> = match value {
                Value::String(text) => text.into(),
                Value::Number(number) => number.to_string().into(),
                _ => {
                    return Err(bad(format!(
                        "{}: takes a string, a number, or a list of strings.",
                        name.chars().take(64).collect::<String>()
                    )));
                }
            };
            pairs.push((Cow::Borrowed(name.as_str()), value));
        }
    }
    Ok(pairs)
}

/// A page of texts that are JSON, as they are.
pub(super) fn write_page<'a>(name: &str, items: impl Iterator<Item = &'a str>, next: Option<&str>) -> Vec<u8> {
    let mut out = format!("{{\"{name}\":[").into_bytes();
    for (index, item) in items.enumerate() {
        if index > 0 {
            out.push(b',');
        }
        out.extend_from_slice(item.as_bytes());
    }
    out.extend_from_slice(b"],\"next\":");
    match next {
        Some(next) => escape_into(&mut out, next),
        None => out.extend_from_slice(b"null"),
    }
    out.push(b'}');
    out
}
