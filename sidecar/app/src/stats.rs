//! `/v1/stats`: how things stand, and what to do about it.
use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use serde_json::{Value, json};

use steno_deliver::{Snapshot, Which};
use steno_journal::{Damage, Extent};

use crate::{
    intake::Intake,
    intents::Intents,
    outlets::{KAFKA, Standing},
    reload::LastReload,
};

/// What the stats are made from.
pub struct Stats {
    intake: Arc<Intake>,
    reload: Arc<Mutex<LastReload>>,
    uuid: String,
    /// UID of the pod, by which who asks knows whom it asked.
    pod_uid: String,
    /// Counters of the last minute: when, accepted, failures, used bytes.
    history: Mutex<VecDeque<Sample>>,
    /// Why the journal is not on the volume that it should be on.
    fell_back: Option<String>,
    /// Files that are named like segments and could not be used when the journal was opened, with the reason.
    unusable: Vec<String>,
}

#[derive(Clone, Copy)]
struct Sample {
    at: Instant,
    accepted: u64,
    failures: u64,
    used: i64,
}

const MINUTE: Duration = Duration::from_mins(1);
/// A disk that has not answered for so long counts as hanging. A slow sync takes tens of milliseconds.
const DISK_HANGS_AFTER: Duration = Duration::from_secs(5);
/// Chains that are listed of a loss; the records in the chains name all.
const SHOWN_CHAINS: usize = 32;

// === impl Stats ===

impl Stats {
    /// Stats over what requests share.
    pub fn new(
        intake: Arc<Intake>,
        reload: Arc<Mutex<LastReload>>,
        uuid: [u8; 16],
        pod_uid: String,
        fell_back: Option<String>,
        unusable: Vec<String>,
    ) -> Self {
        let uuid = uuid::Uuid::from_bytes(uuid).to_string();
        Self { intake, reload, uuid, pod_uid, history: Mutex::new(VecDeque::new()), fell_back, unusable }
    }

    fn now(&self) -> Sample {
        let metrics = &self.intake.metrics;
        Sample {
            at: Instant::now(),
            accepted: metrics.commit.accepted.get(),
            failures: metrics.commit.failed_blocks.get() + metrics.deliver.of(KAFKA).failed.get(),
            used: metrics.commit.spool_bytes.get(),
        }
    }

    /// Takes a sample; called every few seconds.
    pub fn sample(&self) {
        let now = self.now();
        let mut history = self.history.lock();
        while history.front().is_some_and(|oldest| now.at - oldest.at > MINUTE) {
            history.pop_front();
        }
        history.push_back(now);
    }

    /// The names of all sinks.
    pub fn sinks(&self) -> Vec<String> {
        self.intake.outlets.names()
    }

    /// Has dead letters delivered again. How many are asked for now.
    ///
    /// # Errors
    /// `dead/` cannot be written.
    pub fn requeue(&self, which: &Which, sink: Option<&str>) -> std::io::Result<usize> {
        self.intake.outlets.requeue(which, sink)
    }

    /// Brings gauges up to date that nobody else sets.
    pub fn refresh(&self) {
        self.intake.outlets.refresh(wall_ms());
        self.intake.intents.refresh(wall_ms());
    }

    /// Why the journal takes no writes; `None`: it does.
    pub fn not_ready(&self) -> Option<String> {
        if self.intake.stopping.load(Ordering::Acquire) {
            return Some("The sidecar is shutting down.".into());
        }
        self.disk_fault()
    }

    /// What is wrong with the journal's disk, made from progress: a disk that hangs answers nothing, not even with an error.
    fn disk_fault(&self) -> Option<String> {
        let commit = &self.intake.metrics.commit;
        if let Some(waits) = commit.progress.waits().filter(|waits| *waits >= DISK_HANGS_AFTER) {
            return Some(format!("The journal's disk has not answered for {} s.", waits.as_secs()));
        }
        let fault = || "The journal could not be written the last time; the log says why.".to_owned();
        (!commit.writable.load(Ordering::Relaxed)).then(fault)
    }

    /// What is wrong with the journal itself.
    fn journal_issues(&self, issues: &mut Vec<String>, recommend: &mut impl FnMut(&str, String)) {
        let commit = &self.intake.metrics.commit;
        issues.extend(self.disk_fault());
        if commit.full.load(Ordering::Relaxed) {
            issues.push("the spool is full: new events are refused or dropped, as the policy says".into());
        }
        let lost = commit.lost.get();
        if lost > 0 {
            issues
                .push(format!("at most {lost} records of the journal were lost to damage since the start; the chains name them"));
            recommend(
                "error",
                "Check the disk of the spool. The lost records are named by Recovered and Quarantine records.".into(),
            );
        }
        issues.extend(self.unusable.iter().map(|file| format!("a segment of the journal could not be used: {file}")));
    }

    /// The journal as JSON.
    fn journal(&self) -> Value {
        let (shared, commit) = (&self.intake.shared, &self.intake.metrics.commit);
        json!({
            "uuid": self.uuid,
            "nextSeq": shared.synced(),
            "oldestSeq": shared.oldest(),
            "usedBytes": commit.spool_bytes.get(),
            "undeliveredBytes": commit.undelivered_bytes.get(),
            "lostRecords": commit.lost.get(),
            "losses": self.lost(),
            "fellBack": self.fell_back,
            "maxBytes": commit.spool_limit.get(),
            "dedupeEntries": commit.dedupe_entries.get(),
            "chains": commit.chains.get(),
        })
    }

    /// Losses as JSON: ranges of sequence numbers, and of the chains.
    fn lost(&self) -> Value {
        let range = |damage: &Damage| {
            let chains = damage.ranges.iter().map(|range| json!({"chainId": range.id, "first": range.first, "last": range.last}));
            json!({
                "firstSeq": damage.first_seq,
                "nextSeq": damage.next_seq,
                "atMost": damage.extent == Extent::AtMost,
                "chains": chains.take(SHOWN_CHAINS).collect::<Vec<_>>(),
            })
        };
        self.intake.metrics.commit.losses.lock().iter().map(range).collect()
    }

    /// All of it.
    pub fn json(&self) -> Value {
        let (intake, reload) = (&self.intake, self.reload.lock().clone());
        let standings = intake.outlets.standings();
        // Kafka is the first.
        let delivery = standings.first().map(|standing| standing.snapshot.clone()).unwrap_or_default();
        let compiled = intake.compiled.load();
        let (metrics, now) = (&intake.metrics, self.now());
        let before = self.history.lock().front().copied().unwrap_or(now);
        let (used, limit) = (metrics.commit.spool_bytes.get(), metrics.commit.spool_limit.get());
        let mut issues = Vec::new();
        let mut recommendations = Vec::new();
        let mut recommend =
            |severity: &str, message: String| recommendations.push(json!({"severity": severity, "message": message}));
        let issue = delivery.issue(wall_ms());
        issues.extend(issue.clone());
        if delivery.breaker != "closed" {
            recommend(
                "error",
                format!(
                    "Kafka takes nothing ({}). Events are {} meanwhile.",
                    delivery.reason,
                    if compiled.config.spec.breaker.when_open == steno_crds::WhenOpen::Spool { "spooled" } else { "refused" }
                ),
            );
        } else if !delivery.reason.is_empty() && delivery.failures > 0 {
            recommend("warning", format!("The last delivery failed: {}.", delivery.reason));
        }
        if let Some(issue) = issue.filter(|_| delivery.breaker == "closed") {
            recommend("warning", format!("Kafka: {issue}."));
        }
        let grown = (now.used - before.used) as f64 / (now.at - before.at).as_secs_f64().max(1.0);
        further(&standings, &mut issues, &mut recommend);
        let backlog = standings.iter().filter(|standing| standing.required).map(|standing| standing.snapshot.backlog).max();
        if grown > 0.0 && limit > 0 && backlog > Some(0) {
            let minutes = (limit - used) as f64 / grown / 60.0;
            if minutes < 120.0 {
                recommend(
                    "warning",
                    format!("The spool is full in {minutes:.0} minutes at this rate; raise spool.maxBytes or mend the delivery."),
                );
            }
        }
        self.journal_issues(&mut issues, &mut recommend);
        if limit > 0 && used * 10 > limit * 9 {
            issues.push("the spool is more than 90 % full".into());
        }
        if let Some(error) = &reload.error {
            issues.push("the configuration file does not count, or not all of it".into());
            recommend("error", format!("The configuration: {error}."));
        }
        issues.extend(compiled.no_key.clone());
        issues.extend(intake.listener_faults.lock().iter().cloned());
        let adoption = intake.adoption.lock().clone();
        issues.extend(adoption.issue());
        let intents = intents(&intake.intents, compiled.config.spec.intents.enabled, &mut issues, &mut recommend);
        issues.extend(compiled.missing_secrets.iter().map(|secret| format!("the Secret {secret} is missing")));
        if let Some(fault) = &self.fell_back {
            issues.push(format!("the journal is on the pod's own directory and goes with it: {fault}"));
            recommend(
                "error",
                "Let user 65532 write to the volume: set securityContext.fsGroup in the pod, or prepare the directory.".into(),
            );
        }
        delivery.warnings.iter().for_each(|warning| recommend("warning", format!("Preflight: {warning}.")));
        compiled.advice.iter().for_each(|advice| recommend("warning", format!("{advice}.")));
        json!({
            "podUid": self.pod_uid,
            "health": {"status": if issues.is_empty() { "ok" } else { "degraded" }, "issues": issues},
            "metrics": {
                "queue_length": intake.commit.queued() as u64 + backlog.unwrap_or(0),
                "current_batch_size": delivery.batch_size,
                "inserts_last_minute": now.accepted - before.accepted,
                "failures_last_minute": now.failures - before.failures,
                "avg_batch_time_ms": rounded(delivery.batch_ms),
                "total_accepted_events": now.accepted,
                "total_duplicate_events": metrics.commit.duplicates.get(),
                "total_conflict_events": metrics.commit.conflicts.get(),
                "total_dropped_events": metrics.commit.dropped.get(),
                "total_overflow_events": metrics.refused.get_or_create(&crate::telemetry::ReasonLabel { reason: "spool_full" }).get(),
                "total_delivered_records": delivery.delivered,
                "total_dead_letters": delivery.dead,
            },
            "breaker": {"state": delivery.breaker, "reason": delivery.reason, "since": steno_event::format_millis(delivery.since_ms), "failures": delivery.failures},
            "sinks": standings.iter().map(shown).collect::<Vec<_>>(),
            "intents": intents,
            "journal": self.journal(),
            "left": {"folders": adoption.left, "adopted": adoption.folder, "undelivered": adoption.undelivered, "fault": adoption.fault},
            "config": {
                "hash": compiled.config.hash,
                "policy": format!("{}/{}", compiled.config.policy.namespace, compiled.config.policy.name),
                "loadedAt": steno_event::format_millis(reload.loaded_ms),
                "error": reload.error,
                "partial": compiled.unknown.iter().chain(&reload.needs_restart).collect::<Vec<_>>(),
            },
            "secrets": compiled.missing_secrets.iter().map(|name| json!({"name": name, "state": "missing"})).collect::<Vec<_>>(),
            "recommendations": recommendations,
        })
    }
}

/// What there is to tell of the sinks beside Kafka.
fn further(standings: &[Standing], issues: &mut Vec<String>, recommend: &mut impl FnMut(&str, String)) {
    for Standing { name, required, snapshot, .. } in standings.iter().filter(|standing| standing.name != KAFKA) {
        let issue = snapshot.issue(wall_ms());
        issues.extend(issue.iter().map(|issue| format!("sink {name}: {issue}")));
        if snapshot.breaker != "closed" {
            let meanwhile =
                if *required { "Its records stay in the spool" } else { "Past its maxLag records are left out for it" };
            let severity = if *required { "error" } else { "warning" };
            recommend(severity, format!("Sink {name} takes nothing ({}). {meanwhile}.", snapshot.reason));
        } else if !snapshot.reason.is_empty() && snapshot.failures > 0 {
            recommend("warning", format!("The last delivery to sink {name} failed: {}.", snapshot.reason));
        }
        if let Some(issue) = issue.filter(|_| snapshot.breaker == "closed") {
            recommend("warning", format!("Sink {name}: {issue}."));
        }
        if snapshot.left_out > 0 {
            recommend("warning", format!("{} records were left out for sink {name} since the start.", snapshot.left_out));
        }
    }
}

/// How write intents stand; null: the policy has none.
fn intents(intents: &Intents, wanted: bool, issues: &mut Vec<String>, recommend: &mut impl FnMut(&str, String)) -> Value {
    if let Some(fault) = intents.fault() {
        issues.push(format!("write intents are not as the policy asks for: {fault}"));
    }
    let Some(standing) = intents.standing() else { return Value::Null };
    if !standing.writable {
        issues.push("the journal of write intents could not be written the last time".into());
    }
    let age_ms = standing.oldest_ms.map_or(0, |oldest| wall_ms().saturating_sub(oldest));
    if !wanted && standing.open > 0 {
        recommend(
            "warning",
            format!("{} write intents are open, and the policy allows no new ones; resolve them.", standing.open),
        );
    }
    if age_ms > 600_000 {
        recommend(
            "warning",
            format!("The oldest open write intent is {} minutes old; does the application replay them?", age_ms / 60_000),
        );
    }
    let sink = &standing.sink;
    issues.extend(sink.issue(wall_ms()).map(|issue| format!("the intents' topic: {issue}")));
    json!({
        "open": standing.open,
        "oldestOpenMs": age_ms,
        "usedBytes": standing.used,
        "destination": sink.destination,
        "backlog": sink.backlog,
        "delivered": sink.delivered,
        "deadLetters": sink.dead,
        "breaker": {"state": sink.breaker, "reason": sink.reason},
        "warnings": sink.warnings,
    })
}

fn shown(standing: &Standing) -> Value {
    let Standing { name, required, kind, snapshot } = standing;
    json!({
        "name": name,
        "type": kind,
        "required": required,
        "destination": snapshot.destination,
        "position": snapshot.position,
        "backlog": snapshot.backlog,
        "inFlight": snapshot.in_flight,
        "oldestUndeliveredMs": age(snapshot),
        "delivered": snapshot.delivered,
        "deadLetters": snapshot.dead,
        "deadLettersKept": snapshot.dead_kept,
        "stalledBy": snapshot.stall(wall_ms()),
        "stalledMs": if snapshot.backlog > 0 { snapshot.stalled_ms } else { 0 },
        "leftOut": snapshot.left_out,
        "avgBatchTimeMs": rounded(snapshot.batch_ms),
        "breaker": {
            "state": snapshot.breaker,
            "reason": snapshot.reason,
            "since": steno_event::format_millis(snapshot.since_ms),
            "failures": snapshot.failures,
        },
        "warnings": snapshot.warnings,
    })
}

fn age(snapshot: &Snapshot) -> u64 {
    snapshot.age_ms(wall_ms())
}

fn rounded(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

fn wall_ms() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
