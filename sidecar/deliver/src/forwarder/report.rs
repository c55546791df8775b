//! What a forwarder reports: its status, its metrics, its position; and the end of its work.
use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use steno_chain::{Kind, Note};

use super::Forwarder;
use crate::{State, Status};

/// Time between two saved positions.
const SAVE_INTERVAL: Duration = Duration::from_secs(1);

/// What is kept for reports.
pub(super) struct Report {
    pub(super) status: Arc<Status>,
    /// The last failure, until the first undelivered record moves.
    pub(super) failure: String,
    pub(super) was_open: bool,
    /// When `dead/` was changed, as of the last count.
    dead_seen: Option<SystemTime>,
    mean_ms: f64,
    saved_at: Duration,
    /// The first undelivered record when it last moved, and when that was.
    position: u64,
    moved_at: Duration,
    /// A record, and when its block was written.
    oldest: Option<(u64, u64)>,
}

// === impl Report ===

impl Report {
    pub(super) fn new(status: Arc<Status>) -> Self {
        Self {
            status,
            failure: String::new(),
            was_open: false,
            dead_seen: None,
            mean_ms: 0.0,
            saved_at: Duration::ZERO,
            position: 0,
            moved_at: Duration::ZERO,
            oldest: None,
        }
    }

    /// A record took so long from its receipt to its confirmation.
    pub(super) fn observe(&mut self, took_ms: f64) {
        self.mean_ms += (took_ms - self.mean_ms) * 0.01;
    }
}

// === impl Forwarder ===

impl Forwarder {
    pub(super) fn report(&mut self) {
        let now = self.now.since_start;
        let oldest_held = self.source.oldest();
        if self.deliveries.position() < oldest_held {
            // Dropped by the policy, with a record that says so for this sink.
            self.deliveries.skip_to(oldest_held);
        }
        let is_due = now.saturating_sub(self.report.saved_at) >= SAVE_INTERVAL || (self.stop.is_some() && self.waiting() == 0);
        if self.enforce_max_lag(is_due) || is_due {
            self.report.saved_at = now;
            self.save();
            let modified = self.dead.modified();
            if modified != self.report.dead_seen {
                self.report.dead_seen = modified;
                let kept = self.dead.count(&self.name);
                self.report.status.update(|status| status.dead_kept = kept);
            }
        }
        let position = self.deliveries.position();
        if let Some(gate) = &self.gate {
            gate.reached(&self.name, position);
        }
        let backlog = self.waiting();
        if position != self.report.position || backlog == 0 {
            (self.report.position, self.report.moved_at) = (position, now);
            self.report.failure.clear();
        }
        if is_due || self.breaker.state() != State::Closed {
            self.note_oldest(position, backlog);
        } else if backlog == 0 {
            self.report.oldest = None;
        }
        self.publish(position, backlog);
    }

    fn publish(&mut self, position: u64, backlog: u64) {
        let (now, wall) = (self.now.since_start, self.now.wall_ms);
        let state = self.breaker.state();
        let since_ms = wall.saturating_sub(now.saturating_sub(self.breaker.since()).as_millis() as u64);
        let batch_size = self.batch_size(backlog);
        let oldest_ms = self.report.oldest.map_or(0, |(_, ms)| ms);
        self.metrics.breaker.set(match state {
            State::Closed => 0,
            State::HalfOpen => 1,
            State::Open => 2,
        });
        self.metrics.backlog.set(backlog as i64);
        self.metrics.oldest.set(if oldest_ms == 0 { 0 } else { wall.saturating_sub(oldest_ms) as i64 / 1000 });
        let (failures, in_flight, batch_ms) = (self.breaker.failures(), self.in_flight.len(), self.report.mean_ms);
        let reason = self.breaker.reason();
        let stalled_ms = now.saturating_sub(self.report.moved_at).as_millis() as u64;
        let stalled_by = if backlog > 0 { self.stalled_by() } else { String::new() };
        let is_refusing = self.condemned.len() > 0;
        self.report.status.update(|status| {
            status.is_refusing = is_refusing;
            status.breaker = state.word();
            reason.clone_into(&mut status.reason);
            status.since_ms = since_ms;
            (status.failures, status.position, status.backlog, status.in_flight) = (failures, position, backlog, in_flight);
            (status.batch_size, status.oldest_ms, status.batch_ms) = (batch_size, oldest_ms, batch_ms);
            (status.stalled_ms, status.stalled_by) = (stalled_ms, stalled_by);
        });
    }

    /// What holds the first undelivered record, as far as is known.
    fn stalled_by(&self) -> String {
        if let Some((count, reason)) = Some(self.condemned.len()).filter(|count| *count > 0).zip(self.condemned.reason()) {
            return format!(
                "{count} records were refused ({reason}); each becomes a dead letter if the destination takes another record after it"
            );
        }
        if !self.bisect.is_idle() {
            return "records that were refused together are tried one by one".into();
        }
        if let Some((lane, lasting)) = self.in_flight.stalled(self.now.since_start) {
            let known =
                self.sink.as_ref().and_then(|sink| sink.last_error()).map(|known| format!(": {known}")).unwrap_or_default();
            let which = if self.lanes() > 1 { format!("partition {lane}") } else { "the destination".into() };
            return format!("{which} has confirmed nothing for {} s{known}", lasting.as_secs());
        }
        self.report.failure.clone()
    }

    /// Has the position made durable: the sink's own, or that of all.
    fn save(&self) {
        let own = self.deliveries.position();
        let position = self.gate.as_ref().map_or(own, |gate| gate.position().min(own));
        self.trail.save_position(&self.name, position);
    }

    /// Leaves out records that wait for a sink that may lag, as the policy says, after a record that names them. Whether it did. Age is compared
    /// only if `by_age`.
    fn enforce_max_lag(&mut self, by_age: bool) -> bool {
        let Some(lag) = self.settings.max_lag else { return false };
        let from = self.deliveries.position();
        let by_bytes = self.source.cut_to(from, lag.bytes);
        let oldest_ms = |age: std::time::Duration| self.now.wall_ms.saturating_sub(age.as_millis() as u64);
        let by_age = lag.age.filter(|_| by_age).and_then(|age| self.source.first_since(from, oldest_ms(age)));
        let Some(end) = by_bytes.max(by_age).filter(|end| *end > from) else { return false };
        let (lost, records) = self.source.losses(from, end, &self.name);
        let reason = if by_age >= by_bytes { "maxLag.age" } else { "maxLag.bytes" };
        let note = Note::new(Kind::Drop, "A sink was too far behind; these records were left out for it, as the policy says.")
            .text("sink", &*self.name)
            .text("reason", reason)
            .number("records", records)
            .lost(lost);
        if let Err(error) = self.trail.write(note) {
            // They wait until a record can name them.
            tracing::warn!(sink = self.name, %error, "records that are left out could not be recorded yet");
            return false;
        }
        tracing::warn!(sink = self.name, records, "the sink is too far behind: records were left out for it");
        self.metrics.left_out.inc_by(records);
        self.report.status.update(|status| status.left_out += records);
        self.deliveries.skip_to(end);
        true
    }

    fn note_oldest(&mut self, position: u64, backlog: u64) {
        if backlog == 0 {
            self.report.oldest = None;
        } else if self.report.oldest.is_none_or(|(seq, _)| seq != position) {
            self.report.oldest = self.source.written_ms(position).map(|ms| (position, ms));
        }
    }

    pub(super) fn has_stopped(&mut self) -> bool {
        let Some((until, done)) = &self.stop else { return false };
        let left = self.synced.saturating_sub(self.deliveries.position());
        let is_over = left == 0 || self.now.since_start >= *until;
        if is_over {
            self.save();
            let _ = done.send(left);
        }
        is_over
    }
}
