//! A volume that several sidecars share: what one leaves, another delivers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use std::{collections::BTreeMap, time::Duration};

use steno_e2e::{
    client::{Client, event},
    consumer::{check, events, read_all},
    kafka::Kafka,
    sidecar::{Sidecar, policy},
    wait_for,
};

const SOON: Duration = Duration::from_mins(1);
const LATER: Duration = Duration::from_mins(3);
const BRISK: &str = "  breaker: {failureThreshold: 2, cooldown: 1s, noBrokerFor: 3s}\n  sidecar: {drainTimeout: 1s}\n";

fn fill(sidecar: &Sidecar, name: &str, acked: &mut BTreeMap<String, String>) {
    let client = Client::new(&sidecar.ingest());
    for index in 0..50 {
        let id = format!("{name}-{index}");
        assert_eq!(client.insist(&event(&id), SOON), 201);
        acked.insert(id.clone(), format!("payload of {id}"));
    }
}

fn end(mut sidecar: Sidecar) {
    sidecar.term();
    assert_eq!(sidecar.ended(SOON), Some(0), "{}", sidecar.log());
}

#[test]
fn a_rolling_update_without_kafka_strands_nothing_on_the_shared_volume() {
    let kafka = Kafka::start();
    kafka.topic("audit");
    kafka.down();
    let volume = tempfile::tempdir().unwrap();
    let text = policy(&kafka.plain(), "audit", BRISK);
    let start = || {
        let mut sidecar = Sidecar::prepare(&text)
            .with_journal(volume.path())
            .with_env("STENO_SHARED", "true")
            .with_env("STENO_ADOPT_AFTER", "1s");
        sidecar.up();
        sidecar
    };
    let mut acked = BTreeMap::new();
    // Two pods, two successors that start before those stop, and Kafka is away all the time.
    let old = [start(), start()];
    old.iter().enumerate().for_each(|(index, sidecar)| fill(sidecar, &format!("old-{index}"), &mut acked));
    let new = [start(), start()];
    new.iter().enumerate().for_each(|(index, sidecar)| fill(sidecar, &format!("new-{index}"), &mut acked));
    old.into_iter().for_each(end);
    wait_for("the folders to be told of", SOON, || {
        new.iter()
            .all(|sidecar| sidecar.stats()["health"]["issues"].to_string().contains("what another sidecar left on the volume"))
    });
    kafka.up();
    new.iter().for_each(|sidecar| sidecar.drained(LATER));
    wait_for("all folders to be delivered", LATER, || {
        let stats = new.each_ref().map(Sidecar::stats);
        stats.iter().all(|stats| stats["left"]["folders"] == 0 && stats["left"]["adopted"].is_null())
    });
    let records = read_all(&kafka.plain(), "audit");
    check(&records, &acked);
    assert_eq!(events(&records).len(), acked.len(), "other events than those that were sent");
    let adopted: f64 = new.iter().map(|sidecar| sidecar.metric("steno_spool_folders_adopted_total")).sum();
    assert!((adopted - 2.0).abs() < 0.1, "{adopted} folders were adopted");
    // It stays so: nobody adopts what is drained.
    assert!(new.iter().all(|sidecar| sidecar.stats()["health"]["status"] == "ok"), "{}", new[0].stats());
    new.into_iter().for_each(end);
}

#[test]
fn on_a_node_one_of_the_same_policy_delivers_what_a_pod_left_and_leaves_others_alone() {
    let kafka = Kafka::start();
    kafka.topic("audit");
    kafka.topic("other");
    kafka.down();
    let node = tempfile::tempdir().unwrap();
    let ours = policy(&kafka.plain(), "audit", BRISK);
    let others = policy(&kafka.plain(), "other", BRISK).replace("name: e2e,", "name: other,");
    let start = |text: &str, pod: &str| {
        let sidecar = Sidecar::prepare(text).with_journal(&node.path().join(pod));
        let settings = [("STENO_ADOPT", "true"), ("STENO_ADOPT_AFTER", "1s"), ("STENO_REMOVE_DRAINED", "true")];
        let mut sidecar = settings.iter().fold(sidecar, |sidecar, (name, value)| sidecar.with_env(name, value));
        sidecar.up();
        sidecar
    };
    let (mut acked, mut not_ours) = (BTreeMap::new(), BTreeMap::new());
    let (gone, foreign) = (start(&ours, "e2e_a_1"), start(&others, "e2e_b_2"));
    fill(&gone, "gone", &mut acked);
    fill(&foreign, "foreign", &mut not_ours);
    end(gone);
    end(foreign);
    kafka.up();
    let here = start(&ours, "e2e_c_3");
    wait_for("the folder to go", LATER, || !node.path().join("e2e_a_1").exists());
    check(&read_all(&kafka.plain(), "audit"), &acked);
    assert_eq!(here.stats()["left"]["folders"], 0, "a folder of another policy is none of ours");
    assert!(node.path().join("e2e_b_2/state").exists() && read_all(&kafka.plain(), "other").is_empty());
    end(here);
    assert!(!node.path().join("e2e_c_3").exists());
}

#[test]
fn a_pod_that_comes_back_gets_its_directory_from_who_adopted_it() {
    let kafka = Kafka::start();
    kafka.topic("audit");
    kafka.down();
    let node = tempfile::tempdir().unwrap();
    let text = policy(&kafka.plain(), "audit", BRISK);
    let prepare = |pod: &str| {
        let sidecar = Sidecar::prepare(&text).with_journal(&node.path().join(pod)).with_env("STENO_POD_UID", pod);
        sidecar.with_env("STENO_ADOPT", "true").with_env("STENO_ADOPT_AFTER", "1s")
    };
    let (mut one, mut other) = (prepare("e2e_a_1"), prepare("e2e_b_2"));
    let mut acked = BTreeMap::new();
    one.up();
    fill(&one, "first", &mut acked);
    one.kill();
    other.up();
    wait_for("the other to adopt the directory", SOON, || other.stats()["left"]["adopted"] == "e2e_a_1");
    // Kafka is away still, so that it would be held for long.
    one.up();
    fill(&one, "second", &mut acked);
    assert!(other.stats()["left"]["adopted"].is_null());
    kafka.up();
    [&one, &other].iter().for_each(|sidecar| sidecar.drained(LATER));
    check(&read_all(&kafka.plain(), "audit"), &acked);
    end(one);
    end(other);
}

#[test]
fn a_folder_that_cannot_be_used_is_passed_over() {
    let volume = tempfile::tempdir().unwrap();
    std::fs::write(volume.path().join("slot-0"), b"not a folder").unwrap();
    std::fs::create_dir_all(volume.path().join("slot-1/lock")).unwrap();
    std::os::unix::fs::symlink("nowhere", volume.path().join("slot-2")).unwrap();
    let sidecar = Sidecar::prepare(&policy("127.0.0.1:1", "audit", BRISK)).with_journal(volume.path());
    let mut sidecar = sidecar.with_env("STENO_SHARED", "true");
    sidecar.up();
    fill(&sidecar, "one", &mut BTreeMap::new());
    assert!(volume.path().join("slot-3/state").exists(), "{}", sidecar.log());
    end(sidecar);
}
