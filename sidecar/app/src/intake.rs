//! From an event's text to an item for the commit loop, and from the loop's answer to the client's.
use std::{
    num::NonZeroUsize,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use steno_commit::{Answer, Failure, Handle, Item};
use steno_crds::{Rate, WhenFull, WhenOpen};
use steno_deliver::Fate;
use steno_event::{
    Draft, IdKey, Received, encode, fingerprint,
    formats::{NO_UTF8, cloudevents},
    identity, json,
};
use steno_journal::Shared;
use steno_limit::{Bucket, Limited, Quota, Tenants};
use steno_redact::{Fit, HashKey};

use crate::{
    adoption::Adoption,
    intents::Intents,
    outlets::Outlets,
    policy::Compiled,
    problem::{Problem, Reason},
    telemetry::{Chosen, Metrics, ReasonLabel, RuleLabel},
};

/// Bytes that the `integrity` member may need besides the chain's id.
const INTEGRITY: usize = 320;

/// What all requests share.
pub struct Intake {
    /// The configuration.
    pub compiled: Arc<ArcSwap<Compiled>>,
    /// The commit loop.
    pub commit: Handle,
    /// Where records go.
    pub outlets: Arc<Outlets>,
    /// Write intents.
    pub intents: Arc<Intents>,
    /// The journal, for what is synced.
    pub shared: Arc<Shared>,
    /// The index of the journal, where the policy lets the pod look back.
    pub look: crate::look::Look,
    /// The journal's key for ids.
    pub key: IdKey,
    /// The same, for identifiers in which there is a secret.
    pub identity_key: HashKey,
    /// What is counted.
    pub metrics: Metrics,
    /// Rate limits.
    pub rates: Mutex<Rates>,
    /// What is wrong with further listeners.
    pub listener_faults: Mutex<Vec<String>>,
    /// What other sidecars left.
    pub adoption: Mutex<Adoption>,
    /// No more events are taken.
    pub stopping: AtomicBool,
    /// In `whenOpen: Reject`, one request was let in while the breaker is half-open.
    pub let_in: AtomicBool,
    /// Start of the clock of rates.
    pub started: Instant,
}

/// The buckets.
pub struct Rates {
    total: Option<Bucket>,
    critical: Option<Bucket>,
    tenants: Option<Tenants>,
}

/// What became of an event, for the client.
#[derive(Debug, Clone, PartialEq)]
pub struct Taken {
    /// HTTP status.
    pub status: u16,
    /// The word.
    pub word: &'static str,
    /// The event's id.
    pub event_id: String,
    /// `delivered` or `spooled`, where it was waited for.
    pub delivery: Option<&'static str>,
    /// `Some(false)`: the payloads could not be compared.
    pub compared: Option<bool>,
}

/// An event as it came.
#[derive(Debug)]
pub enum Sent<'a> {
    /// The event's JSON.
    Event(Text<'a>),
    /// A CloudEvent in structured mode.
    CloudEvent(Text<'a>),
    /// An event that was read from another format already.
    Made {
        /// The event's tree.
        tree: json::Json<'a>,
        /// Where in it values became text, for its note.
        converted: Vec<String>,
        /// Its sender cannot be told: no rate bounds it, and its id may stand for another payload, too.
        deaf: bool,
        /// Whether it ends something that was taken before, and must have room.
        ends: bool,
    },
}

/// The JSON of one event, as it stands in a body.
#[derive(Debug, Clone, Copy)]
pub struct Text<'a> {
    /// The text.
    pub json: &'a str,
    /// The body was not all UTF-8: what was not is U+FFFD.
    pub is_repaired: bool,
}

/// An event that is ready for the loop.
pub struct Ready {
    item: Item,
    event_id: String,
    tenant: String,
}

// === impl Text ===

impl Text<'_> {
    /// The note of what the body lost here.
    fn repair(self) -> Option<String> {
        (self.is_repaired && self.json.contains(char::REPLACEMENT_CHARACTER)).then(|| NO_UTF8.into())
    }
}

// === impl Rates ===

impl Rates {
    /// Full buckets.
    pub fn new(rate: &Rate, now: Duration) -> Self {
        let quota = |rate: u64, burst: Option<u64>| Quota { rate, burst: burst.unwrap_or(rate).max(1) };
        let most = NonZeroUsize::new(rate.max_tenants as usize).unwrap_or(NonZeroUsize::MIN);
        // Whoever makes up a name gets a full bucket: without a bound on all together, a bound on each bounds nobody.
        let of_all = rate.per_tenant.map(|tenant| tenant.saturating_mul(rate.max_tenants));
        Self {
            total: rate.total.or(of_all).map(|total| Bucket::new(quota(total, rate.burst), now)),
            critical: rate.critical.map(|critical| Bucket::new(quota(critical, None), now)),
            tenants: rate.per_tenant.map(|tenant| Tenants::new(quota(tenant, rate.burst), most)),
        }
    }
}

// === impl Intake ===

impl Intake {
    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// Whether anything may be stored just now.
    pub fn check_usable(&self, compiled: &Compiled) -> Result<(), Problem> {
        if self.stopping.load(Ordering::Acquire) {
            let wait = Duration::from_secs(1);
            return Err(Problem::later(Reason::ShuttingDown, "The sidecar stops; send again, to its successor.", wait));
        }
        if let Some(why) = &compiled.no_key {
            // Fail closed: nothing is stored in clear that should not be.
            let detail = format!("{why}; nothing is stored without it. Try again once it is there.");
            return Err(Problem::later(Reason::Dependency, detail, Duration::from_secs(5)));
        }
        Ok(())
    }

    /// Whether new events are taken at all just now.
    pub fn check_open(&self, compiled: &Compiled) -> Result<(), Problem> {
        self.check_usable(compiled)?;
        if compiled.config.spec.breaker.when_open == WhenOpen::Reject {
            let stands = self.outlets.met();
            let may = match stands.breaker {
                "open" => false,
                "half-open" => !self.let_in.swap(true, Ordering::AcqRel),
                _ => {
                    self.let_in.store(false, Ordering::Release);
                    true
                }
            };
            if !may {
                let detail = format!(
                    "{} takes nothing ({}); the policy says to refuse meanwhile. Try again later.",
                    stands.destination, stands.reason
                );
                return Err(Problem::later(Reason::CircuitOpen, detail, compiled.config.spec.breaker.cooldown.duration()));
            }
        }
        Ok(())
    }

    /// Waits until all that was answered before is on disk, whatever the policy's `ack` is.
    ///
    /// # Errors
    /// The disk refused it.
    pub async fn check_synced(&self) -> Result<(), Problem> {
        // The loop answers this behind the sync of what came before.
        self.commit.submit(Vec::new()).await;
        if self.metrics.commit.writable.load(Ordering::Acquire) {
            return Ok(());
        }
        let detail = "The disk of the journal refuses writes; the sidecar's log says why. Try again.";
        Err(Problem::later(Reason::Dependency, detail, Duration::from_secs(1)))
    }

    /// Takes events of one request; an answer for each, in order.
    pub async fn take(
        &self,
        compiled: &Compiled,
        sent: Vec<Result<Sent<'_>, Problem>>,
        fallback_id: Option<&str>,
        single: bool,
    ) -> Vec<Result<Taken, Problem>> {
        if sent.len() > 1 {
            // A batch takes this thread a while; who submitted before it does not wait for that.
            self.commit.nudge();
        }
        let arrival = now();
        let mut results: Vec<Result<Taken, Problem>> = Vec::with_capacity(sent.len());
        let mut ready: Vec<(usize, Ready)> = Vec::with_capacity(sent.len());
        for (index, sent) in sent.into_iter().enumerate() {
            let supplied = fallback_id.map(|id| if single { id.to_owned() } else { format!("{id}/{index}") });
            let made = sent.and_then(|sent| self.admit(compiled, sent, supplied, &arrival));
            let placeholder = Problem::new(Reason::Dependency, "");
            match made {
                Ok(made) => {
                    ready.push((index, made));
                    results.push(Err(placeholder));
                }
                Err(problem) => results.push(Err(problem)),
            }
        }
        if !ready.is_empty() {
            self.commit(compiled, ready, &mut results).await;
        }
        for problem in results.iter().filter_map(|result| result.as_ref().err()) {
            self.metrics.refused.get_or_create(&ReasonLabel { reason: problem.reason.word() }).inc();
        }
        results
    }

    /// Rate limits around the preparation of an event.
    fn admit(&self, compiled: &Compiled, sent: Sent<'_>, supplied: Option<String>, arrival: &Received) -> Result<Ready, Problem> {
        if matches!(sent, Sent::Made { deaf: true, .. }) {
            return self.prepare(compiled, sent, supplied, arrival);
        }
        let now = self.now();
        let mut rates = self.rates.lock();
        let within_total = rates.total.as_mut().map_or(Ok(()), |bucket| bucket.take(now));
        drop(rates);
        // A critical event has a bucket of its own; only what may be one is looked at when the common bucket is empty.
        if let Err(limited) = within_total
            && !sent.may_be_critical()
        {
            return Err(self::limited("all events together", limited));
        }
        let ready = self.prepare(compiled, sent, supplied, arrival);
        let mut rates = self.rates.lock();
        let ready = match ready {
            Ok(ready) => ready,
            Err(problem) => {
                // What is no event uses no rate up.
                if within_total.is_ok()
                    && let Some(total) = &mut rates.total
                {
                    total.give_back();
                }
                return Err(problem);
            }
        };
        if ready.item.critical {
            if within_total.is_ok()
                && let Some(total) = &mut rates.total
            {
                total.give_back();
            }
            let own = rates.critical.as_mut().map_or(Ok(()), |bucket| bucket.take(now));
            return own.map(|()| ready).map_err(|limited| self::limited("critical events", limited));
        }
        within_total.map_err(|limited| self::limited("all events together", limited))?;
        let tenant = rates.tenants.as_mut().map_or(Ok(()), |tenants| tenants.take(&ready.tenant, now));
        if let Err(limited) = tenant {
            if let Some(total) = &mut rates.total {
                total.give_back();
            }
            return Err(self::limited("this tenant", limited));
        }
        Ok(ready)
    }

    fn give_back(&self, ready: &Ready) {
        let mut rates = self.rates.lock();
        if ready.item.critical {
            if let Some(bucket) = &mut rates.critical {
                bucket.give_back();
            }
            return;
        }
        if let Some(bucket) = &mut rates.total {
            bucket.give_back();
        }
        if let Some(tenants) = &mut rates.tenants {
            tenants.give_back(&ready.tenant);
        }
    }

    /// All stateless work on an event.
    fn prepare(
        &self,
        compiled: &Compiled,
        sent: Sent<'_>,
        supplied: Option<String>,
        arrival: &Received,
    ) -> Result<Ready, Problem> {
        let parse = |text| {
            json::parse_repaired(text).map_err(|fault| {
                let reason = if matches!(fault.kind, json::FaultKind::Syntax(_)) { Reason::NotJson } else { Reason::NotEvent };
                Problem::new(reason, format!("{fault}."))
            })
        };
        let invalid = |invalid: steno_event::Invalid| Problem::new(Reason::NotEvent, format!("{invalid}."));
        let ends = matches!(sent, Sent::Made { ends: true, .. });
        // What was mapped from another format may be longer than what came: it is always measured.
        let (tree, converted, bytes, may_reuse) = match sent {
            Sent::Event(text) => {
                let (tree, mut converted) = parse(text.json)?;
                converted.extend(text.repair());
                (tree, converted, text.json.len(), false)
            }
            Sent::CloudEvent(text) => {
                let (tree, mut converted) = parse(text.json)?;
                converted.extend(text.repair());
                let (tree, converted) = cloudevents::structured(tree, converted).map_err(invalid)?;
                (tree, converted, compiled.max_event, false)
            }
            Sent::Made { tree, converted, deaf, .. } => (tree, converted, compiled.max_event, deaf),
        };
        let mut draft = Draft::from_json(tree).map_err(invalid)?;
        draft.note_converted(converted);
        let tenant = draft.tenant(&compiled.fill).map_err(invalid)?.to_owned();
        draft.check_required(&compiled.fill).map_err(invalid)?;
        let critical = compiled.critical.contains(&draft.severity(&compiled.fill));
        draft.supply_id(&supplied.unwrap_or_else(|| uuid::Uuid::now_v7().to_string()));
        let identity = identity(&self.key, &tenant, draft.text("eventId").unwrap_or_default());
        let redactions = self.redact(compiled, &mut draft);
        let print = SCRATCH.with_borrow_mut(|scratch| fingerprint(&self.key, &draft.members, scratch));
        if let Some(redactions) = redactions {
            draft.members.insert("redactions", redactions);
        }
        let filled = draft.complete(&compiled.fill, arrival);
        let reserve = INTEGRITY + if compiled.by_tenant { tenant.len() * 2 } else { 0 };
        // Most events are far from the bound: their text is no longer than twice what the record may be.
        if bytes * 2 + 2048 > compiled.max_event {
            self.bound(compiled, &mut draft, reserve)?;
        }
        let halves = encode(&draft.members);
        let chain = if compiled.by_tenant { draft.text("tenantId").map(Into::into) } else { None };
        let shown_id = draft.text("eventId").unwrap_or_default().to_owned();
        let (rules, received_ms) = (compiled.rules, arrival.ms());
        let item =
            Item { identity, print, rules, filled, halves, tenant: chain, critical, ends, frees: false, may_reuse, received_ms };
        if compiled.config.spec.sidecar.tenant_metrics {
            self.count_tenant(draft.text("tenantId").unwrap_or_default());
        }
        Ok(Ready { item, event_id: shown_id, tenant })
    }

    fn redact(&self, compiled: &Compiled, draft: &mut Draft<'_>) -> Option<json::Json<'static>> {
        let report = catch_unwind(AssertUnwindSafe(|| compiled.redactor.apply(&mut draft.members, Some(&self.identity_key))));
        match report {
            Ok(report) if !report.failed => {
                for (rule, count) in report.counts {
                    self.metrics.redactions.get_or_create(&RuleLabel { rule: Chosen(rule.to_string()) }).inc_by(count);
                }
                report.redactions
            }
            _ => {
                // Fail closed: what could not be made safe is not kept.
                tracing::error!("redaction failed; the event is kept as metadata only");
                self.metrics.redaction_failures.inc();
                // Nobody looked at the id; its hash tells events apart.
                let id = self.identity_key.hash(draft.text("eventId").unwrap_or_default());
                steno_redact::metadata_only(&mut draft.members);
                draft.supply_id(&id.unwrap_or_else(|| uuid::Uuid::now_v7().to_string()));
                draft.members.remove("redactions").map(into_owned)
            }
        }
    }

    /// A text about what a client sent, as it may be shown: it has passed the policy's redaction.
    pub fn shown(&self, compiled: &Compiled, text: &str) -> String {
        let shown = catch_unwind(AssertUnwindSafe(|| compiled.redactor.apply_to_text(text, Some(&self.identity_key))));
        match shown {
            Ok(shown) => shown.unwrap_or_else(|| text.to_owned()),
            Err(_) => "(it could not be redacted)".into(),
        }
    }

    fn bound(&self, compiled: &Compiled, draft: &mut Draft<'_>, reserve: usize) -> Result<(), Problem> {
        let too_large = || {
            let detail = format!(
                "The event is larger than limits.maxEventBytes ({} bytes); send less, or a reference to the rest.",
                compiled.max_event
            );
            Problem::new(Reason::EventTooLarge, detail)
        };
        if !compiled.truncate {
            let mut size = Vec::new();
            for (name, value) in draft.members.iter() {
                size.extend_from_slice(name.as_bytes());
                json::write_json(&mut size, value, json::Form::Shown);
            }
            return if size.len() + reserve + draft.members.len() * 4 > compiled.max_event { Err(too_large()) } else { Ok(()) };
        }
        match steno_redact::fit(&mut draft.members, compiled.max_event, reserve) {
            Fit::Whole => Ok(()),
            Fit::Truncated => {
                self.metrics.truncated.inc();
                Ok(())
            }
            Fit::TooLarge => Err(too_large()),
        }
    }

    fn count_tenant(&self, tenant: &str) {
        self.metrics.tenants.count(tenant);
    }

    // --- the loop's answers ---

    async fn commit(&self, compiled: &Compiled, ready: Vec<(usize, Ready)>, results: &mut [Result<Taken, Problem>]) {
        let until = Instant::now() + compiled.request_timeout;
        let blocks = compiled.config.spec.spool.when_full == WhenFull::Block;
        let mut ready = ready;
        loop {
            let mut rest = Vec::new();
            let items = if blocks {
                ready.iter().map(|(_, ready)| ready.item.clone()).collect()
            } else {
                ready.iter_mut().map(|(_, ready)| take_item(ready)).collect()
            };
            let submitted = tokio::time::timeout_at((until + Duration::from_secs(1)).into(), self.commit.submit(items));
            let answers = submitted.await.unwrap_or_else(|_| {
                tracing::warn!(events = ready.len(), "the disk did not take events in time; they may be on it all the same");
                vec![Answer::Failed(Failure::Disk("the disk did not answer in time".into())); ready.len()]
            });
            // One deadline for all of a request.
            let delivered_by = tokio::time::Instant::now() + compiled.critical_timeout;
            for ((index, made), answer) in ready.into_iter().zip(answers) {
                if blocks && answer == Answer::Failed(Failure::Full) && Instant::now() < until {
                    rest.push((index, made));
                    continue;
                }
                results[index] = self.answer(compiled, made, answer, delivered_by).await;
            }
            if rest.is_empty() {
                return;
            }
            // The spool is full and the policy says to wait: until something was delivered, or time is up.
            tokio::time::sleep(Duration::from_millis(50)).await;
            ready = rest;
        }
    }

    async fn answer(
        &self,
        compiled: &Compiled,
        made: Ready,
        answer: Answer,
        delivered_by: tokio::time::Instant,
    ) -> Result<Taken, Problem> {
        let taken = |status, word| Taken { status, word, event_id: made.event_id.clone(), delivery: None, compared: None };
        match answer {
            Answer::Created(seq) => {
                let mut created = taken(201, "created");
                if made.item.critical || compiled.wait_delivered {
                    // While the breaker is open there is nothing to wait for.
                    let until = if self.outlets.is_closed() { delivered_by } else { tokio::time::Instant::now() };
                    created.delivery = Some(match self.outlets.wait(seq, until).await {
                        Some(Fate::Delivered) => "delivered",
                        Some(Fate::DeadLettered) => "dead_lettered",
                        Some(Fate::Lost) => "lost",
                        None => "spooled",
                    });
                }
                Ok(created)
            }
            Answer::Duplicate { compared } => {
                self.give_back(&made);
                Ok(Taken { compared: (!compared).then_some(false), ..taken(200, "duplicate_accepted") })
            }
            Answer::Dropped => Ok(taken(202, "dropped")),
            Answer::Conflict => {
                let detail =
                    "This eventId was used before for another payload, which stays; send the new event under an id of its own.";
                Err(Problem::new(Reason::Conflict, detail))
            }
            Answer::Failed(Failure::Full) => {
                let detail = "The spool or its disk is full; it empties as events are delivered. Try again; raise spool.maxBytes if the disk has room.";
                Err(Problem::later(Reason::SpoolFull, detail, Duration::from_secs(1)))
            }
            Answer::Failed(Failure::Disk(_)) => {
                let detail = "The journal's disk refuses writes, or does not take them in time; the sidecar's log says which. Send it again, under the same eventId.";
                Err(Problem::later(Reason::Dependency, detail, Duration::from_secs(1)))
            }
            Answer::Failed(Failure::TooLarge) => {
                Err(Problem::new(Reason::EventTooLarge, "The event does not fit into the journal; send less."))
            }
            Answer::Failed(Failure::Stopping) => Err(Problem::later(
                Reason::ShuttingDown,
                "The sidecar stops; send again, to its successor.",
                Duration::from_secs(1),
            )),
        }
    }
}

// === impl Sent ===

impl Sent<'_> {
    /// Whether it is worth a look although the common bucket is empty.
    fn may_be_critical(&self) -> bool {
        match self {
            Self::Event(Text { json, .. }) | Self::CloudEvent(Text { json, .. }) => {
                memchr::memmem::find(json.as_bytes(), b"ritical").is_some() || json.contains("RITICAL")
            }
            // Reading it was the work.
            Self::Made { .. } => true,
        }
    }
}

thread_local! {
    static SCRATCH: std::cell::RefCell<Vec<u8>> = const { std::cell::RefCell::new(Vec::new()) };
}

/// The item for the loop; what stays behind is enough for the answer.
fn take_item(ready: &mut Ready) -> Item {
    let empty = steno_event::Halves { bytes: Vec::new(), split: 0, action: (0, 0), event_id: (0, 0) };
    let halves = std::mem::replace(&mut ready.item.halves, empty);
    Item { halves, tenant: ready.item.tenant.take(), ..ready.item.clone() }
}

fn into_owned(value: json::Json<'_>) -> json::Json<'static> {
    json::Json::Raw(json::canonical(&value).into())
}

fn limited(what: &str, limited: Limited) -> Problem {
    let Quota { rate, burst } = limited.quota;
    let detail =
        format!("More than {rate} a second (burst {burst}) for {what}; try again after the time given, or raise limits.rate.");
    Problem { quota: Some(limited.quota), ..Problem::later(Reason::Limited, detail, limited.retry_after) }
}

/// Now.
pub fn now() -> Received {
    Received::at(now_ms())
}

/// Milliseconds since 1970.
pub fn now_ms() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
