//! How an injected pod stands: what its sidecar tells on its status port, and the sum over a policy's pods.
use std::{collections::BTreeMap, fmt, marker::PhantomData, net::IpAddr, time::Duration};

use anyhow::Context as _;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{Request, body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, SeqAccess, Visitor},
};
use steno_crds::Fleet;
use tokio::net::TcpStream;

use crate::pods::Injected;

/// How long a pod may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Largest answer, in bytes: a sidecar with sixteen sinks tells some 30 KiB.
const ANSWER: usize = 128 << 10;
/// Longest text that is kept of an answer, in characters.
const TEXT: usize = 300;
/// Most items that are kept of a list in an answer.
const ITEMS: usize = 64;

/// What was seen of a pod.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sighting {
    /// Its sidecar answers.
    pub answers: bool,
    /// It runs, and has no port to be asked on.
    pub is_mute: bool,
    /// It has not begun, or was not asked yet.
    pub is_pending: bool,
    /// Its sidecar is started, as the kubelet says.
    pub is_ready: bool,
    /// Hash of the configuration that it runs by.
    pub hash: String,
    /// What it does not take of the configuration, and why.
    pub config_error: Option<String>,
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
    /// Folders beside its own that hold events and have no sidecar; one of an older version does not tell.
    pub folders_left: Option<u64>,
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
    /// Why it cannot deliver a folder that another sidecar left.
    pub left_fault: Option<String>,
}

/// What a sidecar tells, as far as it is read. A pod may answer anything: what is kept of it is bounded, and nothing is built of the rest.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Stats {
    pod_uid: Option<Text>,
    config: Config,
    /// Of a sidecar of the version before, which has one sink.
    breaker: Option<Breaker>,
    sinks: Few<Sink>,
    secrets: Few<Secret>,
    journal: Journal,
    left: Left,
    metrics: Totals,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Left {
    folders: Option<u64>,
    fault: Option<Text>,
    /// Records of the folder that it delivers for another sidecar.
    undelivered: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Config {
    hash: Text,
    error: Option<Text>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Breaker {
    state: Text,
    reason: Option<Text>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Sink {
    required: bool,
    breaker: Option<Breaker>,
    stalled_by: Option<Text>,
    dead_letters_kept: Option<u64>,
    backlog: Option<u64>,
    oldest_undelivered_ms: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Secret {
    name: Text,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Journal {
    undelivered_bytes: Option<u64>,
    used_bytes: Option<u64>,
    fell_back: Option<Text>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Totals {
    total_dropped_events: Option<u64>,
}

/// The beginning of a text.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Text(String);

/// The first items of a list; the others are passed over.
#[derive(Debug)]
struct Few<T>(Vec<T>);

// === impl Sink ===

impl Default for Sink {
    fn default() -> Self {
        Self {
            required: true,
            breaker: None,
            stalled_by: None,
            dead_letters_kept: None,
            backlog: None,
            oldest_undelivered_ms: None,
        }
    }
}

// === impl Text ===

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(from)?;
        Ok(Self(text.chars().take(TEXT).collect()))
    }
}

// === impl Few ===

impl<T> Default for Few<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Few<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Items<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Items<T> {
            type Value = Few<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Few<T>, A::Error> {
                let mut items = Vec::new();
                while items.len() < ITEMS {
                    match list.next_element()? {
                        Some(item) => items.push(item),
                        None => return Ok(Few(items)),
                    }
                }
                while list.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Few(items))
            }
        }

        from.deserialize_seq(Items(PhantomData))
    }
}

/// Asks a pod how it stands.
pub async fn ask(address: IpAddr, port: u16, pod: &Injected) -> Sighting {
    let known = unasked(pod);
    match tokio::time::timeout(PATIENCE, stats(address, port)).await {
        // On the host's network somebody else may have the port. A sidecar of an earlier version does not say who it is.
        Ok(Ok(stats)) if stats.pod_uid.as_ref().is_none_or(|uid| uid.0 == pod.uid || uid.0.is_empty()) => read(stats, known),
        _ => known,
    }
}

/// What the API server alone says of a pod.
pub fn unasked(pod: &Injected) -> Sighting {
    Sighting {
        is_mute: pod.port.is_none() && pod.is_ready,
        is_ready: pod.is_ready,
        version: pod.version.clone(),
        ..Sighting::default()
    }
}

async fn stats(address: IpAddr, port: u16) -> anyhow::Result<Stats> {
    let stream = TcpStream::connect((address, port)).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let connection = Closing(tokio::spawn(connection));
    let request = Request::get("/v1/stats").header("Host", "localhost").body(Empty::<Bytes>::new())?;
    let answer = sender.send_request(request).await?;
    let body = Limited::new(answer.into_body(), ANSWER).collect().await.map_err(|error| anyhow::anyhow!("{error}"))?;
    drop(connection);
    serde_json::from_slice(&body.to_bytes()).context("no statistics")
}

/// A connection that is closed however its use ends.
struct Closing<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for Closing<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn read(stats: Stats, known: Sighting) -> Sighting {
    let Stats { breaker, sinks, .. } = stats;
    // Of sinks that the journal waits for. A sidecar of the version before has one, and its breaker beside it.
    let required = || sinks.0.iter().filter(|sink| sink.required);
    let of_breaker = |sink: &Sink| {
        let breaker = sink.breaker.as_ref().or(breaker.as_ref());
        breaker.map(|breaker| (breaker.state.0.clone(), reason(breaker))).unwrap_or_default()
    };
    let open = required().map(of_breaker).find(|(state, _)| matches!(state.as_str(), "open" | "half-open"));
    Sighting {
        answers: true,
        hash: stats.config.hash.0,
        config_error: stats.config.error.map(|text| text.0),
        // Half-open is no better: one batch is being tried.
        breaker_open: open.is_some(),
        reason: open.map_or_else(|| breaker.as_ref().map(reason).unwrap_or_default(), |(_, reason)| reason),
        stalled_by: required().find_map(|sink| sink.stalled_by.clone()).map(|text| text.0),
        dead_letters: sinks.0.iter().filter_map(|sink| sink.dead_letters_kept).fold(0, u64::saturating_add),
        backlog: required().filter_map(|sink| sink.backlog).max().unwrap_or_default().saturating_add(stats.left.undelivered),
        folders_left: stats.left.folders,
        // An older sidecar does not tell how much of its spool is undelivered.
        bytes: stats.journal.undelivered_bytes.or(stats.journal.used_bytes).unwrap_or_default(),
        oldest_ms: required().filter_map(|sink| sink.oldest_undelivered_ms).max().filter(|ms| *ms > 0),
        dropped: stats.metrics.total_dropped_events.unwrap_or_default(),
        missing_secrets: stats.secrets.0.into_iter().map(|secret| secret.name.0).filter(|name| !name.is_empty()).collect(),
        fell_back: stats.journal.fell_back.map(|text| text.0),
        left_fault: stats.left.fault.map(|text| text.0),
        ..known
    }
}

fn reason(breaker: &Breaker) -> String {
    breaker.reason.as_ref().map(|reason| reason.0.clone()).unwrap_or_default()
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
        pending: count(&|sighting| sighting.is_pending),
        unknown: count(&|sighting| !sighting.answers && !sighting.is_mute && !sighting.is_pending),
        not_asked: count(&|sighting| sighting.is_mute),
        current: count(&|sighting| sighting.answers && Some(sighting.hash.as_str()) == hash),
        config_errors: count(&|sighting| sighting.config_error.is_some()),
        breaker_open: count(&|sighting| sighting.breaker_open),
        stalled: count(&|sighting| sighting.stalled_by.is_some()),
        dead_letters: total(sightings, |sighting| sighting.dead_letters),
        spooled_events: total(sightings, |sighting| sighting.backlog),
        folders_left: sightings.iter().filter_map(|sighting| sighting.folders_left).max().unwrap_or_default(),
        spooled_bytes: total(sightings, |sighting| sighting.bytes),
        oldest_undelivered_seconds: sightings.iter().filter_map(|sighting| sighting.oldest_ms).max().map(|ms| ms / 1000),
        versions,
    }
}

/// A sum of what pods tell, which may be anything.
pub fn total(sightings: &[Sighting], figure: impl Fn(&Sighting) -> u64) -> u64 {
    sightings.iter().map(figure).fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn one_without_a_port_is_mute_once_it_runs_and_unknown_before() {
        let pod = |is_ready| Injected { is_ready, port: None, ..Injected::default() };
        let seen = [pod(true), pod(false)].map(|pod| unasked(&pod));
        let fleet = sum(&seen, 0, None);
        assert_eq!((fleet.injected, fleet.not_asked, fleet.unknown), (2, 1, 1));
    }

    #[test]
    fn what_a_sidecar_tells_is_read_and_the_rest_passed_over() {
        let stats = json!({
            "health": "degraded", "podUid": "u", "config": {"hash": "h", "error": "no key", "more": [1, {"x": null}]},
            "sinks": [
                {"name": "kafka", "breaker": {"state": "open", "reason": "no broker"}, "backlog": 7, "oldestUndeliveredMs": 3000, "deadLettersKept": 2, "stalledBy": null},
                {"name": "file", "required": false, "breaker": {"state": "open", "reason": "other"}, "backlog": 99, "deadLettersKept": 1},
            ],
            "secrets": [{"name": "kafka/ca", "fault": "missing"}],
            "journal": {"undeliveredBytes": 5, "fellBack": null},
            "left": {"folders": 2, "adopted": "slot-1", "undelivered": 100, "fault": null},
            "metrics": {"total_dropped_events": 4},
        });
        let seen = read(serde_json::from_value(stats).unwrap(), Sighting::default());
        let wanted = Sighting {
            answers: true,
            hash: "h".into(),
            config_error: Some("no key".into()),
            breaker_open: true,
            reason: "no broker".into(),
            dead_letters: 3,
            backlog: 107,
            folders_left: Some(2),
            bytes: 5,
            oldest_ms: Some(3000),
            dropped: 4,
            missing_secrets: vec!["kafka/ca".into()],
            ..Sighting::default()
        };
        assert_eq!(seen, wanted);
        let before =
            json!({"breaker": {"state": "half-open", "reason": "r"}, "sinks": [{"backlog": 1}], "journal": {"usedBytes": 9}});
        let seen = read(serde_json::from_value(before).unwrap(), Sighting::default());
        assert_eq!((seen.breaker_open, seen.reason.as_str(), seen.bytes), (true, "r", 9), "a sidecar of the version before");
    }

    /// As a mesh with STRICT mutual TLS answers who speaks in clear.
    #[tokio::test]
    async fn one_that_refuses_plain_text_counts_as_unknown() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let strict = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut first = [0; 1];
            stream.read_exact(&mut first).await.unwrap();
            assert_ne!(first[0], 0x16, "it would have been a TLS handshake");
            // A fatal alert: handshake_failure.
            stream.write_all(&[0x15, 3, 3, 0, 2, 2, 40]).await.unwrap();
        });
        let pod = Injected { is_ready: true, is_ours: true, port: Some(9601), ..Injected::default() };
        let seen = ask(address.ip(), address.port(), &pod).await;
        strict.await.unwrap();
        let fleet = sum(&[seen], 0, None);
        assert_eq!((fleet.injected, fleet.ready, fleet.unknown), (1, 1, 1));
    }

    #[test]
    fn an_answer_of_anybodys_making_costs_little() {
        let long = "x".repeat(100_000);
        let odd = json!({"config": {"hash": long}, "sinks": vec![json!({"backlog": u64::MAX}); 500]}).to_string();
        let seen = read(serde_json::from_str(&odd).unwrap(), Sighting::default());
        assert_eq!((seen.hash.len(), seen.backlog), (TEXT, u64::MAX));
        assert_eq!(sum(&[seen.clone(), seen], 0, None).spooled_events, u64::MAX, "sums stay at the end of their scale");
        let deep = "[".repeat(60_000);
        assert!(serde_json::from_str::<Stats>(&deep).is_err());
        let deep_inside = format!("{{\"other\":{}{}}}", "[".repeat(100), "]".repeat(100));
        assert!(serde_json::from_str::<Stats>(&deep_inside).is_ok(), "what is not read may be anything");
    }
}
