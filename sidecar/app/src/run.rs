//! `steno-sidecar run`: the production entry.
use std::{
    fs::File,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, bail};
use steno_commit::Bell;
use steno_crds::{Parsed, spool_only};
use steno_deliver::kafka::Secrets;
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    args::{RunArgs, Startup},
    http::Listener,
    identity::Identity,
    logs, place,
    policy::Compiled,
    reload::{content, level},
    service::{Left, Service, bind_dual, bind_ingest, bind_socket},
    signed::Source,
};

/// Between two notes of what is left, while the sidecar drains.
const NOTE: Duration = Duration::from_millis(250);

/// Runs until a signal.
pub fn run(args: &RunArgs) -> anyhow::Result<ExitCode> {
    logs::start(args.log_level.as_deref().unwrap_or("info"));
    let bell = Bell::quiet();
    raise_open_files();
    let runtime = runtime(args.threads as usize, &bell)?;
    let ended = runtime.block_on(serve(args, bell));
    // Not for a thread that waits for a disk.
    runtime.shutdown_timeout(Duration::from_secs(1));
    ended
}

/// Allows as many open files as the hard limit does: connections, the broker's sockets and the spool share them.
fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum && setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).is_err() {
        tracing::warn!(limit = current, "failed to raise the limit of open files");
    }
}

/// The runtime of the HTTP side. It rings for the commit loop before it sleeps.
pub fn runtime(threads: usize, bell: &Bell) -> anyhow::Result<tokio::runtime::Runtime> {
    let mut builder = if threads == 1 {
        // No hand-over between threads; the rest of the work has threads of its own.
        tokio::runtime::Builder::new_current_thread()
    } else {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(threads);
        builder
    };
    let bell = bell.clone();
    builder.max_blocking_threads(4).thread_name("steno-http").enable_all().on_thread_park(move || bell.ring_if_waiting());
    builder.build().context("the runtime cannot be started")
}

async fn serve(args: &RunArgs, bell: Bell) -> anyhow::Result<ExitCode> {
    let place = place::choose(args)?;
    let dir = place.disk.dir().to_owned();
    let source = Source::new(args.config_key.as_deref(), &own_namespace())?;
    let seen = content(&args.config, &args.secrets);
    let (parsed, fault) = load(args, &dir, &source)?;
    let identity = Identity::from_env(&parsed.config.policy.namespace);
    let secrets = Secrets(args.secrets.clone());
    for field in &parsed.unknown {
        tracing::warn!(field, "this version does not know the field; it is left out");
    }
    let compiled = Compiled::new(parsed.config, parsed.unknown, &identity, &secrets)?;
    if args.log_level.is_none() {
        logs::set_level(level(&compiled));
    }
    // Listeners first: what cannot be bound is told before the journal, which is only locked so far, is touched.
    let ingest = if args.listen == "none" { None } else { Some(bind_ingest(&args.listen).await?) };
    if ingest.is_none() && args.socket.is_none() {
        bail!("--listen is none, and there is no --socket: nobody could send an event");
    }
    let socket = args.socket.as_ref().map(|path| bind_socket(path, args.socket_mode)).transpose()?;
    let status = bind_status(args).await?;
    let sockets = Sockets(args.socket.iter().cloned().chain(status_socket(args)).collect());
    let mut service = Service::start(compiled, &identity, &secrets, place, true, bell)?;
    let dir = service.dir.clone();
    if let Some(ingest) = ingest {
        service.ingest(Listener::Tcp(ingest), true);
    }
    if let Some(socket) = socket {
        service.ingest(Listener::Unix(socket), false);
    }
    service.intents().await;
    service.further().await;
    service.status(status);
    if let Some(address) = &args.also_status {
        service.also_status(address.clone());
    }
    if let Some(fault) = fault {
        service.note_config_fault(fault);
    }
    if dir.starts_with(&args.dir) {
        service.adopt(&identity, &secrets, args);
    }
    let reloader = service.reloader(&identity, &secrets, (source, seen), args.log_level.is_some());
    tokio::spawn(reloader.watch(args.config.clone()));
    tracing::info!(listen = args.listen, status = args.status, dir = %dir.display(), version = env!("CARGO_PKG_VERSION"), "ready");
    let (mut term, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = term.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping: no more events are taken; what is spooled is delivered first");
    let retain = service.intake.compiled.load().config.spec.spool.retain.clone();
    // The kubelet may end us before the drain is over, when the application has used the pod's grace up: what is left is noted all along.
    let counts = service.counts();
    let message = TerminationMessage::of_container();
    message.note(&counts());
    let noting = tokio::spawn({
        let message = message.clone();
        async move {
            loop {
                tokio::time::sleep(NOTE).await;
                message.note(&counts());
            }
        }
    });
    let lock = service.lock();
    let left = service.stop().await;
    noting.abort();
    let _ = noting.await;
    tracing::info!(undelivered = left.undelivered, openIntents = left.open_intents, next_seq = left.next_seq, "stopped");
    message.note(&left);
    if args.remove_drained {
        place::remove_drained(&lock, &retain);
    }
    drop(sockets);
    Ok(ExitCode::SUCCESS)
}

/// Files of Unix sockets, which go with the sidecar.
struct Sockets(Vec<PathBuf>);

impl Drop for Sockets {
    fn drop(&mut self) {
        for path in &self.0 {
            let _ = std::fs::remove_file(path);
        }
    }
}

fn status_socket(args: &RunArgs) -> Option<PathBuf> {
    args.status.strip_prefix("unix:").map(PathBuf::from)
}

async fn bind_status(args: &RunArgs) -> anyhow::Result<Listener> {
    if let Some(path) = status_socket(args) {
        return bind_socket(&path, args.socket_mode).map(Listener::Unix);
    }
    bind_dual(&args.status).await.map(Listener::Tcp).with_context(|| format!("cannot listen on {}", args.status))
}

/// The file; where it is missing or invalid the last good configuration beside the journal, and with `startup: open` none at all. The second
/// is what is wrong with the file.
fn load(args: &RunArgs, dir: &Path, source: &Source) -> anyhow::Result<(Parsed, Option<String>)> {
    let fault = match source.read(&args.config) {
        Ok(parsed) => return Ok((parsed, None)),
        Err(fault) => fault,
    };
    if let Ok(parsed) = source.read_kept(&dir.join(place::LAST)) {
        tracing::error!(fault, "starting with the last good configuration");
        return Ok((parsed, Some(fault)));
    }
    if args.startup == Startup::Closed {
        bail!("{fault}; and there is no last good configuration in {}", dir.display());
    }
    tracing::error!(
        fault,
        "starting without a configuration: events are made safe by the builtin rules and spooled until it comes"
    );
    Ok((Parsed { config: spool_only(&own_namespace()), unknown: Vec::new() }, Some(fault)))
}

fn own_namespace() -> String {
    std::env::var("STENO_NAMESPACE").unwrap_or_else(|_| "default".into())
}

/// What Kubernetes shows of a container that ended: a file that is there before it begins.
#[derive(Clone)]
struct TerminationMessage(PathBuf);

impl TerminationMessage {
    /// A line is filled up to so many bytes, more than three numbers and their names need.
    const WIDTH: usize = 127;

    fn of_container() -> Self {
        Self(std::env::var_os("STENO_TERMINATION_LOG").unwrap_or_else(|| "/dev/termination-log".into()).into())
    }

    /// Notes what is left over what was noted before. We may be killed at any moment and the file is never empty in between: it is one
    /// write, of as many bytes each time.
    fn note(&self, left: &Left) {
        let Ok(file) = File::options().write(true).open(&self.0) else { return };
        let Left { undelivered, open_intents, next_seq } = left;
        let line = format!("{{\"undelivered\":{undelivered},\"openIntents\":{open_intents},\"nextSeq\":{next_seq}}}");
        if let Err(error) = file.write_all_at(format!("{line:<0$}\n", Self::WIDTH).as_bytes(), 0) {
            tracing::warn!(%error, "what is left cannot be noted for Kubernetes to show");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn whoever_kills_the_sidecar_while_it_notes_what_is_left_finds_a_whole_note() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let message = TerminationMessage(file.path().to_owned());
        let note = |undelivered| message.note(&Left { undelivered, open_intents: 0, next_seq: u64::MAX });
        note(u64::MAX);
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                (0..20_000).for_each(|left| note(u64::MAX >> (left % 64)));
                is_over.store(true, Ordering::Release);
            });
            while !is_over.load(Ordering::Acquire) {
                // A reader beside the writer may see half of each; never nothing.
                let seen = std::fs::read(file.path()).unwrap();
                assert!(seen.len() == TerminationMessage::WIDTH + 1 && seen.starts_with(b"{\"undelivered\":"), "{seen:?}");
            }
        });
        note(3);
        let noted: serde_json::Value = serde_json::from_slice(&std::fs::read(file.path()).unwrap()).unwrap();
        assert_eq!(noted, serde_json::json!({"undelivered": 3, "openIntents": 0, "nextSeq": u64::MAX}));
    }
}
