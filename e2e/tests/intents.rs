//! Write intents against a real Kafka and a sidecar that is killed: what was acknowledged comes back, payloads stay in the pod, endings are in the trail.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use std::{collections::BTreeMap, path::Path, time::Duration};

use serde_json::{Value, json};
use steno_e2e::{
    client::Client,
    consumer::{read_all, verify},
    holding,
    kafka::Kafka,
    postgres::{PASSWORD, Postgres},
    receiver::Certs,
    sidecar::{Sidecar, policy},
    wait_for,
};

const SOON: Duration = Duration::from_mins(1);

fn spec(kafka: &Kafka, more: &str) -> String {
    let more = format!(
        "  breaker: {{failureThreshold: 2, cooldown: 1s, noBrokerFor: 1s}}\n  query: {{enabled: true}}\n  spool: {{encryption: {{keySecretRef: {{name: spool, key: one}}}}}}\n  intents: {{enabled: true, topic: intents, allowPodLoss: true{more}}}\n"
    );
    policy(&kafka.plain(), "audit", &more)
}

fn start(kafka: &Kafka, more: &str) -> Sidecar {
    let mut sidecar = Sidecar::prepare(&spec(kafka, more));
    sidecar.put_secret("spool", "one", [7; 32]);
    sidecar.up();
    sidecar
}

fn intent(id: &str) -> Value {
    json!({
        "intentId": id, "operation": "payment.insert", "dtoType": "Payment", "entityId": format!("entity-{id}"),
        "payload": {"needle": format!("needle of {id}"), "password": "hunter22"},
        "replayKey": {"env": "e2e", "slug": "shop", "version": "1", "dtoType": "Payment", "entityId": format!("entity-{id}")},
    })
}

#[track_caller]
fn post(sidecar: &Sidecar, path: &str, body: &Value) -> (u16, Value) {
    Client::new(&sidecar.ingest()).send(path, "application/json", &body.to_string()).expect("an answer")
}

#[track_caller]
fn open(sidecar: &Sidecar) -> Vec<String> {
    let url = format!("http://{}/v1/intents?limit=1000", sidecar.ingest());
    let text = ureq::get(url).call().unwrap().body_mut().read_to_string().unwrap();
    let page: Value = serde_json::from_str(&text).unwrap();
    page["intents"].as_array().unwrap().iter().map(|intent| intent["intentId"].as_str().unwrap().to_owned()).collect()
}

/// States that the topic tells of, by intent, in order.
fn told(kafka: &Kafka) -> BTreeMap<String, Vec<String>> {
    let mut told: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for record in read_all(&kafka.plain(), "intents") {
        if record.json["kind"] == "Intent" {
            let text = |name: &str| record.json["intent"][name].as_str().unwrap().to_owned();
            let states = told.entry(text("id")).or_default();
            // At least once: a crash may say it again.
            if states.last() != Some(&text("state")) {
                states.push(text("state"));
            }
        }
    }
    told
}

/// The worked example of the client, as its documentation has it.
struct Payments {
    binary: std::path::PathBuf,
    steno: String,
    database: String,
}

impl Payments {
    fn new(sidecar: &Sidecar, database: &Postgres) -> Self {
        let own = std::env::current_exe().unwrap();
        let binary = own.parent().and_then(Path::parent).unwrap().join("examples/payments");
        assert!(binary.exists(), "{} is missing: run `cargo build -p steno-client --example payments`", binary.display());
        let password = PASSWORD.replace('\\', "\\\\").replace('\'', "\\'");
        let at = format!("host=127.0.0.1 port={} user=steno dbname=audit password='{password}'", database.port());
        Self { binary, steno: format!("http://{}", sidecar.ingest()), database: at }
    }

    /// Runs it; what it said, and whether it came to its end.
    fn run(&self, arguments: &[&str]) -> (bool, String) {
        let mut command = std::process::Command::new(&self.binary);
        command.args(arguments).env("STENO_URL", &self.steno).env("DATABASE_URL", &self.database);
        let done = command.output().unwrap();
        (done.status.success(), format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr)))
    }
}

#[test]
fn payments_in_a_database_are_done_once_wherever_the_application_dies() {
    let (kafka, certs) = (Kafka::start(), Certs::make());
    kafka.topic("audit");
    kafka.topic("intents");
    let database = Postgres::start(&certs.server.0, &certs.server.1);
    let mut sidecar = start(&kafka, "");
    let app = Payments::new(&sidecar, &database);
    let rows = || database.sql("SELECT order_id || ' ' || cents FROM payments ORDER BY order_id");
    let (well, said) = app.run(&["pay", "order-1", "100"]);
    assert!(well && said.contains("written resolved"), "{said}");
    assert!(!app.run(&["pay", "order-2", "200", "--die", "before"]).0);
    assert!(!app.run(&["pay", "order-3", "300", "--die", "after"]).0);
    assert!(!app.run(&["pay", "order-2", "200", "--die", "before"]).0, "tried again, and died again");
    assert_eq!(rows(), ["order-1 100", "order-3 300"]);
    // The sidecar dies, too.
    sidecar.kill();
    sidecar.up();
    assert_eq!(open(&sidecar).len(), 3);
    let (well, said) = app.run(&["replay"]);
    assert!(well, "{said}");
    let before = said.matches(" was written resolved").count();
    assert_eq!((said.lines().count(), before), (3, 2), "one was not done, and one of the others twice intended: {said}");
    assert_eq!(rows(), ["order-1 100", "order-2 200", "order-3 300"]);
    assert!(open(&sidecar).is_empty());
    let (well, said) = app.run(&["replay"]);
    assert!(well && said.is_empty(), "nothing is left: {said}");
    sidecar.drained(SOON);
    let audit = read_all(&kafka.plain(), "audit");
    assert!(verify(&audit).is_clean());
    let mut paid: Vec<&str> = audit.iter().filter_map(|record| record.json["resource"]["id"].as_str()).collect();
    paid.sort_unstable();
    assert_eq!(paid, ["order-1", "order-2", "order-2", "order-3"], "an event for each intent");
}

#[test]
fn what_was_acknowledged_comes_back_in_order_after_kill_9_and_its_payload_never_leaves_the_pod() {
    let kafka = Kafka::start();
    kafka.topic("audit");
    kafka.topic("intents");
    let mut sidecar = start(&kafka, "");
    let mut wanted = Vec::new();
    for round in 0..4 {
        for n in 0..25 {
            let id = format!("i-{round}-{n:02}");
            assert_eq!(post(&sidecar, "/v1/intents", &intent(&id)).0, 201);
            wanted.push(id);
        }
        // Every other one is done, the rest is left by a crash.
        for n in (0..25).step_by(2) {
            let id = format!("i-{round}-{n:02}");
            let (status, answer) = post(&sidecar, &format!("/v1/intents/{id}/resolve"), &json!({"outcome": "success"}));
            assert_eq!((status, &answer["status"]), (200, &json!("resolved")), "{answer}");
            wanted.retain(|left| *left != id);
        }
        sidecar.kill();
        sidecar.up();
        assert_eq!(open(&sidecar), wanted, "after crash {round}");
    }
    for id in &wanted {
        post(&sidecar, &format!("/v1/intents/{id}/resolve"), &json!({"outcome": "failure"}));
    }
    let (status, answer) = post(&sidecar, &format!("/v1/intents/{}/resolve", wanted[0]), &json!({"outcome": "failure"}));
    assert_eq!((status, &answer["status"]), (200, &json!("duplicate_accepted")), "again is safe");
    assert!(open(&sidecar).is_empty());
    sidecar.drained(SOON);
    wait_for("the intents' topic", SOON, || sidecar.stats()["intents"]["backlog"] == 0);
    let told = told(&kafka);
    assert_eq!(told.len(), 100);
    assert!(told.values().all(|states| *states == ["open", "resolved"]), "{told:?}");
    // Each has its event in the chain, once, and the two topics are never mixed.
    let audit = read_all(&kafka.plain(), "audit");
    assert!(verify(&audit).is_clean());
    let ids: Vec<&str> = audit.iter().filter_map(|record| record.json["metadata"]["intentId"].as_str()).collect();
    let mut once = ids.clone();
    once.sort_unstable();
    once.dedup();
    assert_eq!((ids.len(), once.len()), (100, 100));
    assert!(audit.iter().all(|record| record.json["kind"] != "Intent"));
    let topic = read_all(&kafka.plain(), "intents");
    let shown: String = topic.iter().chain(&audit).map(|record| record.json.to_string()).collect();
    assert!(!shown.contains("needle") && !shown.contains("hunter22"), "a payload is on a topic");
    let hash = topic.iter().find_map(|record| record.json["intent"]["payloadHash"].as_str()).unwrap();
    assert!(hash.starts_with("hmac-sha256:journal:"), "{hash}");
    // Nor in the log, nor in clear on disk.
    assert!(!sidecar.log().contains("needle"));
    let found = holding(sidecar.journal(), "needle");
    assert!(found.is_empty(), "{found:?}");
}

#[test]
fn one_that_nobody_resolves_becomes_a_record_of_the_chain_and_its_event_is_taken_late() {
    let kafka = Kafka::start();
    kafka.topic("audit");
    kafka.topic("intents");
    let sidecar = start(&kafka, ", expireAfter: 10s");
    post(&sidecar, "/v1/intents", &intent("left"));
    post(&sidecar, "/v1/intents", &intent("done"));
    post(&sidecar, "/v1/intents/done/resolve", &json!({"outcome": "success"}));
    wait_for("it to expire", SOON, || open(&sidecar).is_empty());
    let (status, answer) = post(&sidecar, "/v1/intents/left/resolve", &json!({"outcome": "success"}));
    assert_eq!((status, &answer["status"], &answer["event"]), (200, &json!("late"), &json!("created")), "{answer}");
    sidecar.drained(SOON);
    wait_for("the intents' topic", SOON, || sidecar.stats()["intents"]["backlog"] == 0);
    let audit = read_all(&kafka.plain(), "audit");
    assert!(verify(&audit).is_clean());
    let expired: Vec<&Value> =
        audit.iter().map(|record| &record.json).filter(|record| record["kind"] == "IntentExpired").collect();
    assert_eq!(expired.len(), 1, "{expired:?}");
    let about = &expired[0]["metadata"];
    assert_eq!(
        (&about["intentId"], &about["entityId"], &about["operation"]),
        (&json!("left"), &json!("entity-left"), &json!("payment.insert"))
    );
    assert_eq!(told(&kafka)["left"], ["open", "expired"]);
    assert_eq!(told(&kafka)["done"], ["open", "resolved"]);
    assert!((sidecar.metric("steno_intents_expired_total") - 1.0).abs() < 0.1);
    // Their payloads go with their file, and no file is kept to be used again. The reserve for a full disk was never written to.
    wait_for("the segment of what ended to go", Duration::from_mins(2), || {
        let files = std::fs::read_dir(sidecar.journal().join("intents")).unwrap();
        let names: Vec<String> = files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
        !names
            .iter()
            .any(|name| name.starts_with("seg-0000000000000001") || (name.starts_with("spare-") && !name.starts_with("spare-r")))
    });
}

#[test]
fn while_kafka_is_away_intents_are_taken_and_a_policy_may_begin_with_them_and_end_them_live() {
    let kafka = Kafka::start();
    kafka.topic("audit");
    kafka.topic("intents");
    let without = policy(&kafka.plain(), "audit", "  spool: {encryption: {keySecretRef: {name: spool, key: one}}}\n");
    let mut sidecar = Sidecar::prepare(&without);
    sidecar.put_secret("spool", "one", [7; 32]);
    sidecar.up();
    assert_eq!(post(&sidecar, "/v1/intents", &intent("early")).0, 403);
    kafka.down();
    sidecar.write_policy(&spec(&kafka, ""));
    wait_for("intents to be allowed", SOON, || post(&sidecar, "/v1/intents", &intent("one")).0 < 300);
    assert_eq!(post(&sidecar, "/v1/intents", &intent("two")).0, 201);
    assert_eq!(post(&sidecar, "/v1/intents/one/resolve", &json!({"outcome": "success"})).0, 200);
    // The policy takes them back: what is open can still be read and resolved.
    sidecar.write_policy(&without);
    wait_for("new ones to be refused", SOON, || post(&sidecar, "/v1/intents", &json!({})).0 == 403);
    assert_eq!(open(&sidecar), ["two"]);
    // It does not encrypt any more either: payloads are, all the same.
    let old = "  spool: {encryption: {oldKeySecretRefs: [{name: spool, key: one}]}}\n";
    sidecar.write_policy(&policy(&kafka.plain(), "audit", old));
    let termination = sidecar.journal().parent().unwrap().join("termination");
    std::fs::write(&termination, "").unwrap();
    sidecar.term();
    assert_eq!(sidecar.ended(Duration::from_mins(1)), Some(0));
    let left = std::fs::read_to_string(termination).unwrap();
    sidecar.up();
    assert_eq!(open(&sidecar), ["two"], "over a restart, too ({left})");
    assert!(left.contains("\"openIntents\":1"), "{left}");
    let found = holding(sidecar.journal(), "needle");
    assert!(found.is_empty(), "{found:?}");
    assert_eq!(post(&sidecar, "/v1/intents/two/resolve", &json!({"outcome": "failure"})).0, 200);
    kafka.up();
    sidecar.drained(Duration::from_mins(1));
    // The topic of the policy that allowed them gets the rest, whatever this one says.
    wait_for("the intents' topic", Duration::from_mins(1), || sidecar.stats()["intents"]["backlog"] == 0);
    assert_eq!(told(&kafka)["two"], ["open", "resolved"]);
}

#[test]
fn a_rotated_key_is_no_longer_needed_although_an_intent_is_still_open() {
    let kafka = Kafka::start();
    kafka.topic("audit");
    kafka.topic("intents");
    let keys = |encryption: &str| {
        let more = format!(
            "  spool: {{encryption: {{{encryption}}}}}\n  intents: {{enabled: true, topic: intents, allowPodLoss: true}}\n"
        );
        policy(&kafka.plain(), "audit", &more)
    };
    let mut sidecar = Sidecar::prepare(&keys("keySecretRef: {name: spool, key: one}"));
    sidecar.put_secret("spool", "one", [7; 32]);
    sidecar.put_secret("spool", "two", [8; 32]);
    sidecar.up();
    assert_eq!(post(&sidecar, "/v1/intents", &intent("long")).0, 201);
    let rotating = keys("keySecretRef: {name: spool, key: two}, oldKeySecretRefs: [{name: spool, key: one}]");
    sidecar.write_policy(&rotating);
    let segments = || {
        let files = std::fs::read_dir(sidecar.journal().join("intents")).unwrap();
        files
            .map(|file| file.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.starts_with("seg-"))
            .collect::<Vec<_>>()
    };
    wait_for("the segment under the old key to go", Duration::from_mins(1), || {
        !segments().iter().any(|name| name.starts_with("seg-0000000000000001"))
    });
    // The audit journal lets go of it, too, when it is delivered and another segment is begun: its own directory is another one here.
    sidecar.kill();
    std::fs::rename(sidecar.journal().join("intents"), sidecar.journal().with_file_name("kept")).unwrap();
    std::fs::remove_dir_all(sidecar.journal()).unwrap();
    std::fs::create_dir(sidecar.journal()).unwrap();
    std::fs::rename(sidecar.journal().with_file_name("kept"), sidecar.journal().join("intents")).unwrap();
    sidecar.write_policy(&keys("keySecretRef: {name: spool, key: two}"));
    sidecar.put_secret("spool", "one", [0; 32]);
    sidecar.up();
    assert_eq!(open(&sidecar), ["long"]);
    assert_eq!(post(&sidecar, "/v1/intents/long/resolve", &json!({"outcome": "success"})).0, 200);
}
