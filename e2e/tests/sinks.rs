//! Further sinks beside Kafka, each against its real counterpart: files, an HTTPS receiver that wants a client certificate, PostgreSQL.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use std::{collections::BTreeMap, path::Path, time::Duration};

use serde_json::{Value, json};
use steno_e2e::{
    client::{Client, Load, event},
    consumer::{Record, check, check_of, events, read_all, verify, verify_of},
    kafka::Kafka,
    postgres::Postgres,
    receiver::{Certs, Receiver},
    scaled,
    sidecar::{Sidecar, policy},
    sinks::*,
    wait_for,
};

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
    assert_eq!(months, ["4"], "this month, two ahead, and that of all others");
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

#[test]
fn a_receiver_gets_the_header_the_scheme_the_codec_and_the_fixed_headers_that_it_wants() {
    let (kafka, certs) = (Kafka::start(), Certs::make());
    kafka.topic("audit");
    let (gzip, zstd) = (Receiver::start(&certs, TOKEN), Receiver::start(&certs, TOKEN));
    let sink_of = |receiver: &Receiver, name: &str, more: &str| {
        http_sink(receiver, "")
            .replace("name: siem", &format!("name: {name}"))
            .replace("timeout: 3s", &format!("timeout: 3s, {more}"))
    };
    let sinks = [
        sink_of(&gzip, "splunk", "authScheme: Splunk, compression: Gzip, headers: {X-Scope-OrgID: audit}"),
        sink_of(&zstd, "other", "compression: Zstd"),
    ];
    let mut sidecar = Sidecar::prepare(&spec(&kafka, &sinks, ""));
    secrets(&sidecar, &certs);
    sidecar.up();
    let acked = post(&sidecar, "h", 300);
    sidecar.drained(LATER);
    check_of("splunk", &received(&gzip), &acked);
    check_of("other", &received(&zstd), &acked);
    let heads = gzip.heads();
    let has =
        |name: &str, value: &str| heads.iter().all(|head| head.iter().any(|(known, found)| known == name && found == value));
    assert!(has("authorization", &format!("Splunk {TOKEN}")) && has("content-encoding", "gzip") && has("x-scope-orgid", "audit"));
}

#[test]
fn a_reader_of_the_table_does_not_hold_deliveries_up_and_months_move_out_of_other() {
    let (kafka, certs) = (Kafka::start(), Certs::make());
    kafka.topic("audit");
    let database = Postgres::start(&certs.server.0, &certs.server.1);
    let mut sidecar = Sidecar::prepare(&spec(&kafka, &[postgres_sink(&database, "")], ""));
    secrets(&sidecar, &certs);
    sidecar.up();
    post(&sidecar, "a", 10);
    sidecar.drained(SOON);
    let months = || database.sql("SELECT count(*) FROM pg_inherits WHERE inhparent = 'steno.events'::regclass");
    assert_eq!(months(), ["4"], "this month, two ahead, and that of all others");
    // As if nobody had made this month's in time.
    sidecar.kill();
    let this_month = database.sql("SELECT 'steno.events_' || to_char(now() AT TIME ZONE 'UTC', 'YYYY_MM')").remove(0);
    database.sql(&format!(
        "BEGIN; ALTER TABLE steno.events DETACH PARTITION {this_month}; INSERT INTO steno.events SELECT * FROM {this_month}; DROP TABLE {this_month}; COMMIT"
    ));
    let reader = database.reader("SELECT count(*) FROM steno.events");
    sidecar.up();
    let mut acked = post(&sidecar, "b", 500);
    sidecar.drained(SOON);
    assert_eq!(
        database.sql("SELECT count(*) FROM steno.events_other WHERE kind = 'Event'"),
        ["510"],
        "they are stored meanwhile"
    );
    drop(reader);
    wait_for("the month's partition", SOON, || months() == ["4"]);
    assert_eq!(database.sql("SELECT count(*) FROM steno.events_other"), ["0"]);
    acked.extend((0..10).map(|index| (format!("a-{index}"), format!("payload of a-{index}"))));
    check_of("db", &stored(&database), &acked);
}

#[test]
fn a_retry_by_another_pod_leaves_no_hole_in_its_chain_in_the_database() {
    let (kafka, certs) = (Kafka::start(), Certs::make());
    kafka.topic("audit");
    let database = Postgres::start(&certs.server.0, &certs.server.1);
    // Tables of the first version, made by somebody else, with rows.
    database.sql("CREATE SCHEMA steno");
    let first_version = include_str!("../../sidecar/deliver/src/postgres/001.sql");
    database.sql(&format!(
        "SET search_path TO steno; CREATE TABLE schema_version (version integer PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now()); {first_version} INSERT INTO schema_version VALUES (1)"
    ));
    let text = spec(&kafka, &[postgres_sink(&database, "").replace("createSchema: true", "createSchema: false")], "");
    let mut first = Sidecar::prepare(&text);
    secrets(&first, &certs);
    first.up();
    post(&first, "s", 20);
    first.drained(SOON);
    // The sidecar is newer than the tables, and goes on.
    assert_eq!(database.sql("SELECT count(*) FROM steno.events WHERE kind = 'Event'"), ["20"]);
    let (code, script) = first.tool(&["postgres", "schema", "--months", "1"]);
    assert_eq!(code, 0);
    database.sql("ALTER TABLE steno.events DETACH PARTITION steno.events_other; ALTER TABLE steno.events_other RENAME TO old_rows; CREATE TABLE steno.events_other PARTITION OF steno.events DEFAULT");
    database.sql(&script);
    database.sql("INSERT INTO steno.events SELECT * FROM steno.old_rows; DROP TABLE steno.old_rows");
    let mut second = Sidecar::prepare(&text);
    secrets(&second, &certs);
    second.up();
    let client = Client::new(&second.ingest());
    let mut other = event("s-2");
    other["message"] = json!("something else");
    let batch = [event("own-1"), event("s-1"), event("own-2"), other, event("own-3")];
    assert_eq!(client.batch(&batch).unwrap().0, 200);
    second.drained(SOON);
    assert_eq!(
        database.sql("SELECT same_as_event_id || ' ' || is_conflict FROM steno.event_repeats ORDER BY chain_seq"),
        ["s-1 false", "s-2 true"]
    );
    // The query of the documentation.
    let page = include_str!("../../docs/how-to/postgres.md");
    let query = page.split("```sql\n").find(|text| text.starts_with("WITH places")).unwrap().split("```").next().unwrap();
    assert_eq!(database.sql(query), Vec::<String>::new(), "no hole");
    database.sql("DELETE FROM steno.event_repeats");
    assert_eq!(database.sql(query).len(), 2, "the query finds holes");
}

#[test]
fn a_database_comes_to_a_running_sidecar_its_password_rotates_and_a_silent_host_is_passed_over() {
    let (kafka, certs) = (Kafka::start(), Certs::make());
    kafka.topic("audit");
    let database = Postgres::start(&certs.server.0, &certs.server.1);
    let mut sidecar = Sidecar::prepare(&policy(&kafka.plain(), "audit", &format!("  {BRISK}\n")));
    secrets(&sidecar, &certs);
    sidecar.up();
    // A host that takes connections and says nothing, as one that stands still.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let hosts = format!("host: '127.0.0.1:{},127.0.0.1'", silent.local_addr().unwrap().port());
    let line = postgres_sink(&database, "").replace("host: 127.0.0.1", &hosts);
    sidecar.write_policy(&spec(&kafka, &[line], ""));
    wait_for("the new sink", SOON, || !sink(&sidecar, "db").is_null());
    let mut acked = post(&sidecar, "one", 20);
    wait_for("the database to have it", LATER, || sink(&sidecar, "db")["backlog"] == 0);
    database.sql("ALTER ROLE steno PASSWORD 'another one'; SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'steno-sidecar'");
    sidecar.put_secret("db", "password", "another one");
    wait_for("the reload", SOON, || sidecar.metric("steno_config_reloads_total{result=\"ok\"} ") >= 2.0);
    acked.extend(post(&sidecar, "two", 20));
    wait_for("the database to have it", LATER, || sink(&sidecar, "db")["backlog"] == 0);
    let rows = database.sql_as("another one", "SELECT event_id FROM steno.events WHERE kind = 'Event' ORDER BY event_id");
    assert_eq!(rows.len(), acked.len());
    assert!(!sidecar.log().contains("panicked"), "{}", sidecar.log());
}
