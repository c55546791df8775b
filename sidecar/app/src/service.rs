//! All parts of a running sidecar, started and stopped in order.
use std::{
    path::{Path, PathBuf},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use steno_commit::{Bell, Committer, Handle, SystemClock};
use steno_crds::Ack;
use steno_deliver::{
    DeadFolder,
    kafka::{Secrets, Transactions},
};
use steno_event::IdKey;
use steno_journal::RealDisk;
use steno_redact::HashKey;
use tokio::{
    net::{TcpListener, UnixListener},
    sync::watch,
};

use crate::{
    adoption::{Adopter, Reach},
    args::RunArgs,
    http::{Ingest, Listener, StatusPort, serve},
    identity::Identity,
    intake::{Intake, Rates, now_ms},
    intents::{Intents, Trail},
    listeners::Listeners,
    look::Look,
    outlets::{Common, Fan, Outlets},
    place::{self, Afresh, Place},
    policy::Compiled,
    reload::{LastReload, Reloader, keep},
    signed::Source,
    stats::Stats,
    telemetry::{HashLabel, Metrics},
};

/// Pieces of work that may wait for the commit loop.
const QUEUE: usize = 4096;
/// What sinks may take beyond the deadline to let go of what is on its way.
const STOP_GRACE: Duration = Duration::from_secs(5);
/// Least time to stop in, whatever the policy says.
const LEAST_DRAIN: Duration = Duration::from_secs(1);
/// Between two tries for the further address of health, metrics and stats.
const AGAIN: Duration = Duration::from_secs(5);

/// A running sidecar.
pub struct Service {
    /// What requests share.
    pub intake: Arc<Intake>,
    /// The journal's UUID.
    pub uuid: [u8; 16],
    stats: Arc<Stats>,
    registry: Arc<Registry>,
    commit: Handle,
    loop_thread: JoinHandle<()>,
    stop: watch::Sender<bool>,
    listeners: Vec<tokio::task::JoinHandle<()>>,
    further: Arc<tokio::sync::Mutex<Listeners>>,
    last: Arc<Mutex<LastReload>>,
    adopter: Option<tokio::task::JoinHandle<()>>,
    lock: Arc<RealDisk>,
    /// The journal's directory.
    pub dir: PathBuf,
}

/// What a stopped sidecar leaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    /// Records that are spooled, not delivered.
    pub undelivered: u64,
    /// Write intents that are open.
    pub open_intents: u64,
    /// Sequence number after the last record.
    pub next_seq: u64,
}

// === impl Service ===

impl Service {
    /// Starts everything but the listeners, over the directory of the journal, or the one to fall back to. `strict`: one that loses its contents
    /// is refused.
    /// `bell`: the one that the runtime rings before it sleeps.
    pub fn start(
        compiled: impl Into<Arc<Compiled>>,
        identity: &Identity,
        secrets: &Secrets,
        place: Place,
        strict: bool,
        bell: Bell,
    ) -> anyhow::Result<Self> {
        let compiled: Arc<Compiled> = compiled.into();
        let metrics = Metrics::default();
        let fan = Fan::default();
        let (commit, work) = Handle::new(QUEUE, bell);
        let strict = strict && compiled.config.spec.ack != Ack::Written;
        let open = |disk: RealDisk| {
            if strict {
                disk.refuse_tmpfs()?;
            }
            let config = Arc::new(compiled.commit(identity));
            let clock = Box::new(SystemClock::default());
            let disk = Arc::new(disk);
            let opened = Committer::open(disk.clone(), config, clock, Box::new(fan.clone()), metrics.commit.clone());
            opened.map(|(committer, started)| (committer, started, disk)).context("the journal cannot be opened")
        };
        let Place { disk, mut fell_back, fallback, on_claim, afresh } = place;
        let mut dir = disk.dir().to_owned();
        let opened = open(disk).or_else(|fault| match afresh {
            Some(afresh) => begin_beside(fault, &afresh, &mut dir, open),
            None => Err(fault),
        });
        let (committer, started, lock) = match (opened, fallback) {
            (Err(fault), Some(fallback)) => {
                let place = place::fall_back(&fallback, &fault)?;
                (dir, fell_back) = (fallback, place.fell_back);
                open(place.disk)?
            }
            (opened, _) => opened?,
        };
        place::began(&dir)?;
        let dir = &dir;
        let common = Common {
            shared: started.shared.clone(),
            commit: commit.clone(),
            dir: dir.clone(),
            damage: metrics.commit.losses.clone(),
            metrics: metrics.deliver.clone(),
            fan,
            transactions: Transactions::new(&started.uuid, dir, started.shared.clone(), commit.clone()),
            dead: DeadFolder::of(dir),
        };
        let routes = compiled.routes(identity, secrets, dir);
        let outlets = Outlets::start(common, routes, compiled.config.spec.fan_out, &started.positions)?;
        let loop_thread = std::thread::Builder::new().name("steno-commit".into()).spawn(move || committer.run(work));
        let loop_thread = loop_thread.context("no thread for the commit loop")?;
        let at = (on_claim, fell_back.is_some());
        let trail = Trail { commit: commit.clone(), shared: started.shared.clone(), key: IdKey(started.id_key) };
        let intents = Intents::new(dir, (identity, secrets), at, metrics.deliver.clone(), metrics.intents.clone(), trail);
        let now = Instant::now();
        let rates = Mutex::new(Rates::new(&compiled.config.spec.limits.rate, Duration::ZERO));
        let keep_at = dir.join(place::LAST);
        keep(&keep_at, &compiled);
        let loaded_ms = now_ms();
        metrics.config_hash.get_or_create(&HashLabel { hash: compiled.config.hash.clone() }).set(1);
        metrics.config_loaded.set(loaded_ms as i64 / 1000);
        let registry = Arc::new(metrics.registry());
        let intake = Arc::new(Intake {
            compiled: Arc::new(ArcSwap::new(compiled)),
            commit: commit.clone(),
            outlets,
            intents: Arc::new(intents),
            look: Look::new(started.shared.clone(), IdKey(started.id_key), started.uuid, dir),
            shared: started.shared,
            key: IdKey(started.id_key),
            identity_key: HashKey { id: "journal".into(), key: started.id_key.to_vec() },
            metrics,
            rates,
            listener_faults: Mutex::default(),
            adoption: Mutex::default(),
            stopping: AtomicBool::new(false),
            let_in: AtomicBool::new(false),
            started: now,
        });
        intake.look.follow(&intake.compiled.load().query);
        let last = Arc::new(Mutex::new(LastReload { loaded_ms, ..LastReload::default() }));
        let unusable = started.unusable;
        let stats = Stats::new(intake.clone(), last.clone(), started.uuid, identity.pod_uid.clone(), fell_back, unusable);
        let stats = Arc::new(stats);
        Ok(Self {
            intake,
            uuid: started.uuid,
            stats,
            registry,
            commit,
            loop_thread,
            stop: watch::Sender::new(false),
            listeners: Vec::new(),
            further: Arc::default(),
            last,
            adopter: None,
            lock,
            dir: dir.to_owned(),
        })
    }

    /// Takes events on a listener. `loopback`: Host and Origin are checked.
    pub fn ingest(&mut self, listener: Listener, loopback: bool) {
        let ingest = Ingest::new(self.intake.clone(), loopback);
        let most = self.intake.compiled.load().config.spec.limits.max_connections as usize;
        let gauge = self.intake.metrics.connections.clone();
        let handle = move |request| ingest.clone().handle(request);
        self.listeners.push(tokio::spawn(serve(listener, most, handle, gauge, self.stop.subscribe())));
    }

    /// Begins with write intents, where the policy allows them. What is wrong is told in the log and the stats, and audit events are taken all the same.
    pub async fn intents(&self) {
        let intents = &self.intake.intents;
        intents.follow(&self.intake.compiled).await;
        tokio::spawn(intents.clone().tidy(self.intake.compiled.clone()));
    }

    /// Looks after what other sidecars left in folders beside this one's.
    pub fn adopt(&mut self, identity: &Identity, secrets: &Secrets, args: &RunArgs) {
        let adopter = Adopter {
            intake: self.intake.clone(),
            identity: identity.clone(),
            secrets: secrets.clone(),
            own: self.dir.clone(),
            dir: args.dir.clone(),
            reach: match (args.shared, args.adopt) {
                (true, _) => Reach::Slots,
                (false, true) => Reach::Siblings,
                (false, false) => Reach::Own,
            },
            after: args.adopt_after.duration(),
            remove: args.remove_drained,
        };
        // Boxed: it starts services, and this is one.
        let run: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(adopter.run(self.stop.subscribe()));
        self.adopter = Some(tokio::spawn(run));
    }

    /// Takes events on the further listeners of the policy.
    pub async fn further(&mut self) {
        let wanted = self.intake.compiled.load().listeners.clone();
        self.further.lock().await.follow(&wanted, &self.intake).await;
    }

    /// Serves health, metrics and stats. It stays up while the sidecar drains.
    pub fn status(&mut self, listener: Listener) {
        let stats = self.stats.clone();
        let sampling = async move {
            loop {
                stats.sample();
                crate::http::give_back();
                tokio::time::sleep(Duration::from_secs(5)).await;
            }
        };
        tokio::spawn(sampling);
        serve_status(listener, StatusPort::new(self.registry.clone(), self.stats.clone()));
    }

    /// Serves them at one more address, as soon as it can be had.
    pub fn also_status(&self, address: String) {
        let port = StatusPort::new(self.registry.clone(), self.stats.clone());
        tokio::spawn(async move {
            let mut tries = 0u32;
            let listener = loop {
                tries = tries.saturating_add(1);
                match bind_dual(&address).await {
                    Ok(listener) => break listener,
                    // Not a line each time: it may last.
                    Err(_) if !tries.is_power_of_two() => {}
                    Err(error) => {
                        tracing::warn!(address, %error, "no further address for health, metrics and stats; it is tried again");
                    }
                }
                tokio::time::sleep(AGAIN).await;
            };
            serve_status(Listener::Tcp(listener), port);
        });
    }

    /// Tells that the file of the configuration is not what runs, and why.
    pub fn note_config_fault(&self, fault: String) {
        self.intake.metrics.config_error.set(1);
        self.last.lock().error = Some(fault);
    }

    /// What reloads the configuration. `seen`: the content that it was started with ([`crate::reload::content`]).
    pub fn reloader(
        &self,
        identity: &Identity,
        secrets: &Secrets,
        (source, seen): (Source, [u8; 32]),
        level_fixed: bool,
    ) -> Reloader {
        Reloader {
            intake: self.intake.clone(),
            identity: identity.clone(),
            secrets: secrets.clone(),
            source,
            last: self.last.clone(),
            keep: self.dir.join(place::LAST),
            level_fixed,
            seen: Some(seen),
            listeners: self.further.clone(),
            dir: self.dir.clone(),
        }
    }

    /// The lock of the journal's directory, for whoever has something to do there after the end.
    pub fn lock(&self) -> Arc<RealDisk> {
        self.lock.clone()
    }

    /// What would be left if it ended now.
    pub fn counts(&self) -> impl Fn() -> Left + Send + 'static {
        let intake = self.intake.clone();
        move || {
            let (open, of_intents) = intake.intents.left();
            let undelivered = intake.outlets.undelivered() + of_intents;
            Left { undelivered, open_intents: open as u64, next_seq: intake.shared.synced() }
        }
    }

    /// Stops: no more events, `Close` in the chains, deliver for a while, end. Every wait is bounded by the policy's `drainTimeout`: a disk that
    /// hangs does not hold the process.
    pub async fn stop(self) -> Left {
        self.intake.stopping.store(true, Ordering::Release);
        self.stop.send_replace(true);
        let drain = self.intake.compiled.load().config.spec.sidecar.drain_timeout.duration();
        let deadline = tokio::time::Instant::now() + drain.max(LEAST_DRAIN);
        let listeners = async {
            for listener in self.listeners {
                let _ = listener.await;
            }
            self.further.lock().await.stop().await;
        };
        within(deadline, "requests to end", listeners).await;
        within(deadline, "the journal to be closed", self.commit.close()).await;
        let (outlets, intents) = (self.intake.outlets.clone(), self.intake.intents.clone());
        let rest = deadline.saturating_duration_since(tokio::time::Instant::now()).min(drain);
        let drained = async {
            let of_intents = tokio::task::spawn_blocking(move || intents.stop(rest));
            let stopped = tokio::task::spawn_blocking(move || outlets.stop(rest)).await;
            (stopped.ok(), of_intents.await.ok())
        };
        // They keep the time themselves, unless a destination or the disk does not let them.
        let drained = within(deadline + STOP_GRACE, "sinks to stop", drained).await;
        let (stopped, of_intents) = drained.unwrap_or_default();
        let (open, of_intents) = of_intents.unwrap_or_else(|| self.intake.intents.left());
        let undelivered = stopped.unwrap_or_else(|| self.intake.outlets.undelivered()) + of_intents;
        let deadline = tokio::time::Instant::now() + LEAST_DRAIN;
        within(deadline, "the journal of write intents to end", self.intake.intents.end()).await;
        let next_seq = self.intake.shared.synced();
        if stopped.is_some() && undelivered == 0 && open == 0 {
            // While the directory is still locked: who takes it next holds events from then on.
            place::note_drained(&self.dir);
        }
        let ended = async {
            self.commit.end().await;
            // A thread that panicked told so itself.
            let _ = tokio::task::spawn_blocking(move || self.loop_thread.join()).await;
        };
        within(deadline, "the journal to end", ended).await;
        if let Some(adopter) = self.adopter {
            // It was told to stop when this began, and keeps the same time.
            within(deadline + STOP_GRACE, "what another sidecar left to be let go of", adopter).await;
        }
        Left { undelivered, open_intents: open as u64, next_seq }
    }
}

/// Begins a journal beside the one in `dir` that cannot be opened, and says where. That one stays as it is: its lock is free again, and it is delivered once
/// it can be opened.
fn begin_beside<T>(
    fault: anyhow::Error,
    afresh: &Afresh,
    dir: &mut PathBuf,
    open: impl Fn(RealDisk) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let mut why = format!("{fault:#}");
    // A new folder that cannot be used either ends it.
    while place::holds_a_journal(dir) {
        place::note_sealed(dir);
        let Ok(disk) = afresh.open() else { break };
        if disk.dir() == dir {
            // The mark could not be written.
            break;
        }
        tracing::error!(fault = why, dir = %disk.dir().display(), "a journal begins beside the one that cannot be opened");
        disk.dir().clone_into(dir);
        match open(disk) {
            Ok(opened) => return Ok(opened),
            Err(next) => why = format!("{next:#}"),
        }
    }
    Err(fault)
}

/// Waits until a deadline; past it says for what.
async fn within<T>(deadline: tokio::time::Instant, what: &str, wait: impl Future<Output = T>) -> Option<T> {
    let done = tokio::time::timeout_at(deadline, wait).await;
    if done.is_err() {
        tracing::error!("stopping without waiting any longer for {what}; events without an answer are not taken");
    }
    done.ok()
}

/// Until the process ends: while the sidecar drains, too. On a thread and a reactor of its own, so that no request that is hard work holds an answer
/// about health up.
fn serve_status(listener: Listener, port: StatusPort) {
    let handle = move |request| std::future::ready(port.handle(&request));
    let work = move || -> std::io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async move {
            let never = watch::Sender::new(false);
            let gauge = prometheus_client::metrics::gauge::Gauge::default();
            serve(listener.adopt()?, 64, handle, gauge, never.subscribe()).await;
            Ok(())
        })
    };
    let run = move || {
        if let Err(error) = work() {
            tracing::error!(%error, "health, metrics and stats cannot be served");
        }
    };
    if let Err(error) = std::thread::Builder::new().name("steno-status".into()).spawn(run) {
        tracing::error!(%error, "health, metrics and stats cannot be served");
    }
}

/// Binds an address; `[::]` means both families, also on a node without IPv6.
///
/// # Errors
/// Somebody has it, or it is none.
pub async fn bind_dual(address: &str) -> std::io::Result<TcpListener> {
    match TcpListener::bind(address).await {
        Err(error) if address.starts_with("[::]:") && has_no_ipv6(&error) => {
            TcpListener::bind(address.replace("[::]", "0.0.0.0")).await
        }
        bound => bound,
    }
}

fn has_no_ipv6(error: &std::io::Error) -> bool {
    const EAFNOSUPPORT: i32 = 97;
    error.kind() == std::io::ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(EAFNOSUPPORT)
}

/// Binds the listeners of intake. Off loopback it is refused: for that a policy has `listeners`, with TLS.
pub async fn bind_ingest(address: &str) -> anyhow::Result<TcpListener> {
    let listener =
        TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}; is another sidecar running?"))?;
    if !listener.local_addr()?.ip().is_loopback() {
        anyhow::bail!("{address} is not a loopback address; events are taken on loopback and on the Unix socket only");
    }
    Ok(listener)
}

/// Binds a Unix socket. One of that name, as a sidecar that was killed leaves it, is replaced; any other file is not.
pub fn bind_socket(path: &Path, mode: u32) -> anyhow::Result<UnixListener> {
    use std::os::unix::fs::{FileTypeExt, PermissionsExt};
    if std::fs::symlink_metadata(path).is_ok_and(|found| !found.file_type().is_socket()) {
        anyhow::bail!("{} is there, and is no socket", path.display());
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot replace {}", path.display()));
        }
        _ => {}
    }
    let listener = UnixListener::bind(path).with_context(|| format!("cannot listen on {}", path.display()))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    Ok(listener)
}
