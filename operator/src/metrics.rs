//! What the operator counts.
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

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
use steno_crds::Fleet;

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
struct ResultLabel {
    /// `ok` or `error`.
    result: &'static str,
}

/// Of a policy.
#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct PolicyLabel {
    namespace: String,
    policy: String,
}

/// Of pods without the sidecar.
#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct MissedLabel {
    namespace: String,
    reason: String,
}

/// How the pods of each policy, by namespace and name, stand.
pub type Fleets = BTreeMap<(String, String), (Fleet, u64)>;

/// The metrics.
#[derive(Clone)]
pub struct Metrics {
    /// The pods of each policy, and events that they dropped.
    pub fleets: Arc<Mutex<Fleets>>,
    /// Pods that ask and have no sidecar, by namespace and reason.
    pub missed: Arc<Mutex<BTreeMap<(String, &'static str), i64>>>,
    /// 1: this process reconciles.
    pub leading: Gauge,
    /// Events that pods took with them when they were deleted.
    abandoned: Family<PolicyLabel, Counter>,
    admissions: Family<AdmissionLabel, Counter>,
    /// Time of an admission in this process, seconds.
    pub admission: Histogram,
    reconciles: Family<ResultLabel, Counter>,
    reconcile: Histogram,
    /// When the webhook's certificate ends, seconds since 1970.
    pub certificate_end: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            fleets: Arc::default(),
            missed: Arc::default(),
            leading: Gauge::default(),
            abandoned: Family::default(),
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

    /// Counts undelivered events of a sidecar that ended. A policy has its counter from the beginning, so that the first loss is seen as an increase.
    pub fn abandoned(&self, namespace: &str, policy: &str, events: u64) {
        self.abandoned.get_or_create(&PolicyLabel { namespace: namespace.into(), policy: policy.into() }).inc_by(events);
    }

    /// A policy is gone.
    pub fn forget(&self, namespace: &str, policy: &str) {
        self.abandoned.remove(&PolicyLabel { namespace: namespace.into(), policy: policy.into() });
    }

    /// Counts a reconcile that took `seconds`.
    pub fn reconciled(&self, went_well: bool, seconds: f64) {
        self.reconcile.observe(seconds);
        self.reconciles.get_or_create(&ResultLabel { result: if went_well { "ok" } else { "error" } }).inc();
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
        registry.register("leading", "1 where this process reconciles", self.leading.clone());
        registry.register(
            "abandoned_events",
            "Undelivered events in the spools of sidecars that ended, as they told",
            self.abandoned.clone(),
        );
        self.of_fleets(&mut registry);
        let mut text = String::new();
        let _ = encode(&mut text, &registry);
        text
    }

    fn of_fleets(&self, registry: &mut Registry) {
        let Ok(fleets) = self.fleets.lock() else { return };
        let mut add = |name: &str, help: &str, value: &dyn Fn(&(Fleet, u64)) -> u64| {
            let family = Family::<PolicyLabel, Gauge>::default();
            for ((namespace, policy), fleet) in &*fleets {
                let label = PolicyLabel { namespace: namespace.clone(), policy: policy.clone() };
                family.get_or_create(&label).set(i64::try_from(value(fleet)).unwrap_or(i64::MAX));
            }
            registry.register(name, help, family);
        };
        add("pods_matched", "Pods that ask for the policy", &|(fleet, _)| fleet.matched);
        add("pods_injected", "Pods of the policy that have the sidecar", &|(fleet, _)| fleet.injected);
        add("pods_ready", "Pods whose sidecar is started", &|(fleet, _)| fleet.ready);
        add("pods_pending", "Pods whose sidecar has not begun, or was not asked yet", &|(fleet, _)| fleet.pending);
        add("pods_unknown", "Pods whose sidecar does not answer", &|(fleet, _)| fleet.unknown);
        add("pods_not_asked", "Pods on the host's network without a port to be asked on", &|(fleet, _)| fleet.not_asked);
        add("pods_current", "Pods that run by the current configuration", &|(fleet, _)| fleet.current);
        add("pods_config_error", "Pods that do not take the current configuration, or not all of it", &|(fleet, _)| {
            fleet.config_errors
        });
        add("pods_breaker_open", "Pods that hold their events back", &|(fleet, _)| fleet.breaker_open);
        add("spooled_events", "Events that wait for delivery", &|(fleet, _)| fleet.spooled_events);
        add("folders_left", "Folders of a shared volume that hold events and have no sidecar", &|(fleet, _)| fleet.folders_left);
        add("spooled_bytes", "Bytes of the pods' spools", &|(fleet, _)| fleet.spooled_bytes);
        add("oldest_undelivered_seconds", "Age of the oldest undelivered event", &|(fleet, _)| {
            fleet.oldest_undelivered_seconds.unwrap_or_default()
        });
        add("dropped_events", "Events that running sidecars dropped, as spool.whenFull says", &|(_, dropped)| *dropped);
        let missed = Family::<MissedLabel, Gauge>::default();
        for ((namespace, reason), count) in self.missed.lock().iter().flat_map(|missed| missed.iter()) {
            missed.get_or_create(&MissedLabel { namespace: namespace.clone(), reason: (*reason).into() }).set(*count);
        }
        registry.register("missed_pods", "Pods that ask for the sidecar and run without it", missed);
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    #[test]
    fn the_metrics_page_is_what_the_program_says() {
        let metrics = Metrics::default();
        // Families are shown once there is something to show.
        metrics.admissions("injected", "").inc();
        metrics.reconciled(true, 0.1);
        metrics.fleets.lock().unwrap().insert(("shop".into(), "audit".into()), Default::default());
        metrics.abandoned("shop", "audit", 0);
        metrics.missed.lock().unwrap().insert(("shop".into(), "Missed"), 1);
        let text = metrics.text();
        let mut page = String::from(
            "# Metrics of the operator\n\n<!-- Generated by `make generate`; do not edit. -->\n\nOpenMetrics text on `/metrics` of port 8081, of \
             both Deployments. What is told of a fleet is told by the one that leads. Labels: `result` and `reason` of admissions; `namespace` and \
             `policy` of a fleet; `namespace` and `reason` of missed pods.\n\n| name | type | meaning |\n|---|---|---|\n",
        );
        let mut rows: Vec<(String, String, String)> = Vec::new();
        for line in text.lines() {
            let mut words = line.splitn(4, ' ');
            match (words.next(), words.next(), words.next(), words.next()) {
                (Some("#"), Some("HELP"), Some(name), Some(help)) => {
                    rows.push((name.into(), String::new(), help.trim_end_matches('.').into()));
                }
                (Some("#"), Some("TYPE"), Some(name), Some(kind)) => {
                    if let Some(row) = rows.iter_mut().find(|row| row.0 == name) {
                        row.1 = kind.into();
                    }
                }
                _ => {}
            }
        }
        assert!(rows.len() > 15, "{rows:?}");
        rows.sort();
        for (name, kind, help) in rows {
            let total = if kind == "counter" { "_total" } else { "" };
            let _ = writeln!(page, "| `{name}{total}` | {kind} | {help} |");
        }
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/reference/operator-metrics.md");
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(path, &page).unwrap();
        }
        assert!(
            std::fs::read_to_string(path).unwrap_or_default() == page,
            "{path} is not what the program says: run `make generate`"
        );
    }
}
