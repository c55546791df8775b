//! All parts of the operator, started in order: certificates, listeners, policies, then ready.
use std::{
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use arc_swap::ArcSwap;
use kube::{Client, Config};
use steno_crds::VolumeType;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{Notify, watch},
    task::JoinHandle,
    time::Interval,
};
use tokio_rustls::rustls::{ServerConfig, pki_types::CertificateDer};

use crate::{
    args::{Role, RunArgs},
    certs::{self, Bundle, Keeper},
    inject::Settings,
    lease::Election,
    losses::{Ended, Losses},
    metrics::Metrics,
    nudges::Nudges,
    pods::{Injected, Pods},
    prober::Prober,
    reconcile::{self, Beat, Context},
    scope::Scope,
    seal::Seals,
    tell::{self, Teller},
    view::View,
    watchdog::Watchdog,
    webhook::{Health, Webhook, bind, health, serve},
};

/// Longest time between two looks at the certificates and the webhook configurations.
const CARE: Duration = Duration::from_mins(1);

/// How often it is said that the policies are not listed yet.
const PATIENCE: Duration = Duration::from_secs(15);

/// What was trusted when this process began to lead, and when that was.
type Before = (Vec<CertificateDer<'static>>, Instant);

/// How long the API server may be silent on a connection; a watch lasts 290 seconds at most.
const SILENCE: Duration = Duration::from_mins(5);

/// Runs until a signal.
pub fn run(args: &RunArgs) -> anyhow::Result<()> {
    let filter = tracing_subscriber::EnvFilter::builder().parse_lossy(&args.log_level);
    tracing_subscriber::fmt().json().flatten_event(true).with_env_filter(filter).with_writer(std::io::stderr).init();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(start(args))
}

async fn start(args: &RunArgs) -> anyhow::Result<()> {
    let mut config = Config::infer().await.context("no cluster: give a KUBECONFIG, or run in one")?;
    // A machine that is gone answers nothing, and closes nothing. Watches end by themselves before that.
    (config.connect_timeout, config.read_timeout) = (Some(Duration::from_secs(10)), Some(SILENCE));
    let client = Client::try_from(config)?;
    // From the beginning: the first process of a container ignores a signal that it does not handle.
    let (mut term, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let metrics = Metrics::default();
    let beat = Arc::new(Beat::default());
    let (ready, is_ready) = watch::channel(false);
    let stands = Arc::new(Health { ready: is_ready, beat: beat.clone(), metrics: metrics.clone() });
    let probes = tokio::spawn(health(args.health, stands));
    let stop = watch::Sender::new(false);
    let me = identity(args);
    let teller = Teller::start(client.clone(), me.clone());
    let scope = Scope::new(&args.namespaces);
    tracing::info!(roles = ?args.roles, health = %args.health, version = env!("CARGO_PKG_VERSION"), "started; it lists the policies first");
    let (view, changes) = View::start(&client, &scope);
    tokio::select! {
        ready = listed(&view) => ready?,
        _ = term.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    }
    let settings = Settings {
        image: args.sidecar_image.clone(),
        pull_policy: args.sidecar_pull_policy.clone(),
        version: env!("CARGO_PKG_VERSION").into(),
        resources: args.sidecar_resources.clone(),
        pull_secrets: args.sidecar_pull_secrets.iter().filter(|name| !name.is_empty()).cloned().collect(),
        meshes: args.mesh_proxies.iter().filter(|name| !name.is_empty()).cloned().collect(),
        seals: Seals::of(&args.sidecar_image),
    };
    let parts = Parts { args: args.clone(), client, scope, metrics, view, settings, teller };
    let mut reconciles =
        args.roles.contains(&Role::Reconcile).then(|| tokio::spawn(lead(parts.clone(), me, beat, changes, stop.subscribe())));
    let mut serves = None;
    if args.roles.contains(&Role::Webhook) {
        // It may wait for the authority, and for the API server's trust.
        serves = tokio::select! {
            serving = parts.serve(stop.subscribe()) => Some(serving?),
            _ = term.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
        };
    }
    ready.send_replace(true);
    tracing::info!(roles = ?args.roles, health = %args.health, version = env!("CARGO_PKG_VERSION"), "ready");
    tokio::select! {
        _ = term.recv() => {}
        _ = interrupt.recv() => {}
        ended = probes => anyhow::bail!("the health listener ended: {ended:?}"),
        () = ended(&mut reconciles) => anyhow::bail!("the reconciles ended"),
        () = ended(&mut serves) => anyhow::bail!("the webhook ended"),
    }
    tracing::info!("stopping");
    ready.send_replace(false);
    if serves.is_some() {
        // The API server may still send reviews until it has seen that this endpoint is gone.
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    stop.send_replace(true);
    for part in [reconciles, serves].into_iter().flatten() {
        let _ = part.await;
    }
    Ok(())
}

/// Until everything was listed once; says meanwhile that it waits.
async fn listed(view: &View) -> anyhow::Result<()> {
    let mut ready = std::pin::pin!(view.ready());
    loop {
        if let Ok(ready) = tokio::time::timeout(PATIENCE, &mut ready).await {
            return ready.context("the policies cannot be watched");
        }
        tracing::warn!("the API server has not listed the policies yet; nothing is served until it has");
    }
}

/// When a part ends that should not.
async fn ended(part: &mut Option<JoinHandle<()>>) {
    match part {
        Some(part) => drop(part.await),
        None => std::future::pending().await,
    }
}

fn identity(args: &RunArgs) -> String {
    if args.identity.is_empty() { format!("steno-operator-{}", std::process::id()) } else { args.identity.clone() }
}

/// What both roles need.
#[derive(Clone)]
struct Parts {
    args: RunArgs,
    client: Client,
    scope: Scope,
    metrics: Metrics,
    view: Arc<View>,
    settings: Settings,
    teller: Teller,
}

// === impl Parts ===

impl Parts {
    fn keeper(&self) -> Keeper {
        let overlap = self.args.ca_overlap.duration().as_secs();
        Keeper::new(&self.client, &self.args.namespace, &self.args.ca_secret, overlap.try_into().unwrap_or(i64::MAX))
    }

    /// Between two looks at the certificates: several in an overlap.
    fn care(&self) -> Duration {
        (self.args.ca_overlap.duration() / 5).min(CARE)
    }

    /// Serves the webhooks; returns when they are, and the API server trusts them.
    async fn serve(&self, stop: watch::Receiver<bool>) -> anyhow::Result<JoinHandle<()>> {
        let names = names(&self.args);
        let bundle = loop {
            match self.bundle(&names).await {
                Ok(Some(bundle)) => break bundle,
                Ok(None) => tracing::info!("waiting for the authority of the webhooks, which the operator makes"),
                Err(error) => tracing::warn!(error = format!("{error:#}"), "the webhook's certificate cannot be had yet"),
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        };
        let tls = Arc::new(ArcSwap::new(certs::server_config(&bundle)?));
        self.metrics.certificate_end.set(bundle.not_after);
        self.learn_seal().await;
        let listener = bind(self.args.webhook).await?;
        let webhook = Arc::new(Webhook {
            view: self.view.clone(),
            settings: self.settings.clone(),
            metrics: self.metrics.clone(),
            teller: self.teller.clone(),
            client: Some(self.client.clone()),
        });
        let serving = tokio::spawn(serve(listener, tls.clone(), webhook, stop));
        // It serves. It is ready when the API server trusts it: before, a call would fail.
        loop {
            match certs::is_trusted(&self.client, &self.args.configuration, &bundle.issuer).await {
                Ok(true) => break,
                Ok(false) => tracing::info!("waiting for the API server to be told whom to trust"),
                Err(error) => tracing::warn!(%error, "the webhook configurations cannot be read"),
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        tokio::spawn(self.clone().renew(names, bundle, tls));
        Ok(serving)
    }

    /// Reads the operator's signature, which whoever leads makes.
    async fn learn_seal(&self) {
        if let Err(error) = self.settings.seals.tend(&self.client, &self.args.namespace, false).await {
            tracing::warn!(
                error = format!("{error:#}"),
                "the operator's signature cannot be read; what is added is not marked anew"
            );
        }
    }

    async fn bundle(&self, names: &[String]) -> anyhow::Result<Option<Bundle>> {
        match &self.args.cert_dir {
            Some(dir) => from_dir(dir).map(Some),
            None => self.keeper().leaf(names).await,
        }
    }

    /// Keeps the leaf young, and of the authority that counts.
    async fn renew(self, names: Vec<String>, mut bundle: Bundle, tls: Arc<ArcSwap<ServerConfig>>) {
        loop {
            tokio::time::sleep(self.care()).await;
            self.learn_seal().await;
            let new = match self.bundle(&names).await {
                Ok(Some(new)) => new,
                Ok(None) => continue,
                Err(error) => {
                    tracing::error!(error = format!("{error:#}"), "the webhook's certificate cannot be looked after");
                    continue;
                }
            };
            // A leaf from the Secret is a new one each time: it is put to use when the one that serves is of another authority, or old.
            let is_other = new.issuer != bundle.issuer || (self.args.cert_dir.is_some() && new != bundle);
            let is_due = self.args.cert_dir.is_none() && certs::is_due(&bundle);
            if !is_other && !is_due {
                continue;
            }
            if !matches!(certs::is_trusted(&self.client, &self.args.configuration, &new.issuer).await, Ok(true)) {
                tracing::info!("the webhook's new certificate waits until the API server is told to trust it");
                continue;
            }
            match certs::server_config(&new) {
                Ok(config) => {
                    tls.store(config);
                    self.metrics.certificate_end.set(new.not_after);
                    tracing::info!(other_authority = new.issuer != bundle.issuer, "the webhook's certificate was renewed");
                    bundle = new;
                }
                Err(error) => tracing::error!(%error, "the webhook's new certificate cannot be used; the old one stays"),
            }
        }
    }

    /// Keeps the authority, and has the API server trust it: at once if somebody takes the trust away. Never ends.
    async fn tend(&self) {
        let taken = Notify::new();
        tokio::join!(self.tend_or(&taken), certs::follow(&self.client, &self.args.configuration, &taken));
    }

    async fn tend_or(&self, changed: &Notify) {
        // What was published, and since when.
        let mut published: Option<(String, Instant)> = None;
        // Authorities of the directory, and when they were seen last.
        let mut seen: Vec<(String, Instant)> = Vec::new();
        // What was trusted when this process began to lead, and when that was.
        let mut before = None;
        loop {
            let settled = |trusted: &str| {
                published.as_ref().is_some_and(|(known, since)| known == trusted && since.elapsed() >= self.care())
            };
            let trusted = match &self.args.cert_dir {
                Some(dir) => from_dir(dir).map(|bundle| self.and_before(&mut seen, bundle.issuer)),
                None => self.keeper().tend(settled).await,
            };
            if let Err(error) = self.settings.seals.tend(&self.client, &self.args.namespace, true).await {
                tracing::error!(error = format!("{error:#}"), "the operator's signature cannot be looked after");
            }
            let done = match trusted {
                Ok(trusted) => self.publish(&trusted, &mut before).await.map(|()| {
                    if published.as_ref().is_none_or(|(known, _)| *known != trusted) {
                        published = Some((trusted, Instant::now()));
                    }
                }),
                Err(error) => Err(error),
            };
            match done {
                Ok(()) => drop(tokio::time::timeout(self.care(), changed.notified()).await),
                Err(error) => {
                    tracing::warn!(error = format!("{error:#}"), "the authority of the webhooks cannot be looked after");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }

    /// Has the API server trust this, and for a while what it trusted before.
    async fn publish(&self, trusted: &str, before: &mut Option<Before>) -> anyhow::Result<()> {
        let (client, configuration) = (&self.client, &self.args.configuration);
        if before.is_none() {
            *before = Some((certs::published(client, configuration).await?, Instant::now()));
        }
        let young = before.as_ref().filter(|(_, since)| since.elapsed() < self.overlaps());
        let all = young.map_or_else(|| trusted.to_owned(), |(before, _)| certs::with_before(trusted, before));
        certs::publish(client, configuration, &all).await
    }

    /// How long replicas may serve what is not to be served any more.
    fn overlaps(&self) -> Duration {
        self.args.ca_overlap.duration() * 2
    }

    /// An authority of the directory, and those that were there not long ago: replicas see a change at times of their own.
    fn and_before(&self, seen: &mut Vec<(String, Instant)>, now: String) -> String {
        seen.retain(|(known, last)| *known != now && last.elapsed() < self.overlaps());
        seen.push((now, Instant::now()));
        seen.iter().map(|(known, _)| known.as_str()).collect()
    }
}

/// Reconciles whenever, and as long as, this process holds the Lease.
async fn lead(parts: Parts, me: String, beat: Arc<Beat>, changes: watch::Receiver<u64>, stop: watch::Receiver<bool>) {
    let args = &parts.args;
    let lasts = Duration::from_secs(args.lease_seconds);
    let election = Election::new(&parts.client, &args.namespace, &args.lease, me, lasts);
    let led = election.lead(stop, || {
        let (parts, beat, changes) = (parts.clone(), beat.clone(), changes.clone());
        async move {
            let _leading = Leading::begin(&parts.metrics);
            let pods: Arc<Pods> = Arc::default();
            let args = &parts.args;
            let watchdog = Watchdog::new(
                parts.client.clone(),
                parts.view.clone(),
                pods.clone(),
                parts.settings.clone(),
                args.exclude_namespaces.iter().cloned().chain([args.namespace.clone()]).collect(),
                parts.teller.clone(),
            );
            if let Err(error) = parts.settings.seals.tend(&parts.client, &parts.args.namespace, true).await {
                tracing::error!(error = format!("{error:#}"), "nothing is signed until the next look");
            }
            let context = Arc::new(Context {
                seals: parts.settings.seals.clone(),
                client: parts.client.clone(),
                scope: parts.scope.clone(),
                view: parts.view.clone(),
                pods,
                watchdog,
                metrics: parts.metrics.clone(),
                beat,
                turns: tokio::sync::Semaphore::new(reconcile::CONCURRENCY.into()),
                prober: Prober::default(),
                nudges: Nudges::new(pace(parts.args.nudges)),
                losses: Losses::default(),
                teller: parts.teller.clone(),
                written: Mutex::default(),
                failures: Mutex::default(),
            });
            let ended = |namespace: &str, pod: &Injected| left(&parts, &context, namespace, pod);
            tokio::select! {
                () = reconcile::run(context.clone(), changes) => {}
                () = context.pods.follow(&parts.client, &parts.scope, &parts.settings.seals, ended) => {}
                () = context.prober.run(&context.pods) => {}
                () = context.nudges.run(&parts.client) => {}
                () = reconcile::rounds(&context) => {}
                () = parts.tend() => {}
            }
        }
    });
    Box::pin(led).await;
}

/// What is told of a fleet is told by who leads, and by nobody else.
struct Leading(Metrics);

impl Leading {
    fn begin(metrics: &Metrics) -> Self {
        metrics.leading.set(1);
        Self(metrics.clone())
    }
}

impl Drop for Leading {
    fn drop(&mut self) {
        self.0.leading.set(0);
        if let Ok(mut fleets) = self.0.fleets.lock() {
            fleets.clear();
        }
        if let Ok(mut missed) = self.0.missed.lock() {
            missed.clear();
        }
    }
}

/// What a sidecar left in its spool when it ended is told, once.
fn left(parts: &Parts, context: &Context, namespace: &str, pod: &Injected) {
    let told: serde_json::Value = serde_json::from_str(&pod.left).unwrap_or_default();
    let undelivered = told.get("undelivered").and_then(serde_json::Value::as_u64).unwrap_or_default();
    if undelivered == 0 {
        return;
    }
    parts.metrics.abandoned(namespace, &pod.policy, undelivered);
    tracing::warn!(namespace, pod = pod.name, undelivered, "a sidecar ended with undelivered events");
    let policies = parts.view.policies_in(namespace);
    let policy = policies.into_iter().find(|policy| policy.name == pod.policy).and_then(|policy| policy.config);
    let volume = policy.map_or(VolumeType::EmptyDir, |config| config.spec.spool.volume.r#type);
    let (lost, left) = (Ended { lost: undelivered, left: 0 }, Ended { lost: 0, left: undelivered });
    let (fate, ended) = match volume {
        VolumeType::EmptyDir => {
            ("on an emptyDir: they are gone with the pod. A spool on a PersistentVolumeClaim (spool.volume) keeps them", lost)
        }
        VolumeType::Ephemeral => (
            "on an ephemeral volume: they are gone with the pod. A spool on a PersistentVolumeClaim (spool.volume) keeps them",
            lost,
        ),
        // Pods on other nodes see nothing of them, so that nobody could tell that they were delivered.
        VolumeType::HostPath => {
            ("in a directory of the node: another pod of the policy on that node delivers them", Ended::default())
        }
        VolumeType::PersistentVolumeClaim => {
            ("on the policy's PersistentVolumeClaim: another pod of the policy delivers them", left)
        }
    };
    let of = (namespace.into(), pod.policy.as_str().into());
    context.losses.ended(&of, ended, Instant::now());
    context.prober.stir(&of);
    let note = format!("The sidecar ended with {undelivered} undelivered events in its spool, {fate}.");
    parts.teller.tell(tell::pod(namespace, &pod.name, &pod.uid), true, "UndeliveredEvents", &note);
}

fn pace(a_second: u64) -> Interval {
    let mut interval = tokio::time::interval(Duration::from_secs(1) / u32::try_from(a_second).unwrap_or(1));
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    interval
}

fn names(args: &RunArgs) -> Vec<String> {
    let service = format!("{}.{}.svc", args.service, args.namespace);
    [service.clone(), format!("{service}.cluster.local")].into_iter().chain(args.cert_names.iter().cloned()).collect()
}

fn from_dir(dir: &Path) -> anyhow::Result<Bundle> {
    let read = |name: &str| {
        std::fs::read_to_string(dir.join(name)).with_context(|| format!("{} cannot be read", dir.join(name).display()))
    };
    let cert = read("tls.crt")?;
    let not_after = certs::end(&cert).with_context(|| format!("{} is no certificate", dir.join("tls.crt").display()))?;
    Ok(Bundle { issuer: read("ca.crt")?, cert, key: read("tls.key")?, not_after })
}
