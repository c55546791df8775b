//! Write intents: a journal of their own below the spool's directory, with a commit loop, a sink and somebody who tidies up.
use std::{
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use serde_json::value::RawValue;
use steno_chain::{Kind, Note};
use steno_commit::{Answer, Bell, CommitConfig, Committer, Failure, Handle, Held, Reserve, SystemClock};
use steno_crds::FanOut;
use steno_deliver::{
    DeadFolder, Families, Snapshot,
    kafka::{Secrets, Transactions},
};
use steno_event::{IdKey, json};
use steno_intent::{Ending, Entry, Ledger, Made, Private, Records, State, Step, Stored, closed, opened};
use steno_journal::{RealDisk, Shared, put_file};
use tokio::sync::Semaphore;

use crate::{
    identity::Identity,
    intake::now_ms,
    look::apart,
    outlets::{Common, Fan, Outlets},
    policy::{Compiled, Current, INTENT_SEGMENT, QueryAccess, access},
    problem::{Problem, Reason},
    telemetry::IntentMetrics,
};

/// Name of the position that open intents hold the journal by.
pub const OPEN: &str = "open";
/// Directory of the journal, below the spool's.
const DIR: &str = "intents";
/// Pieces of work that may wait for the loop.
const QUEUE: usize = 1024;
/// What the record of an end needs besides the public record of its intent, in bytes.
const END_MORE: u64 = 1536;
/// Bytes of the largest record of an end: its fields are bounded, and redaction may make them a little longer.
const END_AT_MOST: u64 = 16 << 10;
/// Ends of expired intents that are remembered, to tell two that differ apart.
const LATE_REMEMBERED: usize = 50_000;
/// A payload of no more use goes after so long.
const LINGER: Duration = Duration::from_secs(30);
/// So long a request waits for the disk.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks at what is to be done.
const TICK: Duration = Duration::from_secs(1);
/// Bytes of payloads that are carried in one go, the last one aside: endings wait meanwhile.
const CARRIED_AT_ONCE: usize = INTENT_SEGMENT as usize / 2;
/// Between two tries to open a journal that could not be.
const AGAIN: Duration = Duration::from_secs(10);
/// So long an application that was away as long as the sidecar has to look at what it left, before that expires.
const GRACE: Duration = Duration::from_mins(5);
/// The last section of a policy that allowed intents; it counts for what is left of them under a policy that does not.
const SPEC: &str = "spec.json";

/// Write intents of a sidecar; the journal is there from the first policy on that allows them.
pub struct Intents {
    running: ArcSwapOption<Running>,
    dir: PathBuf,
    identity: Identity,
    secrets: Secrets,
    /// Why new ones would be gone with the pod; `None`: they would not.
    passing: Option<&'static str>,
    /// Whether what an earlier pod left cannot be seen: the spool is not where it was.
    elsewhere: bool,
    families: Families,
    metrics: IntentMetrics,
    audit: Trail,
    stopping: AtomicBool,
    fault: Mutex<Option<String>>,
    /// One change after the other.
    turn: tokio::sync::Mutex<()>,
}

/// The audit journal: for what must be told there, and what was.
pub struct Trail {
    /// Its loop.
    pub commit: Handle,
    /// For readers.
    pub shared: Arc<Shared>,
    /// What event ids are hashed with there.
    pub key: IdKey,
}

/// The journal of the intents, and what works on it.
pub struct Running {
    commit: Handle,
    shared: Arc<Shared>,
    ledger: Mutex<Ledger>,
    key: IdKey,
    outlets: Arc<Outlets>,
    loop_thread: Mutex<Option<JoinHandle<()>>>,
    /// Ending shares it; carrying and expiring have it alone: a carried record never comes behind the ending, and what was resolved does not expire.
    endings: tokio::sync::RwLock<()>,
    loop_metrics: steno_commit::Metrics,
    terms: Mutex<Terms>,
    /// Open ones below are to stand under the key that counts now.
    renew: AtomicU64,
    /// Ids of which the chain says already that they expired.
    told: Mutex<HashSet<String>>,
    /// Ends whose audit event is recorded, by id: outcome and event id. They are tried again, and never expire.
    ending: Mutex<HashMap<String, (String, String)>>,
    /// Outcomes of those that were resolved after they had expired.
    late: Mutex<HashMap<String, String>>,
    /// Bytes of ends of intents that are on their way to the ledger.
    coming: AtomicU64,
    reserve: Reserve,
}

/// What the journal goes by.
#[derive(Clone)]
struct Terms {
    /// Of the policy, or of the last one that allowed intents.
    spec: steno_crds::Intents,
    config: Arc<CommitConfig>,
    access: QueryAccess,
}

/// What became of an intent that came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// What the answer says: `created`, `duplicate_accepted` of one that is open, `resolved` or `expired` of one that ended.
    pub status: &'static str,
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
    pub sink: Snapshot,
}

// === impl Intents ===

impl Intents {
    /// Those of a spool's directory. `on_claim`: it is on a volume that a later pod finds again; `elsewhere`: it is not on the volume that it should be on.
    pub fn new(
        dir: &Path,
        (identity, secrets): (&Identity, &Secrets),
        (on_claim, elsewhere): (bool, bool),
        families: Families,
        metrics: IntentMetrics,
        audit: Trail,
    ) -> Self {
        let passing = match (on_claim, elsewhere) {
            (_, true) => Some("the spool is not on its volume (see the sidecar's stats)"),
            (false, false) => Some("the spool of this pod is not on a PersistentVolumeClaim"),
            (true, false) => None,
        };
        Self {
            running: ArcSwapOption::empty(),
            dir: dir.join(DIR),
            identity: identity.clone(),
            secrets: secrets.clone(),
            passing,
            elsewhere,
            families,
            metrics,
            audit,
            stopping: AtomicBool::new(false),
            fault: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
        }
    }

    /// Has them be as a policy says. A journal that was begun stays open under a policy that allows none, by the terms of the last one that did. What is wrong
    /// is told, and tried again.
    pub async fn follow(self: &Arc<Self>, current: &Current) {
        let _turn = self.turn.lock().await;
        // The one that counts now, whoever came first.
        let compiled = &current.load_full();
        let fault = self.try_follow(compiled).await.err().map(|error| format!("{error:#}"));
        let mut known = self.fault.lock();
        if fault.is_some() && *known != fault {
            tracing::error!(fault, "write intents are not as the policy asks for");
        }
        *known = fault;
    }

    /// What is wrong with them.
    pub fn fault(&self) -> Option<String> {
        self.fault.lock().clone()
    }

    /// Whether an earlier policy left something here.
    fn is_left(&self) -> bool {
        self.dir.join("state").exists()
    }

    /// Whether there is something that cannot be opened just now.
    pub fn is_out_of_reach(&self) -> bool {
        self.running.load().is_none() && self.is_left()
    }

    /// Who may read and end what is left under a policy that allows no new ones.
    pub fn access(&self) -> Option<QueryAccess> {
        self.running.load().as_ref().map(|running| running.terms.lock().access.clone())
    }

    fn terms(&self, compiled: &Compiled) -> anyhow::Result<Terms> {
        let wanted = &compiled.config.spec.intents;
        let known = self.running.load().as_ref().map(|running| running.terms.lock().clone());
        let spec = if wanted.enabled {
            wanted.clone()
        } else if let Some(known) = &known {
            known.spec.clone()
        } else {
            let kept = self.dir.join(SPEC);
            let text = std::fs::read(&kept).with_context(|| format!("{} cannot be read", kept.display()))?;
            serde_json::from_slice(&text).with_context(|| format!("{} cannot be read", kept.display()))?
        };
        let mut config = compiled.commit_intents(&self.identity, &spec);
        // One journal, one promise of room, whatever policy counts.
        config.reserve.largest = END_AT_MOST;
        if let Some(known) = &known {
            config.reserve = known.config.reserve.clone();
        }
        // A policy that encrypts no longer does not have payloads stored in clear.
        let keys = config.envelope.keys.always();
        let keys = keys.context("write intents are encrypted, always, and spool.encryption names no key that is there")?;
        config.envelope.keys = Arc::new(keys);
        // A bound below what is there would let nothing end.
        let files = std::fs::read_dir(&self.dir).into_iter().flatten().filter_map(Result::ok);
        let segments = files.filter(|file| file.file_name().to_string_lossy().starts_with("seg-")).count() as u64;
        let (used, room, asked) = (segments * INTENT_SEGMENT, 3 * INTENT_SEGMENT, config.journal.max_bytes);
        let least = known.map_or(used + room, |known| known.config.journal.max_bytes.min(used + room));
        config.journal.max_bytes = asked.max(least);
        let access = access(
            spec.token_secret_ref.as_ref(),
            &self.secrets,
            "the Secret of intents.tokenSecretRef is missing, empty, or no token that a header carries",
        );
        Ok(Terms { spec, config: Arc::new(config), access })
    }

    /// Keeps the terms beside the journal. If they are there already nothing is written: a start on a full disk must be able to end intents.
    fn keep(&self, spec: &steno_crds::Intents) -> anyhow::Result<()> {
        let text = serde_json::to_vec(spec)?;
        if std::fs::read(self.dir.join(SPEC)).is_ok_and(|kept| kept == text) {
            return Ok(());
        }
        Ok(put_file(&self.dir, SPEC, &text)?)
    }

    async fn try_follow(self: &Arc<Self>, compiled: &Arc<Compiled>) -> anyhow::Result<()> {
        if self.stopping.load(Ordering::Acquire) {
            return Ok(());
        }
        let wanted = compiled.config.spec.intents.enabled;
        let Some(running) = self.running.load_full() else {
            // What was begun under an earlier policy is opened again: it may hold open intents.
            if (!wanted && !self.is_left()) || compiled.no_key.is_some() {
                return Ok(());
            }
            let (intents, compiled) = (self.clone(), compiled.clone());
            let begun = tokio::task::spawn_blocking(move || intents.begin(&compiled)).await??;
            self.running.store(Some(Arc::new(begun)));
            return Ok(());
        };
        let terms = self.terms(compiled)?;
        let kept = if wanted { self.keep(&terms.spec) } else { Ok(()) };
        let route = compiled.intents_route(&self.identity, &self.secrets, &terms.spec);
        let (old, new) = (std::mem::replace(&mut *running.terms.lock(), terms.clone()).config, terms.config);
        let same =
            old.envelope == new.envelope && old.window_ms == new.window_ms && old.journal.max_bytes == new.journal.max_bytes;
        if !same {
            let note = Note::new(Kind::Config, "Another configuration of write intents counts from here on.");
            running.commit.reload(new.clone(), note).await;
            // It goes by it once it answers what comes behind.
            running.commit.submit(Vec::new()).await;
        }
        if old.envelope != new.envelope {
            running.renew.store(running.shared.synced(), Ordering::Release);
            running.commit.rotate();
        }
        running.outlets.reload(vec![route], FanOut::BestEffort);
        // They count all the same; it is tried again.
        kept.context("the terms of write intents cannot be kept beside their journal")
    }

    /// Opens the journal, reads it, and has it worked on. Blocks.
    fn begin(&self, compiled: &Compiled) -> anyhow::Result<Running> {
        let terms = self.terms(compiled)?;
        let disk = RealDisk::open(&self.dir).context("the journal of write intents cannot be used")?;
        self.keep(&terms.spec).context("the journal of write intents cannot be written")?;
        let (commit, work) = Handle::new(QUEUE, Bell::default());
        let fan = Fan::default();
        let loop_metrics = steno_commit::Metrics::default();
        let clock = Box::new(SystemClock::default());
        let (committer, started) =
            Committer::open(Arc::new(disk), terms.config.clone(), clock, Box::new(fan.clone()), loop_metrics.clone())
                .context("the journal of write intents cannot be opened")?;
        let reserve = terms.config.reserve.clone();
        let mut ledger = Ledger::new(started.shared.clone());
        ledger.catch_up().context("the journal of write intents cannot be read")?;
        reserve.bytes.store(ledger.end_bytes(), Ordering::Release);
        if ledger.open() > 0 {
            tracing::info!(open = ledger.open(), "write intents are open from before");
        }
        // What was lost before this start, and was told of, is still not there.
        let told = loop_metrics.losses.lock().iter().map(|lost| (lost.first_seq, lost.next_seq)).collect::<Vec<_>>();
        let new: Vec<(u64, u64)> = started.damage.iter().map(|lost| (lost.first_seq, lost.next_seq)).collect();
        let found = ledger.take_lost();
        ledger.forget_lost();
        for (first, next) in &told {
            ledger.count_lost(*first, *next);
        }
        for (first, next) in new {
            ledger.untold(first, next);
        }
        let is_told = |range: &(u64, u64)| told.iter().any(|known| known.0 <= range.0 && range.1 <= known.1);
        for (first, next) in found.into_iter().filter(|range| !is_told(range)) {
            ledger.lost(first, next);
        }
        // Keys that are kept for older segments are wanted back some day.
        let rotates = compiled.config.spec.spool.encryption.as_ref().is_some_and(|keys| !keys.old_key_secret_refs.is_empty());
        let renew = if rotates { started.shared.synced() } else { 0 };
        if rotates {
            commit.rotate();
        }
        let loop_thread = std::thread::Builder::new().name("steno-intents".into()).spawn(move || committer.run(work));
        let common = Common {
            shared: started.shared.clone(),
            commit: commit.clone(),
            dir: self.dir.clone(),
            damage: loop_metrics.losses.clone(),
            metrics: self.families.clone(),
            fan,
            transactions: Transactions::new(&started.uuid, &self.dir, started.shared.clone(), commit.clone()),
            dead: DeadFolder::of(&self.dir),
        };
        let route = compiled.intents_route(&self.identity, &self.secrets, &terms.spec);
        let outlets = Outlets::start(common, vec![route], FanOut::BestEffort, &started.positions)?;
        Ok(Running {
            commit,
            shared: started.shared,
            ledger: Mutex::new(ledger),
            key: IdKey(started.id_key),
            outlets,
            loop_thread: Mutex::new(Some(loop_thread.context("no thread for the loop of write intents")?)),
            endings: tokio::sync::RwLock::new(()),
            loop_metrics,
            terms: Mutex::new(terms),
            renew: AtomicU64::new(renew),
            told: Mutex::default(),
            ending: Mutex::default(),
            late: Mutex::default(),
            coming: AtomicU64::new(0),
            reserve,
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
        if let Some(why) = self.passing.filter(|_| !spec.allow_pod_loss) {
            let detail =
                format!("Open intents would be gone with the pod: {why}. The policy can accept that: intents.allowPodLoss.");
            return Err(Problem::later(Reason::Dependency, detail, Duration::from_secs(10)));
        }
        let most = spec.max_payload_bytes.bytes() as usize;
        if private.payload.get().len() > most {
            let detail =
                format!("The payload has {} bytes; at most {most} (intents.maxPayloadBytes).", private.payload.get().len());
            return Err(Problem::new(Reason::IntentTooLarge, detail));
        }
        let known = running.known(id);
        // What is over the bound is for what must end; a retry of one that is open needs no room, and is none too many.
        if known.is_none() && running.shared.segment_starts().len() as u64 + 2 > spec.max_bytes.bytes() / INTENT_SEGMENT {
            return Err(full());
        }
        if known.is_none() && running.ledger.lock().open() as u64 >= spec.max_open {
            let detail = format!("{} intents are open (intents.maxOpen); resolve those that are done.", spec.max_open);
            return Err(Problem::later(Reason::TooManyIntents, detail, Duration::from_secs(1)));
        }
        if let Some(ended) = known.filter(|known| !known.is_open()) {
            // Only the same intent is told how it ended: for another one nothing would be on disk.
            if ended.print == Some(private.print(&running.key)) {
                return Ok(Taken { status: ended.word(), state: ended.word() });
            }
            let detail = format!(
                "This intentId was used before, for an intent that is {}; send the new one under an id of its own.",
                ended.word()
            );
            return Err(Problem::new(Reason::IntentConflict, detail));
        }
        let at_ms = now_ms();
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
        // Room for its end is kept from now on, before there is room for itself.
        let end = stored.public.get().len() as u64 + END_MORE;
        running.coming.fetch_add(end, Ordering::AcqRel);
        running.keep_room();
        let answer = running.commit(&stored, at_ms).await;
        let read = running.catch_up();
        running.coming.fetch_sub(end, Ordering::AcqRel);
        running.keep_room();
        match answer? {
            Answer::Created(_) => {
                self.metrics.opened.inc();
                read?;
                Ok(Taken { status: "created", state: "open" })
            }
            Answer::Duplicate { .. } => {
                read?;
                match running.known(id) {
                    Some(entry) if entry.is_open() => Ok(Taken { status: "duplicate_accepted", state: "open" }),
                    Some(entry) => Ok(Taken { status: entry.word(), state: entry.word() }),
                    None => {
                        let detail =
                            "This intentId was used before, and nothing of it is left; send the new one under an id of its own.";
                        Err(Problem::new(Reason::IntentConflict, detail))
                    }
                }
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
    pub async fn find(self: &Arc<Self>, id: &str) -> Result<(Entry, Option<Stored>), Problem> {
        let running = self.running()?;
        running.catch_up()?;
        let entry = running.known(id).ok_or_else(|| self.unknown())?;
        let (mut found, _) = running.read(vec![(id.to_owned(), entry)], usize::MAX).await?;
        found.pop().ok_or_else(|| self.unknown())
    }

    /// Whether what an earlier pod left cannot be seen, and the policy does not know of such a thing.
    fn is_elsewhere(&self, running: &Running) -> bool {
        self.elsewhere && !running.terms.lock().spec.allow_pod_loss
    }

    fn unknown(&self) -> Problem {
        if self.running.load().as_ref().is_some_and(|running| self.is_elsewhere(running)) {
            return away();
        }
        Problem::new(Reason::NotFound, "There is no such intent here: it never was, or it ended a while ago.")
    }

    /// Ends an intent, of which this was found, as the application says. Its audit event is on disk already.
    pub async fn resolve(
        &self,
        id: &str,
        (entry, stored): (&Entry, Option<&Stored>),
        outcome: &str,
        event_id: &str,
    ) -> Result<Ended, Problem> {
        let running = self.running()?;
        // The chain may say so before the journal does.
        let is_told = running.told.lock().contains(id);
        if is_told || matches!(entry.state, State::Closed { ending: Ending::Expired, .. }) {
            return running.resolve_late(id, outcome);
        }
        let public = stored.map(|stored| stored.public.get()).unwrap_or_default();
        // Its event is on disk: from now on it ends so, if need be without the application.
        running.ending.lock().insert(id.to_owned(), (outcome.to_owned(), event_id.to_owned()));
        let ended = running.end(id, public, Ending::Resolved, Some(outcome), Some(event_id)).await?;
        running.ending.lock().remove(id);
        match ended {
            Answer::Created(_) => {
                self.metrics.resolved.inc();
                running.catch_up()?;
                Ok(Ended { duplicate: false, late: false })
            }
            Answer::Duplicate { .. } => Ok(Ended { duplicate: true, late: false }),
            Answer::Conflict => {
                running.catch_up()?;
                match running.known(id).map(|entry| entry.state) {
                    Some(State::Closed { ending: Ending::Expired, .. }) => running.resolve_late(id, outcome),
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

    /// Open intents behind a number, oldest first, at most so many and so many bytes; and the number that the next page is behind, where there are more.
    pub async fn open_after(
        self: &Arc<Self>,
        number: Option<u64>,
        most: usize,
        bytes: usize,
    ) -> Result<(Vec<(Entry, Stored)>, Option<u64>), Problem> {
        let running = self.running()?;
        if self.is_elsewhere(&running) {
            // An empty list would say that there is nothing to replay.
            return Err(away());
        }
        running.catch_up()?;
        let (wanted, more): (Vec<(String, Entry)>, bool) = {
            let ledger = running.ledger.lock();
            let mut all = ledger.open_after(number);
            let wanted = all.by_ref().take(most).map(|(id, entry)| (id.to_owned(), entry.clone())).collect();
            (wanted, all.next().is_some())
        };
        let last = wanted.last().map(|(_, entry)| entry.number);
        let (read, cut) = running.read(wanted, bytes).await?;
        // One that ended meanwhile is open no longer.
        let found: Vec<(Entry, Stored)> =
            read.into_iter().filter(|(entry, _)| entry.is_open()).filter_map(|(entry, stored)| Some((entry, stored?))).collect();
        Ok((found, cut.or(last.filter(|_| more))))
    }

    /// Records of intents that could not be read since the start: what is listed may not be all.
    pub fn lost(&self) -> u64 {
        self.running.load().as_ref().map_or(0, |running| running.ledger.lock().lost_total())
    }

    /// Intents that ended so, behind a record, in the order in which they ended; and whether there are more.
    pub fn ended_after(
        self: &Arc<Self>,
        ending: Ending,
        seq: Option<u64>,
        most: usize,
    ) -> Result<(Vec<(String, Entry)>, bool), Problem> {
        let running = self.running()?;
        running.catch_up()?;
        let ledger = running.ledger.lock();
        let mut all = ledger.ended_after(ending, seq);
        let found = all.by_ref().take(most).map(|(id, entry)| (id.to_owned(), entry.clone())).collect();
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
            sink: running.outlets.standings().pop().map(|standing| standing.snapshot).unwrap_or_default(),
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
    pub async fn tidy(self: Arc<Self>, current: Current) {
        let mut tried = Instant::now();
        while !self.stopping.load(Ordering::Acquire) {
            tokio::time::sleep(TICK).await;
            if self.fault().is_some() && tried.elapsed() >= AGAIN {
                tried = Instant::now();
                self.follow(&current).await;
            }
            let Some(running) = self.running.load_full() else { continue };
            let tenant = current.load().fill.tenant.clone();
            if let Err(error) = self.expire(&running, &tenant).await {
                tracing::warn!(error = error.detail, "intents that are open for too long could not be ended; it is tried again");
            }
            if let Err(error) = running.clean(Instant::now().checked_sub(LINGER)).await {
                tracing::warn!(error = error.detail, "payloads of intents that ended could not be let go of; it is tried again");
            }
            self.tell_lost(&running).await;
        }
    }

    async fn expire(&self, running: &Arc<Running>, tenant: &str) -> Result<(), Problem> {
        running.catch_up()?;
        let after = running.terms.lock().spec.expire_after.duration();
        let overdue = running.ledger.lock().overdue(now_ms(), after, GRACE);
        for id in overdue {
            if self.stopping.load(Ordering::Acquire) {
                return Ok(());
            }
            // Whoever resolves it now does so before this, or after.
            let _alone = running.endings.write().await;
            running.catch_up()?;
            let Some(entry) = running.known(&id).filter(Entry::is_open) else { continue };
            let read = running.ledger.lock().read(&id);
            let stored = match read {
                Ok(Some(stored)) => stored,
                Ok(None) => {
                    running.lose(&id, &entry);
                    continue;
                }
                // The others need not wait for a disk that does not give this one.
                Err(error) => {
                    unread(&error);
                    continue;
                }
            };
            let public = stored.public.get();
            let mut recorded = running.ending.lock().get(&id).cloned();
            if recorded.is_none() {
                // A process before this one may have recorded its event, and died before its end.
                recorded = self.audit.resolution(tenant, &id).await;
            }
            if let Some((outcome, event_id)) = recorded {
                let end = ending(&id, public, Ending::Resolved, Some(&outcome), Some(&event_id), now_ms())?;
                running.commit(&end, now_ms()).await?;
                running.ending.lock().remove(&id);
                running.catch_up()?;
                continue;
            }
            if !running.told.lock().contains(&id) {
                // First the chain: a crash in between has it say so twice, and not never.
                let told = self.audit.commit.tell(expired_note(&id, public, entry.created_ms)).await;
                told.map_err(|failure| Problem::new(Reason::Dependency, failure.to_string()))?;
                running.told.lock().insert(id.clone());
            }
            let at_ms = now_ms();
            let answer = running.commit(&ending(&id, public, Ending::Expired, None, None, at_ms)?, at_ms).await?;
            running.catch_up()?;
            running.told.lock().remove(&id);
            if let Answer::Created(_) = answer {
                self.metrics.expired.inc();
                tracing::warn!(intentId = id, "a write intent was open for too long; the chain says so, and its payload goes");
            } else if running.known(&id).is_some_and(|entry| entry.is_open()) {
                // Its end is known, and the record of it was lost.
                running.lose(&id, &entry);
            }
        }
        Ok(())
    }

    /// What could not be read has a name, too: in the chain, which an auditor looks at.
    async fn tell_lost(&self, running: &Running) {
        let mut lost = running.ledger.lock().take_lost();
        lost.sort_unstable();
        lost.dedup_by(|next, before| {
            let joins = next.0 <= before.1;
            if joins {
                before.1 = before.1.max(next.1);
            }
            joins
        });
        let mut lost = lost.into_iter();
        while let Some((first, next)) = lost.next() {
            tracing::error!(first, next, "records of write intents cannot be read any more; open intents may be among them");
            let note =
                Note::new(Kind::Quarantine, "A part of the journal of write intents cannot be read; open intents may be lost.")
                    .number("firstIntentRecord", first)
                    .number("intentRecords", next - first);
            if self.audit.commit.tell(note).await.is_err() {
                let mut ledger = running.ledger.lock();
                std::iter::once((first, next)).chain(lost).for_each(|(first, next)| ledger.untold(first, next));
                return;
            }
        }
    }

    /// Whether anything is left that a later pod must have: open intents, or records that the topic does not have. Blocks.
    pub fn stop(&self, most: Duration) -> (usize, u64) {
        self.stopping.store(true, Ordering::Release);
        // What cannot be opened is not nothing.
        let Some(running) = self.running.load_full() else { return (usize::from(self.is_left()), 0) };
        let undelivered = running.outlets.stop(most);
        let _ = running.catch_up();
        let open = running.ledger.lock().open();
        (open, undelivered)
    }

    /// What would be left if it ended now.
    pub fn left(&self) -> (usize, u64) {
        let Some(running) = self.running.load_full() else { return (usize::from(self.is_left()), 0) };
        (running.ledger.lock().open(), running.outlets.undelivered())
    }

    /// Ends the loop.
    pub async fn end(&self) {
        let _turn = self.turn.lock().await;
        let Some(running) = self.running.load_full() else { return };
        running.commit.close().await;
        running.commit.end().await;
        let thread = running.loop_thread.lock().take();
        let _ = tokio::task::spawn_blocking(move || thread.map(JoinHandle::join)).await;
    }
}

// === impl Trail ===

impl Trail {
    /// How an intent was resolved, by the event that the sidecar made for it: outcome and event id. An event under an id or for a tenant
    /// of the application's own is not found.
    async fn resolution(&self, tenant: &str, id: &str) -> Option<(String, String)> {
        let event_id = format!("intent-{id}");
        let identity = steno_event::identity(&self.key, tenant, &event_id);
        let seq = self.commit.find(identity).await.ok().flatten()?;
        let shared = self.shared.clone();
        let held = reading(move || Held::read(&shared, seq)).await.ok().flatten()?;
        let frame = held.frame().filter(|frame| frame.identity == identity)?;
        let text = std::str::from_utf8(frame.json).ok()?;
        let Ok(json::Json::Object(record)) = json::parse(text) else { return None };
        Some((record.get("outcome")?.as_str()?.to_owned(), event_id))
    }
}

// === impl Running ===

impl Running {
    fn known(&self, id: &str) -> Option<Entry> {
        self.ledger.lock().get(id).cloned()
    }

    fn catch_up(&self) -> Result<(), Problem> {
        let read = self.ledger.lock().catch_up().map_err(|error| unread(&error));
        self.keep_room();
        read
    }

    /// Has the journal keep room for the ends of all that is open, or comes.
    fn keep_room(&self) {
        let open = self.ledger.lock().end_bytes();
        self.reserve.bytes.store(open + self.coming.load(Ordering::Acquire), Ordering::Release);
    }

    /// One that had expired is resolved: the same way each time.
    fn resolve_late(&self, id: &str, outcome: &str) -> Result<Ended, Problem> {
        let mut late = self.late.lock();
        if late.len() >= LATE_REMEMBERED {
            late.clear();
        }
        match late.get(id) {
            Some(before) if before != outcome => {
                let detail = format!("This intent had expired, and was resolved since with outcome {before}, which stays.");
                Err(Problem::new(Reason::IntentConflict, detail))
            }
            _ => {
                late.insert(id.to_owned(), outcome.to_owned());
                Ok(Ended { duplicate: false, late: true })
            }
        }
    }

    async fn commit(&self, stored: &Stored, at_ms: u64) -> Result<Answer, Problem> {
        let item = stored.item(&self.key, at_ms);
        match self.commit.submit(vec![item]).await.pop() {
            Some(Answer::Failed(Failure::Full)) => Err(full()),
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
        how: Ending,
        outcome: Option<&str>,
        event_id: Option<&str>,
    ) -> Result<Answer, Problem> {
        let at_ms = now_ms();
        let stored = ending(id, public, how, outcome, event_id, at_ms)?;
        let running = self.clone();
        // Not the request's: one that is cut off must not let go of its turn while its record is on the way.
        let ending = tokio::spawn(async move {
            let _turn = running.endings.read().await;
            running.commit(&stored, at_ms).await
        });
        let ended = tokio::time::timeout(PATIENCE, ending).await;
        ended.map_or_else(|_| Err(unwritten()), |ended| ended.unwrap_or_else(|_| Err(unwritten())))
    }

    /// Has payloads go that are of no use since before a time.
    async fn clean(self: &Arc<Self>, before: Option<Instant>) -> Result<(), Problem> {
        let Some(before) = before else { return Ok(()) };
        self.catch_up()?;
        let delivered = self.shared.synced().saturating_sub(self.outlets.undelivered());
        let renew = self.renew.load(Ordering::Acquire);
        let chores = self.ledger.lock().chores(before, delivered, renew);
        if chores.rotate {
            self.commit.rotate();
        }
        if !chores.carry.is_empty() {
            self.carry(chores.carry).await.unwrap_or_else(|error| {
                tracing::warn!(error = error.detail, "open intents could not be written again; they hold their segment");
            });
        }
        let pin = self.ledger.lock().pin();
        self.commit.positions([(steno_journal::sink_id(OPEN), pin)].into());
        Ok(())
    }

    /// Has open intents stand further on.
    async fn carry(self: &Arc<Self>, ids: Vec<String>) -> Result<(), Problem> {
        let wanted: Vec<(String, Entry)> = {
            let ledger = self.ledger.lock();
            let open = |id: String| Some((id.clone(), ledger.get(&id).filter(|entry| entry.is_open())?.clone()));
            ids.into_iter().filter_map(open).collect()
        };
        let (read, _) = self.read(wanted, CARRIED_AT_ONCE).await?;
        let mut items = Vec::with_capacity(read.len());
        for (entry, stored) in read {
            // What ended meanwhile must not come to life again.
            let Some(stored) = stored.filter(|stored| entry.is_open() && stored.private.is_some()) else { continue };
            let carried = Stored { step: Step::Carried, number: Some(entry.number), ..stored };
            items.push((carried.item(&self.key, entry.created_ms), carried.intent_id, entry));
        }
        let _alone = self.endings.write().await;
        self.catch_up()?;
        let is_there = |id: &str, entry: &Entry| self.ledger.lock().get(id) == Some(entry);
        let items: Vec<_> = items.into_iter().filter(|(_, id, entry)| is_there(id, entry)).map(|(item, ..)| item).collect();
        let answers = self.commit.submit(items).await;
        self.catch_up()?;
        if let Some(answer) = answers.iter().find(|answer| !matches!(answer, Answer::Created(_))) {
            tracing::warn!(?answer, "an open intent could not be written again; it holds its segment");
        }
        Ok(())
    }

    /// Latest records of intents, in the order given, up to so many bytes of payloads; and the number of the last one where that is not all. What was
    /// carried or ended meanwhile is read again; what is damaged is told of, and left out.
    async fn read(
        self: &Arc<Self>,
        wanted: Vec<(String, Entry)>,
        bytes: usize,
    ) -> Result<(Vec<(Entry, Option<Stored>)>, Option<u64>), Problem> {
        let running = self.clone();
        reading(move || {
            let (mut found, mut size) = (Vec::with_capacity(wanted.len()), 0);
            let mut records = Records::of(&running.shared);
            for (id, mut entry) in wanted {
                if size >= bytes {
                    let last = found.last().map(|(entry, _): &(Entry, _)| entry.number);
                    return Ok((found, last));
                }
                let stored = loop {
                    if let Some(stored) = records.read(&id, &entry).map_err(|error| unread(&error))? {
                        break Some(stored);
                    }
                    running.catch_up()?;
                    match running.known(&id) {
                        Some(now) if now != entry => entry = now,
                        // The record of an end may be gone with its segment.
                        Some(now) if !now.is_open() => break None,
                        _ => {
                            running.lose(&id, &entry);
                            break None;
                        }
                    }
                };
                if stored.is_none() && entry.is_open() {
                    continue;
                }
                let payload = stored.as_ref().and_then(|stored| stored.private.as_ref());
                size += payload.map_or(0, |private| private.payload.get().len());
                found.push((entry, stored));
            }
            Ok((found, None))
        })
        .await?
    }

    /// Takes out what is damaged, if it is still where it was.
    fn lose(&self, id: &str, entry: &Entry) {
        let mut ledger = self.ledger.lock();
        if ledger.get(id) == Some(entry) {
            ledger.lose(id);
        }
    }
}

fn unread(error: &steno_journal::Error) -> Problem {
    tracing::error!(%error, "the journal of write intents cannot be read");
    let detail = "The disk of the journal of write intents refuses reads; the sidecar's log says why. Try again.";
    Problem::later(Reason::Dependency, detail, Duration::from_secs(5))
}

/// The record of an end.
fn ending(
    id: &str,
    public: &str,
    ending: Ending,
    outcome: Option<&str>,
    event_id: Option<&str>,
    at_ms: u64,
) -> Result<Stored, Problem> {
    Ok(Stored {
        step: Step::Closed,
        intent_id: id.to_owned(),
        number: None,
        private: None,
        state: Some(ending),
        outcome: outcome.map(str::to_owned),
        event_id: event_id.map(str::to_owned),
        public: raw(closed(public, id, ending, outcome, event_id, at_ms))?,
    })
}

/// Readings at a time: each reads the disk that events are written to.
static READINGS: Semaphore = Semaphore::const_new(2);

/// Reads on a thread that nobody else waits for.
async fn reading<T: Send + 'static>(read: impl FnOnce() -> T + Send + 'static) -> Result<T, Problem> {
    apart(&READINGS, read).await.map_err(|_| unwritten())
}

fn away() -> Problem {
    let detail = "The spool is not on its volume (see the sidecar's stats): what an earlier pod left cannot be seen. Try again when it is.";
    Problem::later(Reason::Dependency, detail, Duration::from_secs(10))
}

fn full() -> Problem {
    let detail = "The journal of write intents is full; resolve those that are done, or raise intents.maxBytes. It also fills while Kafka is away.";
    Problem::later(Reason::SpoolFull, detail, Duration::from_secs(1))
}

fn unwritten() -> Problem {
    let detail = "The disk of the journal of write intents refuses writes; the sidecar's log says why. Try again.";
    Problem::later(Reason::Dependency, detail, Duration::from_secs(1))
}

fn raw(text: String) -> Result<Box<RawValue>, Problem> {
    RawValue::from_string(text).map_err(|_| unwritten())
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
