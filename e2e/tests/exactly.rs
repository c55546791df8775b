//! `guarantee: ExactlyOnce`, against a real Kafka, for a consumer that reads committed records only.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use std::{collections::BTreeMap, path::Path, time::Duration};

use serde_json::json;
use steno_e2e::{
    client::{Client, Load, event},
    consumer::{Record, check, events, read_all, verify},
    kafka::Kafka,
    scaled,
    sidecar::{Sidecar, policy},
    wait_for,
};

const SOON: Duration = Duration::from_mins(1);
const LATER: Duration = Duration::from_mins(4);
const BRISK: &str = "  breaker: {failureThreshold: 2, cooldown: 1s, noBrokerFor: 2s}\n";
const ONCE: &str = "    guarantee: ExactlyOnce\n";

fn kafka() -> Kafka {
    let kafka = Kafka::start();
    kafka.topic("audit");
    kafka
}

/// Every record is there once, the sidecar's own as well, and in the journal's order within a chain.
#[track_caller]
fn once(records: &[Record], acked: &BTreeMap<String, String>) {
    check(records, acked);
    assert_eq!(verify(records).redelivered, 0, "some are there again");
    assert!(events(records).values().all(|copies| copies.len() == 1));
    let mut last: BTreeMap<String, u64> = BTreeMap::new();
    for record in records {
        let integrity = &record.json["integrity"];
        let (chain, seq) = (integrity["chainId"].as_str().unwrap().to_owned(), integrity["seq"].as_u64().unwrap());
        assert!(last.insert(chain, seq).is_none_or(|before| before < seq), "out of order at {seq}");
    }
}

#[test]
fn each_acked_event_is_there_once_while_sidecar_and_broker_are_killed() {
    let kafka = kafka();
    let mut sidecar = Sidecar::start(&policy(&kafka.plain(), "audit", &format!("{ONCE}{BRISK}")));
    let load = Load::start(&sidecar.ingest(), 8, "x");
    let flowing = |least: usize| wait_for("events to be taken", SOON, || load.count() > least);
    for _ in 0..scaled(3, 20) {
        // Some batches were committed since the position was last saved on disk, so that each kill would send them again.
        flowing(load.count() + 1500);
        sidecar.kill();
        sidecar.up();
    }
    for _ in 0..scaled(1, 5) {
        flowing(load.count() + 1000);
        kafka.kill();
        flowing(load.count() + 500);
        sidecar.kill();
        kafka.up();
        sidecar.up();
    }
    let acked = load.finish();
    sidecar.drained(LATER);
    once(&read_all(&kafka.plain(), "audit"), &acked);
}

#[test]
fn a_record_that_the_broker_refuses_goes_alone_and_critical_events_do_not_overtake() {
    let kafka = kafka();
    kafka.topic("dead");
    kafka.admin(&["topic-config", "audit", "max.message.bytes=20000"]);
    let text = policy(&kafka.plain(), "audit", &format!("{ONCE}    compression: none\n  deadLetter: {{topic: dead}}\n{BRISK}"));
    let sidecar = Sidecar::start(&text);
    let client = Client::new(&sidecar.ingest());
    let mut batch: Vec<_> = (0..300).map(|index| event(&format!("d-{index}"))).collect();
    batch[150]["metadata"]["filler"] = json!("x".repeat(30_000));
    batch[270]["severity"] = json!("critical");
    assert_eq!(client.batch(&batch).unwrap().0, 200);
    sidecar.drained(LATER);
    let records = read_all(&kafka.plain(), "audit");
    let acked = (0..300).filter(|index| *index != 150).map(|index| (format!("d-{index}"), format!("payload of d-{index}")));
    once(&records, &acked.collect());
    let dead = read_all(&kafka.plain(), "dead");
    assert_eq!(dead.iter().map(|record| record.json["eventId"].clone()).collect::<Vec<_>>(), ["d-150"]);
    assert_eq!(records.iter().filter(|record| record.json["kind"] == "DeadLetter").count(), 1);
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.path().is_dir() {
            copy(&entry.path(), &to.join(entry.file_name()));
        } else {
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

#[test]
fn a_zombie_is_fenced_and_says_so_and_goes_on_after_a_restart() {
    let kafka = kafka();
    let text = policy(&kafka.plain(), "audit", &format!("{ONCE}{BRISK}"));
    let mut zombie = Sidecar::start(&text);
    assert_eq!(Client::new(&zombie.ingest()).event(&event("first")).unwrap().0, 201);
    zombie.drained(SOON);
    // Its volume comes up elsewhere while it still lives.
    let elsewhere = tempfile::tempdir().unwrap();
    copy(zombie.journal(), &elsewhere.path().join("journal"));
    let mut heir = Sidecar::prepare(&text).with_journal(&elsewhere.path().join("journal"));
    heir.up();
    assert_eq!(Client::new(&heir.ingest()).event(&event("of-the-heir")).unwrap().0, 201);
    heir.drained(SOON);
    assert_eq!(Client::new(&zombie.ingest()).event(&event("of-the-zombie")).unwrap().0, 201);
    wait_for("the zombie to be fenced", SOON, || zombie.stats()["breaker"]["reason"].as_str().unwrap().contains("fenced"));
    let there = |id: &str| events(&read_all(&kafka.plain(), "audit")).contains_key(id);
    assert!(there("of-the-heir") && !there("of-the-zombie"));
    // The heir goes on; nobody fences it.
    assert_eq!(Client::new(&heir.ingest()).event(&event("later")).unwrap().0, 201);
    heir.drained(SOON);
    assert!(there("later") && !there("of-the-zombie"));
    zombie.kill();
    zombie.up();
    zombie.drained(SOON);
    assert!(there("of-the-zombie"), "what it acked is not lost");
}

#[test]
fn a_change_of_guarantee_takes_effect_while_it_runs_and_loses_nothing() {
    let kafka = kafka();
    let plain = policy(&kafka.plain(), "audit", BRISK);
    let once_each = policy(&kafka.plain(), "audit", &format!("{ONCE}{BRISK}"));
    let mut sidecar = Sidecar::start(&plain);
    let load = Load::start(&sidecar.ingest(), 4, "c");
    for text in [&once_each, &plain, &once_each] {
        let before = load.count();
        wait_for("events to be taken", SOON, || load.count() > before + 500);
        sidecar.write_policy(text);
        let hash = |sidecar: &Sidecar| sidecar.stats()["config"]["hash"].clone();
        let old = hash(&sidecar);
        wait_for("the change", SOON, || hash(&sidecar) != old || sidecar.log().contains("another configuration is in force"));
    }
    wait_for("more events", SOON, || load.count() > 3000);
    sidecar.kill();
    sidecar.up();
    let acked = load.finish();
    sidecar.drained(LATER);
    check(&read_all(&kafka.plain(), "audit"), &acked);
}

#[test]
#[ignore = "stands still for longer than the broker waits for a transaction: `make nightly`"]
fn a_pause_longer_than_the_brokers_patience_is_no_fence() {
    use rustix::process::{Pid, Signal, kill_process};
    let kafka = kafka();
    let sidecar = Sidecar::start(&policy(&kafka.plain(), "audit", &format!("{ONCE}{BRISK}")));
    let load = Load::start(&sidecar.ingest(), 8, "p");
    wait_for("events to be taken", SOON, || load.count() > 2000);
    let pid = Pid::from_raw(sidecar.pid() as i32).unwrap();
    kill_process(pid, Signal::STOP).unwrap();
    // Not a wait for something: the pause itself.
    std::thread::sleep(Duration::from_secs(75));
    kill_process(pid, Signal::CONT).unwrap();
    let before = load.count();
    wait_for("events to be taken again", SOON, || load.count() > before + 500);
    let acked = load.finish();
    sidecar.drained(LATER);
    once(&read_all(&kafka.plain(), "audit"), &acked);
    assert!(!sidecar.log().contains("fenced: another"), "a pause was taken for somebody else");
}
