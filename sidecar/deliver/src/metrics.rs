//! What delivery counts, by sink.
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};

/// A sink.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct SinkLabel {
    /// Its name.
    sink: String,
}

/// A histogram by sink.
type Histograms = Family<SinkLabel, Histogram, fn() -> Histogram>;

/// Metrics of all sinks.
#[derive(Debug, Clone)]
pub struct Families {
    delivered: Family<SinkLabel, Counter>,
    failed: Family<SinkLabel, Counter>,
    dead: Family<SinkLabel, Counter>,
    left_out: Family<SinkLabel, Counter>,
    latency: Histograms,
    batch: Histograms,
    breaker: Family<SinkLabel, Gauge>,
    opened: Family<SinkLabel, Counter>,
    backlog: Family<SinkLabel, Gauge>,
    oldest: Family<SinkLabel, Gauge>,
    warnings: Family<SinkLabel, Gauge>,
}

/// One sink's metrics.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// Records the destination confirmed.
    pub delivered: Counter,
    /// Records that came back.
    pub failed: Counter,
    /// Records that went to dead letters.
    pub dead: Counter,
    /// Records left out because the sink was too far behind.
    pub left_out: Counter,
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

impl Default for Families {
    fn default() -> Self {
        Self {
            delivered: Family::default(),
            failed: Family::default(),
            dead: Family::default(),
            left_out: Family::default(),
            latency: Family::new_with_constructor(|| Histogram::new((0..20).map(|step| 0.001 * f64::from(1 << step)))),
            batch: Family::new_with_constructor(|| Histogram::new((0..14).map(|step| f64::from(1 << step)))),
            breaker: Family::default(),
            opened: Family::default(),
            backlog: Family::default(),
            oldest: Family::default(),
            warnings: Family::default(),
        }
    }
}

// === impl Families ===

impl Families {
    /// Those of one sink.
    pub fn of(&self, sink: &str) -> Metrics {
        let label = SinkLabel { sink: sink.into() };
        Metrics {
            delivered: self.delivered.get_or_create(&label).clone(),
            failed: self.failed.get_or_create(&label).clone(),
            dead: self.dead.get_or_create(&label).clone(),
            left_out: self.left_out.get_or_create(&label).clone(),
            latency: self.latency.get_or_create(&label).clone(),
            batch: self.batch.get_or_create(&label).clone(),
            breaker: self.breaker.get_or_create(&label).clone(),
            opened: self.opened.get_or_create(&label).clone(),
            backlog: self.backlog.get_or_create(&label).clone(),
            oldest: self.oldest.get_or_create(&label).clone(),
            warnings: self.warnings.get_or_create(&label).clone(),
        }
    }

    /// Has gauges of a sink that is gone not shown any more. Its counters stay.
    pub fn forget(&self, sink: &str) {
        let label = SinkLabel { sink: sink.into() };
        for gauge in [&self.breaker, &self.backlog, &self.oldest, &self.warnings] {
            gauge.remove(&label);
        }
    }

    /// Registers all of them.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("delivered", "Records that the sink confirmed", self.delivered.clone());
        registry.register("delivery_failures", "Records that came back undelivered and will be sent again", self.failed.clone());
        registry.register("dead_letters", "Records that the sink refused for good", self.dead.clone());
        registry.register(
            "left_out",
            "Records left out for a sink that was further behind than its maxLag",
            self.left_out.clone(),
        );
        registry.register_with_unit(
            "delivery_latency",
            "Time from receipt to the sink's confirmation",
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
