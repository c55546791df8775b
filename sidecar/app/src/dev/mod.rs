//! `steno-sidecar dev`: the whole way on one machine, with samples, for whoever meets Steno the first time.
use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, bail};
use rdkafka::mocking::MockCluster;
use steno_commit::Bell;
use steno_crds::{Parsed, parse};
use steno_deliver::kafka::{Secrets, create_topic};
use tokio::net::TcpListener;

use crate::{
    args::DevArgs,
    http::Listener,
    identity::Identity,
    logs, place,
    policy::Compiled,
    reload::shown,
    run::runtime,
    service::{Service, bind_ingest},
};

mod consume;
pub(crate) mod samples;

/// Runs the whole way.
pub fn dev(args: &DevArgs) -> anyhow::Result<ExitCode> {
    logs::start(&args.log_level);
    let bell = Bell::quiet();
    runtime(2, &bell)?.block_on(serve(args, bell))
}

async fn serve(args: &DevArgs, bell: Bell) -> anyhow::Result<ExitCode> {
    let text = std::fs::read_to_string(&args.policy).with_context(|| format!("{} cannot be read", args.policy.display()))?;
    let Parsed { mut config, unknown } = match parse(&text) {
        Ok(parsed) => parsed,
        Err(faults) => bail!("{} is invalid: {}", args.policy.display(), shown(&faults)),
    };
    let beside = args.policy.parent().unwrap_or(Path::new(".")).to_owned();
    let secrets = Secrets(args.secrets.clone().unwrap_or_else(|| beside.join("secrets")));
    let topic = config.spec.kafka.topic.clone();
    let partitions = config.spec.kafka.create.as_ref().map_or(3, |create| create.partitions) as i32;
    // Kept for as long as we run: dropping it ends the embedded Kafka.
    let embedded = if let Some(brokers) = &args.brokers {
        config.spec.kafka.brokers = vec![brokers.clone()];
        None
    } else {
        let cluster = MockCluster::new(1).map_err(|error| anyhow::anyhow!("the embedded Kafka cannot be started: {error}"))?;
        cluster
            .create_topic(&topic, partitions, 1)
            .map_err(|error| anyhow::anyhow!("the embedded Kafka makes no topic: {error}"))?;
        let kafka = &mut config.spec.kafka;
        kafka.brokers = cluster.bootstrap_servers().split(',').map(str::to_owned).collect();
        (kafka.tls, kafka.sasl, kafka.create) = (None, None, None);
        Some(cluster)
    };
    (config.spec.query.enabled, config.spec.query.token_secret_ref) = (true, None);
    let identity = Identity::from_env(&config.policy.namespace);
    let brokers = config.spec.kafka.brokers.join(",");
    let compiled = Compiled::new(config, unknown, &identity, &secrets)?;
    let destination = compiled.destination(&identity, &secrets);
    if args.brokers.is_some() {
        let destination = destination.clone();
        if let Err(reason) = tokio::task::spawn_blocking(move || create_topic(&destination)).await? {
            eprintln!("warning: {reason}");
        }
    }
    let temporary = tempfile::tempdir().context("no temporary directory")?;
    let dir: PathBuf = args.dir.clone().unwrap_or_else(|| temporary.path().join("journal"));
    let ingest = bind_ingest(&args.listen).await?;
    let status = TcpListener::bind(&args.status).await.with_context(|| format!("cannot listen on {}", args.status))?;
    let (listen, status_at) = (ingest.local_addr()?, status.local_addr()?);
    let mut service = Service::start(compiled, &identity, &secrets, place::Place::only(&dir)?, false, bell)?;
    service.ingest(Listener::Tcp(ingest), true);
    service.intents().await;
    service.further().await;
    service.status(Listener::Tcp(status));
    let kind = if embedded.is_some() { "embedded Kafka" } else { "Kafka" };
    println!("{kind:<16} {brokers}   read it with: kcat -C -b {brokers} -t {topic} -o beginning");
    println!("{:<16} http://{listen}   status, metrics: http://{status_at}/v1/stats, /metrics", "sidecar");
    println!("{:<16} {}\n", "journal", dir.display());
    let mut right = true;
    if !args.no_samples {
        let folder = args.samples.clone().unwrap_or_else(|| beside.join("events"));
        let acked = samples::post(&listen.to_string(), &folder).await?;
        let uuid = uuid::Uuid::from_bytes(service.uuid).to_string();
        right = consume::show(destination, acked, uuid).await?;
    }
    if args.once {
        let left = service.stop().await;
        right &= left.undelivered == 0;
        println!(
            "\n{}",
            if right { "The consumer read exactly what was acked." } else { "The consumer did NOT read exactly what was acked." }
        );
        drop(embedded);
        return Ok(if right { ExitCode::SUCCESS } else { ExitCode::from(1) });
    }
    println!(
        "\nTry it:\n  curl -sS http://{listen}/v1/events -H 'Content-Type: application/json' \\\n    -d '{{\"action\":\"user.login\",\"actor\":{{\"type\":\"user\",\"id\":\"u-17\"}},\"message\":\"card 4111 1111 1111 1111\"}}'\n\nServing until Ctrl-C."
    );
    tokio::signal::ctrl_c().await?;
    let left = tokio::time::timeout(Duration::from_secs(30), service.stop()).await;
    println!("\nstopped; {} records undelivered", left.map_or(0, |left| left.undelivered));
    drop(embedded);
    Ok(ExitCode::SUCCESS)
}
