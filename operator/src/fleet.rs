//! How the injected pods stand: each is asked on its status port, within a time and a few at a time.
use std::{
    collections::BTreeMap,
    net::IpAddr,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use futures_util::{StreamExt as _, stream};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{Request, body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use steno_crds::Fleet;
use tokio::net::TcpStream;

use crate::pods::Injected;

/// How long a pod may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Pods that are asked at a time.
const AT_A_TIME: usize = 128;
/// How long a look at all pods may take. Those that were not asked by then are unknown this time.
const ROUND: Duration = Duration::from_mins(2);
/// Largest answer, in bytes.
const ANSWER: usize = 1 << 20;

/// What was seen of a pod.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sighting {
    /// Its sidecar answers.
    pub answers: bool,
    /// It runs, and has no port to be asked on.
    pub is_mute: bool,
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
    /// What holds a sink whose breaker is closed.
    pub stalled_by: Option<String>,
    /// Dead letters that are kept.
    pub dead_letters: u64,
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
    /// Why its journal is not on the volume that the policy names.
    pub fell_back: Option<String>,
}

/// Asks all pods that run.
pub async fn look(mut pods: Vec<Injected>) -> Vec<Sighting> {
    pods.retain(|pod| !pod.is_over);
    let until = Instant::now() + ROUND;
    stream::iter(pods).map(|pod| see(pod, until)).buffered(AT_A_TIME).collect().await
}

async fn see(pod: Injected, until: Instant) -> Sighting {
    let is_mute = pod.port.is_none() && pod.is_ready;
    let known = Sighting { is_mute, is_ready: pod.is_ready, version: pod.version, ..Sighting::default() };
    let asked = pod.address.zip(pod.port).filter(|_| Instant::now() < until);
    let Some((address, port)) = asked else { return known };
    match tokio::time::timeout(PATIENCE, stats(address, port)).await {
        // On the host's network somebody else may have the port. A sidecar of an earlier version does not say who it is.
        Ok(Ok(stats)) if stats.get("podUid").is_none_or(|uid| uid == &pod.uid || uid == "") => read(&stats, known),
        _ => known,
    }
}

async fn stats(address: IpAddr, port: u16) -> anyhow::Result<Value> {
    let stream = TcpStream::connect((address, port)).await?;
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
    // Of sinks that the journal waits for. A sidecar of the version before has one, and its breaker beside it.
    let sinks: Vec<&Value> = stats.get("sinks").and_then(Value::as_array).into_iter().flatten().collect();
    let required = || sinks.iter().filter(|sink| sink.get("required") != Some(&Value::Bool(false)));
    let most = |name: &str| required().filter_map(|sink| sink.get(name)?.as_u64()).max();
    let of_breaker = |sink: &Value, name: &str| {
        let breaker = sink.get("breaker").or_else(|| stats.get("breaker"));
        breaker.and_then(|breaker| breaker.get(name)).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let open = required().find(|sink| matches!(of_breaker(sink, "state").as_str(), "open" | "half-open"));
    let secrets = stats.get("secrets").and_then(Value::as_array);
    let missing = secrets.into_iter().flatten().filter_map(|secret| secret.get("name")?.as_str().map(str::to_owned));
    Sighting {
        answers: true,
        hash: text("/config/hash"),
        // Half-open is no better: one batch is being tried.
        breaker_open: open.is_some(),
        reason: open.map_or_else(|| text("/breaker/reason"), |sink| of_breaker(sink, "reason")),
        stalled_by: required().find_map(|sink| sink.get("stalledBy")?.as_str().map(str::to_owned)),
        dead_letters: sinks.iter().filter_map(|sink| sink.get("deadLettersKept")?.as_u64()).sum(),
        backlog: most("backlog").unwrap_or_default(),
        // An older sidecar does not tell how much of its spool is undelivered.
        bytes: number("/journal/undeliveredBytes").or_else(|| number("/journal/usedBytes")).unwrap_or_default(),
        oldest_ms: most("oldestUndeliveredMs").filter(|ms| *ms > 0),
        dropped: number("/metrics/total_dropped_events").unwrap_or_default(),
        missing_secrets: missing.collect(),
        fell_back: stats.pointer("/journal/fellBack").and_then(Value::as_str).map(str::to_owned),
        ..known
    }
}

/// The sum of what was seen, and of pods that ask and have no sidecar.
pub fn sum(sightings: &[Sighting], missed: usize, hash: Option<&str>) -> Fleet {
    let count = |test: &dyn Fn(&&Sighting) -> bool| sightings.iter().filter(test).count() as u64;
    let mut versions = BTreeMap::new();
    for sighting in sightings {
        *versions.entry(sighting.version.clone()).or_default() += 1;
    }
    Fleet {
        matched: (sightings.len() + missed) as u64,
        injected: sightings.len() as u64,
        ready: count(&|sighting| sighting.is_ready),
        unknown: count(&|sighting| !sighting.answers && !sighting.is_mute),
        not_asked: count(&|sighting| sighting.is_mute),
        current: count(&|sighting| sighting.answers && Some(sighting.hash.as_str()) == hash),
        breaker_open: count(&|sighting| sighting.breaker_open),
        stalled: count(&|sighting| sighting.stalled_by.is_some()),
        dead_letters: sightings.iter().map(|sighting| sighting.dead_letters).sum(),
        spooled_events: sightings.iter().map(|sighting| sighting.backlog).sum(),
        spooled_bytes: sightings.iter().map(|sighting| sighting.bytes).sum(),
        oldest_undelivered_seconds: sightings.iter().filter_map(|sighting| sighting.oldest_ms).max().map(|ms| ms / 1000),
        versions,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_without_a_port_is_mute_once_it_runs_and_unknown_before() {
        let pod =
            |is_ready| Injected { is_ready, port: None, address: Some(IpAddr::from([127, 0, 0, 1])), ..Injected::default() };
        let seen = look(vec![pod(true), pod(false)]).await;
        let fleet = sum(&seen, 0, None);
        assert_eq!((fleet.injected, fleet.not_asked, fleet.unknown), (2, 1, 1));
    }
}
