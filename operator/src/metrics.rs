//! What the operator counts.
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

/// Media type of OpenMetrics.
pub const MEDIA: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Of an admission.
#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct AdmissionLabel {
    /// What it came to.
    pub result: String,
    /// Why.
    pub reason: String,
}

/// Of a reconcile.
#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct ResultLabel {
    /// `ok` or `error`.
    pub result: &'static str,
}

/// The metrics.
#[derive(Clone)]
pub struct Metrics {
    admissions: Family<AdmissionLabel, Counter>,
    /// Time of an admission in this process, seconds.
    pub admission: Histogram,
    /// Reconciles.
    pub reconciles: Family<ResultLabel, Counter>,
    /// Time of a reconcile, seconds.
    pub reconcile: Histogram,
    /// When the webhook's certificate ends, seconds since 1970.
    pub certificate_end: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            admissions: Family::default(),
            admission: Histogram::new(exponential_buckets(0.000_1, 2.0, 14)),
            reconciles: Family::default(),
            reconcile: Histogram::new(exponential_buckets(0.001, 2.0, 16)),
            certificate_end: Gauge::default(),
        }
    }
}

impl Metrics {
    /// The counter of an outcome.
    pub fn admissions(&self, result: &str, reason: &str) -> impl std::ops::Deref<Target = Counter> {
        self.admissions.get_or_create(&AdmissionLabel { result: result.into(), reason: reason.into() })
    }

    /// All of them, as OpenMetrics.
    pub fn text(&self) -> String {
        let mut registry = Registry::with_prefix("steno_operator");
        registry.register("admissions", "Admission reviews by what they came to", self.admissions.clone());
        registry.register("admission_seconds", "Time of an admission in this process", self.admission.clone());
        registry.register("reconciles", "Reconciles of policies", self.reconciles.clone());
        registry.register("reconcile_seconds", "Time of a reconcile", self.reconcile.clone());
        registry.register(
            "certificate_end_seconds",
            "When the webhook's certificate ends, since 1970",
            self.certificate_end.clone(),
        );
        let mut text = String::new();
        let _ = encode(&mut text, &registry);
        text
    }
}
