//! Metrics of the intake, and the registry of all.
use std::{num::NonZeroUsize, sync::Arc};

use lru::LruCache;
use parking_lot::Mutex;
use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram, info::Info},
    registry::{Registry, Unit},
};

/// A label's value that somebody else chose. The library writes values as they are, so that a quote or a line break in one would add lines, or have
/// the whole page refused; here they are escaped as the format says, and other control characters are left out.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Chosen(pub String);

impl EncodeLabelValue for Chosen {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        use std::fmt::Write as _;
        for c in self.0.chars() {
            match c {
                '\\' => encoder.write_str("\\\\")?,
                '"' => encoder.write_str("\\\"")?,
                '\n' => encoder.write_str("\\n")?,
                c if c.is_control() => encoder.write_char('\u{fffd}')?,
                c => encoder.write_char(c)?,
            }
        }
        Ok(())
    }
}

/// A rule of redaction.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RuleLabel {
    /// Its id.
    pub rule: Chosen,
}

/// A reason for a refusal.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReasonLabel {
    /// Its word.
    pub reason: &'static str,
}

/// A tenant. Only where the policy asks for it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct TenantLabel {
    /// Its id.
    pub tenant: Chosen,
}

/// Most different tenants that get a label.
const MOST_TENANTS: NonZeroUsize = NonZeroUsize::new(100).unwrap();
/// The label of all others.
const OTHERS: &str = "(other)";

/// Events by tenant: the tenants seen last have a label each. What one counted that loses its own goes to `(other)`, so that the sum is that of all events.
#[derive(Debug, Clone)]
pub struct Tenants {
    family: Family<TenantLabel, Counter>,
    seen: Arc<Mutex<LruCache<String, ()>>>,
}

impl Default for Tenants {
    fn default() -> Self {
        Self { family: Family::default(), seen: Arc::new(Mutex::new(LruCache::new(MOST_TENANTS))) }
    }
}

impl Tenants {
    /// Counts an event of a tenant.
    pub fn count(&self, tenant: &str) {
        let label = |tenant: String| TenantLabel { tenant: Chosen(tenant) };
        let mut seen = self.seen.lock();
        if seen.get(tenant).is_none()
            && let Some((last, ())) = seen.push(tenant.to_owned(), ())
        {
            let counted = self.family.get_or_create(&label(last.clone())).get();
            self.family.remove(&label(last));
            self.family.get_or_create(&label(OTHERS.into())).inc_by(counted);
        }
        // Under the lock, so that nothing is counted on a label that goes meanwhile.
        self.family.get_or_create(&label(tenant.to_owned())).inc();
    }
}

/// The intake's metrics.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// Events refused, by reason.
    pub refused: Family<ReasonLabel, Counter>,
    /// Values redacted, by rule.
    pub redactions: Family<RuleLabel, Counter>,
    /// Events kept as metadata only.
    pub redaction_failures: Counter,
    /// Events that were cut.
    pub truncated: Counter,
    /// Items that could not be read, of sources that cannot be told.
    pub quarantined: Counter,
    /// Time from request to answer.
    pub ack: Histogram,
    /// Requests by status class.
    pub requests: Family<StatusLabel, Counter>,
    /// Open connections.
    pub connections: Gauge,
    /// Events by tenant, where asked for.
    pub tenants: Tenants,
    /// Reloads by result.
    pub reloads: Family<ResultLabel, Counter>,
    /// Whether the last reload failed.
    pub config_error: Gauge,
    /// When the configuration was loaded.
    pub config_loaded: Gauge,
    /// Which configuration counts.
    pub config_hash: Family<HashLabel, Gauge>,
    /// Write intents.
    pub intents: IntentMetrics,
    /// What other sidecars left.
    pub adoption: AdoptionMetrics,
    /// The loop's.
    pub commit: steno_commit::Metrics,
    /// Delivery's.
    pub deliver: steno_deliver::Families,
}

/// Metrics of what other sidecars left on a shared volume.
#[derive(Debug, Clone, Default)]
pub struct AdoptionMetrics {
    /// Folders that nobody has.
    pub left: Gauge,
    /// Records of the adopted folder that are still to be delivered.
    pub undelivered: Gauge,
    /// Folders that were adopted and delivered.
    pub drained: Counter,
}

impl AdoptionMetrics {
    fn register(&self, registry: &mut Registry) {
        registry.register(
            "spool_folders_left",
            "Folders of the shared volume that hold events and have no sidecar, as this one sees them",
            self.left.clone(),
        );
        registry.register(
            "spool_adopted_undelivered_records",
            "Records still to be delivered of the folder that this sidecar took up from another one",
            self.undelivered.clone(),
        );
        registry.register(
            "spool_folders_adopted",
            "Folders of other sidecars that this one took up and delivered",
            self.drained.clone(),
        );
    }
}

/// Metrics of write intents.
#[derive(Debug, Clone, Default)]
pub struct IntentMetrics {
    /// Intents that came.
    pub opened: Counter,
    /// Intents that were resolved.
    pub resolved: Counter,
    /// Intents that nobody resolved in time.
    pub expired: Counter,
    /// Intents that are open.
    pub open: Gauge,
    /// Age of the oldest open one.
    pub oldest: Gauge,
    /// Bytes of their journal.
    pub bytes: Gauge,
}

impl IntentMetrics {
    fn register(&self, registry: &mut Registry) {
        registry.register("intents_opened", "Write intents that were taken", self.opened.clone());
        registry.register("intents_resolved", "Write intents that were resolved", self.resolved.clone());
        registry.register(
            "intents_expired",
            "Write intents that nobody resolved in time; each left an IntentExpired record",
            self.expired.clone(),
        );
        registry.register("intents_open", "Write intents that are open", self.open.clone());
        registry.register_with_unit(
            "intents_oldest_open",
            "Age of the oldest open write intent",
            Unit::Seconds,
            self.oldest.clone(),
        );
        registry.register_with_unit("intents_spool", "Bytes of the write intents' journal", Unit::Bytes, self.bytes.clone());
    }
}

/// A status of an answer.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct StatusLabel {
    /// The code.
    pub code: u16,
}

/// How a reload went.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ResultLabel {
    /// `ok` or `invalid`.
    pub result: &'static str,
}

/// A configuration.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct HashLabel {
    /// Its hash.
    pub hash: String,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            refused: Family::default(),
            redactions: Family::default(),
            redaction_failures: Counter::default(),
            truncated: Counter::default(),
            quarantined: Counter::default(),
            ack: Histogram::new((0..17).map(|step| 50e-6 * f64::from(1 << step))),
            requests: Family::default(),
            connections: Gauge::default(),
            tenants: Tenants::default(),
            reloads: Family::default(),
            config_error: Gauge::default(),
            config_loaded: Gauge::default(),
            config_hash: Family::default(),
            intents: IntentMetrics::default(),
            adoption: AdoptionMetrics::default(),
            commit: steno_commit::Metrics::default(),
            deliver: steno_deliver::Families::default(),
        }
    }
}

impl Metrics {
    /// A registry with everything in it.
    pub fn registry(&self) -> Registry {
        let mut registry = Registry::with_prefix("steno");
        registry.register("build", "Version of this sidecar", Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]));
        registry.register("events_refused", "Events that were not taken, by reason", self.refused.clone());
        registry.register("redactions", "Values redacted, by rule", self.redactions.clone());
        registry.register(
            "redaction_failures",
            "Events kept as metadata only because their redaction failed",
            self.redaction_failures.clone(),
        );
        registry.register("events_truncated", "Events whose largest values were cut", self.truncated.clone());
        registry.register(
            "items_rejected",
            "Items of batches, of OTLP and of the Kubernetes audit webhook that are no events; a Rejected record tells of them",
            self.quarantined.clone(),
        );
        registry.register_with_unit("ack", "Time from a request's head to its answer", Unit::Seconds, self.ack.clone());
        registry.register("http_requests", "Requests of the ingest listener, by status", self.requests.clone());
        registry.register("connections", "Open connections of the ingest listener", self.connections.clone());
        registry.register("tenant_events", "Events by tenant (only with sidecar.tenantMetrics)", self.tenants.family.clone());
        registry.register("config_reloads", "Reloads of the configuration, by result", self.reloads.clone());
        registry.register(
            "config_error",
            "1 while the configuration file is invalid and the old one counts",
            self.config_error.clone(),
        );
        registry.register_with_unit(
            "config_loaded_timestamp",
            "When the configuration was loaded, since 1970",
            Unit::Seconds,
            self.config_loaded.clone(),
        );
        registry.register("config_hash", "Hash of the configuration that counts", self.config_hash.clone());
        self.intents.register(&mut registry);
        self.adoption.register(&mut registry);
        self.commit.register(&mut registry);
        self.deliver.register(&mut registry);
        registry
    }
}

/// The registry's text, OpenMetrics.
pub fn render(registry: &Registry) -> String {
    let mut text = String::with_capacity(16 << 10);
    // Writing to a String does not fail.
    let _ = encode(&mut text, registry);
    text
}

/// The reference page of the metrics.
pub fn reference() -> String {
    let metrics = Metrics::default();
    // A metric with labels shows when it has some.
    let label = "";
    drop(metrics.deliver.of(label));
    drop(metrics.refused.get_or_create(&ReasonLabel { reason: label }));
    drop(metrics.redactions.get_or_create(&RuleLabel { rule: Chosen(label.into()) }));
    drop(metrics.requests.get_or_create(&StatusLabel { code: 0 }));
    metrics.tenants.count(label);
    drop(metrics.reloads.get_or_create(&ResultLabel { result: label }));
    drop(metrics.config_hash.get_or_create(&HashLabel { hash: label.into() }));
    let text = render(&metrics.registry());
    let mut page = String::from(
        "# Metrics\n\n<!-- Generated by `make generate`; do not edit. -->\n\nOpenMetrics text on `/metrics` of the status port. \
         Labels are bounded; tenants get a label only with `sidecar.tenantMetrics`.\n\n| name | type | meaning |\n|---|---|---|\n",
    );
    let mut help = std::collections::BTreeMap::new();
    for line in text.lines().filter_map(|line| line.strip_prefix("# ")) {
        let mut parts = line.splitn(3, ' ');
        match (parts.next(), parts.next(), parts.next()) {
            (Some("HELP"), Some(name), Some(text)) => {
                help.entry(name.to_owned()).or_insert((String::new(), String::new())).1 = text.to_owned();
            }
            (Some("TYPE"), Some(name), Some(kind)) => {
                help.entry(name.to_owned()).or_insert((String::new(), String::new())).0 = kind.to_owned();
            }
            _ => {}
        }
    }
    for (name, (kind, text)) in help {
        let shown = if kind == "counter" { format!("{name}_total") } else { name };
        page.push_str(&format!("| `{shown}` | {kind} | {} |\n", text.trim_end_matches('.')));
    }
    page
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_reference_page_is_what_is_registered() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reference/metrics.md");
        let page = super::reference();
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(path, &page).unwrap();
        }
        assert_eq!(std::fs::read_to_string(path).unwrap_or_default(), page, "run `make generate`");
    }
}
