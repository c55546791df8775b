//! `/v1/intents`: the write-ahead log of an application's own writes.
use std::{sync::OnceLock, time::Duration};

use hyper::{Request, body::Incoming};
use serde::{Deserialize, Serialize};
use serde_json::{json, value::RawValue};
use steno_crds::{Capture, Redaction};
use steno_event::{
    format_millis,
    json::{Json, Object, parse},
};
use steno_intent::{Ending, Entry, Private, ReplayKey, State, Stored};
use steno_redact::Redactor;

use super::{
    body,
    budget::Claim,
    ingest::{Done, Ingest},
    json as json_answer,
    query::write_page,
    routes,
};
use crate::{
    intake::Sent,
    intents::{Ended, Taken},
    policy::{Compiled, QueryAccess},
    problem::{Problem, Reason},
};

/// What an intent may need besides its payload.
const MORE: usize = 64 << 10;
/// Intents of a page, by default and at most.
const PAGE: usize = 100;
const MOST: usize = 1000;
/// Bytes of the payloads of a page; the last one may go beyond.
const PAGE_BYTES: usize = 4 << 20;

/// An intent as it comes.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Intent<'a> {
    #[serde(default, rename = "intentId")]
    id: Option<String>,
    operation: String,
    dto_type: String,
    entity_id: String,
    #[serde(borrow)]
    payload: &'a RawValue,
    replay_key: ReplayKey,
}

/// The end of an intent as it comes.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Resolution<'a> {
    outcome: String,
    #[serde(borrow, default)]
    event: Option<&'a RawValue>,
}

/// An intent as it is given back.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown<'a> {
    intent_id: &'a str,
    state: &'static str,
    created_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    closed_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    event_id: Option<&'a str>,
    #[serde(flatten)]
    private: Option<&'a Private>,
}

// === impl Ingest ===

impl Ingest {
    /// Whether this request may write and read intents.
    fn check_intents(&self, compiled: &Compiled, headers: &hyper::HeaderMap, writes: bool) -> Result<(), Problem> {
        // What was begun under an earlier policy can be read and ended, by whom that one let.
        let left = (!writes && !compiled.config.spec.intents.enabled).then(|| self.intake.intents.access()).flatten();
        match left.as_ref().unwrap_or(&compiled.intents) {
            QueryAccess::Anyone => Ok(()),
            QueryAccess::Nobody(_) if !writes && self.intake.intents.is_out_of_reach() => {
                let detail = "What an earlier policy left cannot be opened just now; the sidecar's stats say why. Try again.";
                Err(Problem::later(Reason::Dependency, detail, Duration::from_secs(5)))
            }
            QueryAccess::Nobody(why) => Err(Problem::new(Reason::IntentsOff, format!("Nobody may write intents: {why}."))),
            QueryAccess::Bearer(token) if self.carries(headers, token) => Ok(()),
            QueryAccess::Bearer(_) => {
                Err(Problem::new(Reason::Unauthorized, "Send Authorization: Bearer with the token of intents.tokenSecretRef."))
            }
        }
    }

    pub(super) async fn intent_open(&self, compiled: &Compiled, request: Request<Incoming>) -> Result<Done, Problem> {
        self.check_intents(compiled, request.headers(), true)?;
        self.intake.check_usable(compiled)?;
        let most = compiled.config.spec.intents.max_payload_bytes.bytes() as usize + MORE;
        let (text, _claim) = json_body(compiled, request, most).await?;
        let sent: Intent<'_> = read(&text)?;
        let id = match sent.id {
            Some(id) => checked_id(id).and_then(|id| {
                let detail = "intentId: looks like something that redaction hides; it is on the topic as it is. Send a UUID, or leave it out.";
                if is_plain(&id) { Ok(id) } else { Err(Problem::new(Reason::NotIntent, detail)) }
            })?,
            None => uuid::Uuid::now_v7().to_string(),
        };
        let key = &sent.replay_key;
        let bounds = [
            ("operation", &sent.operation, 64),
            ("dtoType", &sent.dto_type, 256),
            ("entityId", &sent.entity_id, 1024),
            ("replayKey.env", &key.env, 128),
            ("replayKey.slug", &key.slug, 128),
            ("replayKey.version", &key.version, 128),
            ("replayKey.dtoType", &key.dto_type, 256),
            ("replayKey.entityId", &key.entity_id, 1024),
        ];
        for (name, value, most) in bounds {
            if value.is_empty() || value.len() > most {
                let detail = format!("{name}: has {} bytes; send 1 to {most}.", value.len());
                return Err(Problem::new(Reason::NotIntent, detail));
            }
        }
        // What is given back must be readable for any client: no nesting or number that parsers refuse.
        serde_json::from_str::<serde_json::Value>(sent.payload.get())
            .map_err(|error| Problem::new(Reason::NotIntent, format!("payload: {error}.")))?;
        let private = Private {
            operation: sent.operation,
            dto_type: sent.dto_type,
            entity_id: sent.entity_id,
            payload: sent.payload.to_owned(),
            replay_key: sent.replay_key,
        };
        let Taken { status, state } = self.intake.intents.open(compiled, &id, private).await?;
        let code = if status == "created" { 201 } else { 200 };
        let answer = json!({"status": status, "code": code, "intentId": id, "state": state});
        Ok(Done { reason: Some(status), ..json_answer(code, answer.to_string().into_bytes()).into() })
    }

    pub(super) async fn intent_resolve(
        &self,
        compiled: &Compiled,
        request: Request<Incoming>,
        id: &str,
    ) -> Result<Done, Problem> {
        self.check_intents(compiled, request.headers(), false)?;
        self.intake.check_open(compiled)?;
        let id = checked_id(routes::decoded(id))?;
        let (text, _claim) = json_body(compiled, request, compiled.max_body).await?;
        let Resolution { outcome, event } = read(&text)?;
        if !is_word(&outcome, 64) || !is_plain(&outcome) {
            let detail = "outcome: takes 1 to 64 of a-z A-Z 0-9 - _ . :, such as success or failure, and nothing that looks like a secret.";
            return Err(Problem::new(Reason::NotIntent, detail));
        }
        let (entry, stored) = self.intake.intents.find(&id).await?;
        if let State::Closed { ending: Ending::Resolved, outcome: before, event_id, .. } = &entry.state {
            let before = before.as_deref().unwrap_or_default();
            if before != outcome {
                let detail = format!("This intent was resolved before with outcome {before}, which stays.");
                return Err(Problem::new(Reason::IntentConflict, detail));
            }
            return Ok(resolved(&id, "duplicate_accepted", event_id.clone().unwrap_or_default(), "duplicate_accepted"));
        }
        let tree = event_of(event.map_or("{}", RawValue::get), &id, &outcome, stored.as_ref())?;
        let names_itself = tree.as_object().is_some_and(|event| event.contains("eventId"));
        // The event first: were it the other way round, a crash in between would leave an end of which the audit trail knows nothing.
        let fallback = format!("intent-{id}");
        let taken = self
            .intake
            .take(compiled, vec![Ok(Sent::Made { tree, converted: Vec::new(), deaf: false, ends: true })], Some(&fallback), true)
            .await
            .pop();
        // The end must not be on disk before its event: under `ack: Written` the answer came before the sync.
        self.intake.check_synced().await?;
        let (event_id, word) = match taken {
            Some(Ok(taken)) if taken.status == 202 => {
                let detail = "The spool is full, and the policy drops new events; the intent stays open. Try again.";
                return Err(Problem::later(Reason::SpoolFull, detail, Duration::from_secs(1)));
            }
            Some(Ok(taken)) => (taken.event_id, taken.word),
            // It had expired, and was resolved since with other words.
            Some(Err(problem)) if problem.reason == Reason::Conflict && !entry.is_open() => {
                let detail = "This intent had expired, and was resolved since with another outcome or event, which stays.";
                return Err(Problem::new(Reason::IntentConflict, detail));
            }
            // It was resolved before, as far as its event, with other words; the chain tells of both. It must not stay open for that.
            Some(Err(problem)) if problem.reason == Reason::Conflict && !names_itself => (fallback, "conflict"),
            Some(Err(problem)) => return Err(problem),
            None => return Err(Problem::new(Reason::BadRequest, "There is no event.")),
        };
        let Ended { duplicate, late } = self.intake.intents.resolve(&id, (&entry, stored.as_ref()), &outcome, &event_id).await?;
        let status = match (late, duplicate) {
            (true, _) => "late",
            (_, true) => "duplicate_accepted",
            _ => "resolved",
        };
        Ok(resolved(&id, status, event_id, word))
    }

    pub(super) async fn intent_list(&self, compiled: &Compiled, request: &Request<Incoming>) -> Result<Done, Problem> {
        self.check_intents(compiled, request.headers(), false)?;
        let bad = |detail: &str| Problem::new(Reason::BadRequest, detail);
        let (mut ending, mut most, mut after) = (None, PAGE, None);
        for (name, value) in form_urlencoded::parse(request.uri().query().unwrap_or_default().as_bytes()) {
            match (&*name, &*value) {
                ("state", "open") => ending = None,
                ("state", "resolved") => ending = Some(Ending::Resolved),
                ("state", "expired") => ending = Some(Ending::Expired),
                ("limit", limit) => {
                    let limit = limit.parse().ok().filter(|limit| (1..=MOST).contains(limit));
                    most = limit.ok_or_else(|| bad("limit takes 1 to 1000."))?;
                }
                ("cursor", cursor) => after = Some(cursor.parse().map_err(|_| bad("cursor takes next of the page before."))?),
                ("state", _) => return Err(bad("state takes open, resolved or expired.")),
                _ => return Err(bad("Intents are asked for by state, limit and cursor only.")),
            }
        }
        let mut shown = Vec::new();
        let next;
        if let Some(ending) = ending {
            let (found, more) = self.intake.intents.ended_after(ending, after, most)?;
            next = found.last().filter(|_| more).map(|(_, entry)| place(entry));
            for (id, entry) in &found {
                shown.push(write(id, entry, None)?);
            }
        } else {
            let found;
            (found, next) = self.intake.intents.open_after(after, most, PAGE_BYTES).await?;
            for (entry, stored) in &found {
                shown.push(write(&stored.intent_id, entry, Some(stored))?);
            }
        }
        let next = next.map(|next| next.to_string());
        // The payloads go through no tree: what came is what goes back.
        let mut page = write_page("intents", shown.iter().map(String::as_str), next.as_deref());
        let lost = self.intake.intents.lost();
        if lost > 0 {
            // What is listed may not be all, and an empty page is no proof.
            page.pop();
            page.extend_from_slice(format!(",\"lostRecords\":{lost}}}").as_bytes());
        }
        Ok(json_answer(200, page).into())
    }

    pub(super) async fn intent(&self, compiled: &Compiled, request: &Request<Incoming>, id: &str) -> Result<Done, Problem> {
        self.check_intents(compiled, request.headers(), false)?;
        let id = checked_id(routes::decoded(id))?;
        let (entry, stored) = self.intake.intents.find(&id).await?;
        Ok(json_answer(200, write(&id, &entry, stored.as_ref())?.into_bytes()).into())
    }
}

fn resolved(id: &str, status: &'static str, event_id: String, event: &str) -> Done {
    let state = if status == "late" { "expired" } else { "resolved" };
    let answer = json!({"status": status, "code": 200, "intentId": id, "state": state, "eventId": event_id, "event": event});
    let answer = json_answer(200, answer.to_string().into_bytes());
    Done { event_id: Some(event_id), reason: Some(status), ..answer.into() }
}

/// Where an intent stands in the order of its page.
fn place(entry: &Entry) -> u64 {
    match entry.state {
        State::Open { .. } => entry.number,
        State::Closed { seq, .. } => seq,
    }
}

fn write(id: &str, entry: &Entry, stored: Option<&Stored>) -> Result<String, Problem> {
    let (closed_at, outcome, event_id) = match &entry.state {
        State::Open { .. } => (None, None, None),
        State::Closed { at_ms, outcome, event_id, .. } => (Some(format_millis(*at_ms)), outcome.as_deref(), event_id.as_deref()),
    };
    let shown = Shown {
        intent_id: id,
        state: entry.word(),
        created_at: format_millis(entry.created_ms),
        closed_at,
        outcome,
        event_id,
        private: stored.and_then(|stored| stored.private.as_ref()),
    };
    serde_json::to_string(&shown).map_err(|error| Problem::new(Reason::Dependency, error.to_string()))
}

async fn json_body(compiled: &Compiled, request: Request<Incoming>, most: usize) -> Result<(String, Claim), Problem> {
    if body::media_type(request.headers()).as_deref() != Some("application/json") {
        return Err(Problem::new(Reason::MediaType, "An intent is application/json."));
    }
    body::read(request, most, compiled.request_timeout).await
}

/// Reads a body; what is wrong is told with its place.
fn read<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, Problem> {
    serde_json::from_str(text).map_err(|error| {
        let reason = if error.is_data() { Reason::NotIntent } else { Reason::NotJson };
        Problem::new(reason, format!("{error}."))
    })
}

/// An id may stand in paths and logs as it is.
fn checked_id(id: String) -> Result<String, Problem> {
    // Two dots and one are no part of a path: clients take them out.
    if is_word(&id, 128) && !matches!(id.as_str(), "." | "..") {
        return Ok(id);
    }
    let detail = "intentId: takes 1 to 128 of a-z A-Z 0-9 - _ . :, such as a UUID, but not . or .. alone; or leave it out.";
    Err(Problem::new(Reason::NotIntent, detail))
}

fn is_word(text: &str, most: usize) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b':');
    (1..=most).contains(&text.len()) && text.bytes().all(legal)
}

/// Whether no builtin detector finds anything in a text.
fn is_plain(text: &str) -> bool {
    static BUILTIN: OnceLock<Option<Redactor>> = OnceLock::new();
    let builtin = BUILTIN.get_or_init(|| Redactor::compile(&Redaction::default(), &Capture::default(), None).ok());
    builtin.as_ref().is_some_and(|builtin| builtin.apply_to_text(text, None).is_none())
}

/// The audit event of an intent that ends: what came, and where it says nothing what the intent says.
fn event_of<'a>(text: &'a str, id: &str, outcome: &str, stored: Option<&Stored>) -> Result<Json<'a>, Problem> {
    let invalid = |detail: String| Problem::new(Reason::NotEvent, detail);
    let mut event = match parse(text) {
        Ok(Json::Object(event)) => event,
        Ok(other) => return Err(invalid(format!("event: is {}; send an object.", other.kind()))),
        Err(fault) => return Err(invalid(format!("event: {fault}."))),
    };
    let owned = |text: &str| Json::String(text.to_owned().into());
    match event.get("outcome") {
        Some(Json::String(own)) if *own != outcome => {
            return Err(invalid(format!("event.outcome: differs from outcome {outcome}; leave it out.")));
        }
        Some(_) => {}
        None => drop(event.insert("outcome", owned(outcome))),
    }
    let own = stored.and_then(|stored| stored.private.as_ref());
    // Of one that expired there is what the topic has.
    let public =
        stored.and_then(|stored| serde_json::from_str::<serde_json::Value>(stored.public.get()).ok()).unwrap_or_default();
    let said = |own: Option<&String>, path: &str| {
        own.cloned().or_else(|| public.pointer(path).and_then(|value| value.as_str()).map(str::to_owned))
    };
    if !event.contains("action") {
        // Of one that ended a while ago nothing else is known.
        let operation = said(own.map(|own| &own.operation), "/intent/operation");
        event.insert("action", owned(operation.as_deref().unwrap_or("intent.resolve")));
    }
    if !event.contains("resource") {
        let mut resource = Object::default();
        for (name, said) in [
            ("id", said(own.map(|own| &own.entity_id), "/resource/id")),
            ("type", said(own.map(|own| &own.dto_type), "/resource/type")),
        ] {
            said.map(|said| resource.insert(name, owned(&said)));
        }
        event.insert("resource", Json::Object(resource));
    }
    if !event.contains("metadata") {
        event.insert("metadata", Json::Object(Object::default()));
    }
    if let Some(Json::Object(metadata)) = event.get_mut("metadata")
        && !metadata.contains("intentId")
    {
        metadata.insert("intentId", owned(id));
    }
    Ok(Json::Object(event))
}
