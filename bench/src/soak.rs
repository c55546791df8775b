//! Mixed load for as long as is asked for: memory and descriptors of the sidecar must stay as they are once it is warm.
use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    path::Path,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use anyhow::Context as _;

use crate::{
    load,
    process::{self, Sidecar},
};

/// What was seen at one moment.
#[derive(Debug, Clone, Copy)]
struct Sample {
    resident: u64,
    descriptors: usize,
}

/// Between two lines that tell how it goes.
const TELL: Duration = Duration::from_mins(1);

/// Requests that go wrong in every way that a client has.
const BAD: &[&str] = &[
    "POST /v1/events HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 3\r\nConnection: close\r\n\r\n{a}",
    "POST /v1/events HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}",
    "POST /v1/nowhere HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
    "GET /v1/events?limit=100 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    "GET /v1/events HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n",
    "POST /v1/logs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-protobuf\r\nContent-Length: 4\r\nConnection: close\r\n\r\n\n\u{2}\u{1}x",
    // Hangs up in the middle of its body.
    "POST /v1/events HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 5000\r\n\r\n{\"action\":",
];

fn mib(bytes: u64) -> f64 {
    bytes as f64 / 1_048_576.0
}

pub fn bad(address: &str) -> anyhow::Result<()> {
    for text in BAD {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(text.as_bytes())?;
        if text.contains("close") {
            stream.read_to_end(&mut Vec::new())?;
        }
    }
    Ok(())
}

/// Runs for so long. Fails where memory or descriptors grow.
pub fn run(binary: &Path, time: Duration) -> anyhow::Result<()> {
    let cluster = process::kafka()?;
    let dir = tempfile::tempdir()?;
    let more = "  query: {enabled: true}\n  dedupe: {window: 1m, maxEntries: 65536}\n  sinks:\n  - {name: archive, type: File, file: {rotateBytes: 4Mi, backups: 3}}\n";
    let mut sidecar = Sidecar::start_with(binary, Some((&cluster.bootstrap_servers(), dir.path(), 256)), "AtLeastOnce", more)?;
    let second = Duration::from_secs(1);
    let (begun, warm) = (Instant::now(), time / 4);
    let mut samples = Vec::new();
    let mut answered = 0;
    load::MAY_PUT_OFF.store(true, Ordering::Relaxed);
    let (mut told, mut delivered) = (Duration::ZERO, 0);
    while begun.elapsed() < time {
        answered += load::run(&sidecar.address, 16, second).answers;
        load::batches(&sidecar.address, 2, second);
        bad(&sidecar.address).context("requests that go wrong")?;
        let now = sidecar.stat("/metrics/total_delivered_records");
        anyhow::ensure!(now > delivered, "nothing was delivered in this round; {delivered} before");
        delivered = now;
        let sample = Sample { resident: sidecar.resident(), descriptors: sidecar.descriptors() };
        if begun.elapsed() > warm {
            samples.push(sample);
        }
        if begun.elapsed() >= told + TELL {
            told = begun.elapsed();
            let (minutes, refused) = (told.as_secs() / 60, load::PUT_OFF.load(Ordering::Relaxed));
            let Sample { resident, descriptors } = sample;
            eprintln!(
                "{minutes} min: {answered} single events, {refused} answers 503, {:.1} MiB resident, {descriptors} descriptors",
                mib(resident)
            );
        }
    }
    let ended = sidecar.end();
    let log = std::fs::read_to_string(dir.path().join("sidecar.log")).unwrap_or_default();
    log.lines().take(20).for_each(|line| eprintln!("sidecar: {line}"));
    let (first, last) = samples.split_at(samples.len() / 2);
    let most = |samples: &[Sample]| {
        let resident = samples.iter().map(|sample| sample.resident).max().unwrap_or_default();
        (resident, samples.iter().map(|sample| sample.descriptors).max().unwrap_or_default())
    };
    let ((resident, descriptors), (later, more)) = (most(first), most(last));
    let put_off = load::PUT_OFF.load(Ordering::Relaxed);
    println!(
        "{} s of mixed load, {answered} single events, {put_off} answers 503: resident at most {:.1} MiB, then {:.1} MiB; descriptors {descriptors}, then {more}",
        time.as_secs(),
        mib(resident),
        mib(later)
    );
    ended?;
    anyhow::ensure!(!first.is_empty() && !last.is_empty(), "too short to see anything; give it 20 seconds at least");
    anyhow::ensure!(put_off * 1000 <= answered, "{put_off} of {answered} were put off: the disk is too slow for a soak");
    anyhow::ensure!(later <= resident + resident / 10 + (4 << 20), "memory grows");
    anyhow::ensure!(more <= descriptors + 8, "descriptors grow");
    Ok(())
}
