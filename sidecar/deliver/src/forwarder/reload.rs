//! A change of destination while records are in flight.
use std::time::Duration;

use super::{Forwarder, Settings, SinkFactory};
use crate::{Breaker, State};

/// How long the old destination may take to confirm what is in flight.
const OLD_DESTINATION: Duration = Duration::from_secs(5);

/// A change of destination that waits for the old one.
pub(super) struct Moving {
    factory: SinkFactory,
    until: Duration,
}

// === impl Forwarder ===

impl Forwarder {
    pub(super) fn reload(&mut self, settings: Settings, factory: Option<SinkFactory>) {
        self.breaker.configure(settings.breaker);
        self.settings = settings;
        if let Some(factory) = factory {
            let until = self.moving.as_ref().map_or(self.now.since_start + OLD_DESTINATION, |moving| moving.until);
            self.moving = Some(Moving { factory, until });
        }
    }

    /// Goes to the new destination as soon as the old one has confirmed what is in flight, or has had its time. What is left goes to the new one.
    pub(super) fn finish_move(&mut self) {
        let is_due = |moving: &mut Moving| {
            self.in_flight.is_empty() || self.now.since_start >= moving.until || self.breaker.state() != State::Closed
        };
        let Some(Moving { factory, .. }) = self.moving.take_if(is_due) else { return };
        if !self.in_flight.is_empty() {
            tracing::warn!(
                sink = self.name,
                records = self.in_flight.len(),
                "the old destination did not confirm in time; these go to the new one too"
            );
        }
        self.sink = None;
        self.generation += 1;
        self.factory = factory;
        self.breaker = Breaker::new(self.settings.breaker, self.now.since_start, self.breaker.seed());
        self.retry_at = self.now.since_start;
        self.report.failure.clear();
        self.start_over();
    }
}
