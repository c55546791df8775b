//! Write intents: a journal of their own below the spool's directory, with a commit loop, a sink and somebody who tidies up.
use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::Context as _;
use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use serde_json::value::RawValue;
use steno_chain::{Kind, Note};
use steno_commit::{Answer, Bell, CommitConfig, Committer, Failure, Handle, SystemClock};
use steno_crds::FanOut;
use steno_deliver::{
    Families, Snapshot,
    kafka::{Secrets, Transactions},
};
use steno_event::{IdKey, json};
use steno_intent::{Ending, Entry, Ledger, Made, Private, State, Step, Stored, closed, opened};
use steno_journal::RealDisk;

use crate::{
    identity::Identity,
    intake::Arrival,
    outlets::{Common, Fan, Outlets, Route},
    policy::Compiled,
    problem::{Problem, Reason},
    telemetry::IntentMetrics,
};

/// Name of the position that open intents hold the journal by.
pub const OPEN: &str = "open";
/// Directory of the journal, below the spool's.
const DIR: &str = "intents";
/// Pieces of work that may wait for the loop.
const QUEUE: usize = 1024;
/// A payload of no more use goes after so long.
const LINGER: Duration = Duration::from_secs(30);
/// Between two looks at what is to be done.
const TICK: Duration = Duration::from_secs(1);

/// Write intents of a sidecar; the journal is there from the first policy on that allows them.
pub struct Intents {
    running: ArcSwapOption<Running>,
    dir: PathBuf,
    /// Why the spool is not on the volume that it should be on.
    fell_back: bool,
    families: Families,
    metrics: IntentMetrics,
    /// The loop of the audit journal, for what must be told there.
    audit: Handle,
    stopping: AtomicBool,
    fault: Mutex<Option<String>>,
    linger: Duration,
}

/// The journal of the intents, and what works on it.
pub struct Running {
    commit: Handle,
    ledger: Mutex<Ledger>,
    key: IdKey,
    outlets: Arc<Outlets>,
    config: Mutex<Arc<CommitConfig>>,
    loop_thread: Mutex<Option<JoinHandle<()>>>,
    /// Ending shares it, carrying has it alone: a carried record never comes behind the ending.
    endings: tokio::sync::RwLock<()>,
    loop_metrics: steno_commit::Metrics,
}

/// What became of an intent that came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// Whether it was there before.
    pub duplicate: bool,
    /// Its state now, in one word.
    pub state: &'static str,
}

/// What became of the end of an intent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// It ended so before.
    pub duplicate: bool,
    /// It had expired when it was resolved: the `IntentExpired` record stands.
    pub late: bool,
}

/// How intents stand, for people.
#[derive(Debug, Clone)]
pub struct Standing {
    /// Open ones.
    pub open: usize,
    /// When the oldest open one came, milliseconds since 1970.
    pub oldest_ms: Option<u64>,
    /// Bytes of the journal.
    pub used: i64,
    /// Whether the last block could be written.
    pub writable: bool,
    /// How the topic stands.
    pub sink: Option<Snapshot>,
}

// === impl Intents ===

impl Intents {
    /// Those of a spool's directory.
    pub fn new(dir: &Path, fell_back: bool, families: Families, metrics: IntentMetrics, audit: Handle) -> Self {
        Self {
            running: ArcSwapOption::empty(),
            dir: dir.join(DIR),
            fell_back,
            families,
            metrics,
            audit,
            stopping: AtomicBool::new(false),
            fault: Mutex::default(),
            linger: LINGER,
        }
    }

    /// [`Self::follow`]; what is wrong is told, and tried again with the next policy.
    pub async fn begin_with(&self, compiled: &Compiled, identity: &Identity, secrets: &Secrets) {
        let fault = self.follow(compiled, identity, secrets).await.err().map(|error| format!("{error:#}"));
        if let Some(fault) = &fault {
            tracing::error!(fault, "write intents are not as the policy asks for");
        }
        *self.fault.lock() = fault;
    }

    /// Whether there is a journal, under this policy or an earlier one.
    pub fn is_begun(&self) -> bool {
        self.running.load().is_some()
    }

    /// What is wrong with them.
    pub fn fault(&self) -> Option<String> {
        self.fault.lock().clone()
    }

    /// Has them be as a policy says. A journal that was begun stays open, so that what is in it can be resolved, as long as there is a key.
    async fn follow(&self, compiled: &Compiled, identity: &Identity, secrets: &Secrets) -> anyhow::Result<()> {
        let wanted = compiled.config.spec.intents.enabled;
        let config = || {
            let mut config = compiled.commit_intents(identity);
            // A policy that encrypts no longer does not have payloads stored in clear.
            let keys = config.envelope.keys.always();
            let keys = keys.context("write intents are encrypted, always, and spool.encryption names no key that is there")?;
            config.envelope.keys = Arc::new(keys);
            anyhow::Ok(Arc::new(config))
        };
        if let Some(running) = self.running.load_full() {
            if !wanted {
                return Ok(());
            }
            let config = config()?;
            let changed = {
                let mut known = running.config.lock();
                let same = known.envelope == config.envelope
                    && known.window_ms == config.window_ms
                    && known.journal.max_bytes == config.journal.max_bytes;
                known.clone_from(&config);
                !same
            };
            if changed {
                let note = Note::new(Kind::Config, "Another configuration of write intents counts from here on.");
                running.commit.reload(config, note).await;
            }
            running.outlets.reload(vec![compiled.intents_route(identity, secrets)], FanOut::BestEffort);
            return Ok(());
        }
        // What was begun under an earlier policy is opened again: it may hold open intents.
        if (!wanted && !self.dir.join("state").exists()) || compiled.no_key.is_some() {
            return Ok(());
        }
        let running = self.begin(config()?, compiled.intents_route(identity, secrets))?;
        self.running.store(Some(Arc::new(running)));
        Ok(())
    }

    fn begin(&self, config: Arc<CommitConfig>, route: Route) -> anyhow::Result<Running> {
        let disk = RealDisk::open(&self.dir).context("the journal of write intents cannot be used")?;
        let (commit, work) = Handle::new(QUEUE, Bell::default());
        let fan = Fan::default();
        let loop_metrics = steno_commit::Metrics::default();
        let clock = Box::new(SystemClock::default());
        let (committer, started) =
            Committer::open(Arc::new(disk), config.clone(), clock, Box::new(fan.clone()), loop_metrics.clone())
                .context("the journal of write intents cannot be opened")?;
        let common = Common {
            shared: started.shared.clone(),
            commit: commit.clone(),
            dir: self.dir.clone(),
            damage: Arc::new(Mutex::new(started.damage.clone())),
            metrics: self.families.clone(),
            fan,
            transactions: Transactions::new(&started.uuid, &self.dir, started.shared.clone(), commit.clone()),
        };
        let outlets = Outlets::start(common, vec![route], FanOut::BestEffort, &started.positions)?;
        let loop_thread = std::thread::Builder::new().name("steno-intents".into()).spawn(move || committer.run(work));
        let mut ledger = Ledger::new(started.shared);
        ledger.catch_up().context("the journal of write intents cannot be read")?;
        if ledger.open() > 0 {
            tracing::info!(open = ledger.open(), "write intents are open from before");
        }
        Ok(Running {
            commit,
            ledger: Mutex::new(ledger),
            key: IdKey(started.id_key),
            outlets,
            config: Mutex::new(config),
            loop_thread: Mutex::new(Some(loop_thread.context("no thread for the loop of write intents")?)),
            endings: tokio::sync::RwLock::new(()),
            loop_metrics,
        })
    }

    fn running(&self) -> Result<Arc<Running>, Problem> {
        self.running.load_full().ok_or_else(|| {
            let detail = "The journal of write intents cannot be used; the sidecar's log says why. Try again.";
            Problem::later(Reason::Dependency, detail, Duration::from_secs(5))
        })
    }

    /// Takes an intent; it is on disk when this is answered.
    pub async fn open(&self, compiled: &Compiled, id: &str, private: Private) -> Result<Taken, Problem> {
        let spec = &compiled.config.spec.intents;
        let running = self.running()?;
        if self.fell_back && !spec.allow_pod_loss {
            let detail = "The spool is not on its volume, and open intents would be gone with the pod; see the sidecar's stats. \
                          The policy can accept that: intents.allowPodLoss.";
            return Err(Problem::later(Reason::Dependency, detail, Duration::from_secs(10)));
        }
        let most = spec.max_payload_bytes.bytes() as usize;
        if private.payload.get().len() > most {
            let detail =
                format!("The payload has {} bytes; at most {most} (intents.maxPayloadBytes).", private.payload.get().len());
            return Err(Problem::new(Reason::IntentTooLarge, detail));
        }
        // A retry of one that is open is none too many.
        if running.ledger.lock().open() as u64 >= spec.max_open && running.known(id).is_none() {
            let detail = format!("{} intents are open (intents.maxOpen); resolve those that are done.", spec.max_open);
            return Err(Problem::later(Reason::TooManyIntents, detail, Duration::from_secs(1)));
        }
        let at_ms = Arrival::now().ms;
        let key = compiled.payload_key(&running.key);
        let made = Made { id, at_ms, fill: &compiled.fill, redactor: &compiled.redactor, key: &key };
        let public = raw(opened(&private, &made))?;
        let stored = Stored {
            step: Step::Opened,
            intent_id: id.to_owned(),
            number: None,
            private: Some(private),
            state: None,
            outcome: None,
            event_id: None,
            public,
        };
        match running.commit(&stored, at_ms).await? {
            Answer::Created(_) => {
                self.metrics.opened.inc();
                running.catch_up()?;
                Ok(Taken { duplicate: false, state: "open" })
            }
            Answer::Duplicate { .. } => {
                running.catch_up()?;
                let state = running.known(id).map_or("closed", |entry| word(&entry.state));
                Ok(Taken { duplicate: true, state })
            }
            Answer::Conflict => {
                let detail =
                    "This intentId was used before for another write, which stays; send the new one under an id of its own.";
                Err(Problem::new(Reason::IntentConflict, detail))
            }
            Answer::Dropped | Answer::Failed(_) => Err(unwritten()),
        }
    }

    /// What is known of an intent.
    pub fn find(&self, id: &str) -> Result<(Entry, Option<Stored>), Problem> {
        let running = self.running()?;
        let missing = || {
            let detail = "There is no such intent here: it never was, or it ended a while ago.";
            Problem::new(Reason::NotFound, detail)
        };
        running.catch_up()?;
        let ledger = running.ledger.lock();
        let entry = ledger.get(id).cloned().ok_or_else(missing)?;
        let stored = ledger.read(id);
        Ok((entry, stored))
    }

    /// Ends an intent as the application says. Its audit event is on disk already.
    pub async fn resolve(&self, id: &str, outcome: &str, event_id: &str) -> Result<Ended, Problem> {
        let (entry, stored) = self.find(id)?;
        if let State::Closed { ending: Ending::Expired, .. } = entry.state {
            return Ok(Ended { duplicate: false, late: true });
        }
        let running = self.running()?;
        let public = stored.map(|stored| stored.public.get().to_owned()).unwrap_or_default();
        match running.end(id, &public, Ending::Resolved, Some(outcome), Some(event_id)).await? {
            Answer::Created(_) => {
                self.metrics.resolved.inc();
                running.catch_up()?;
                Ok(Ended { duplicate: false, late: false })
            }
            Answer::Duplicate { .. } => Ok(Ended { duplicate: true, late: false }),
            Answer::Conflict => {
                running.catch_up()?;
                match running.known(id).map(|entry| entry.state) {
                    Some(State::Closed { ending: Ending::Expired, .. }) => Ok(Ended { duplicate: false, late: true }),
                    Some(State::Closed { outcome: Some(outcome), .. }) => {
                        let detail = format!("This intent was resolved before with outcome {outcome}, which stays.");
                        Err(Problem::new(Reason::IntentConflict, detail))
                    }
                    _ => Err(Problem::new(Reason::IntentConflict, "This intent ended otherwise before, which stays.")),
                }
            }
            Answer::Dropped | Answer::Failed(_) => Err(unwritten()),
        }
    }

    /// Open intents behind a number, oldest first, at most so many and so many bytes; and whether there are more.
    pub fn open_after(&self, number: Option<u64>, most: usize, bytes: usize) -> Result<(Vec<(Entry, Stored)>, bool), Problem> {
        let running = self.running()?;
        running.catch_up()?;
        let ledger = running.ledger.lock();
        let (mut found, mut size) = (Vec::new(), 0);
        for (_, id) in ledger.open_after(number) {
            if found.len() >= most || (size >= bytes && !found.is_empty()) {
                return Ok((found, true));
            }
            let Some((entry, stored)) = ledger.get(id).cloned().zip(ledger.read(id)) else {
                // What cannot be given back must not pass for what is not there.
                tracing::error!("an open intent cannot be read from its journal");
                let detail = "An open intent cannot be read from the journal; the sidecar's log says why.";
                return Err(Problem::later(Reason::Dependency, detail, Duration::from_secs(5)));
            };
            size += stored.private.as_ref().map_or(0, |private| private.payload.get().len());
            found.push((entry, stored));
        }
        Ok((found, false))
    }

    /// Intents that ended so, behind a record, in the order in which they ended; and whether there are more.
    pub fn ended_after(&self, ending: Ending, seq: Option<u64>, most: usize) -> Result<(Vec<(String, Entry)>, bool), Problem> {
        let running = self.running()?;
        running.catch_up()?;
        let ledger = running.ledger.lock();
        let mut all = ledger.ended_after(ending, seq);
        let found: Vec<(String, Entry)> =
            all.by_ref().take(most).filter_map(|(_, id)| Some((id.to_owned(), ledger.get(id)?.clone()))).collect();
        let more = all.next().is_some();
        Ok((found, more))
    }

    /// How they stand; `None`: there are none.
    pub fn standing(&self) -> Option<Standing> {
        let running = self.running.load_full()?;
        let _ = running.catch_up();
        let ledger = running.ledger.lock();
        Some(Standing {
            open: ledger.open(),
            oldest_ms: ledger.oldest_ms(),
            used: running.loop_metrics.spool_bytes.get(),
            writable: running.loop_metrics.writable.load(Ordering::Relaxed),
            sink: running.outlets.standings().pop().map(|standing| standing.snapshot),
        })
    }

    /// Brings gauges up to date.
    pub fn refresh(&self, wall_ms: u64) {
        let Some(standing) = self.standing() else { return };
        self.metrics.open.set(standing.open as i64);
        let age = standing.oldest_ms.map_or(0, |oldest| wall_ms.saturating_sub(oldest) / 1000);
        self.metrics.oldest.set(age as i64);
        self.metrics.bytes.set(standing.used);
        if let Some(running) = self.running.load_full() {
            running.outlets.refresh(wall_ms);
        }
    }

    /// Ends what has been open for too long, and has payloads go that are of no more use; until the sidecar stops.
    pub async fn tidy(self: Arc<Self>, current: crate::policy::Current) {
        while !self.stopping.load(Ordering::Acquire) {
            tokio::time::sleep(TICK).await;
            let Some(running) = self.running.load_full() else { continue };
            let after = current.load().config.spec.intents.expire_after.duration();
            let now = Arrival::now().ms;
            if let Err(error) = self.expire(&running, now.saturating_sub(after.as_millis() as u64)).await {
                tracing::warn!(error = error.detail, "intents that are open for too long could not be ended; it is tried again");
            }
            if let Err(error) = running.clean(now.saturating_sub(self.linger.as_millis() as u64)).await {
                tracing::warn!(error = error.detail, "payloads of intents that ended could not be let go of; it is tried again");
            }
        }
    }

    async fn expire(&self, running: &Arc<Running>, before_ms: u64) -> Result<(), Problem> {
        running.catch_up()?;
        let old = running.ledger.lock().open_since_before(before_ms);
        for id in old {
            let found = {
                let ledger = running.ledger.lock();
                ledger.get(&id).cloned().zip(ledger.read(&id))
            };
            let Some((entry, stored)) = found else { continue };
            let public = stored.public.get();
            // First the chain: where that is as far as it comes, the chain says it twice, and not never.
            let told = self.audit.tell(expired_note(&id, public, entry.created_ms)).await;
            told.map_err(|failure| Problem::new(Reason::Dependency, failure.to_string()))?;
            if let Answer::Created(_) = running.end(&id, public, Ending::Expired, None, None).await? {
                self.metrics.expired.inc();
                tracing::warn!(intentId = id, "a write intent was open for too long; the chain says so, and its payload goes");
            }
        }
        running.catch_up()
    }

    /// Whether anything is left that a later pod must have: open intents, or records that the topic does not have. Blocks.
    pub fn stop(&self, most: Duration) -> (usize, u64) {
        self.stopping.store(true, Ordering::Release);
        let Some(running) = self.running.load_full() else { return (0, 0) };
        let undelivered = running.outlets.stop(most);
        let _ = running.catch_up();
        let open = running.ledger.lock().open();
        (open, undelivered)
    }

    /// What would be left if it ended now.
    pub fn left(&self) -> (usize, u64) {
        let Some(running) = self.running.load_full() else { return (0, 0) };
        (running.ledger.lock().open(), running.outlets.undelivered())
    }

    /// Ends the loop.
    pub async fn end(&self) {
        let Some(running) = self.running.load_full() else { return };
        running.commit.close().await;
        running.commit.end().await;
        let thread = running.loop_thread.lock().take();
        let _ = tokio::task::spawn_blocking(move || thread.map(JoinHandle::join)).await;
    }
}

// === impl Running ===

impl Running {
    fn known(&self, id: &str) -> Option<Entry> {
        self.ledger.lock().get(id).cloned()
    }

    fn catch_up(&self) -> Result<(), Problem> {
        self.ledger.lock().catch_up().map_err(|error| {
            tracing::error!(%error, "the journal of write intents cannot be read");
            let detail = "The journal of write intents cannot be read; the sidecar's log says why.";
            Problem::later(Reason::Dependency, detail, Duration::from_secs(5))
        })
    }

    async fn commit(&self, stored: &Stored, at_ms: u64) -> Result<Answer, Problem> {
        let item = stored.item(&self.key, at_ms);
        match self.commit.submit(vec![item]).await.pop() {
            Some(Answer::Failed(Failure::Full)) => {
                let detail = "The journal of write intents is full; resolve those that are done, or raise intents.maxBytes. It also fills while Kafka is away.";
                Err(Problem::later(Reason::SpoolFull, detail, Duration::from_secs(1)))
            }
            Some(Answer::Failed(Failure::TooLarge)) => {
                Err(Problem::new(Reason::IntentTooLarge, "The intent does not fit into the journal; send less."))
            }
            Some(Answer::Failed(Failure::Stopping)) | None => {
                let detail = "The sidecar stops; send again, to its successor.";
                Err(Problem::later(Reason::ShuttingDown, detail, Duration::from_secs(1)))
            }
            Some(Answer::Failed(Failure::Disk(_))) => Err(unwritten()),
            Some(answer) => Ok(answer),
        }
    }

    async fn end(
        self: &Arc<Self>,
        id: &str,
        public: &str,
        ending: Ending,
        outcome: Option<&str>,
        event_id: Option<&str>,
    ) -> Result<Answer, Problem> {
        let at_ms = Arrival::now().ms;
        let stored = Stored {
            step: Step::Closed,
            intent_id: id.to_owned(),
            number: None,
            private: None,
            state: Some(ending),
            outcome: outcome.map(str::to_owned),
            event_id: event_id.map(str::to_owned),
            public: raw(closed(public, id, ending, outcome, event_id, at_ms))?,
        };
        let running = self.clone();
        // Not the request's: one that is cut off must not let go of its turn while its record is on the way.
        let ending = async move {
            let _turn = running.endings.read().await;
            running.commit(&stored, at_ms).await
        };
        tokio::spawn(ending).await.unwrap_or_else(|_| Err(unwritten()))
    }

    /// Has payloads go that are of no use since before a time.
    async fn clean(&self, before_ms: u64) -> Result<(), Problem> {
        self.catch_up()?;
        let idle = {
            let ledger = self.ledger.lock();
            ledger.chores(before_ms) == steno_intent::Chores::default()
        };
        if !idle {
            let _alone = self.endings.write().await;
            self.catch_up()?;
            let chores = self.ledger.lock().chores(before_ms);
            if chores.rotate {
                self.commit.rotate();
            }
            for id in chores.carry {
                let (entry, stored) = {
                    let ledger = self.ledger.lock();
                    match ledger.get(&id).cloned().zip(ledger.read(&id)) {
                        Some(found) => found,
                        None => continue,
                    }
                };
                let carried = Stored { step: Step::Carried, number: Some(entry.number), ..stored };
                self.commit(&carried, entry.created_ms).await?;
            }
            self.catch_up()?;
        }
        let pin = self.ledger.lock().pin();
        self.commit.positions([(steno_journal::sink_id(OPEN), pin)].into());
        Ok(())
    }
}

fn unwritten() -> Problem {
    let detail = "The disk of the journal of write intents refuses writes; the sidecar's log says why. Try again.";
    Problem::later(Reason::Dependency, detail, Duration::from_secs(1))
}

fn raw(text: String) -> Result<Box<RawValue>, Problem> {
    RawValue::from_string(text).map_err(|_| unwritten())
}

/// The state of an intent, in one word.
pub fn word(state: &State) -> &'static str {
    match state {
        State::Open { .. } => "open",
        State::Closed { ending: Ending::Resolved, .. } => "resolved",
        State::Closed { ending: Ending::Expired, .. } => "expired",
    }
}

/// What the chain says of an intent that nobody resolved: as much as the topic knows.
fn expired_note(id: &str, public: &str, created_ms: u64) -> Note {
    let note = Note::new(Kind::IntentExpired, "A write intent was never resolved; whether its write was done is not known.")
        .text("intentId", id)
        .text("createdAt", steno_event::format_millis(created_ms));
    let Ok(json::Json::Object(record)) = json::parse(public) else { return note };
    let text = |path: [&str; 2]| {
        let member = record.get(path[0]).and_then(json::Json::as_object).and_then(|inner| inner.get(path[1]));
        member.and_then(json::Json::as_str).unwrap_or_default().to_owned()
    };
    note.text("dtoType", text(["resource", "type"]))
        .text("entityId", text(["resource", "id"]))
        .text("operation", text(["intent", "operation"]))
        .text("payloadHash", text(["intent", "payloadHash"]))
}
