//! A tower layer that records who did what on a route.
//!
//! ```no_run
//! # use steno_client::{Client, Event, route::RecordLayer};
//! # let client = Client::new("http://127.0.0.1:9600").unwrap();
//! let layer = RecordLayer::new(client, |request: &http::request::Parts| {
//!     let user = request.headers.get("x-user")?.to_str().ok()?;
//!     Some(Event::new(format!("{} {}", request.method, request.uri.path())).actor("user", user))
//! });
//! ```
//!
//! The event gets `outcome` and `durationMs` from the answer, and is on the sidecar's disk before the caller gets that answer. Where it cannot be
//! recorded the answer goes out all the same, and is counted; with [`RecordLayer::required`] it is 503 instead.
use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Instant,
};

use http::{Request, Response, StatusCode, request::Parts};
use tower_layer::Layer;
use tower_service::Service;

use crate::{Client, Event};

type Describe = dyn Fn(&Parts) -> Option<Event> + Send + Sync;

/// Makes [`Record`] services.
#[derive(Clone)]
pub struct RecordLayer {
    client: Client,
    describe: Arc<Describe>,
    required: bool,
    unrecorded: Arc<AtomicU64>,
}

/// A service whose requests are recorded.
#[derive(Clone)]
pub struct Record<S> {
    inner: S,
    layer: RecordLayer,
}

// === impl RecordLayer ===

impl RecordLayer {
    /// Records what `describe` makes an event of; `None`: this request is not recorded.
    pub fn new(client: Client, describe: impl Fn(&Parts) -> Option<Event> + Send + Sync + 'static) -> Self {
        Self { client, describe: Arc::new(describe), required: false, unrecorded: Arc::default() }
    }

    /// An answer whose event cannot be recorded is replaced by 503.
    #[must_use]
    pub fn required(self) -> Self {
        Self { required: true, ..self }
    }

    /// A count of requests that could not be recorded.
    pub fn unrecorded(&self) -> Arc<AtomicU64> {
        self.unrecorded.clone()
    }
}

impl std::fmt::Debug for RecordLayer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RecordLayer").field("client", &self.client).field("required", &self.required).finish_non_exhaustive()
    }
}

impl<S> Layer<S> for RecordLayer {
    type Service = Record<S>;

    fn layer(&self, inner: S) -> Record<S> {
        Record { inner, layer: self.clone() }
    }
}

// === impl Record ===

impl<S, B, A> Service<Request<B>> for Record<S>
where
    S: Service<Request<B>, Response = Response<A>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    A: Default + Send + 'static,
{
    type Response = Response<A>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<A>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (parts, body) = request.into_parts();
        let event = (self.layer.describe)(&parts);
        let answering = self.inner.call(Request::from_parts(parts, body));
        let layer = self.layer.clone();
        // On a task of its own: a caller that hangs up does not stop what was begun from being recorded.
        let recorded = tokio::spawn(async move {
            let begun = Instant::now();
            let answer = answering.await;
            let Some(event) = event else { return answer };
            let outcome = match &answer {
                Ok(answer) if answer.status().is_success() || answer.status().is_redirection() => "success",
                Ok(answer) if matches!(answer.status(), StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => "denied",
                _ => "failure",
            };
            let took = begun.elapsed().as_secs_f64() * 1000.0;
            let recorded = layer.client.send(event.outcome(outcome).with("durationMs", took)).await;
            if recorded.is_ok() {
                return answer;
            }
            layer.unrecorded.fetch_add(1, Ordering::Relaxed);
            if !layer.required {
                return answer;
            }
            let mut refused = Response::new(A::default());
            *refused.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            Ok(refused)
        });
        Box::pin(async move {
            match recorded.await {
                Ok(answer) => answer,
                Err(stopped) if stopped.is_panic() => std::panic::resume_unwind(stopped.into_panic()),
                // The runtime ends, and this future with it.
                Err(_) => std::future::pending().await,
            }
        })
    }
}
