//! `make bench`: the sidecar against this machine's own baselines, in one run. Prints ratios and writes them as a page.
//!
//! The load generator posts prebuilt bodies over raw sockets and shows its own CPU, so that it can be seen whether it is the
//! bottleneck. Absolute figures are noise on a shared machine; only ratios of one run mean something.
use std::{fmt::Write as _, path::PathBuf, time::Duration};

use anyhow::Context as _;
use clap::Parser;

mod admission;
mod baseline;
mod load;
mod process;
mod replay;
mod soak;
mod stages;
mod train;

/// What is measured, and where the page goes.
#[derive(Debug, Parser)]
struct Args {
    /// The release binary
    #[arg(long)]
    sidecar: PathBuf,
    /// Where the results go, as Markdown
    #[arg(long)]
    out: PathBuf,
    /// Seconds of each measurement
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// MiB of the large spool
    #[arg(long, default_value_t = 1024)]
    spool: u64,
}

fn main() -> anyhow::Result<()> {
    if std::env::args().nth(1).as_deref() == Some("echo") {
        return baseline::echo();
    }
    if std::env::args().nth(1).as_deref() == Some("durable") {
        return baseline::durable();
    }
    if std::env::args().nth(1).as_deref() == Some("load") {
        return one_load();
    }
    if std::env::args().nth(1).as_deref() == Some("stages") {
        for (stage, us) in stages::run()? {
            println!("{stage:<24} {us:>7.2} µs");
        }
        return Ok(());
    }
    if std::env::args().nth(1).as_deref() == Some("admission") {
        let (webhook, bare) = admission::run(200, Duration::from_secs(10))?;
        println!(
            "admission p50 {:?} p99 {:?} of {}; bare p50 {:?} p99 {:?}",
            webhook.p50, webhook.p99, webhook.count, bare.p50, bare.p99
        );
        return Ok(());
    }
    if let (Some("replay"), Some(binary)) = (std::env::args().nth(1).as_deref(), std::env::args().nth(2)) {
        let replay = replay::run(std::path::Path::new(&binary), 1024)?;
        println!("replay {:.0}/s of raw {:.0}/s", replay.rate, replay.raw);
        println!("{} records indexed in {:?}", replay.queries.records, replay.queries.indexed_in);
        for (what, median, slowest) in &replay.queries.answers {
            println!("{what:<32} {median:?} {slowest:?}");
        }
        println!("resident {} MiB", replay.queries.resident >> 20);
        return Ok(());
    }
    if let (Some(which @ ("soak" | "train")), Some(binary)) = (std::env::args().nth(1).as_deref(), std::env::args().nth(2)) {
        let seconds = std::env::args().nth(3).and_then(|seconds| seconds.parse().ok());
        let time = Duration::from_secs(seconds.with_context(|| format!("{which} BINARY SECONDS"))?);
        let run = if which == "soak" { soak::run } else { train::run };
        return run(std::path::Path::new(&binary), time);
    }
    if let (Some("guarantees"), Some(binary)) = (std::env::args().nth(1).as_deref(), std::env::args().nth(2)) {
        let found = replay::guarantees(std::path::Path::new(&binary), 192)?;
        let replay::Guarantees { at_least_once: least, exactly_once: exactly, raw, latency } = found;
        println!("exactly once {exactly:.0}/s of at least once {least:.0}/s: {:.2}", exactly / least);
        println!("exactly once {exactly:.0}/s of raw transactions {raw:.0}/s: {:.2}", exactly / raw);
        println!("exactly once, low load: p50 at most {} ms", latency.as_millis());
        return Ok(());
    }
    let args = Args::parse();
    let time = Duration::from_secs(args.seconds);
    let mut page = String::from(
        "# Results\n\nMade by `make bench`, of the sidecar that `make release` builds. Ratios of one run on one machine; absolute figures are noise elsewhere.\n\n| what | measured | baseline | ratio |\n|---|---|---|---|\n",
    );
    let mut row = |what: &str, measured: String, baseline: String, ratio: String| {
        println!("{what:<52} {measured:>28} {baseline:>34} {ratio:>8}");
        let _ = writeln!(page, "| {what} | {measured} | {baseline} | {ratio} |");
    };
    let fsync = baseline::fdatasync().context("fdatasync baseline")?;
    let wake = baseline::wake_up();
    let echo = process::Bare::start("echo")?;
    let echo_1 = load::run(&echo.address, 1, time);
    let echo_32 = load::run(&echo.address, 32, time);
    drop(echo);
    let durable = process::Bare::start("durable")?;
    load::run(&durable.address, 32, Duration::from_secs(1));
    let durable_32 = load::run(&durable.address, 32, time);
    drop(durable);
    let mut sidecar = process::Sidecar::start(&args.sidecar, None)?;
    let empty_ready = sidecar.ready_in;
    std::thread::sleep(Duration::from_secs(1));
    let idle = sidecar.resident();
    for path in ["/metrics", "/v1/stats"] {
        anyhow::ensure!(sidecar.ask(path).starts_with("HTTP/1.1 200"), "{path} is not answered");
    }
    let asked = sidecar.resident();
    load::run(&sidecar.address, 32, Duration::from_secs(1));
    let one = load::run(&sidecar.address, 1, time);
    let cpu_before = sidecar.cpu();
    let many = load::run(&sidecar.address, 32, time);
    let cpu = sidecar.cpu().saturating_sub(cpu_before).as_secs_f64() * 1e6 / many.answers as f64;
    let loaded = sidecar.resident();
    let batch = load::batches(&sidecar.address, 4, time);
    let us = |time: Duration| format!("{:.0} µs", time.as_secs_f64() * 1e6);
    let rate = |measured: &load::Measured| format!("{:.0}/s (client {:.2} cores)", measured.rate(), measured.client_cores);
    let of = |a: f64, b: f64| format!("{:.2}", a / b);
    row(
        "single POST, 32 connections, against bare hyper echo",
        rate(&many),
        format!("{}; target 0.5", rate(&echo_32)),
        of(many.rate(), echo_32.rate()),
    );
    row(
        "the same, against the least that is durable (hyper, serde_json, group commit)",
        rate(&many),
        format!("{}; target 0.6", rate(&durable_32)),
        of(many.rate(), durable_32.rate()),
    );
    row("single POST, 1 connection, against bare hyper echo", rate(&one), rate(&echo_1), of(one.rate(), echo_1.rate()));
    let budget = echo_1.p(50) + fsync.p50.mul_f64(1.5) + wake * 2;
    row(
        "ack p50, 1 connection, against echo + 1.5 fdatasync + 2 wake-ups",
        us(one.p(50)),
        format!("{}; target 1", us(budget)),
        of(one.p(50).as_secs_f64(), budget.as_secs_f64()),
    );
    row(
        "ack p99, 1 connection, against fdatasync p99",
        us(one.p(99)),
        us(fsync.p99),
        of(one.p(99).as_secs_f64(), fsync.p99.as_secs_f64()),
    );
    row(
        "ack p50 / p99, 32 connections",
        format!("{} / {}", us(many.p(50)), us(many.p(99))),
        format!("echo {} / {}", us(echo_32.p(50)), us(echo_32.p(99))),
        of(many.p(50).as_secs_f64(), echo_32.p(50).as_secs_f64()),
    );
    row(
        "batches of 100 events, 4 connections",
        format!("{:.1} MB/s, {:.0} events/s", batch.bytes as f64 / 1e6 / batch.took.as_secs_f64(), batch.rate() * 100.0),
        "-".into(),
        "-".into(),
    );
    row("sidecar's CPU for one event, 32 connections", format!("{cpu:.1} µs"), "-".into(), "-".into());
    for (stage, us) in stages::run()? {
        row(&format!("stage, by cargo build --release: {stage}"), format!("{us:.1} µs"), "-".into(), "-".into());
    }
    row(
        "fdatasync of 700 bytes over written extents, p50 / p99",
        format!("{} / {}", us(fsync.p50), us(fsync.p99)),
        "-".into(),
        "-".into(),
    );
    row(
        "resident, idle",
        format!("{:.1} MiB", idle as f64 / 1048576.0),
        "target 10 MiB".into(),
        of(idle as f64, 10.0 * 1048576.0),
    );
    row(
        "resident, idle, after a scrape and the operator's question",
        format!("{:.1} MiB", asked as f64 / 1048576.0),
        "-".into(),
        "-".into(),
    );
    row("resident, under load", format!("{:.1} MiB", loaded as f64 / 1048576.0), "-".into(), "-".into());
    row("ready, empty", format!("{} ms", empty_ready.as_millis()), "target 100 ms".into(), of(empty_ready.as_secs_f64(), 0.1));
    sidecar.stop();
    let replay = replay::run(&args.sidecar, args.spool)?;
    let replay::Guarantees { at_least_once: least, exactly_once: exactly, raw, latency } =
        replay::guarantees(&args.sidecar, 192)?;
    row(
        "replay, exactly once, against at least once",
        format!("{exactly:.0}/s"),
        format!("{least:.0}/s; target 0.5"),
        of(exactly, least),
    );
    row(
        "replay, exactly once, against raw librdkafka in transactions of 12 MiB",
        format!("{exactly:.0}/s"),
        format!("{raw:.0}/s; target 0.9"),
        of(exactly, raw),
    );
    row(
        "exactly once at 25 events/s: p50 from receipt to confirmation, at most",
        format!("{} ms", latency.as_millis()),
        "target 50 ms".into(),
        of(latency.as_secs_f64(), 0.05),
    );
    row(
        "ready, with the large spool",
        format!("{} ms at {} MiB", replay.ready_in.as_millis(), replay.spool_mib),
        "target 1000 ms".into(),
        of(replay.ready_in.as_secs_f64(), 1.0),
    );
    row(
        "resident, with the large spool",
        format!("{:.1} MiB", replay.resident as f64 / 1048576.0),
        "target 48 MiB".into(),
        of(replay.resident as f64, 48.0 * 1048576.0),
    );
    row(
        "replay of the spool into Kafka, against raw librdkafka",
        format!("{:.0} records/s", replay.rate),
        format!("{:.0} records/s; target 0.8", replay.raw),
        of(replay.rate, replay.raw),
    );
    row("resident, after the replay", format!("{:.1} MiB", replay.resident_after as f64 / 1048576.0), "-".into(), "-".into());
    let queries = &replay.queries;
    row(
        "index of queries made, from nothing",
        format!("{:.1} s for {} records", queries.indexed_in.as_secs_f64(), queries.records),
        "-".into(),
        "-".into(),
    );
    for (what, median, slowest) in &queries.answers {
        row(
            &format!("query p50 / slowest: {what}"),
            format!("{} / {}", us(*median), us(*slowest)),
            "target 100 ms".into(),
            of(median.as_secs_f64(), 0.1),
        );
    }
    row("resident, after these queries", format!("{:.1} MiB", queries.resident as f64 / 1048576.0), "-".into(), "-".into());
    let (webhook, bare) = admission::run(200, time)?;
    row(
        "admission p50 at 200/s, over TLS, against bare hyper",
        us(webhook.p50),
        us(bare.p50),
        of(webhook.p50.as_secs_f64(), bare.p50.as_secs_f64()),
    );
    row(
        "admission p99 at 200/s",
        format!("{} of {}", us(webhook.p99), webhook.count),
        format!("target 5 ms; bare {}", us(bare.p99)),
        of(webhook.p99.as_secs_f64(), 0.005),
    );
    std::fs::write(&args.out, page).context("the results cannot be written")?;
    println!("written to {}", args.out.display());
    Ok(())
}

/// `load ADDRESS CONNECTIONS SECONDS [batch]`: the load alone, for a profiler at the other end.
fn one_load() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(2);
    let address = args.next().context("an address")?;
    let connections: usize = args.next().context("connections")?.parse()?;
    let time = Duration::from_secs(args.next().context("seconds")?.parse()?);
    let batch = args.next().as_deref() == Some("batch");
    let measured = if batch { load::batches(&address, connections as u64, time) } else { load::run(&address, connections, time) };
    println!(
        "{:.0} requests/s, p50 {:?}, p99 {:?}, client {:.2} cores",
        measured.rate(),
        measured.p(50),
        measured.p(99),
        measured.client_cores
    );
    Ok(())
}
