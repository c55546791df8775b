//! A changed configuration takes effect without a restart; an invalid one leaves the old one in force.
//!
//! What counts is content: the bytes of the file, of its signature and of all Secrets. The watch only says when to look; whatever it says, nothing is done, logged or
//! counted while the content is that of the last look. The first look comes as soon as the watch is there, since the file may have changed between the
//! start and the watch; and there is one every minute, since a watch may miss a change or not be had at all (a node whose `inotify` instances are used
//! up, a file system that tells nothing).
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use notify::{RecursiveMode, Watcher};
use parking_lot::Mutex;
use steno_chain::{Kind, Note};
use steno_crds::{Fault, Parsed};
use steno_deliver::kafka::Secrets;
use tokio::sync::mpsc;

use crate::{
    identity::Identity,
    intake::{Intake, Rates},
    listeners::Listeners,
    logs,
    policy::Compiled,
    signed::{Source, signature_of},
    telemetry::{HashLabel, ResultLabel},
};

/// How the last reload went.
#[derive(Debug, Clone, Default)]
pub struct LastReload {
    /// When the configuration that counts was loaded, milliseconds since 1970.
    pub loaded_ms: u64,
    /// What is wrong with the file.
    pub error: Option<String>,
    /// Changed fields that wait for a restart.
    pub needs_restart: Vec<String>,
}

/// Reloads.
pub struct Reloader {
    /// What requests share.
    pub intake: Arc<Intake>,
    /// Who we are.
    pub identity: Identity,
    /// Where secrets are.
    pub secrets: Secrets,
    /// What a configuration is checked against.
    pub source: Source,
    /// How the last one went.
    pub last: Arc<Mutex<LastReload>>,
    /// Where the last good configuration is kept.
    pub keep: PathBuf,
    /// Whether the level of the log is fixed by hand.
    pub level_fixed: bool,
    /// The journal's directory.
    pub dir: PathBuf,
    /// Further listeners.
    pub listeners: Arc<tokio::sync::Mutex<Listeners>>,
    /// The content at the last look, which begins with that of the start; `None`: the next look reads it whatever it is.
    pub seen: Option<[u8; 32]>,
}

/// A digest of what a configuration is made of, to be taken before it is read: the file, and every file of the Secrets. A kubelet's own folders (`..data` and those it leads to) hold what
/// the names beside them lead to.
pub fn content(file: &Path, secrets: &Path) -> [u8; 32] {
    let mut digest = blake3::Hasher::new();
    let mut add = |path: &Path| {
        digest.update(path.as_os_str().as_encoded_bytes());
        match std::fs::read(path) {
            Ok(bytes) => digest.update(&[1]).update(&(bytes.len() as u64).to_le_bytes()).update(&bytes),
            Err(error) => digest.update(&[0]).update(error.kind().to_string().as_bytes()),
        };
    };
    add(file);
    add(&signature_of(file));
    for dir in listed(secrets) {
        for path in listed(&dir) {
            add(&path);
        }
    }
    *digest.finalize().as_bytes()
}

/// What is in a folder, in order.
fn listed(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
    let is_own = |path: &PathBuf| path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".."));
    let mut paths: Vec<PathBuf> = entries.filter(|path| !is_own(path)).collect();
    paths.sort();
    paths
}

/// Editors and kubelets touch several files in a row.
const QUIET: Duration = Duration::from_millis(100);
/// Between two looks if nothing tells of a change.
const UNTOLD: Duration = Duration::from_mins(1);
/// Between two looks if nothing can tell of a change.
const UNWATCHED: Duration = Duration::from_secs(5);

/// What tells of changes: in the file's directory, so that a ConfigMap's swapped link counts, and among the Secrets.
fn watcher(file: &Path, secrets: &Path, changed: mpsc::Sender<()>) -> notify::Result<notify::RecommendedWatcher> {
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // A reload opens and reads these files itself: that is no change.
        if !event.is_ok_and(|event| event.kind.is_access()) {
            let _ = changed.try_send(());
        }
    })?;
    let dir = file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    watcher.watch(dir, RecursiveMode::NonRecursive)?;
    if secrets.is_dir() {
        watcher.watch(secrets, RecursiveMode::Recursive)?;
    }
    Ok(watcher)
}

/// Why the spool goes on with the keys that it has, though the configuration names others.
fn keeps_its_keys(old: &Compiled, new: &Compiled) -> Option<String> {
    // A pod's volumes are those it was made with: a Secret that the policy names later comes with another pod.
    if let Some(why) = new.no_key.as_ref().filter(|_| old.no_key.is_none()) {
        return Some(format!(
            "{why}; the spool of this pod goes on as it was, and everything else of the configuration counts. A pod that is made from now on has \
             the Secret if it exists by then"
        ));
    }
    // A key that was put in another's place would leave segments that nobody can read.
    let used = old.envelope.keys.current()?;
    (!new.envelope.keys.has(used.id())).then(|| {
        "the key that the spool is encrypted with is no longer among its keys: once the sidecar restarts it cannot read what it spooled. Put the key back, \
         or name it in spool.encryption.oldKeySecretRefs. Until then it goes on with that key, and everything else of the configuration counts"
            .to_owned()
    })
}

/// Faults on one line.
pub fn shown(faults: &[Fault]) -> String {
    faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

// === impl Reloader ===

impl Reloader {
    /// Follows the file and the Secrets, for ever.
    pub async fn watch(mut self, file: PathBuf) {
        let (sender, mut changes) = mpsc::channel(1);
        let watcher = watcher(&file, &self.secrets.0, sender.clone());
        let every = if watcher.is_ok() { UNTOLD } else { UNWATCHED };
        if let Err(error) = &watcher {
            tracing::warn!(%error, "the configuration cannot be watched; it is looked at every 5 s");
        }
        self.look(&file).await;
        loop {
            let told = tokio::time::timeout(every, changes.recv()).await.is_ok();
            // Not for ever: a log that is written beside the configuration changes its directory all the time.
            let until = tokio::time::Instant::now() + 10 * QUIET;
            while told && tokio::time::timeout_at(until.min(tokio::time::Instant::now() + QUIET), changes.recv()).await.is_ok() {}
            self.look(&file).await;
        }
    }

    /// Looks whether anything is another one, and applies it.
    async fn look(&mut self, file: &Path) {
        let seen = content(file, &self.secrets.0);
        if self.seen.replace(seen) != Some(seen) {
            self.reload(file).await;
        }
    }

    async fn reload(&mut self, file: &Path) {
        match self.source.read(file) {
            Ok(parsed) => self.apply(parsed).await,
            Err(fault) => {
                // Two files, and one may have been changed between the looks at them.
                self.seen = None;
                self.refuse(fault);
            }
        }
    }

    fn count(&self, result: &'static str) {
        self.intake.metrics.reloads.get_or_create(&ResultLabel { result }).inc();
    }

    fn refuse(&self, error: String) {
        if self.last.lock().error.as_ref() != Some(&error) {
            tracing::error!(error, "the configuration is invalid; the last good one stays in force");
            self.count("invalid");
        }
        self.tell(Some(error));
    }

    /// What is wrong with the configuration from now on.
    fn tell(&self, error: Option<String>) {
        self.intake.metrics.config_error.set(i64::from(error.is_some()));
        self.last.lock().error = error;
    }

    async fn apply(&mut self, parsed: Parsed) {
        let old = self.intake.compiled.load_full();
        let Parsed { config, unknown } = parsed;
        let mut compiled = match Compiled::new(config, unknown, &self.identity, &self.secrets) {
            Ok(compiled) => compiled,
            Err(error) => return self.refuse(error.to_string()),
        };
        let kept = keeps_its_keys(&old, &compiled);
        if kept.is_some() {
            // All else counts.
            compiled.envelope = old.envelope.clone();
            compiled.no_key.clone_from(&old.no_key);
        }
        let routes = compiled.routes(&self.identity, &self.secrets, &self.dir);
        // The new client is made before the old one goes. One that lacks a Secret is made when that comes.
        if compiled.missing_secrets.is_empty() {
            let (intake, routes) = (self.intake.clone(), routes.clone());
            // Clients wait when they are made and when they end.
            let verified = tokio::task::spawn_blocking(move || intake.outlets.verify(&routes)).await;
            if let Err(error) = verified.unwrap_or_else(|_| Err("a client panicked while it was made".into())) {
                return self.refuse(error);
            }
        }
        if let Some(kept) = &kept {
            tracing::error!(error = kept, "the spool keeps its keys");
        }
        self.tell(kept.clone());
        let moved = !self.intake.outlets.lead_as(&routes);
        let same = compiled.config.hash == old.config.hash && !moved && compiled.missing_secrets == old.missing_secrets;
        // Secrets leave no trace in the hash.
        if same
            && compiled.sinks_key == old.sinks_key
            && compiled.query == old.query
            && compiled.intents == old.intents
            && compiled.listeners == old.listeners
            && compiled.envelope == old.envelope
            && compiled.no_key == old.no_key
        {
            return;
        }
        let (from, to) = (old.config.hash.clone(), compiled.config.hash.clone());
        let needs_restart = needs_restart(&old, &compiled);
        if compiled.config.spec.limits.rate != old.config.spec.limits.rate {
            *self.intake.rates.lock() = Rates::new(&compiled.config.spec.limits.rate, self.intake.started.elapsed());
        }
        if !self.level_fixed {
            logs::set_level(level(&compiled));
        }
        let commit = Arc::new(compiled.commit(&self.identity));
        let listeners = compiled.listeners.clone();
        let fan_out = compiled.config.spec.fan_out;
        keep(&self.keep, &compiled);
        self.intake.look.follow(&compiled.query);
        self.intake.compiled.store(Arc::new(compiled));
        if from != to || old.envelope != self.intake.compiled.load().envelope {
            let note = Note::new(Kind::Config, "Another configuration counts from here on.")
                .text("from", &*from)
                .text("to", &*to)
                .flag("newDestination", moved);
            self.intake.commit.reload(commit, note).await;
        }
        self.intake.outlets.reload(routes, fan_out);
        self.intake.intents.follow(&self.intake.compiled).await;
        self.listeners.lock().await.follow(&listeners, &self.intake).await;
        self.count("ok");
        let metrics = &self.intake.metrics;
        metrics.config_hash.clear();
        metrics.config_hash.get_or_create(&HashLabel { hash: to.clone() }).set(1);
        let loaded_ms = crate::intake::now_ms();
        metrics.config_loaded.set(loaded_ms as i64 / 1000);
        for field in &needs_restart {
            tracing::warn!(field, "this field changes at the next start only");
        }
        *self.last.lock() = LastReload { loaded_ms, error: kept, needs_restart };
        tracing::info!(from, to, new_destination = moved, "another configuration is in force");
    }
}

/// Keeps the last good configuration beside the journal. It holds references to secrets, never secrets.
pub fn keep(path: &Path, compiled: &Compiled) {
    if compiled.config.policy.name.is_empty() {
        // What runs until a configuration comes is none that was ever good.
        return;
    }
    let text = serde_yaml::to_string(&compiled.config).map_err(std::io::Error::other);
    if let Err(error) = text.and_then(|text| steno_journal::put_file_at(path, text.as_bytes())) {
        tracing::warn!(%error, "the last good configuration could not be kept beside the journal");
    }
}

/// The level of a configuration.
pub fn level(compiled: &Compiled) -> &'static str {
    match compiled.config.spec.sidecar.log_level {
        steno_crds::LogLevel::Error => "error",
        steno_crds::LogLevel::Warn => "warn",
        steno_crds::LogLevel::Info => "info",
        steno_crds::LogLevel::Debug => "debug",
    }
}

fn needs_restart(old: &Compiled, new: &Compiled) -> Vec<String> {
    let (old, new) = (&old.config.spec, &new.config.spec);
    let mut fields = Vec::new();
    if old.dedupe.max_entries != new.dedupe.max_entries {
        fields.push("spec.dedupe.maxEntries".to_owned());
    }
    if old.limits.max_connections != new.limits.max_connections {
        fields.push("spec.limits.maxConnections".to_owned());
    }
    fields
}
