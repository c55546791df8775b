//! JSON lines on standard error. What a terminal obeys, or shows elsewhere than it stands, is written by its number.
use std::{io, sync::OnceLock};

use tracing_subscriber::{EnvFilter, Registry, fmt, layer::SubscriberExt, reload, util::SubscriberInitExt};

use crate::printed::Lines;

static LEVEL: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

fn filter(level: &str) -> EnvFilter {
    // librdkafka's own log is for debugging only: what matters is in stats, metrics and the breaker's lines. It tells twice a minute that a broker is away.
    let deeper = if level == "debug" { "debug" } else { "off" };
    EnvFilter::builder().parse_lossy(format!("{level},librdkafka={deeper},rdkafka={deeper}"))
}

/// Starts logging. Once a process.
pub fn start(level: &str) {
    let (layer, handle) = reload::Layer::new(filter(level));
    let lines = fmt::layer()
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_span_list(false)
        .with_writer(|| Lines(io::stderr()));
    if tracing_subscriber::registry().with(layer).with(lines).try_init().is_ok() {
        let _ = LEVEL.set(handle);
    }
}

/// Changes the level of what is logged.
pub fn set_level(level: &str) {
    if let Some(handle) = LEVEL.get() {
        let _ = handle.reload(filter(level));
    }
}
