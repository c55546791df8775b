//! What a ClusterAuditPolicy does to the AuditPolicies that it covers. A namespace may tighten, never loosen.
//!
//! The rules are [`RULES`], a table that is part of the reference page. Of several ClusterAuditPolicies all count, in the order of their names;
//! only for `kafka` and the key does that order matter.
use std::{collections::BTreeSet, fmt::Debug};

use crate::{
    Ack, AuditPolicy, AuditPolicySpec, ClusterAuditPolicySpec, Detector, Fault, Redaction, RedactionAction, RedactionRule, Scope,
    SidecarConfig, WhenFull,
    advice::{Risk, advice},
    render,
};

/// The rules, for the reference page.
pub(crate) const RULES: &str = "\
| field of the AuditPolicy | with what the ClusterAuditPolicy sets |
|---|---|
| `kafka.brokers`, `tls`, `sasl`, `create` | the cluster's, all together, where the namespace names no brokers |
| `kafka.config` | with the cluster's brokers: its entries, where the namespace has none of that name |
| `kafka.topic` | the cluster's, where the namespace names none |
| `redaction.builtin` | true where either says so |
| `redaction.rules` | both, the namespace's first; the strongest action that matches a value wins |
| `redaction.rules[].except` | a namespace's exception from a builtin detector does not count where the cluster has `builtin` on and no rule of that detector itself |
| `redaction.keySecretRef` | the cluster's, where the namespace names none |
| `require` | both |
| `capture.*` | false where either says so |
| `limits.*`, `limits.rate.*` | the smaller; not set is unlimited |
| `ack` | the stronger of `Written`, `Durable`, `Delivered` |
| `integrity.scope` | the wider of `None`, `Service`, `Tenant` |
| `spool.maxBytes` | the smaller |
| `spool.whenFull` | `Reject` instead of `DropOldest` and `DropNewest`, where `spool.mayDrop` is false |
| `spool.volume.type`, `sinks[].file.volume.type` | the policy is not accepted, where `spool.volumeTypes` lists other ones only |
| `kafka.tls`, `sinks[].http.url` | the policy is not accepted if `network.plainText` is false and it sends in plain text, or if `network.linkLocal` is false and it sends to a link-local address or a metadata service |
| everything else | the namespace's |

Of several ClusterAuditPolicies that cover a namespace all count. Their order, that of their names, matters for `kafka` and the key only.
";

/// A ClusterAuditPolicy that covers a namespace.
#[derive(Debug, Clone, PartialEq)]
pub struct Covering {
    /// Its name.
    pub name: String,
    /// What it asks.
    pub spec: ClusterAuditPolicySpec,
}

/// A specification under ClusterAuditPolicies.
#[derive(Debug, Clone, PartialEq)]
pub struct Merged {
    /// What counts.
    pub spec: AuditPolicySpec,
    /// What was inherited: paths below `spec`, each with the ClusterAuditPolicy that it comes from.
    pub inherited: Vec<String>,
    /// What the ClusterAuditPolicies forbid and no value mends.
    pub faults: Vec<Fault>,
}

/// A policy under the ClusterAuditPolicies that cover its namespace, rendered; and what it inherited.
pub fn render_under(policy: &AuditPolicy, covering: &[Covering]) -> Result<(SidecarConfig, Vec<String>), Vec<Fault>> {
    // What is wrong with the policy itself is told of it, not of what it became; Kafka may come from elsewhere.
    let Merged { spec, inherited, mut faults } = merge(&policy.spec, covering);
    match render(&AuditPolicy { spec, ..policy.clone() }) {
        Ok(config) if faults.is_empty() => Ok((config, inherited)),
        Ok(_) => Err(faults),
        Err(more) => {
            // A fault of a value that was inherited is nothing that the namespace could mend.
            faults.extend(more.into_iter().map(
                |fault| match inherited.iter().find(|path| fault.path.starts_with(&at_spec(path))) {
                    Some(from) => Fault::new(fault.path, format!("{} (inherited: {from})", fault.message)),
                    None => fault,
                },
            ));
            Err(faults)
        }
    }
}

fn at_spec(inherited: &str) -> String {
    format!("spec.{}", inherited.split(' ').next().unwrap_or_default())
}

/// A specification under the ClusterAuditPolicies that cover it, in the order of their names.
pub fn merge(spec: &AuditPolicySpec, covering: &[Covering]) -> Merged {
    let mut covering: Vec<&Covering> = covering.iter().collect();
    covering.sort_by(|a, b| a.name.cmp(&b.name));
    let mut merged = Merged { spec: spec.clone(), inherited: Vec::new(), faults: Vec::new() };
    for one in &covering {
        merged.under(one);
    }
    // When all rules are there: what one ClusterAuditPolicy excepts another may forbid.
    for one in covering.iter().filter(|one| one.spec.redaction.builtin) {
        if close(&mut merged.spec.redaction, &one.spec.redaction) {
            merged.inherited.push(format!("redaction.rules (ClusterAuditPolicy {})", one.name));
        }
    }
    // When it is known whose brokers count.
    for found in advice(&merged.spec) {
        let forbids = |one: &&&Covering| match found.risk {
            Risk::PlainText => one.spec.network.plain_text == Some(false),
            Risk::LinkLocal => one.spec.network.link_local == Some(false),
        };
        if let Some(one) = covering.iter().find(forbids) {
            let message = format!("{}; the ClusterAuditPolicy {} forbids it", found.message, one.name);
            merged.faults.push(Fault::new(found.path, message));
        }
    }
    merged.inherited.sort();
    merged.inherited.dedup();
    merged
}

// === impl Merged ===

impl Merged {
    fn under(&mut self, covering: &Covering) {
        let Merged { spec, inherited, faults } = self;
        let (name, asks) = (&covering.name, &covering.spec);
        let mut told = |path: &str| inherited.push(format!("{path} (ClusterAuditPolicy {name})"));
        kafka(spec, asks, &mut told);
        redaction(&mut spec.redaction, &asks.redaction, &mut told);
        for member in &asks.require {
            if !spec.require.contains(member) {
                spec.require.push(member.clone());
                told("require");
            }
        }
        let capture = &asks.capture;
        let of_capture = [
            ("capture.requestBodies", &mut spec.capture.request_bodies, capture.request_bodies),
            ("capture.responseBodies", &mut spec.capture.response_bodies, capture.response_bodies),
        ];
        for (path, value, may) in of_capture {
            if *value && may == Some(false) {
                *value = false;
                told(path);
            }
        }
        let (limits, of_limits) = (&mut spec.limits, &asks.limits);
        at_most("limits.maxEventBytes", &mut limits.max_event_bytes, of_limits.max_event_bytes, &mut told);
        at_most("limits.maxBodyBytes", &mut limits.max_body_bytes, of_limits.max_body_bytes, &mut told);
        at_most("limits.maxBatchItems", &mut limits.max_batch_items, of_limits.max_batch_items, &mut told);
        at_most("limits.maxConnections", &mut limits.max_connections, of_limits.max_connections, &mut told);
        let (rate, of_rate) = (&mut limits.rate, &of_limits.rate);
        for (path, value, most) in [
            ("limits.rate.total", &mut rate.total, of_rate.total),
            ("limits.rate.perTenant", &mut rate.per_tenant, of_rate.per_tenant),
            ("limits.rate.burst", &mut rate.burst, of_rate.burst),
            ("limits.rate.critical", &mut rate.critical, of_rate.critical),
        ] {
            if let Some(most) = most.filter(|most| value.is_none_or(|value| value > *most)) {
                *value = Some(most);
                told(path);
            }
        }
        if let Some(least) = asks.ack.filter(|least| strength(*least) > strength(spec.ack)) {
            spec.ack = least;
            told("ack");
        }
        if let Some(least) = asks.integrity_scope.filter(|least| width(*least) > width(spec.integrity.scope)) {
            spec.integrity.scope = least;
            told("integrity.scope");
        }
        at_most("spool.maxBytes", &mut spec.spool.max_bytes, asks.spool.max_bytes, &mut told);
        if asks.spool.may_drop == Some(false) && matches!(spec.spool.when_full, WhenFull::DropNewest | WhenFull::DropOldest) {
            spec.spool.when_full = WhenFull::Reject;
            told("spool.whenFull");
        }
        let (kinds, kind) = (&asks.spool.volume_types, spec.spool.volume.r#type);
        if !kinds.is_empty() && !kinds.contains(&kind) {
            let message = format!("is {kind:?}; the ClusterAuditPolicy {name} allows {kinds:?} only");
            faults.push(Fault::new("spec.spool.volume.type", message));
        }
        for (index, sink) in spec.sinks.iter().enumerate() {
            let kind = sink.file.as_ref().and_then(|file| file.volume.as_ref()).map(|volume| volume.r#type);
            if let Some(kind) = kind.filter(|kind| !kinds.is_empty() && !kinds.contains(kind)) {
                let message = format!("is {kind:?}; the ClusterAuditPolicy {name} allows {kinds:?} only");
                faults.push(Fault::new(format!("spec.sinks[{index}].file.volume.type"), message));
            }
        }
    }
}

fn kafka(spec: &mut AuditPolicySpec, asks: &ClusterAuditPolicySpec, told: &mut impl FnMut(&str)) {
    let (kafka, default) = (&mut spec.kafka, &asks.kafka);
    if kafka.brokers.is_empty() && !default.brokers.is_empty() {
        // Brokers, and how they are trusted and spoken to, belong together.
        kafka.brokers.clone_from(&default.brokers);
        kafka.tls.clone_from(&default.tls);
        kafka.sasl.clone_from(&default.sasl);
        kafka.create.clone_from(&default.create);
        for (name, value) in &default.config {
            kafka.config.entry(name.clone()).or_insert_with(|| value.clone());
        }
        told("kafka.brokers");
    }
    if kafka.topic.is_empty() && !default.topic.is_empty() {
        kafka.topic.clone_from(&default.topic);
        told("kafka.topic");
    }
}

fn redaction(redaction: &mut Redaction, asks: &Redaction, told: &mut impl FnMut(&str)) {
    if asks.builtin && !redaction.builtin {
        redaction.builtin = true;
        told("redaction.builtin");
    }
    let mut is_more = false;
    for rule in &asks.rules {
        if !redaction.rules.contains(rule) {
            redaction.rules.push(rule.clone());
            is_more = true;
        }
    }
    if is_more {
        told("redaction.rules");
    }
    if redaction.key_secret_ref.is_none() && asks.key_secret_ref.is_some() {
        redaction.key_secret_ref.clone_from(&asks.key_secret_ref);
        told("redaction.keySecretRef");
    }
}

/// Takes back exceptions from builtin detectors that somebody else made: of the namespace, or of another ClusterAuditPolicy.
///
/// A rule of a builtin detector stands for the builtin one, exceptions and all. A second one without exceptions takes them back, since a value stays
/// only where each makes an exception; its action is no weaker than the builtin one's, whatever is written here.
fn close(redaction: &mut Redaction, asks: &Redaction) -> bool {
    let excepted = redaction.rules.iter().filter(|rule| !rule.except.is_empty()).filter_map(|rule| rule.detector);
    let is_open = |detector: &Detector| {
        // Where the cluster has a rule of the detector itself, that one does.
        let mut all = redaction.rules.iter().filter(|rule| rule.detector == Some(*detector));
        detector.is_builtin()
            && asks.rules.iter().all(|rule| rule.detector != Some(*detector))
            && all.all(|rule| !rule.except.is_empty())
    };
    let detectors: BTreeSet<Detector> = excepted.filter(is_open).collect();
    let plain = |detector| RedactionRule {
        path: None,
        detector: Some(detector),
        regex: None,
        action: RedactionAction::Mask,
        except: Vec::new(),
    };
    let is_more = !detectors.is_empty();
    redaction.rules.extend(detectors.into_iter().map(plain));
    is_more
}

fn at_most<T: PartialOrd + Copy + Debug>(path: &str, value: &mut T, most: Option<T>, told: &mut impl FnMut(&str)) {
    if let Some(most) = most.filter(|most| *value > *most) {
        *value = most;
        told(path);
    }
}

fn strength(ack: Ack) -> u8 {
    match ack {
        Ack::Written => 0,
        Ack::Durable => 1,
        Ack::Delivered => 2,
    }
}

fn width(scope: Scope) -> u8 {
    match scope {
        Scope::None => 0,
        Scope::Service => 1,
        Scope::Tenant => 2,
    }
}

#[cfg(test)]
mod tests;
