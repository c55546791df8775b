//! What delivery counts.
use prometheus_client::{
    metrics::{counter::Counter, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};

/// Delivery's metrics.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// Records the destination confirmed.
    pub delivered: Counter,
    /// Records that came back.
    pub failed: Counter,
    /// Records that went to dead letters.
    pub dead: Counter,
    /// Time from a record's receipt to its confirmation.
    pub latency: Histogram,
    /// Records sent in one go.
    pub batch: Histogram,
    /// 0 closed, 1 half-open, 2 open.
    pub breaker: Gauge,
    /// How often the breaker opened.
    pub opened: Counter,
    /// Records that wait.
    pub backlog: Gauge,
    /// Age of the oldest record that is not delivered, in seconds.
    pub oldest: Gauge,
    /// What the preflight warns of.
    pub warnings: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            delivered: Counter::default(),
            failed: Counter::default(),
            dead: Counter::default(),
            latency: Histogram::new((0..20).map(|step| 0.001 * f64::from(1 << step))),
            batch: Histogram::new((0..14).map(|step| f64::from(1 << step))),
            breaker: Gauge::default(),
            opened: Counter::default(),
            backlog: Gauge::default(),
            oldest: Gauge::default(),
            warnings: Gauge::default(),
        }
    }
}

impl Metrics {
    /// Registers all of them.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("delivered", "Records that Kafka confirmed", self.delivered.clone());
        registry.register("delivery_failures", "Records that came back undelivered and will be sent again", self.failed.clone());
        registry.register("dead_letters", "Records that Kafka refused for good", self.dead.clone());
        registry.register_with_unit(
            "delivery_latency",
            "Time from receipt to Kafka's confirmation",
            Unit::Seconds,
            self.latency.clone(),
        );
        registry.register("delivery_batch_records", "Records sent in one go", self.batch.clone());
        registry.register("breaker_state", "0 closed, 1 half-open, 2 open", self.breaker.clone());
        registry.register("breaker_opened", "How often the breaker opened", self.opened.clone());
        registry.register("spool_backlog_records", "Records that wait for delivery", self.backlog.clone());
        registry.register_with_unit(
            "spool_oldest_age",
            "Age of the oldest undelivered record",
            Unit::Seconds,
            self.oldest.clone(),
        );
        registry.register("preflight_warnings", "What is not as it should be at the destination", self.warnings.clone());
    }
}
