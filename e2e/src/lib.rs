//! What end-to-end tests stand on: a real Kafka, the real sidecar as a process, clients that retry, and a consumer that reads all.
//!
//! Rules: everything is started by the test that uses it and ended by its id; waiting is always for something seen, with a deadline;
//! sizes follow `STENO_E2E_SCALE` (`smoke`, the default, or `full`).
pub mod client;
pub mod cluster;
pub mod consumer;
pub mod disk;
pub mod kafka;
pub mod postgres;
pub mod receiver;
pub mod sidecar;
pub mod sinks;
pub mod world;

use std::{
    path::Path,
    time::{Duration, Instant},
};

/// Whether the long versions run.
pub fn is_full() -> bool {
    std::env::var("STENO_E2E_SCALE").is_ok_and(|scale| scale == "full")
}

/// A size for the smoke run, and one for the full run.
pub fn scaled(smoke: usize, full: usize) -> usize {
    if is_full() { full } else { smoke }
}

/// Every file below a directory that holds this text.
pub fn holding(dir: &Path, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    // A file of a running sidecar may go meanwhile.
    for path in std::fs::read_dir(dir).expect("a directory").filter_map(Result::ok).map(|entry| entry.path()) {
        if path.is_dir() {
            found.extend(holding(&path, text));
        } else if memchr::memmem::find(&std::fs::read(&path).unwrap_or_default(), text.as_bytes()).is_some() {
            found.push(path.display().to_string());
        }
    }
    found
}

/// Seconds of CPU that a process used. In nanoseconds, by thread: ticks of the clock are charged to whoever wakes with it.
pub fn cpu(pid: u32) -> f64 {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("a process");
    let of = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
    let used = |stat: String| stat.split(' ').next().and_then(|nanos| nanos.parse::<f64>().ok()).unwrap_or_default();
    tasks.filter_map(Result::ok).map(|task| used(of(task))).sum::<f64>() / 1e9
}

/// Waits until something holds; fails with what was waited for.
#[track_caller]
pub fn wait_for(what: &str, most: Duration, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + most;
    while !holds() {
        assert!(Instant::now() < until, "waited {most:?} in vain: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
