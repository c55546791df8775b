//! A large spool: how fast it opens, what it costs, and how fast it goes to Kafka, against librdkafka by itself.
use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use rdkafka::{
    ClientConfig,
    message::{Header, OwnedHeaders},
    producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer},
};

use crate::{
    load,
    process::{self, Sidecar},
};

/// What was measured.
pub struct Replay {
    pub spool_mib: u64,
    pub ready_in: Duration,
    pub resident: u64,
    pub resident_after: u64,
    pub queries: Queries,
    pub rate: f64,
    pub raw: f64,
}

/// Searches of the large spool.
pub struct Queries {
    pub records: u64,
    /// Until all of it was indexed.
    pub indexed_in: Duration,
    /// What was asked, and its median and slowest answer.
    pub answers: Vec<(&'static str, Duration, Duration)>,
    pub resident: u64,
}

fn ask(address: &str, path: &str) -> anyhow::Result<Duration> {
    use std::io::{Read as _, Write as _};
    let begun = Instant::now();
    let mut stream = std::net::TcpStream::connect(address)?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    anyhow::ensure!(answer.starts_with(b"HTTP/1.1 200"), "{path}: {}", String::from_utf8_lossy(&answer[..answer.len().min(300)]));
    Ok(begun.elapsed())
}

fn queries(binary: &Path, dir: &Path, spool: u64) -> anyhow::Result<Queries> {
    let sidecar = Sidecar::start_with(binary, Some(("127.0.0.1:1", dir, spool)), "AtLeastOnce", "  query: {enabled: true}\n")?;
    let indexed_in = ask(&sidecar.address, "/v1/events?limit=1")?;
    let mut answers = Vec::new();
    for (what, path) in [
        ("one record of all, by kind", "/v1/events?kind=Genesis"),
        ("newest 100 of an actor", "/v1/events?actor.id=u-18273"),
        ("oldest 100 of a resource", "/v1/events?resource.id=order-4711&order=oldest"),
        ("none, by requestId and time", "/v1/events?requestId=none&from=2026-01-01T00:00:00Z"),
    ] {
        let mut times = (0..30).map(|_| ask(&sidecar.address, path)).collect::<anyhow::Result<Vec<_>>>()?;
        times.sort();
        answers.push((what, times[times.len() / 2], times[times.len() - 1]));
    }
    let records = sidecar.stat("/sinks/0/backlog");
    Ok(Queries { records, indexed_in, answers, resident: sidecar.resident() })
}

/// Fills a spool with nobody to deliver to, opens it again with a broker, and times the replay.
pub fn run(binary: &Path, mib: u64) -> anyhow::Result<Replay> {
    let dir = tempfile::tempdir()?;
    let spool = fill(binary, dir.path(), mib)?;
    let queries = queries(binary, dir.path(), spool)?;
    let cluster = process::kafka()?;
    let brokers = std::env::var("STENO_BENCH_BROKERS").unwrap_or_else(|_| cluster.bootstrap_servers());
    let raw = raw(&brokers, 400_000)?;
    let mut sidecar = Sidecar::start(binary, Some((&brokers, dir.path(), spool)))?;
    let (ready_in, resident) = (sidecar.ready_in, sidecar.resident());
    let rate = drain(&sidecar)?;
    let resident_after = sidecar.resident();
    sidecar.stop();
    Ok(Replay { spool_mib: mib, ready_in, resident, resident_after, rate, raw, queries })
}

/// What exactly once costs.
pub struct Guarantees {
    /// Records a second out of a spool, at least once.
    pub at_least_once: f64,
    /// The same exactly once.
    pub exactly_once: f64,
    /// librdkafka by itself, in transactions of the same size.
    pub raw: f64,
    /// Median of the time from receipt to confirmation at a low load, at most.
    pub latency: Duration,
}

/// Bytes of a transaction of the sidecar under a backlog.
const TRANSACTION_BYTES: usize = 12 << 20;
/// Records of it, at most.
const TRANSACTION_RECORDS: usize = 20_000;

/// Measures what exactly once costs.
pub fn guarantees(binary: &Path, mib: u64) -> anyhow::Result<Guarantees> {
    let cluster = process::kafka()?;
    let brokers = std::env::var("STENO_BENCH_BROKERS").unwrap_or_else(|_| cluster.bootstrap_servers());
    let rate = |guarantee: &str| {
        let dir = tempfile::tempdir()?;
        let spool = fill(binary, dir.path(), mib)?;
        let mut sidecar = Sidecar::start_with(binary, Some((&brokers, dir.path(), spool)), guarantee, "")?;
        let rate = drain(&sidecar)?;
        sidecar.stop();
        anyhow::Ok(rate)
    };
    Ok(Guarantees {
        at_least_once: rate("AtLeastOnce")?,
        exactly_once: rate("ExactlyOnce")?,
        raw: raw_transactions(&brokers, 20)?,
        latency: latency(binary, &brokers)?,
    })
}

/// One event at a time, 25 a second, exactly once: the upper end of the median's bucket.
fn latency(binary: &Path, brokers: &str) -> anyhow::Result<Duration> {
    use std::io::{Read as _, Write as _};
    let dir = tempfile::tempdir()?;
    let mut sidecar = Sidecar::start_with(binary, Some((brokers, dir.path(), 256)), "ExactlyOnce", "")?;
    for index in 0..200 {
        let body = format!("{{\"eventId\":\"l-{index}\",\"action\":\"order.update\"}}");
        let mut stream = std::net::TcpStream::connect(&sidecar.address)?;
        write!(
            stream,
            "POST /v1/events HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        anyhow::ensure!(answer.starts_with(b"HTTP/1.1 201"), "{}", String::from_utf8_lossy(&answer));
        std::thread::sleep(Duration::from_millis(40));
    }
    let metrics = sidecar.ask("/metrics");
    let prefix = "steno_delivery_latency_seconds_bucket{le=\"";
    let buckets: Vec<(f64, f64)> = metrics
        .lines()
        .filter(|line| line.contains("sink=\"kafka\""))
        .filter_map(|line| {
            let (le, rest) = line.strip_prefix(prefix)?.split_once('"')?;
            let count = rest.rsplit(' ').next()?;
            Some((le.parse().ok()?, count.parse().ok()?))
        })
        .collect();
    sidecar.stop();
    let all = buckets.last().context("the sidecar counts no latencies")?.1;
    let median = buckets.iter().find(|(_, count)| *count * 2.0 >= all).context("no median")?;
    Ok(Duration::from_secs_f64(median.0))
}

/// Fills a spool so far; MiB of its bound.
fn fill(binary: &Path, dir: &Path, mib: u64) -> anyhow::Result<u64> {
    let spool = mib + mib / 4 + 256;
    let mut sidecar = Sidecar::start(binary, Some(("127.0.0.1:1", dir, spool)))?;
    let begun = Instant::now();
    while sidecar.stat("/journal/usedBytes") < mib << 20 {
        anyhow::ensure!(begun.elapsed() < Duration::from_mins(5), "the spool does not fill");
        // In small steps, so that a fast machine does not overshoot what the spool takes.
        load::batches(&sidecar.address, 2, Duration::from_millis(500));
        println!("  filling the spool: {} MiB", sidecar.stat("/journal/usedBytes") >> 20);
    }
    sidecar.stop();
    Ok(spool)
}

/// Records a second that leave a spool.
fn drain(sidecar: &Sidecar) -> anyhow::Result<f64> {
    let (mut first, begun) = (None, Instant::now());
    let mut last = (Instant::now(), 0);
    // The first seconds are connection and warm-up; the rate is that of what follows.
    while begun.elapsed() < Duration::from_secs(20) {
        let delivered = sidecar.stat("/metrics/total_delivered_records");
        if delivered > 20_000 && first.is_none() {
            first = Some((Instant::now(), delivered));
        }
        last = (Instant::now(), delivered);
        if sidecar.stat("/sinks/0/backlog") == 0 && delivered > 0 {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let (at, count) = first.context("nothing was delivered")?;
    Ok((last.1 - count) as f64 / (last.0 - at).as_secs_f64())
}

/// A producer with the sidecar's settings.
fn producer(brokers: &str, more: &[(&str, &str)]) -> anyhow::Result<ThreadedProducer<DefaultProducerContext>> {
    let mut config = ClientConfig::new();
    let settings = [
        ("bootstrap.servers", brokers),
        ("acks", "all"),
        ("enable.idempotence", "true"),
        ("compression.type", "zstd"),
        ("batch.num.messages", "1000"),
        ("queue.buffering.max.messages", "100000"),
        ("queue.buffering.max.kbytes", "24576"),
        ("linger.ms", "1"),
    ];
    for (name, value) in settings.iter().chain(more) {
        config.set(*name, *value);
    }
    Ok(config.create()?)
}

/// Sends a record as the sidecar does.
fn send(producer: &ThreadedProducer<DefaultProducerContext>, index: usize, payload: &[u8]) {
    let id = format!("e{index}");
    loop {
        let header = |key, value| Header { key, value: Some(value) };
        let headers = OwnedHeaders::new_with_capacity(6)
            .insert(header("ce_specversion", "1.0"))
            .insert(header("ce_id", &id))
            .insert(header("ce_source", "/steno/bench/bench"))
            .insert(header("ce_type", "steno.event.order.update"))
            .insert(header("ce_time", "2026-03-01T09:30:00.000Z"))
            .insert(header("content-type", "application/json"));
        let record = BaseRecord::to("bench").payload(payload).key("local/00000000-0000-0000-0000-000000000000").headers(headers);
        if producer.send(record).is_ok() {
            return;
        }
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// librdkafka by itself, with the sidecar's settings, headers and sizes.
fn raw(brokers: &str, count: usize) -> anyhow::Result<f64> {
    let producer = producer(brokers, &[])?;
    // What is sent compresses as the sidecar's records do, for they are such records.
    let records = crate::stages::records(20_000)?;
    let (mut begun, warm_up) = (Instant::now(), count / 10);
    for index in 0..count + warm_up {
        if index == warm_up {
            // Connections, topics and buffers are there, as they are where the sidecar is timed.
            producer.flush(Duration::from_mins(1))?;
            begun = Instant::now();
        }
        send(&producer, index, &records[index % records.len()]);
    }
    producer.flush(Duration::from_mins(1))?;
    Ok(count as f64 / begun.elapsed().as_secs_f64())
}

/// The same in transactions of the sidecar's size, without its positions: records a second.
fn raw_transactions(brokers: &str, count: usize) -> anyhow::Result<f64> {
    let wait = Duration::from_mins(1);
    let producer = producer(brokers, &[("transactional.id", "bench"), ("retry.backoff.ms", "5")])?;
    producer.init_transactions(wait)?;
    let records = crate::stages::records(20_000)?;
    let (mut begun, mut sent, mut index) = (Instant::now(), 0, 0);
    for transaction in 0..=count {
        if transaction == 1 {
            (begun, sent) = (Instant::now(), 0);
        }
        producer.begin_transaction()?;
        let (mut bytes, mut of_this) = (0, 0);
        while bytes < TRANSACTION_BYTES && of_this < TRANSACTION_RECORDS {
            let payload = &records[index % records.len()];
            send(&producer, index, payload);
            (bytes, index, of_this) = (bytes + payload.len(), index + 1, of_this + 1);
        }
        // The binding's flush, which a commit begins with, waits in steps of 100 ms.
        while producer.in_flight_count() > 0 {
            std::thread::sleep(Duration::from_micros(200));
        }
        producer.commit_transaction(wait)?;
        sent += of_this;
    }
    Ok(sent as f64 / begun.elapsed().as_secs_f64())
}
