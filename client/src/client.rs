//! Sending.
use std::{sync::Arc, time::Duration};

use backon::{ExponentialBuilder, Retryable as _};
use bytes::Bytes;
use serde::{Deserialize, de::DeserializeOwned};

use crate::{
    Error, Event, Pages, Problem, Search,
    connection::{Address, Call, Pool},
};

/// A client of the pod's sidecar. Cheap to clone; clones share connections.
#[derive(Debug, Clone)]
pub struct Client {
    pool: Arc<Pool>,
    give_up: Duration,
    token: Option<Arc<str>>,
}

/// What the sidecar did with an event.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Receipt {
    /// What it did.
    pub status: Status,
    /// The event's id, as the record shows it.
    pub event_id: String,
    /// `delivered` or `spooled`, where the answer waited for it.
    #[serde(default)]
    pub delivery: Option<String>,
}

/// What the sidecar did with an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It is on disk.
    Created,
    /// It was there before.
    DuplicateAccepted,
    /// It was dropped: the spool is full, and the policy says so (`whenFull: DropNewest`).
    Dropped,
}

/// Items of a batch, whose answers come under their own names.
#[derive(Deserialize)]
struct Results {
    results: Vec<serde_json::Value>,
}

const DEFAULT: &str = "http://127.0.0.1:9600";

// === impl Receipt ===

impl Receipt {
    /// Whether the event is on disk.
    pub const fn is_durable(&self) -> bool {
        !matches!(self.status, Status::Dropped)
    }
}

// === impl Client ===

impl Client {
    /// The sidecar at an address: `http://127.0.0.1:9600`, or `unix:/path/to/steno.sock`.
    ///
    /// # Errors
    /// An address that is none of these.
    pub fn new(address: &str) -> Result<Self, Error> {
        let pool = Arc::new(Pool::new(Address::parse(address)?));
        Ok(Self { pool, give_up: Duration::from_secs(30), token: None })
    }

    /// The sidecar at `STENO_URL`, which injection sets; without it at `http://127.0.0.1:9600`.
    ///
    /// # Errors
    /// A `STENO_URL` that is no address.
    pub fn from_env() -> Result<Self, Error> {
        Self::new(std::env::var("STENO_URL").as_deref().unwrap_or(DEFAULT))
    }

    /// Gives up on what passes after this time (default 30 s).
    #[must_use]
    pub fn give_up_after(self, time: Duration) -> Self {
        Self { give_up: time, ..self }
    }

    /// Searches, and writes and reads intents, with this token (the policy's `query.tokenSecretRef` or `intents.tokenSecretRef`; with two of them, use two
    /// clients).
    #[must_use]
    pub fn token(self, token: &str) -> Self {
        Self { token: Some(token.into()), ..self }
    }

    /// Sends an event; tries again what passes.
    ///
    /// # Errors
    /// [`Error::Refused`] where the sidecar will not take it, [`Error::GaveUp`] where it could not be asked for too long.
    pub async fn send(&self, event: Event) -> Result<Receipt, Error> {
        let body = Bytes::from(serde_json::to_vec(&event).map_err(|error| Error::Answer(error.to_string()))?);
        self.insist(|| async {
            let (status, answer) = self.post("/v1/events", body.clone()).await?;
            read(status, &answer)
        })
        .await
    }

    /// Sends events together; an answer for each, in order. What passes is tried again, with the others left out.
    ///
    /// # Errors
    /// [`Error::GaveUp`] where the sidecar could not be asked at all; what each event came to is in its own result.
    pub async fn send_all(&self, events: Vec<Event>) -> Result<Vec<Result<Receipt, Problem>>, Error> {
        let mut done: Vec<Option<Result<Receipt, Problem>>> = events.iter().map(|_| None).collect();
        let left = parking_lot::Mutex::new((0..events.len()).collect::<Vec<usize>>());
        let slots = parking_lot::Mutex::new(&mut done);
        let gave_up = self
            .insist(|| async {
                let asked = left.lock().clone();
                let batch: Vec<&Event> = asked.iter().map(|index| &events[*index]).collect();
                let body = serde_json::to_vec(&batch).map_err(|error| Error::Answer(error.to_string()))?;
                let (status, answer) = self.post("/v1/events/batch", body.into()).await?;
                if !matches!(status, 200 | 207) {
                    return Err(problem(status, &answer));
                }
                let results: Results = serde_json::from_slice(&answer).map_err(|error| Error::Answer(error.to_string()))?;
                let mut again = Vec::new();
                let mut passing = None;
                for (index, result) in asked.into_iter().zip(results.results) {
                    let code = result["code"].as_u64().unwrap_or_default() as u16;
                    let result = if code < 300 {
                        serde_json::from_value::<Receipt>(result).map_err(|error| Error::Answer(error.to_string()))?
                    } else {
                        let problem = item(code, &result);
                        if problem.passes() {
                            again.push(index);
                            passing = Some(problem.clone());
                        }
                        slots.lock()[index] = Some(Err(problem));
                        continue;
                    };
                    slots.lock()[index] = Some(Ok(result));
                }
                *left.lock() = again;
                passing.map_or(Ok(()), |problem| Err(problem.into()))
            })
            .await;
        match gave_up {
            // Nothing was answered at all.
            Err(error) if done.iter().all(Option::is_none) && !events.is_empty() => Err(error),
            _ => {
                let unasked = || Problem {
                    status: 503,
                    reason: "unreachable".into(),
                    detail: "The sidecar did not answer.".into(),
                    retry_after_ms: None,
                };
                Ok(done.into_iter().map(|result| result.unwrap_or_else(|| Err(unasked()))).collect())
            }
        }
    }

    /// Searches the sidecar's journal, page by page; the policy must allow it.
    pub fn search(&self, search: Search) -> Pages {
        Pages::new(self.clone(), search)
    }

    /// Waits until all that was taken so far is delivered.
    ///
    /// # Errors
    /// [`Error::Refused`] with `not_delivered` where it is not in time.
    pub async fn flush(&self, most: Duration) -> Result<(), Error> {
        let path = format!("/v1/flush?timeoutMs={}", most.as_millis().clamp(1, 300_000));
        let (status, answer) = self.post(&path, Bytes::new()).await?;
        if status == 200 { Ok(()) } else { Err(problem(status, &answer)) }
    }

    async fn post(&self, path: &str, body: Bytes) -> Result<(u16, Bytes), Error> {
        self.pool.ask(&Call { method: "POST", path, media: "application/json", body, token: None }).await
    }

    /// Posts with the token, and tries again what passes.
    pub(crate) async fn insist_on<T: DeserializeOwned>(&self, path: &str, body: Bytes) -> Result<T, Error> {
        self.insist(|| async {
            let token = self.token.as_deref();
            let call = Call { method: "POST", path, media: "application/json", body: body.clone(), token };
            let (status, answer) = self.pool.ask(&call).await?;
            read(status, &answer)
        })
        .await
    }

    pub(crate) async fn get(&self, path: &str) -> Result<Bytes, Error> {
        let call = || async {
            let call = Call { method: "GET", path, media: "", body: Bytes::new(), token: self.token.as_deref() };
            let (status, answer) = self.pool.ask(&call).await?;
            if status == 200 { Ok(answer) } else { Err(problem(status, &answer)) }
        };
        self.insist(call).await
    }

    /// Tries again what passes: when the sidecar says so, else after growing waits.
    async fn insist<T, F: Future<Output = Result<T, Error>>>(&self, ask: impl Fn() -> F) -> Result<T, Error> {
        let waits = ExponentialBuilder::default()
            .with_min_delay(Duration::from_millis(20))
            .with_max_delay(Duration::from_secs(5))
            .with_jitter()
            .without_max_times();
        let tries = std::sync::atomic::AtomicUsize::new(0);
        let counted = || {
            tries.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            ask()
        };
        let last = parking_lot::Mutex::new(None);
        let insisting = counted
            .retry(waits)
            .when(Error::passes)
            .adjust(|error, wait| wait.map(|wait| error.after().unwrap_or(wait)))
            .notify(|error, _| *last.lock() = Some(error.to_string()));
        if let Ok(done) = tokio::time::timeout(self.give_up, insisting).await {
            return done;
        }
        let last = last.into_inner().unwrap_or_else(|| "no answer in time".into());
        Err(Error::GaveUp { tries: tries.into_inner(), last: Box::new(Error::Unreachable(last)) })
    }
}

fn read<T: DeserializeOwned>(status: u16, answer: &[u8]) -> Result<T, Error> {
    if status < 300 {
        return serde_json::from_slice(answer).map_err(|error| Error::Answer(error.to_string()));
    }
    Err(problem(status, answer))
}

fn problem(status: u16, answer: &[u8]) -> Error {
    match serde_json::from_slice::<Problem>(answer) {
        Ok(problem) => Problem { status, ..problem }.into(),
        Err(_) => Error::Answer(format!("status {status}")),
    }
}

/// The problem of an item, whose word stands under another name.
fn item(code: u16, result: &serde_json::Value) -> Problem {
    let text = |name: &str| result[name].as_str().unwrap_or_default().to_owned();
    Problem { status: code, reason: text("status"), detail: text("detail"), retry_after_ms: result["retryAfterMs"].as_u64() }
}
