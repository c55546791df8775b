//! The spool at rest: nothing in clear on disk, keys that rotate while it runs, and nothing stored without a key.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use std::{collections::BTreeMap, time::Duration};

use steno_e2e::{
    client::{Client, event},
    consumer::{check, read_all, verify},
    holding,
    kafka::Kafka,
    sidecar::{Sidecar, policy},
    wait_for,
};

const SOON: Duration = Duration::from_mins(1);
const BRISK: &str = "  breaker: {failureThreshold: 2, cooldown: 1s, noBrokerFor: 1s}\n";

/// Lines of a policy that encrypts with these keys of the Secret `spool`: the first is in use.
fn keys(names: &[&str]) -> String {
    let reference = |name: &&str| format!("{{name: spool, key: {name}}}");
    let (first, old) = names.split_first().unwrap();
    let old: Vec<String> = old.iter().map(reference).collect();
    format!(
        "{BRISK}  query: {{enabled: true}}\n  spool:\n    compression: Zstd\n    encryption: {{keySecretRef: {}, oldKeySecretRefs: [{}]}}\n",
        reference(first),
        old.join(", ")
    )
}

fn put_key(sidecar: &Sidecar, name: &str, byte: u8) {
    sidecar.put_secret("spool", name, [byte; 32]);
}

#[track_caller]
fn post(sidecar: &Sidecar, name: &str, count: usize, acked: &mut BTreeMap<String, String>) {
    let client = Client::new(&sidecar.ingest());
    let batch: Vec<_> = (0..count).map(|index| event(&format!("{name}-{index}"))).collect();
    let (status, body) = client.batch(&batch).expect("an answer");
    assert_eq!(status, 200, "{body}");
    acked.extend((0..count).map(|index| (format!("{name}-{index}"), format!("payload of {name}-{index}"))));
}

#[test]
fn the_spool_is_unreadable_without_its_key_keys_rotate_while_it_runs_and_nothing_is_lost() {
    let kafka = Kafka::start();
    kafka.topic("audit");
    kafka.down();
    let spec = |names: &[&str]| policy(&kafka.plain(), "audit", &keys(names));
    let mut sidecar = Sidecar::prepare(&spec(&["one"]));
    put_key(&sidecar, "one", 1);
    put_key(&sidecar, "two", 2);
    sidecar.up();
    let mut acked = BTreeMap::new();
    post(&sidecar, "first", 300, &mut acked);
    // Rotation: the policy names another key, and the one that was in use among the old ones.
    sidecar.write_policy(&spec(&["two", "one"]));
    wait_for("the other key to be in use", SOON, || sidecar.metric("steno_config_reloads_total{result=\"ok\"}") >= 1.0);
    post(&sidecar, "second", 300, &mut acked);
    // A key that is in use and vanishes from the policy: told, and the old configuration stays in force.
    sidecar.write_policy(&spec(&["one"]));
    wait_for("the fault to be told", SOON, || {
        sidecar.stats()["config"]["error"].as_str().is_some_and(|error| error.contains("oldKeySecretRefs"))
    });
    post(&sidecar, "third", 10, &mut acked);
    sidecar.kill();
    let found = [holding(sidecar.journal(), "payload of"), holding(sidecar.journal(), "first-7")].concat();
    assert!(found.is_empty(), "in clear: {found:?}");
    // What is exported with the keys is what was acknowledged; without one of them nothing is.
    let key = |name: &str| sidecar.secrets().join("spool").join(name).display().to_string();
    let dir = sidecar.journal().display().to_string();
    let (code, said) = sidecar.tool(&["journal", "export", &dir, "--key", &key("one"), "--key", &key("two")]);
    assert_eq!((code, said.matches("\"kind\":\"Event\"").count()), (0, acked.len()), "{said}");
    let (code, said) = sidecar.tool(&["journal", "inspect", &dir, "--key", &key("two")]);
    assert!(code == 1 && said.contains("spool.encryption"), "{said}");
    let (code, said) = sidecar.tool(&["journal", "inspect", &dir, "--key", &key("one"), "--key", &key("two")]);
    assert!(code == 0 && said.contains("undelivered") && said.contains("yes"), "{said}");
    // With both keys it goes on where it was.
    sidecar.write_policy(&spec(&["two", "one"]));
    sidecar.up();
    post(&sidecar, "fourth", 10, &mut acked);
    kafka.up();
    sidecar.drained(Duration::from_mins(3));
    let records = read_all(&kafka.plain(), "audit");
    check(&records, &acked);
    assert!(verify(&records).is_clean());
}

#[test]
fn without_its_key_events_are_refused_not_stored_and_taken_once_it_is_there() {
    let mut sidecar = Sidecar::prepare(&policy("127.0.0.1:1", "audit", &keys(&["one"])));
    sidecar.up();
    let client = Client::new(&sidecar.ingest());
    let (status, body) = client.event(&event("early")).expect("an answer");
    assert_eq!((status, body["reason"].as_str()), (503, Some("dependency_failure")), "{body}");
    assert!(body["detail"].as_str().unwrap().contains("spool.encryption.keySecretRef"), "{body}");
    assert!(sidecar.stats()["health"]["issues"].to_string().contains("spool.encryption.keySecretRef"));
    put_key(&sidecar, "one", 1);
    wait_for("events to be taken", SOON, || client.event(&event("late")).is_some_and(|(status, _)| status < 300));
    sidecar.kill();
    let found = holding(sidecar.journal(), "payload of");
    assert!(found.is_empty(), "in clear: {found:?}");
}

#[test]
fn a_key_replaced_in_place_is_told_and_at_a_restart_the_sealed_journal_waits_for_it_beside_a_fresh_one() {
    let kafka = Kafka::start();
    kafka.topic("audit");
    kafka.topic("elsewhere");
    kafka.down();
    let spec = |topic: &str, names: &[&str]| policy(&kafka.plain(), topic, &keys(names));
    let mut sidecar = Sidecar::prepare(&spec("audit", &["one"])).that_starts_open().with_env("STENO_ADOPT_AFTER", "1s");
    put_key(&sidecar, "one", 1);
    sidecar.up();
    let mut acked = BTreeMap::new();
    post(&sidecar, "before", 50, &mut acked);
    put_key(&sidecar, "one", 2);
    let error = || sidecar.stats()["config"]["error"].as_str().unwrap_or_default().to_owned();
    wait_for("the fault to be told", SOON, || error().contains("oldKeySecretRefs"));
    assert!(sidecar.metric("steno_config_error") > 0.0 && sidecar.stats()["health"]["status"] == "degraded");
    // All else of a configuration counts.
    let hash = sidecar.stats()["config"]["hash"].clone();
    sidecar.write_policy(&spec("elsewhere", &["one"]));
    wait_for("the other topic to count", SOON, || sidecar.stats()["config"]["hash"] != hash);
    assert!(error().contains("oldKeySecretRefs"), "{}", error());
    post(&sidecar, "still-by-the-old-key", 50, &mut acked);
    sidecar.kill();
    sidecar.up();
    post(&sidecar, "in-the-fresh-journal", 50, &mut acked);
    wait_for("the sealed journal to be told of", SOON, || {
        let stats = sidecar.stats();
        stats["left"]["folders"] == 1 && stats["health"]["issues"].to_string().contains("spool.encryption")
    });
    kafka.up();
    sidecar.drained(SOON * 3);
    // The old key comes back under another name.
    put_key(&sidecar, "old", 1);
    sidecar.write_policy(&spec("elsewhere", &["one", "old"]));
    sidecar.kill();
    sidecar.up();
    post(&sidecar, "after", 10, &mut acked);
    wait_for("both journals to be delivered", SOON * 3, || {
        let stats = sidecar.stats();
        stats["health"]["status"] == "ok" && stats["left"]["folders"] == 0 && stats["metrics"]["queue_length"] == 0
    });
    check(&read_all(&kafka.plain(), "elsewhere"), &acked);
    let found = holding(sidecar.journal(), "payload of");
    assert!(found.is_empty(), "in clear: {found:?}");
}

#[test]
fn encryption_with_a_secret_that_the_pod_has_not_holds_nothing_else_of_the_configuration_up() {
    let kafka = Kafka::start();
    kafka.topic("audit");
    kafka.topic("elsewhere");
    let sidecar = Sidecar::start(&policy(&kafka.plain(), "audit", BRISK));
    sidecar.write_policy(&policy(&kafka.plain(), "elsewhere", &keys(&["one"])));
    wait_for("the fault to be told", SOON, || {
        let stats = sidecar.stats();
        let error = stats["config"]["error"].as_str().unwrap_or_default().to_owned();
        error.contains("spool.encryption.keySecretRef") && stats["secrets"][0]["name"] == "spool/one"
    });
    let mut acked = BTreeMap::new();
    post(&sidecar, "goes-on", 10, &mut acked);
    sidecar.drained(SOON);
    check(&read_all(&kafka.plain(), "elsewhere"), &acked);
}

#[test]
fn keys_that_are_replaced_again_and_again_leave_what_was_delivered_in_peace_and_lose_nothing() {
    let kafka = Kafka::start();
    let volume = tempfile::tempdir().unwrap();
    for shared in [false, true] {
        let topic = format!("audit-{shared}");
        kafka.topic(&topic);
        let spec = |names: &[&str]| policy(&kafka.plain(), &topic, &keys(names));
        let mut sidecar = Sidecar::prepare(&spec(&["one"])).that_starts_open().with_env("STENO_ADOPT_AFTER", "1s");
        if shared {
            sidecar = sidecar.with_journal(volume.path()).with_env("STENO_SHARED", "true");
        }
        put_key(&sidecar, "one", 1);
        sidecar.up();
        let mut acked = BTreeMap::new();
        post(&sidecar, "first", 10, &mut acked);
        sidecar.drained(SOON);
        sidecar.term();
        assert_eq!(sidecar.ended(SOON), Some(0));
        // Its journal was delivered: nobody misses it.
        put_key(&sidecar, "one", 2);
        sidecar.up();
        kafka.down();
        post(&sidecar, "second", 10, &mut acked);
        assert_eq!(sidecar.stats()["left"]["folders"], 0, "{}", sidecar.stats());
        sidecar.kill();
        put_key(&sidecar, "one", 3);
        sidecar.up();
        post(&sidecar, "third", 10, &mut acked);
        wait_for("the second journal to be told of", SOON, || sidecar.stats()["left"]["folders"] == 1);
        sidecar.kill();
        kafka.up();
        // The second key comes back, under a name of its own.
        put_key(&sidecar, "two", 2);
        sidecar.write_policy(&spec(&["one", "two"]));
        sidecar.up();
        wait_for("all journals to be delivered", SOON * 3, || {
            let stats = sidecar.stats();
            stats["health"]["status"] == "ok" && stats["left"]["folders"] == 0 && stats["metrics"]["queue_length"] == 0
        });
        check(&read_all(&kafka.plain(), &topic), &acked);
    }
}
