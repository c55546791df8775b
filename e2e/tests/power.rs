//! The real sidecar on a real ext4 that loses power: what it acknowledged is there, once, and its chain is whole.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use steno_chain::{Finding, Verifier};
use steno_e2e::{
    client::{Client, event},
    disk::Ext4,
    scaled,
    sidecar::{Sidecar, policy},
    wait_for,
};

/// Nobody listens there: all stays in the spool.
const NO_BROKER: &str = "127.0.0.1:1";

/// xorshift64*, seeded: a run can be repeated.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % sides
    }
}

/// Clients that post until they are stopped, and remember each event that was acknowledged.
struct Posting {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Posting {
    fn start(address: &str, next: &Arc<AtomicU64>, acked: &Arc<Mutex<Vec<String>>>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = (0..3).map(|_| {
            let (client, next, acked, stop) = (Client::new(address), next.clone(), acked.clone(), stop.clone());
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let id = format!("power-{}", next.fetch_add(1, Ordering::Relaxed));
                    match client.event(&event(&id)) {
                        Some((200 | 201, _)) => acked.lock().unwrap().push(id),
                        // The process died: this one was on its way.
                        None => return,
                        Some(_) => {}
                    }
                }
            })
        });
        Self { threads: threads.collect(), stop }
    }

    fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
    }
}

/// Retries of what was acknowledged are duplicates; anything else says that it is gone.
#[track_caller]
fn all_there(sidecar: &Sidecar, acked: &[String], round: usize) {
    let client = Client::new(&sidecar.ingest());
    for ids in acked.chunks(500) {
        let events: Vec<_> = ids.iter().map(|id| event(id)).collect();
        let (status, answer) = client.batch(&events).expect("an answer");
        assert!(matches!(status, 200 | 207), "round {round}: {status} {answer}");
        let results = answer["results"].as_array().unwrap_or_else(|| panic!("{answer}"));
        for (id, result) in ids.iter().zip(results) {
            assert_eq!(result["status"], "duplicate_accepted", "round {round}: {id} was acknowledged, and its retry is {result}");
        }
    }
}

fn seed() -> u64 {
    let given = std::env::var("STENO_SEED").ok().and_then(|seed| seed.parse().ok());
    let now = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(1, |since| since.as_nanos() as u64);
    let seed = given.unwrap_or_else(now) | 1;
    println!("STENO_SEED={seed}");
    seed
}

#[test]
fn kills_and_power_cuts_at_random_lose_nothing_that_was_acknowledged() {
    let mut dice = Dice(seed());
    let disk = Ext4::new(256 << 20);
    let spec = "  spool: {maxBytes: 64Mi}\n  dedupe: {maxEntries: 4096}\n";
    let sidecar = Sidecar::prepare(&policy(NO_BROKER, "audit", spec)).with_journal(&disk.path().join("spool"));
    let mut sidecar = sidecar.with_slow_sync();
    let (next, acked) = (Arc::new(AtomicU64::new(0)), Arc::new(Mutex::new(Vec::new())));
    let rounds = scaled(24, 200);
    for round in 0..rounds {
        sidecar.up();
        if round > 0 {
            // Half of the rounds hear what the start found before anything else happens: it must be durable by then.
            let known = acked.lock().unwrap().clone();
            let from = known.len().saturating_sub(if dice.roll(4) == 0 { usize::MAX } else { 400 });
            all_there(&sidecar, &known[from..], round);
        }
        // Slow syncs have a process die between a write and its sync; without them it would nearly never do so.
        let delay = if dice.roll(2) == 0 { 0 } else { 15 };
        sidecar.set_sync_delay(Duration::from_millis(delay));
        let posting = Posting::start(&sidecar.ingest(), &next, &acked);
        std::thread::sleep(Duration::from_millis(20 + dice.roll(250)));
        // A process may die alone, and the power may go later, or at once.
        if dice.roll(3) == 0 {
            sidecar.kill();
            posting.stop();
            sidecar.set_sync_delay(Duration::ZERO);
            sidecar.up();
            // One that was not answered is sent again. Whatever the answer is, it must be true from now on. One only: whatever is taken as
            // new has all before it synced.
            let id = format!("power-{}", next.load(Ordering::Relaxed).saturating_sub(1 + dice.roll(3)));
            if matches!(Client::new(&sidecar.ingest()).event(&event(&id)), Some((200 | 201, _))) {
                acked.lock().unwrap().push(id);
            }
            let known = acked.lock().unwrap().clone();
            all_there(&sidecar, &known[known.len().saturating_sub(200)..], round);
            disk.cut(&disk.path().join("spool/state"));
            sidecar.kill();
        } else {
            disk.cut(&disk.path().join("spool/state"));
            sidecar.kill();
            posting.stop();
        }
        disk.restore();
        sidecar.set_sync_delay(Duration::ZERO);
    }
    sidecar.up();
    let mut known = acked.lock().unwrap().clone();
    known.sort_unstable();
    known.dedup();
    all_there(&sidecar, &known, rounds);
    sidecar.kill();
    let (code, export) = sidecar.tool(&["journal", "export", sidecar.journal().to_str().unwrap()]);
    assert_eq!(code, 0, "{}", export.lines().last().unwrap_or_default());
    let (mut verifier, mut seen) = (Verifier::default(), BTreeMap::<String, usize>::new());
    for line in export.lines().filter(|line| line.starts_with('{') && line.contains("\"integrity\"")) {
        verifier.add(line);
        let record: serde_json::Value = serde_json::from_str(line).unwrap();
        if record["kind"] == "Event" {
            *seen.entry(record["eventId"].as_str().unwrap().to_owned()).or_default() += 1;
        }
    }
    for id in &known {
        assert_eq!(seen.get(id), Some(&1), "{id}");
    }
    assert!(seen.values().all(|count| *count == 1), "an event is there twice");
    let findings = verifier.finish().findings;
    // A block that was torn is named as lost; it was never acknowledged.
    let is_bad = |finding: &&Finding| !matches!(finding, Finding::Gap { explained: true, .. });
    assert_eq!(findings.iter().filter(is_bad).count(), 0, "{findings:?}");
    println!("{rounds} power cuts, {} events acknowledged", known.len());
}

#[test]
fn a_disk_that_hangs_is_told_of_and_does_not_hold_the_process() {
    let spec = "  spool: {maxBytes: 64Mi}\n  sidecar: {drainTimeout: 2s}\n";
    let mut sidecar = Sidecar::prepare(&policy(NO_BROKER, "audit", spec)).with_slow_sync();
    sidecar.up();
    let client = Client::new(&sidecar.ingest());
    assert_eq!(client.event(&event("before")).unwrap().0, 201);
    sidecar.set_sync_delay(Duration::from_mins(1));
    let waiting = std::thread::spawn(move || client.event(&event("hangs")));
    wait_for("readiness to end while a sync is not answered", Duration::from_secs(20), || {
        sidecar.get("/readyz").is_some_and(|(status, body)| status == 503 && body.contains("has not answered"))
    });
    let stats = sidecar.stats();
    assert_eq!(stats["health"]["status"], "degraded", "{stats}");
    assert!(stats["health"]["issues"].to_string().contains("has not answered"), "{stats}");
    sidecar.term();
    assert_eq!(sidecar.ended(Duration::from_secs(15)), Some(0), "it waits for the disk");
    let answer = waiting.join().unwrap();
    assert!(!matches!(answer, Some((200 | 201, _))), "an event was acknowledged that is not on disk: {answer:?}");
}
