//! Further sinks beside Kafka, each against its real counterpart: files, an HTTPS receiver that wants a client certificate, PostgreSQL.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use std::{collections::BTreeMap, path::Path, time::Duration};

use serde_json::{Value, json};
use steno_e2e::{
    client::{Client, Load, event},
    consumer::{Record, check, check_of, events, read_all, record, verify, verify_of},
    kafka::Kafka,
    postgres::{PASSWORD, Postgres},
    receiver::{Certs, Receiver},
    scaled,
    sidecar::{Sidecar, policy},
    wait_for,
};

const SOON: Duration = Duration::from_mins(1);
const LATER: Duration = Duration::from_mins(3);
const BRISK: &str = "breaker: {failureThreshold: 2, cooldown: 1s, noBrokerFor: 1s}";
const TOKEN: &str = "a-token";

fn secrets(sidecar: &Sidecar, certs: &Certs) {
    for (key, value) in [("ca", &certs.ca), ("cert", &certs.client.0), ("key", &certs.client.1)] {
        sidecar.put_secret("tls", key, value);
    }
    sidecar.put_secret("http", "token", TOKEN);
    sidecar.put_secret("db", "password", PASSWORD);
}

fn tls(mutual: bool) -> String {
    let own = if mutual { ", certSecretRef: {name: tls, key: cert}, keySecretRef: {name: tls, key: key}" } else { "" };
    format!("{{caSecretRef: {{name: tls, key: ca}}{own}}}")
}

fn file_sink(more: &str) -> String {
    format!("  - {{name: archive, type: File, {BRISK}{more}}}\n")
}

fn http_sink(receiver: &Receiver, more: &str) -> String {
    let (url, tls) = (receiver.url(), tls(true));
    format!(
        "  - {{name: siem, type: Http, {BRISK}, http: {{url: '{url}', tokenSecretRef: {{name: http, key: token}}, tls: {tls}, timeout: 3s}}{more}}}\n"
    )
}

fn postgres_sink(database: &Postgres, more: &str) -> String {
    let (port, tls) = (database.port(), tls(false));
    format!(
        "  - {{name: db, type: Postgres, {BRISK}, postgres: {{host: 127.0.0.1, port: {port}, database: audit, user: steno, passwordSecretRef: {{name: db, key: password}}, tls: {tls}, createSchema: true}}{more}}}\n"
    )
}

fn spec(kafka: &Kafka, sinks: &[String], more: &str) -> String {
    policy(&kafka.plain(), "audit", &format!("  {BRISK}\n{more}  sinks:\n{}", sinks.concat()))
}

/// Records of the files of a sink, oldest first.
fn lines(sidecar: &Sidecar) -> Vec<Record> {
    let mut files: Vec<_> =
        std::fs::read_dir(sidecar.journal().join("files/archive")).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    files.iter().flat_map(|file| std::fs::read_to_string(file).unwrap().lines().map(record).collect::<Vec<_>>()).collect()
}

/// Records that the receiver has.
fn received(receiver: &Receiver) -> Vec<Record> {
    receiver.events().iter().map(|event| record(&event["data"].to_string())).collect()
}

/// Records that the database has.
fn stored(database: &Postgres) -> Vec<Record> {
    database
        .sql("SELECT convert_from(body, 'UTF8') FROM steno.events ORDER BY chain_seq")
        .iter()
        .map(|text| record(text))
        .collect()
}

fn sink(sidecar: &Sidecar, name: &str) -> Value {
    let stats = sidecar.stats();
    stats["sinks"].as_array().unwrap().iter().find(|sink| sink["name"] == name).unwrap_or(&Value::Null).clone()
}

fn is_open(sidecar: &Sidecar, name: &str) -> bool {
    sink(sidecar, name)["breaker"]["state"] == "open"
}

#[track_caller]
fn post(sidecar: &Sidecar, name: &str, count: usize) -> BTreeMap<String, String> {
    let client = Client::new(&sidecar.ingest());
    let ids: Vec<String> = (0..count).map(|index| format!("{name}-{index}")).collect();
    for ids in ids.chunks(500) {
        let batch: Vec<Value> = ids.iter().map(|id| event(id)).collect();
        // Where the spool is full for a moment some are refused; a client sends them again.
        wait_for("a batch to be taken", SOON, || client.batch(&batch).expect("an answer").0 == 200);
    }
    ids.into_iter().map(|id| (id.clone(), format!("payload of {id}"))).collect()
}

#[test]
fn every_sink_has_everything_whichever_of_them_fails_half_way() {
    let (kafka, certs) = (Kafka::start(), Certs::make());
    kafka.topic("audit");
    let receiver = Receiver::start(&certs, TOKEN);
    let mut database = Postgres::start(&certs.server.0, &certs.server.1);
    let sinks = [file_sink(", file: {rotateBytes: 1Mi, backups: 1000}"), http_sink(&receiver, ""), postgres_sink(&database, "")];
    let mut sidecar = Sidecar::prepare(&spec(&kafka, &sinks, ""));
    secrets(&sidecar, &certs);
    sidecar.up();
    let load = Load::start(&sidecar.ingest(), 4, "f");
    let flowing = |least: usize| wait_for("events to be taken", SOON, || load.count() > least);
    for round in 0..scaled(1, 3) {
        let base = load.count();
        flowing(base + 300);
        receiver.answer(503);
        wait_for("the receiver's breaker to open", SOON, || is_open(&sidecar, "siem"));
        assert!(!is_open(&sidecar, "db") && sidecar.breaker() == "closed", "round {round}: the others go on");
        flowing(base + 600);
        receiver.answer(200);
        wait_for("the receiver's breaker to close", SOON, || !is_open(&sidecar, "siem"));
        database.kill();
        wait_for("the database's breaker to open", SOON, || is_open(&sidecar, "db"));
        flowing(base + 900);
        sidecar.kill();
        database.up();
        sidecar.up();
        flowing(base + 1200);
        kafka.kill();
        wait_for("Kafka's breaker to open", SOON, || sidecar.breaker() != "closed");
        flowing(base + 1500);
        kafka.up();
    }
    let acked = load.finish();
    sidecar.drained(LATER);
    check(&read_all(&kafka.plain(), "audit"), &acked);
    check_of("archive", &lines(&sidecar), &acked);
    check_of("siem", &received(&receiver), &acked);
    let rows = stored(&database);
    check_of("db", &rows, &acked);
    let of_events = events(&rows);
    assert!(of_events.values().all(|copies| copies.len() == 1), "the database has each record once, however often it came");
    assert_eq!(database.sql("SELECT count(*) FROM steno.event_conflicts"), ["0"]);
    assert_eq!(of_events.len(), acked.len());
    let files = std::fs::read_dir(sidecar.journal().join("files/archive")).unwrap().count();
    assert!(files > 1, "no file was ended");
    for name in ["kafka", "archive", "siem", "db"] {
        assert!(sidecar.metric(&format!("steno_delivered_total{{sink=\"{name}\"}} ")) > 0.0, "{name}");
    }
    let event = receiver.events().into_iter().find(|event| event["data"]["kind"] == "Event").unwrap();
    assert_eq!(
        (&event["specversion"], &event["type"], &event["id"]),
        (&json!("1.0"), &json!("steno.event.e2e.test"), &event["data"]["eventId"])
    );
    let log = sidecar.log();
    assert!(!log.contains("in-the-url") && !log.contains(TOKEN) && !log.contains("pass word"), "a secret is in the log");
}

#[test]
fn a_record_that_a_sink_refuses_is_a_dead_letter_alone_and_the_database_tells_conflicts_between_sidecars() {
    let (kafka, certs) = (Kafka::start(), Certs::make());
    kafka.topic("audit");
    let receiver = Receiver::start(&certs, TOKEN);
    let database = Postgres::start(&certs.server.0, &certs.server.1);
    let sinks = [http_sink(&receiver, ""), postgres_sink(&database, "")];
    let text = spec(&kafka, &sinks, "");
    let mut first = Sidecar::prepare(&text);
    secrets(&first, &certs);
    first.up();
    let client = Client::new(&first.ingest());
    let mut batch: Vec<Value> = (0..40).map(|index| event(&format!("s-{index}"))).collect();
    batch[17]["requestId"] = json!("no database takes \u{0}");
    batch[23]["action"] = json!("poison");
    assert_eq!(client.batch(&batch).unwrap().0, 200);
    first.drained(LATER);
    let unstorable = |sidecar: &Sidecar, name: &str| sink(sidecar, name)["deadLetters"].clone();
    assert_eq!(
        (unstorable(&first, "db"), unstorable(&first, "siem"), unstorable(&first, "kafka")),
        (json!(1), json!(1), json!(0))
    );
    let of_kind = |records: &[Record], kind: &str| records.iter().filter(|record| record.json["kind"] == kind).count();
    assert_eq!(of_kind(&stored(&database), "Event"), 39);
    assert_eq!(of_kind(&received(&receiver), "Event"), 39);
    let topic = read_all(&kafka.plain(), "audit");
    assert_eq!((of_kind(&topic, "Event"), of_kind(&topic, "DeadLetter")), (40, 2));
    // What one sink did not take explains a gap in what that sink has, and in nothing else.
    for (name, records) in [("db", stored(&database)), ("siem", received(&receiver)), ("kafka", topic.clone())] {
        assert!(verify_of(name, &records).is_clean(), "{name}");
    }
    let without: Vec<Record> = topic.into_iter().filter(|record| record.json["eventId"] != "s-17").collect();
    assert!(!verify(&without).is_clean(), "a record that is gone from Kafka is not explained by another sink's dead letter");
    let (code, shown) = first.tool(&["dead", "list", first.journal().to_str().unwrap()]);
    assert!(code == 0 && shown.contains("database audit") && shown.contains("/events"), "{shown}");
    // Another pod: the same event again, and another one under a known id.
    let mut second = Sidecar::prepare(&text);
    secrets(&second, &certs);
    second.up();
    let client = Client::new(&second.ingest());
    let mut other = event("s-2");
    other["message"] = json!("something else");
    assert_eq!(client.batch(&[event("s-1"), other]).unwrap().0, 200);
    second.drained(LATER);
    assert_eq!(database.sql("SELECT count(*) FROM steno.events WHERE event_id IN ('s-1', 's-2')"), ["2"]);
    assert_eq!(database.sql("SELECT event_id FROM steno.event_conflicts"), ["s-2"]);
    let by_columns = "SELECT convert_from(body, 'UTF8')::json->>'message' FROM steno.events WHERE event_id = 's-2' AND service = 'e2e' AND actor_id = 'u-1'";
    assert_eq!(database.sql(by_columns), ["payload of s-2"], "the first one stays");
    let months = database.sql("SELECT count(*) FROM pg_inherits WHERE inhparent = 'steno.events'::regclass");
    assert_eq!(months, ["2"], "the month's partition and that of all others");
}

#[test]
fn a_receiver_that_refuses_everything_makes_no_dead_letters_of_dead_letters() {
    let (kafka, certs) = (Kafka::start(), Certs::make());
    kafka.topic("audit");
    let receiver = Receiver::start(&certs, TOKEN);
    receiver.answer(422);
    let mut sidecar = Sidecar::prepare(&spec(&kafka, &[http_sink(&receiver, "")], ""));
    secrets(&sidecar, &certs);
    sidecar.up();
    let acked = post(&sidecar, "r", 7);
    sidecar.drained(LATER);
    let records = read_all(&kafka.plain(), "audit");
    check(&records, &acked);
    let told = records.iter().filter(|record| record.json["kind"] == "DeadLetter").count();
    assert_eq!(told, 7, "one for each event");
    assert_eq!(sink(&sidecar, "siem")["backlog"], 0);
}

#[test]
fn a_new_destination_gets_what_the_old_one_had_not_confirmed_in_time() {
    let (kafka, certs) = (Kafka::start(), Certs::make());
    kafka.topic("audit");
    let (old, new) = (Receiver::start(&certs, TOKEN), Receiver::start(&certs, TOKEN));
    let patient = |receiver: &Receiver| vec![http_sink(receiver, "").replace("timeout: 3s", "timeout: 30s")];
    let mut sidecar = Sidecar::prepare(&spec(&kafka, &patient(&old), ""));
    secrets(&sidecar, &certs);
    sidecar.up();
    sidecar.drained(SOON);
    old.delay(Duration::from_secs(8));
    let before = old.asked();
    let acked = post(&sidecar, "n", 3);
    wait_for("the old one to be asked", SOON, || old.asked() > before);
    sidecar.write_policy(&spec(&kafka, &patient(&new), ""));
    // A batch is what was there: it need not be all three.
    wait_for("the old one's late answer", SOON, || !events(&received(&old)).is_empty());
    sidecar.drained(SOON);
    let there = received(&new);
    assert!(acked.keys().all(|id| events(&there).contains_key(id)), "the old one's answer counted for the new one");
}

#[test]
fn a_database_that_hangs_is_seen_and_used_again_when_it_answers() {
    let (kafka, certs) = (Kafka::start(), Certs::make());
    kafka.topic("audit");
    let database = Postgres::start(&certs.server.0, &certs.server.1);
    let mut sidecar = Sidecar::prepare(&spec(&kafka, &[postgres_sink(&database, "")], ""));
    secrets(&sidecar, &certs);
    sidecar.up();
    let mut acked = post(&sidecar, "h", 5);
    sidecar.drained(SOON);
    database.hang(true);
    acked.extend(post(&sidecar, "hung", 5));
    wait_for("the hang to be seen", Duration::from_mins(1), || is_open(&sidecar, "db"));
    assert_eq!(sidecar.breaker(), "closed", "Kafka goes on");
    database.hang(false);
    sidecar.drained(LATER);
    check_of("db", &stored(&database), &acked);
}

#[test]
fn a_sink_that_may_be_left_behind_holds_nothing_up_and_a_record_names_what_it_missed() {
    let (kafka, certs) = (Kafka::start(), Certs::make());
    kafka.topic("audit");
    let receiver = Receiver::start(&certs, TOKEN);
    let optional = http_sink(&receiver, ", required: false, maxLag: {bytes: 2Mi}");
    let mut sidecar = Sidecar::prepare(&spec(&kafka, &[optional], "  spool: {maxBytes: 8Mi}\n"));
    secrets(&sidecar, &certs);
    sidecar.up();
    receiver.answer(503);
    let mut acked = BTreeMap::new();
    for round in 0..scaled(12, 60) {
        // Each round is about a megabyte, so that all of it is more than the spool.
        acked.extend(post(&sidecar, &format!("o{round}"), 2000));
        wait_for("Kafka to have it", SOON, || sink(&sidecar, "kafka")["backlog"] == 0);
    }
    assert!(sink(&sidecar, "siem")["leftOut"].as_u64().unwrap() > 1000, "{}", sidecar.stats()["sinks"]);
    receiver.answer(200);
    sidecar.drained(LATER);
    check(&read_all(&kafka.plain(), "audit"), &acked);
    let records = received(&receiver);
    assert!(events(&records).len() < acked.len() && !records.is_empty());
    let drops: Vec<&Record> = records.iter().filter(|record| record.json["kind"] == "Drop").collect();
    assert!(!drops.is_empty() && drops.iter().all(|drop| drop.json["metadata"]["sink"] == "siem"));
    let verdict = verify_of("siem", &records);
    assert!(verdict.is_clean() && !verdict.findings.is_empty(), "each gap is explained: {:?}", verdict.findings);
}

#[test]
fn all_or_nothing_keeps_the_others_back_and_an_answer_waits_for_every_sink() {
    let (kafka, certs) = (Kafka::start(), Certs::make());
    kafka.topic("audit");
    let receiver = Receiver::start(&certs, TOKEN);
    let together = "  fanOut: AllOrNothing\n  ack: Delivered\n  critical: {timeout: 5s}\n";
    let mut sidecar = Sidecar::prepare(&spec(&kafka, &[http_sink(&receiver, ""), file_sink("")], together));
    secrets(&sidecar, &certs);
    sidecar.up();
    let client = Client::new(&sidecar.ingest());
    let (status, body) = client.event(&event("a-0")).unwrap();
    assert_eq!((status, body["delivery"].as_str()), (201, Some("delivered")), "{body}");
    receiver.answer(503);
    let count = scaled(12_000, 60_000);
    let mut acked = post(&sidecar, "a", count);
    acked.insert("a-0".into(), "payload of a-0".into());
    wait_for("the receiver's breaker to open", SOON, || is_open(&sidecar, "siem"));
    let (_, body) = client.event(&event("b")).unwrap();
    acked.insert("b".into(), "payload of b".into());
    assert_eq!(body["delivery"].as_str(), Some("spooled"), "not every sink has it: {body}");
    let before = events(&read_all(&kafka.plain(), "audit")).len();
    assert!(before < count, "Kafka ran ahead of the receiver: {before} of {count}");
    receiver.answer(200);
    sidecar.drained(LATER);
    check(&read_all(&kafka.plain(), "audit"), &acked);
    check_of("siem", &received(&receiver), &acked);
    check_of("archive", &lines(&sidecar), &acked);
}

#[test]
fn sinks_come_and_go_tokens_rotate_and_a_sinks_own_redaction_is_its_own() {
    let (kafka, certs) = (Kafka::start(), Certs::make());
    kafka.topic("audit");
    let receiver = Receiver::start(&certs, TOKEN);
    let mut sidecar = Sidecar::prepare(&policy(&kafka.plain(), "audit", &format!("  {BRISK}\n")));
    secrets(&sidecar, &certs);
    sidecar.up();
    post(&sidecar, "before", 10);
    let redacted = ", redaction: {rules: [{path: actor.id, action: Mask}, {path: metadata, action: Remove}]}";
    sidecar.write_policy(&spec(&kafka, &[http_sink(&receiver, redacted), file_sink("")], ""));
    wait_for("the sinks to be there", SOON, || !sink(&sidecar, "siem").is_null());
    let mut acked = post(&sidecar, "with", 20);
    sidecar.drained(LATER);
    let records = received(&receiver);
    let of_events = events(&records);
    assert!(acked.keys().all(|id| of_events.contains_key(id)));
    assert!(records.iter().all(|record| !record.text.contains("u-1") && !record.text.contains("filler")), "its own redaction");
    let derived = &of_events["with-3"][0].json;
    assert_eq!(derived["integrity"]["derived"], true);
    let topic = read_all(&kafka.plain(), "audit");
    assert_eq!(events(&topic)["with-3"][0].json["integrity"]["hash"], derived["integrity"]["hash"], "the original's hash");
    assert!(events(&topic)["with-3"][0].text.contains("u-1"), "the others have it as it was");
    assert!(verify_of("siem", &records).is_clean());
    // Another token: refused until the Secret has it, then taken, without a restart.
    receiver.token("another");
    acked.extend(post(&sidecar, "rotated", 20));
    wait_for("the receiver to refuse the token", SOON, || receiver.refused().contains(&401));
    sidecar.put_secret("http", "token", "another");
    sidecar.drained(LATER);
    let of_events = received(&receiver);
    assert!(acked.keys().all(|id| events(&of_events).contains_key(id)), "nothing was lost on the way");
    // A sink that is taken out holds nothing back.
    receiver.answer(503);
    post(&sidecar, "gone", 20);
    sidecar.write_policy(&spec(&kafka, &[file_sink("")], ""));
    wait_for("the sink to be gone", SOON, || sink(&sidecar, "siem").is_null());
    sidecar.drained(SOON);
    sidecar.term();
    assert_eq!(sidecar.ended(SOON), Some(0));
    assert!(sidecar.journal().join("drained").exists(), "nothing is left to deliver");
    assert!(Path::new(&sidecar.journal().join("files/archive/audit.jsonl")).exists(), "files stay");
}
