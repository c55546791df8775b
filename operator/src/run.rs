//! All parts of the operator, started in order: certificates, listeners, policies, then ready.
use std::{
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::Context as _;
use arc_swap::ArcSwap;
use futures_util::StreamExt as _;
use kube::{
    Api, Client,
    runtime::{WatchStreamExt as _, reflector, watcher},
};
use steno_crds::AuditPolicyObject;
use tokio::sync::watch;
use tokio_rustls::rustls::ServerConfig;

use crate::{
    args::RunArgs,
    certs::{self, Bundle},
    inject::{Resources, Settings},
    metrics::Metrics,
    reconcile::{self, Beat, Context},
    webhook::{Health, Webhook, bind, health, serve},
};

/// Between two looks at the certificates and the webhook configurations.
const CARE: Duration = Duration::from_mins(1);

/// Runs until a signal.
pub fn run(args: &RunArgs) -> anyhow::Result<()> {
    let filter = tracing_subscriber::EnvFilter::builder().parse_lossy(&args.log_level);
    tracing_subscriber::fmt().json().flatten_event(true).with_env_filter(filter).with_writer(std::io::stderr).init();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(start(args))
}

async fn start(args: &RunArgs) -> anyhow::Result<()> {
    let client = Client::try_default().await.context("no cluster: give a KUBECONFIG, or run in one")?;
    let metrics = Metrics::default();
    let beat = Arc::new(Beat::default());
    let (ready, is_ready) = watch::channel(false);
    let stands = Arc::new(Health { ready: is_ready, beat: beat.clone(), metrics: metrics.clone() });
    let probes = tokio::spawn(health(args.health, stands));
    let names = names(args);
    let bundle = bundle(args, &client, &names).await?;
    let tls = Arc::new(ArcSwap::new(certs::server_config(&bundle)?));
    metrics.certificate_end.set(bundle.not_after);
    let listener = bind(args.webhook).await?;
    let (policies, writer) = reflector::store();
    let watched = watcher(Api::<AuditPolicyObject>::all(client.clone()), watcher::Config::default());
    let watched = reflector(writer, watched).default_backoff().touched_objects();
    tokio::spawn(watched.for_each(|event| async move {
        if let Err(error) = event {
            tracing::warn!(%error, "the watch of policies broke and begins again");
        }
    }));
    let resources = Resources::default();
    let settings = Settings {
        image: args.sidecar_image.clone(),
        pull_policy: args.sidecar_pull_policy.clone(),
        version: env!("CARGO_PKG_VERSION").into(),
        resources,
    };
    let stop = watch::Sender::new(false);
    let webhook = Arc::new(Webhook { policies: policies.clone(), settings, metrics: metrics.clone() });
    let serving = tokio::spawn(serve(listener, tls.clone(), webhook, stop.subscribe()));
    // It serves; now the API server may learn whom to trust, and only then it is ready.
    certs::publish(&client, &args.configuration, &bundle.ca).await?;
    policies.wait_until_ready().await.context("the policies cannot be watched")?;
    ready.send_replace(true);
    tracing::info!(webhook = %args.webhook, health = %args.health, version = env!("CARGO_PKG_VERSION"), "ready");
    let care = tokio::spawn(care(args.clone(), client.clone(), names, bundle, tls, metrics.clone()));
    let context = Arc::new(Context { client, metrics, beat, looked: Mutex::default() });
    tokio::select! {
        // It ends on a signal.
        () = reconcile::run(context) => {}
        ended = probes => anyhow::bail!("the health listener ended: {ended:?}"),
    }
    tracing::info!("stopping");
    care.abort();
    ready.send_replace(false);
    // The API server may still send reviews until it has seen that this endpoint is gone.
    tokio::time::sleep(Duration::from_secs(1)).await;
    stop.send_replace(true);
    let _ = serving.await;
    Ok(())
}

fn names(args: &RunArgs) -> Vec<String> {
    let service = format!("{}.{}.svc", args.service, args.namespace);
    [service.clone(), format!("{service}.cluster.local")].into_iter().chain(args.cert_names.iter().cloned()).collect()
}

async fn bundle(args: &RunArgs, client: &Client, names: &[String]) -> anyhow::Result<Bundle> {
    match &args.cert_dir {
        Some(dir) => from_dir(dir),
        None => certs::from_secret(client, &args.namespace, "steno-webhook-ca", names).await,
    }
}

fn from_dir(dir: &Path) -> anyhow::Result<Bundle> {
    let read = |name: &str| {
        std::fs::read_to_string(dir.join(name)).with_context(|| format!("{} cannot be read", dir.join(name).display()))
    };
    Ok(Bundle { ca: read("ca.crt")?, cert: read("tls.crt")?, key: read("tls.key")?, not_after: i64::MAX })
}

/// Keeps the leaf young and the webhook configurations trusting it.
async fn care(
    args: RunArgs,
    client: Client,
    names: Vec<String>,
    mut bundle: Bundle,
    tls: Arc<ArcSwap<ServerConfig>>,
    metrics: Metrics,
) {
    loop {
        tokio::time::sleep(CARE).await;
        if args.cert_dir.is_some() || certs::is_due(&bundle) {
            match self::bundle(&args, &client, &names).await.and_then(|new| Ok((certs::server_config(&new)?, new))) {
                Ok((config, new)) if new != bundle => {
                    tls.store(config);
                    metrics.certificate_end.set(new.not_after);
                    tracing::info!("the webhook's certificate was renewed");
                    bundle = new;
                }
                Ok(_) => {}
                Err(error) => tracing::error!(%error, "the webhook's certificate cannot be renewed; the old one stays"),
            }
        }
        if let Err(error) = certs::publish(&client, &args.configuration, &bundle.ca).await {
            tracing::warn!(%error, "the caBundle cannot be kept up to date");
        }
    }
}
