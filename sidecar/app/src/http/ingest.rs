//! `POST /v1/events`, `POST /v1/events/batch` and `POST /v1/flush`.
use std::{
    fmt::Write as _,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use hyper::{HeaderMap, Method, Request, body::Incoming};
use parking_lot::Mutex;
use serde_json::{Value, json};
use steno_chain::{Kind, Note};
use steno_crds::InputFormat;
use steno_event::{escape_into, identity, ndjson};
use steno_limit::{Bucket, Quota};

use super::{
    Answer, body, cloud, guard, json as json_answer, problem as problem_answer,
    routes::{self, Call},
};
use crate::{
    intake::{Intake, Sent, Taken, Text},
    listeners::Access,
    policy::Compiled,
    problem::{Problem, Reason},
    telemetry::StatusLabel,
};

/// Handles requests of the ingest listener.
#[derive(Clone)]
pub struct Ingest {
    pub(super) intake: Arc<Intake>,
    /// Whether Host and Origin are checked: on TCP, not on the Unix socket.
    loopback: bool,
    /// Of a further listener: what it asks for, and what it takes.
    access: Option<Arc<ArcSwap<Access>>>,
    logged: Arc<Mutex<(u64, Bucket)>>,
    /// Lines about requests that were refused, and how many had none since the last one.
    refusals: Arc<Mutex<(Bucket, u64)>>,
}

/// Lines a second about requests that were refused.
const REFUSALS: Quota = Quota { rate: 10, burst: 50 };

/// What a request came to, for its log line.
pub(super) struct Done {
    pub(super) answer: Answer,
    pub(super) tenant: Option<String>,
    pub(super) event_id: Option<String>,
    pub(super) reason: Option<&'static str>,
}

impl From<Answer> for Done {
    fn from(answer: Answer) -> Self {
        Self { answer, tenant: None, event_id: None, reason: None }
    }
}

// === impl Ingest ===

impl Ingest {
    /// A handler.
    pub fn new(intake: Arc<Intake>, loopback: bool) -> Self {
        let bucket = Bucket::new(Quota { rate: 0, burst: 0 }, Duration::ZERO);
        Self {
            intake,
            loopback,
            access: None,
            logged: Arc::new(Mutex::new((0, bucket))),
            refusals: Arc::new(Mutex::new((Bucket::new(REFUSALS, Duration::ZERO), 0))),
        }
    }

    /// A handler of a further listener.
    #[must_use]
    pub fn with_access(self, access: Arc<ArcSwap<Access>>) -> Self {
        Self { access: Some(access), ..self }
    }

    /// Whether a further listener takes a call of this request.
    fn check_listener(&self, call: Call, headers: &HeaderMap) -> Result<(), Problem> {
        let Some(access) = self.access.as_ref().map(|access| access.load()) else { return Ok(()) };
        if let Some(token) = &access.token
            && !self.carries(headers, token)
        {
            return Err(Problem::new(Reason::Unauthorized, "Send Authorization: Bearer with the token of this listener."));
        }
        let format = match call {
            Call::Single if cloud::mode(body::media_type(headers).as_deref(), headers).is_some() => InputFormat::CloudEvents,
            // Headers say nothing of a batch.
            Call::Batch if body::media_type(headers).as_deref() == Some(cloud::BATCH) => InputFormat::CloudEvents,
            Call::Single | Call::Batch => InputFormat::Events,
            Call::Logs => InputFormat::Otlp,
            Call::Audit => InputFormat::KubernetesAudit,
            Call::Describe => return Ok(()),
            Call::List
            | Call::Query
            | Call::Event
            | Call::Flush
            | Call::IntentOpen
            | Call::IntentResolve
            | Call::IntentList
            | Call::Intent => {
                return Err(Problem::new(Reason::Forbidden, "This call is for the pod itself, on loopback or the Unix socket."));
            }
        };
        if access.allow.is_empty() || access.allow.contains(&format) {
            return Ok(());
        }
        Err(Problem::new(Reason::Forbidden, format!("This listener takes {:?} only; see listeners[].allow.", access.allow)))
    }

    /// Whether a request carries a bearer token. Hashes are compared, so that the time it takes tells nothing of the token.
    pub(super) fn carries(&self, headers: &HeaderMap, token: &str) -> bool {
        let sent = headers.get(hyper::header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let sent = sent.and_then(|value| value.split_once(' ')).filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        let hash = |text: &str| identity(&self.intake.key, "token", text.trim());
        sent.is_some_and(|(_, sent)| hash(sent) == hash(token))
    }

    /// Answers a request.
    pub async fn handle(self, request: Request<Incoming>) -> Answer {
        let begun = Instant::now();
        let compiled = self.intake.compiled.load_full();
        let (request_id, is_own_id) = request_id(request.headers());
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let done = match self.route(&compiled, request, &path, &request_id).await {
            Ok(done) => done,
            Err(problem) => {
                self.intake.metrics.refused.get_or_create(&crate::telemetry::ReasonLabel { reason: problem.reason.word() }).inc();
                Done { reason: Some(problem.reason.word()), ..problem_answer(&problem, &request_id, None).into() }
            }
        };
        let (took, status) = (begun.elapsed(), done.answer.status().as_u16());
        self.intake.metrics.ack.observe(took.as_secs_f64());
        self.intake.metrics.requests.get_or_create(&StatusLabel { code: status }).inc();
        let left_out = if status >= 300 {
            self.may_tell_refusal()
        } else {
            self.may_log(compiled.config.spec.sidecar.request_log_rate).then_some(0)
        };
        if let Some(left_out) = left_out {
            // A path is the client's own text, and so is its id of the request: they pass the policy's redaction. What stands in a route's name is event data.
            let shown = routes::template(&path)
                .map_or_else(|| self.intake.shown(&compiled, &path.chars().take(64).collect::<String>()), str::to_owned);
            // A method is any word that the client makes up.
            let is_known = [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS]
                .contains(&method);
            let named = if is_known { method.as_str() } else { "other" };
            let request_id = if is_own_id { request_id.clone() } else { self.intake.shown(&compiled, &request_id) };
            let latency_ms = took.as_secs_f64() * 1000.0;
            tracing::info!(
                r#type = "http_request",
                reqId = request_id,
                method = named,
                path = shown,
                status,
                latencyMs = latency_ms,
                tenantId = done.tenant,
                eventId = done.event_id,
                reason = done.reason,
                leftOut = (left_out > 0).then_some(left_out),
            );
        }
        let mut answer = done.answer;
        answer.headers_mut().insert(hyper::header::X_CONTENT_TYPE_OPTIONS, hyper::header::HeaderValue::from_static("nosniff"));
        answer
    }

    /// Whether a request that was refused gets a line; how many had none since the last one.
    fn may_tell_refusal(&self) -> Option<u64> {
        let mut refusals = self.refusals.lock();
        let now = self.intake.started.elapsed();
        if refusals.0.take(now).is_ok() {
            return Some(std::mem::take(&mut refusals.1));
        }
        refusals.1 += 1;
        None
    }

    /// Whether a request that went well gets a line.
    fn may_log(&self, rate: u64) -> bool {
        if rate == 0 {
            return false;
        }
        let mut logged = self.logged.lock();
        let now = self.intake.started.elapsed();
        if logged.0 != rate {
            *logged = (rate, Bucket::new(Quota { rate, burst: rate }, now));
        }
        logged.1.take(now).is_ok()
    }

    async fn route(
        &self,
        compiled: &Compiled,
        request: Request<Incoming>,
        path: &str,
        request_id: &str,
    ) -> Result<Done, Problem> {
        guard::check(&request, self.loopback)?;
        if let Some(answer) = grpc(request.headers()) {
            return Ok(Done { reason: Some("grpc"), ..answer.into() });
        }
        let (route, id) = routes::find(request.method(), path)?;
        self.check_listener(route.call, request.headers())?;
        let answered = match route.call {
            Call::Single => self.single(compiled, request, request_id).await,
            Call::Batch => self.batch(compiled, request, request_id).await,
            Call::Logs => Ok(self.logs(compiled, request).await),
            Call::Audit => self.kubernetes_audit(compiled, request).await,
            Call::List => self.list(compiled, &request).await,
            Call::Query => self.query(compiled, request).await,
            Call::Event => self.event(compiled, &request, id).await,
            Call::Flush => self.flush(&request).await,
            Call::IntentOpen => self.intent_open(compiled, request).await,
            Call::IntentResolve => self.intent_resolve(compiled, request, id).await,
            Call::IntentList => self.intent_list(compiled, &request).await,
            Call::Intent => self.intent(compiled, &request, id).await,
            Call::Describe => Ok(describe().into()),
        };
        let status = answered.as_ref().map_or_else(|problem| problem.reason.status(), |done| done.answer.status().as_u16());
        // Every test is a test of the description, too.
        debug_assert!(route.documents(status), "{path} answered {status}, which docs/openapi.yaml does not say");
        answered
    }

    async fn single(&self, compiled: &Compiled, request: Request<Incoming>, request_id: &str) -> Result<Done, Problem> {
        self.intake.check_open(compiled)?;
        let media = body::media_type(request.headers());
        if let Some(mode) = cloud::mode(media.as_deref(), request.headers()) {
            return match mode {
                cloud::Mode::Batch => self.items(compiled, request, request_id).await,
                cloud::Mode::Structured => {
                    let (json, is_repaired, _claim) =
                        body::read_lossy(request, compiled.max_body, compiled.request_timeout).await?;
                    let sent = Sent::CloudEvent(Text { json: &json, is_repaired });
                    Ok(self.one(compiled, sent, None, request_id).await)
                }
                cloud::Mode::Binary => {
                    let headers = request.headers().clone();
                    let (body, _claim) = body::read_bytes(request, compiled.max_body, compiled.request_timeout).await?;
                    Ok(self.one(compiled, cloud::binary(&headers, &body)?, None, request_id).await)
                }
            };
        }
        check_media(media, &["application/json", cloud::STRUCTURED])?;
        let key = idempotency_key(request.headers())?;
        let (json, is_repaired, _claim) = body::read_lossy(request, compiled.max_body, compiled.request_timeout).await?;
        let sent = Sent::Event(Text { json: &json, is_repaired });
        Ok(self.one(compiled, sent, key.as_deref(), request_id).await)
    }

    async fn one(&self, compiled: &Compiled, sent: Sent<'_>, key: Option<&str>, request_id: &str) -> Done {
        let mut results = self.intake.take(compiled, vec![Ok(sent)], key, true).await;
        let taken = results.pop().unwrap_or_else(|| Err(Problem::new(Reason::BadRequest, "The body is empty.")));
        // A refusal was counted by its reason already; it is answered here, not counted again.
        match taken {
            Ok(taken) => {
                let mut out = Vec::with_capacity(96);
                write_taken(&mut out, &taken);
                Done { event_id: Some(taken.event_id), reason: Some(taken.word), ..json_answer(taken.status, out).into() }
            }
            Err(problem) => {
                let answer = problem_answer(&problem, request_id, None);
                Done { reason: Some(problem.reason.word()), ..answer.into() }
            }
        }
    }

    async fn batch(&self, compiled: &Compiled, request: Request<Incoming>, request_id: &str) -> Result<Done, Problem> {
        self.intake.check_open(compiled)?;
        self.items(compiled, request, request_id).await
    }

    async fn items(&self, compiled: &Compiled, request: Request<Incoming>, request_id: &str) -> Result<Done, Problem> {
        let media = check_media(
            body::media_type(request.headers()),
            &[
                "application/json",
                "application/x-ndjson",
                "application/ndjson",
                "application/jsonl",
                "application/x-jsonlines",
                "text/x-ndjson",
                "text/ndjson",
                cloud::BATCH,
            ],
        )?;
        let key = idempotency_key(request.headers())?;
        let (text, is_repaired, claim) = body::read_lossy(request, compiled.max_body, compiled.request_timeout).await?;
        let text_of = |json| Text { json, is_repaired };
        let event = |json| Ok(Sent::Event(text_of(json)));
        let most = compiled.config.spec.limits.max_batch_items as usize;
        let mut lines = Vec::new();
        let sent: Vec<Result<Sent<'_>, Problem>> = match media.as_str() {
            "application/json" => array_items(&text, most)?.into_iter().map(event).collect(),
            cloud::BATCH => array_items(&text, most)?.into_iter().map(|json| Ok(Sent::CloudEvent(text_of(json)))).collect(),
            _ => {
                let (of_items, items) = ndjson(&text).map(|(line, item)| (line, event(item))).unzip();
                lines = of_items;
                items
            }
        };
        if sent.len() > most {
            let detail = format!("The batch has {} events; at most {most} (limits.maxBatchItems).", sent.len());
            return Err(Problem::new(Reason::TooManyItems, detail));
        }
        let mut results = self.intake.take(compiled, sent, key.as_deref(), false).await;
        for (result, line) in results.iter_mut().zip(lines) {
            if let Err(problem) = result {
                problem.detail = format!("Line {line} of the body: {}", problem.detail);
            }
        }
        self.tell_unreadable(compiled, &results).await;
        let mut done = answer_batch(&results, request_id);
        // The answer to a batch is about as long as the batch; who does not read it holds on to the batch's room.
        done.answer.body_mut().hold(claim);
        Ok(done)
    }

    /// Leaves one record of the items of a batch that never will be events: some exporters look at the status of the whole only.
    async fn tell_unreadable(&self, compiled: &Compiled, results: &[Result<Taken, Problem>]) {
        let is_final = |problem: &&Problem| matches!(problem.reason, Reason::NotJson | Reason::NotEvent | Reason::EventTooLarge);
        let problems: Vec<&Problem> = results.iter().filter_map(|result| result.as_ref().err()).filter(is_final).collect();
        let Some(first) = problems.first() else { return };
        let count = problems.len() as u64;
        self.intake.metrics.quarantined.inc_by(count);
        let fault = self.intake.shown(compiled, &first.detail).chars().take(300).collect::<String>();
        let note = Note::new(Kind::Rejected, "Items of a batch are no events; they were not kept.")
            .text("source", "batch")
            .number("records", count)
            .text("fault", fault);
        // The client has been told of each; where the spool is full, that is all.
        let _ = self.tell_rejected(note).await;
    }

    /// Waits until all that is synced now is delivered.
    async fn flush(&self, request: &Request<Incoming>) -> Result<Done, Problem> {
        let query = request.uri().query().unwrap_or_default();
        let asked = query.split('&').find_map(|pair| pair.strip_prefix("timeoutMs="));
        let most = match asked.map(str::parse::<u64>) {
            None => 10_000,
            Some(Ok(ms)) if (1..=300_000).contains(&ms) => ms,
            Some(_) => return Err(Problem::new(Reason::BadRequest, "timeoutMs takes 1 to 300000 milliseconds.")),
        };
        let target = self.intake.shared.synced();
        match self.intake.outlets.wait_below(target, Duration::from_millis(most)).await {
            Ok((dead, lost)) => {
                let answer = json!({"status": "flushed", "position": target, "deadLettered": dead, "lost": lost}).to_string();
                Ok(json_answer(200, answer.into_bytes()).into())
            }
            Err((left, reason)) => {
                let detail = format!("{left} records are not delivered yet: {reason}");
                Err(Problem::later(Reason::NotDelivered, detail, Duration::from_secs(1)))
            }
        }
    }
}

/// What a client of gRPC is told, in its own words: it shows nothing of any other answer.
fn grpc(headers: &HeaderMap) -> Option<Answer> {
    let kind = headers.get(hyper::header::CONTENT_TYPE)?.to_str().ok()?;
    if !kind.starts_with("application/grpc") {
        return None;
    }
    let message =
        "gRPC is not served; set the exporter to OTLP over HTTP: OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf, POST /v1/logs";
    let mut answer = Answer::new(Bytes::new().into());
    let unimplemented = [("content-type", "application/grpc"), ("grpc-status", "12"), ("grpc-message", message)];
    for (name, value) in unimplemented {
        answer.headers_mut().insert(name, hyper::header::HeaderValue::from_static(value));
    }
    Some(answer)
}

/// What can be asked of this listener.
fn describe() -> Answer {
    // One text for all who ask.
    static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| Bytes::from(routes::document()));
    let mut answer = Answer::new(DOCUMENT.clone().into());
    answer.headers_mut().insert(hyper::header::CONTENT_TYPE, hyper::header::HeaderValue::from_static("application/yaml"));
    answer
}

fn answer_batch(results: &[Result<Taken, Problem>], request_id: &str) -> Done {
    let all_taken = results.iter().all(Result::is_ok);
    let first_refusal = results.iter().find_map(|result| result.as_ref().err());
    // Nothing was taken, for one passing reason: the status says so, too.
    if let Some(problem) = first_refusal
        && matches!(problem.reason.status(), 429 | 503)
        && results.iter().all(|result| result.as_ref().is_err_and(|other| other.reason == problem.reason))
    {
        let longest = results.iter().filter_map(|result| result.as_ref().err()).filter_map(|problem| problem.retry_after).max();
        let problem = Problem { retry_after: longest, ..problem.clone() };
        let items =
            results.iter().filter_map(|result| result.as_ref().err()).map(|problem| item_problem(problem, request_id)).collect();
        return Done {
            reason: Some(problem.reason.word()),
            ..problem_answer(&problem, request_id, Some(Value::Array(items))).into()
        };
    }
    let mut out = Vec::with_capacity(64 + results.len() * 80);
    out.extend_from_slice(b"{\"results\":[");
    for (index, result) in results.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        match result {
            Ok(taken) => write_taken(&mut out, taken),
            Err(problem) => out.extend_from_slice(item_problem(problem, request_id).to_string().as_bytes()),
        }
    }
    out.extend_from_slice(b"]}");
    json_answer(if all_taken { 200 } else { 207 }, out).into()
}

fn item_problem(problem: &Problem, request_id: &str) -> Value {
    let mut body = problem.body(request_id);
    if let Some(object) = body.as_object_mut() {
        object.insert("code".into(), problem.reason.status().into());
        object.insert("status".into(), problem.reason.word().into());
        object.remove("requestId");
        object.remove("reason");
    }
    body
}

fn write_taken(out: &mut Vec<u8>, taken: &Taken) {
    out.extend_from_slice(b"{\"status\":\"");
    out.extend_from_slice(taken.word.as_bytes());
    out.extend_from_slice(b"\",\"code\":");
    out.extend_from_slice(taken.status.to_string().as_bytes());
    out.extend_from_slice(b",\"eventId\":");
    escape_into(out, &taken.event_id);
    if let Some(delivery) = taken.delivery {
        out.extend_from_slice(b",\"delivery\":\"");
        out.extend_from_slice(delivery.as_bytes());
        out.push(b'"');
    }
    if let Some(compared) = taken.compared {
        out.extend_from_slice(if compared { b",\"compared\":true" } else { b",\"compared\":false" });
    }
    out.push(b'}');
}

/// The items of a JSON array, as the texts they stand in. An item that no parser takes is an item all the same, and is answered for by itself.
fn array_items(text: &str, most: usize) -> Result<Vec<&str>, Problem> {
    let items = steno_event::array_items(text);
    let items = items.or_else(|fault| steno_event::json::lax::items(text, most + 1).ok_or(fault));
    items.map_err(|fault| {
        Problem::new(
            Reason::NotJson,
            format!("{fault}. Send a JSON array of events, or one event a line as application/x-ndjson."),
        )
    })
}

fn check_media(media: Option<String>, allowed: &[&str]) -> Result<String, Problem> {
    let media = media.unwrap_or_else(|| "a charset other than UTF-8".into());
    if allowed.contains(&media.as_str()) {
        return Ok(media);
    }
    let mut detail = format!("The Content-Type is {media:?}; send ");
    let _ = write!(detail, "{}.", allowed.join(" or "));
    Err(Problem::new(Reason::MediaType, detail))
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    let fault = || Problem::new(Reason::BadRequest, "The Idempotency-Key is not 1 to 256 visible ASCII characters.");
    let key = value.to_str().map_err(|_| fault())?.trim_matches('"');
    if key.is_empty() || key.len() > 256 { Err(fault()) } else { Ok(Some(key.to_owned())) }
}

static NEXT: AtomicU64 = AtomicU64::new(1);

/// The client's own id, where it is a sane one; else one of ours. The second says whether it is ours.
fn request_id(headers: &HeaderMap) -> (String, bool) {
    let sane = |id: &&str| {
        (1..=128).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:/+=".contains(&byte))
    };
    let sent = headers.get("x-request-id").and_then(|id| id.to_str().ok()).filter(sane);
    match sent {
        Some(sent) => (sent.to_owned(), false),
        None => (format!("r{:x}", NEXT.fetch_add(1, Ordering::Relaxed)), true),
    }
}
