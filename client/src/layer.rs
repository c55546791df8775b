//! `tracing` events that are audit events.
//!
//! An event of the target `audit` (or another, by [`AuditLayer::target`]) with a field `action` becomes an audit event; its fields are the members, by
//! name, dots included:
//!
//! ```
//! tracing::info!(target: "audit", action = "user.login", actor.id = "u-17", outcome = "success", "alice logged in");
//! ```
//!
//! `tracing` cannot wait, so such events are queued and sent in the background, in order. Where the queue is full, they are lost and counted: use
//! [`Client::send`] for what must not be lost.
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use serde_json::Value;
use tokio::sync::mpsc;
use tracing::{Event as Traced, Level, Subscriber, field};
use tracing_subscriber::layer::{Context, Layer};

use crate::{Client, Event};

/// A layer that sends marked events.
#[derive(Debug)]
pub struct AuditLayer {
    target: String,
    queue: mpsc::Sender<Event>,
    lost: Arc<AtomicU64>,
}

/// Events that wait to be sent.
const QUEUE: usize = 4096;
/// Events that go out together.
const BATCH: usize = 100;

// === impl AuditLayer ===

impl AuditLayer {
    /// A layer, and the task that sends; it must be made inside a tokio runtime.
    pub fn new(client: Client) -> Self {
        let (queue, mut waiting) = mpsc::channel::<Event>(QUEUE);
        let lost = Arc::new(AtomicU64::new(0));
        let losing = lost.clone();
        tokio::spawn(async move {
            let mut batch = Vec::with_capacity(BATCH);
            while waiting.recv_many(&mut batch, BATCH).await > 0 {
                let events = std::mem::take(&mut batch);
                let count = events.len() as u64;
                let refused = match client.send_all(events).await {
                    Ok(results) => results.iter().filter(|result| result.is_err()).count() as u64,
                    Err(_) => count,
                };
                losing.fetch_add(refused, Ordering::Relaxed);
            }
        });
        Self { target: "audit".into(), queue, lost }
    }

    /// Events of this target are marked (default `audit`).
    #[must_use]
    pub fn target(self, target: &str) -> Self {
        Self { target: target.to_owned(), ..self }
    }

    /// A count of events that were not taken: the queue was full, or the sidecar refused them.
    pub fn lost(&self) -> Arc<AtomicU64> {
        self.lost.clone()
    }
}

impl<S: Subscriber> Layer<S> for AuditLayer {
    fn on_event(&self, traced: &Traced<'_>, _: Context<'_, S>) {
        if traced.metadata().target() != self.target {
            return;
        }
        let mut fields = Fields::default();
        traced.record(&mut fields);
        let severity = match *traced.metadata().level() {
            Level::ERROR => "error",
            Level::WARN => "warning",
            Level::INFO => "info",
            _ => "debug",
        };
        let Some(action) = fields.action else {
            self.lost.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let mut event = Event::new(action).severity(severity);
        for (name, value) in fields.others {
            event = match name.split_once('.') {
                Some((outer @ ("actor" | "resource" | "source" | "error"), inner)) => event.inside(outer, inner, value),
                _ => event.with(name, value),
            };
        }
        if self.queue.try_send(event).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[derive(Default)]
struct Fields {
    action: Option<String>,
    others: Vec<(&'static str, Value)>,
}

impl Fields {
    fn put(&mut self, field: &field::Field, value: Value) {
        match (field.name(), value) {
            ("action", Value::String(action)) => self.action = Some(action),
            (name, value) => self.others.push((name, value)),
        }
    }
}

impl field::Visit for Fields {
    fn record_debug(&mut self, field: &field::Field, value: &dyn std::fmt::Debug) {
        self.put(field, format!("{value:?}").into());
    }

    fn record_str(&mut self, field: &field::Field, value: &str) {
        self.put(field, value.into());
    }

    fn record_i64(&mut self, field: &field::Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_u64(&mut self, field: &field::Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_f64(&mut self, field: &field::Field, value: f64) {
        self.put(field, value.into());
    }

    fn record_bool(&mut self, field: &field::Field, value: bool) {
        self.put(field, value.into());
    }
}
