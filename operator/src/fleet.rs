//! How the injected pods stand: each is asked on its status port, within a time and a few at a time.
use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use anyhow::Context as _;
use futures_util::{StreamExt as _, stream};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{Request, body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use serde_json::Value;
use steno_crds::Fleet;
use tokio::net::TcpStream;

use crate::inject::{CONTAINER, PREFIX, STATUS_PORT};

/// How long a pod may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Pods that are asked at a time.
const AT_A_TIME: usize = 32;
/// Largest answer, in bytes.
const ANSWER: usize = 1 << 20;

/// What was seen of a pod.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sighting {
    /// Its sidecar answers.
    pub answers: bool,
    /// Its sidecar is started, as the kubelet says.
    pub is_ready: bool,
    /// Hash of the configuration that it runs by.
    pub hash: String,
    /// Version of its sidecar.
    pub version: String,
    /// Its breaker is open.
    pub breaker_open: bool,
    /// Why.
    pub reason: String,
    /// Events that wait.
    pub backlog: u64,
    /// Bytes of its spool.
    pub bytes: u64,
    /// Age of the oldest undelivered event, in milliseconds.
    pub oldest_ms: Option<u64>,
    /// Events that were dropped.
    pub dropped: u64,
    /// Secrets that it misses.
    pub missing_secrets: Vec<String>,
}

/// Asks all pods that run.
pub async fn look(pods: &[Pod]) -> Vec<Sighting> {
    let runs = |pod: &&Pod| {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Pending");
        !matches!(phase, "Succeeded" | "Failed")
    };
    stream::iter(pods.iter().filter(runs)).map(see).buffered(AT_A_TIME).collect().await
}

async fn see(pod: &Pod) -> Sighting {
    let version = pod.annotations().get(&format!("{PREFIX}sidecar-version")).cloned().unwrap_or_default();
    let statuses = pod.status.as_ref().and_then(|status| status.init_container_statuses.as_ref());
    let is_ready = statuses.into_iter().flatten().any(|status| status.name == CONTAINER && status.ready);
    let known = Sighting { is_ready, version, ..Sighting::default() };
    let address = pod.status.as_ref().and_then(|status| status.pod_ip.as_deref()).and_then(|ip| ip.parse::<IpAddr>().ok());
    let Some(address) = address else { return known };
    match tokio::time::timeout(PATIENCE, stats(address)).await {
        Ok(Ok(stats)) => read(&stats, known),
        _ => known,
    }
}

async fn stats(address: IpAddr) -> anyhow::Result<Value> {
    let stream = TcpStream::connect((address, STATUS_PORT)).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let request = Request::get("/v1/stats").header("Host", "localhost").body(Empty::<Bytes>::new())?;
    let answer = sender.send_request(request).await?;
    let body = Limited::new(answer.into_body(), ANSWER).collect().await.map_err(|error| anyhow::anyhow!("{error}"))?;
    connection.abort();
    serde_json::from_slice(&body.to_bytes()).context("not JSON")
}

fn read(stats: &Value, known: Sighting) -> Sighting {
    let number = |path: &str| stats.pointer(path).and_then(Value::as_u64);
    let text = |path: &str| stats.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
    let secrets = stats.get("secrets").and_then(Value::as_array);
    let missing = secrets.into_iter().flatten().filter_map(|secret| secret.get("name")?.as_str().map(str::to_owned));
    Sighting {
        answers: true,
        hash: text("/config/hash"),
        // Half-open is no better: one batch is being tried.
        breaker_open: matches!(text("/breaker/state").as_str(), "open" | "half-open"),
        reason: text("/breaker/reason"),
        backlog: number("/sinks/0/backlog").unwrap_or_default(),
        bytes: number("/journal/usedBytes").unwrap_or_default(),
        oldest_ms: number("/sinks/0/oldestUndeliveredMs").filter(|ms| *ms > 0),
        dropped: number("/metrics/total_dropped_events").unwrap_or_default(),
        missing_secrets: missing.collect(),
        ..known
    }
}

/// The sum of what was seen.
pub fn sum(sightings: &[Sighting], hash: Option<&str>) -> Fleet {
    let count = |test: &dyn Fn(&&Sighting) -> bool| sightings.iter().filter(test).count() as u64;
    let mut versions = BTreeMap::new();
    for sighting in sightings {
        *versions.entry(sighting.version.clone()).or_default() += 1;
    }
    Fleet {
        matched: sightings.len() as u64,
        injected: sightings.len() as u64,
        ready: count(&|sighting| sighting.is_ready),
        unknown: count(&|sighting| !sighting.answers),
        current: count(&|sighting| sighting.answers && Some(sighting.hash.as_str()) == hash),
        breaker_open: count(&|sighting| sighting.breaker_open),
        spooled_events: sightings.iter().map(|sighting| sighting.backlog).sum(),
        spooled_bytes: sightings.iter().map(|sighting| sighting.bytes).sum(),
        oldest_undelivered_seconds: sightings.iter().filter_map(|sighting| sighting.oldest_ms).max().map(|ms| ms / 1000),
        versions,
    }
}
