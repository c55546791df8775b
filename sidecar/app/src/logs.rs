//! JSON lines on standard error. What a terminal obeys, or shows elsewhere than it stands, is written by its number.
use std::{io, sync::OnceLock};

use tracing_subscriber::{EnvFilter, Registry, fmt, layer::SubscriberExt, reload, util::SubscriberInitExt};

use crate::printed::is_obeyed;

static LEVEL: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

fn filter(level: &str) -> EnvFilter {
    // librdkafka's own log is for debugging only: what matters is in stats, metrics and the breaker's lines. It tells twice a minute that a broker is away.
    let deeper = if level == "debug" { "debug" } else { "off" };
    EnvFilter::builder().parse_lossy(format!("{level},librdkafka={deeper},rdkafka={deeper}"))
}

/// Writes lines of JSON. The formatter escapes C0; C1, directions of writing and line separators stand inside strings only, where their numbers mean the same.
struct Lines<W>(W);

impl<W: io::Write> io::Write for Lines<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Ok(text) = std::str::from_utf8(bytes) else { return self.0.write(bytes) };
        let is_odd = |c: char| c != '\n' && is_obeyed(c);
        if text.is_ascii() || !text.contains(is_odd) {
            return self.0.write(bytes);
        }
        let mut line = String::with_capacity(text.len() + 16);
        for c in text.chars() {
            if is_odd(c) { line.push_str(&format!("\\u{:04x}", c as u32)) } else { line.push(c) }
        }
        self.0.write_all(line.as_bytes()).map(|()| bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
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

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::Lines;

    #[test]
    fn a_line_stays_json_and_paints_nothing() {
        let line = "{\"path\":\"a\u{9b}2Jb\u{202e}c\u{2028}ü\"}\n";
        let mut out = Vec::new();
        Lines(&mut out).write_all(line.as_bytes()).unwrap();
        let written = String::from_utf8(out).unwrap();
        assert_eq!(written, "{\"path\":\"a\\u009b2Jb\\u202ec\\u2028ü\"}\n");
        let (sent, read): (serde_json::Value, serde_json::Value) =
            (serde_json::from_str(line).unwrap(), serde_json::from_str(&written).unwrap());
        assert_eq!(sent, read);
    }
}
