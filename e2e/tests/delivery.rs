//! The promises of delivery, against a real Kafka.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use std::{collections::BTreeMap, time::Duration};

use serde_json::{Value, json};
use steno_e2e::{
    client::{Client, Load, event},
    consumer::{check, events, read_all, verify},
    disk::Ext4,
    kafka::Kafka,
    scaled,
    sidecar::{Sidecar, policy},
    wait_for,
};

const SOON: Duration = Duration::from_mins(1);
const LATER: Duration = Duration::from_mins(3);

/// A breaker that opens and tries again quickly, so that tests need not wait.
const BRISK: &str = "  breaker: {failureThreshold: 2, cooldown: 1s, noBrokerFor: 3s}\n";

fn kafka_with(topic: &str) -> Kafka {
    let kafka = Kafka::start();
    kafka.topic(topic);
    kafka
}

/// Posts so many events in batches from several clients; all must be taken. Ids and payloads.
fn post_all(address: &str, name: &str, count: usize) -> BTreeMap<String, String> {
    const BATCH: usize = 500;
    let threads: Vec<_> = (0..4)
        .map(|part| {
            let (client, name) = (Client::new(address), name.to_owned());
            std::thread::spawn(move || {
                let ids: Vec<String> =
                    (0..count).filter(|index| index / BATCH % 4 == part).map(|index| format!("{name}-{index}")).collect();
                for ids in ids.chunks(BATCH) {
                    let batch: Vec<Value> = ids.iter().map(|id| event(id)).collect();
                    let (status, body) = client.batch(&batch).expect("an answer");
                    assert_eq!(status, 200, "{body}");
                }
                ids
            })
        })
        .collect();
    threads.into_iter().flat_map(|thread| thread.join().unwrap()).map(|id| (id.clone(), format!("payload of {id}"))).collect()
}

#[test]
fn a_million_events_arrive_each_with_its_id() {
    let kafka = kafka_with("audit");
    let sidecar = Sidecar::start(&policy(&kafka.plain(), "audit", ""));
    let count = scaled(60_000, 1_000_000);
    let acked = post_all(&sidecar.ingest(), "m", count);
    assert_eq!(acked.len(), count);
    sidecar.drained(LATER);
    let records = read_all(&kafka.plain(), "audit");
    check(&records, &acked);
    assert_eq!(events(&records).len(), count, "other events than those that were sent");
    let record = records.iter().find(|record| record.json["eventId"] == "m-7").unwrap();
    let header = |name: &str| record.headers.get(name).map(String::as_str);
    assert_eq!(
        (header("ce_id"), header("ce_type"), header("ce_specversion")),
        (Some("m-7"), Some("steno.event.e2e.test"), Some("1.0"))
    );
    assert_eq!(
        (header("content-type"), header("ce_source")),
        (Some("application/json"), record.headers.get("ce_source").map(String::as_str))
    );
    assert_eq!(record.key.as_deref(), record.json["integrity"]["chainId"].as_str());
}

#[test]
fn a_broker_that_is_killed_under_load_loses_nothing_and_the_spool_drains() {
    let kafka = kafka_with("audit");
    let sidecar = Sidecar::start(&policy(&kafka.plain(), "audit", BRISK));
    let load = Load::start(&sidecar.ingest(), 8, "b");
    for _ in 0..scaled(1, 4) {
        wait_for("events to flow", SOON, || load.count() > 500);
        kafka.kill();
        wait_for("the breaker to open", SOON, || sidecar.breaker() == "open");
        let spooled = load.count();
        wait_for("events to be taken while Kafka is away", SOON, || load.count() > spooled + 500);
        wait_for("a try while it is away", SOON, || {
            sidecar.metric("steno_breaker_opened_total{sink=\"kafka\"} ") >= 1.0 && sidecar.breaker() != "closed"
        });
        kafka.up();
        wait_for("the breaker to close", SOON, || sidecar.breaker() == "closed");
    }
    let acked = load.finish();
    sidecar.drained(LATER);
    check(&read_all(&kafka.plain(), "audit"), &acked);
}

#[test]
fn a_sidecar_that_is_killed_again_and_again_keeps_what_it_acked() {
    let kafka = kafka_with("audit");
    let mut sidecar = Sidecar::start(&policy(&kafka.plain(), "audit", "  spool: {maxBytes: 64Mi}\n"));
    let load = Load::start(&sidecar.ingest(), 8, "k");
    for round in 0..scaled(6, 60) {
        let before = load.count();
        wait_for("events to flow", SOON, || load.count() > before + 300 + round * 7);
        sidecar.kill();
        sidecar.up();
    }
    let acked = load.finish();
    sidecar.drained(LATER);
    check(&read_all(&kafka.plain(), "audit"), &acked);
}

#[test]
fn a_topic_that_is_deleted_and_made_again_gets_what_was_spooled() {
    let kafka = kafka_with("audit");
    let sidecar = Sidecar::start(&policy(&kafka.plain(), "audit", BRISK));
    let client = Client::new(&sidecar.ingest());
    client.insist(&event("before"), SOON);
    sidecar.drained(SOON);
    kafka.admin(&["topic-delete", "audit"]);
    let mut number = 0;
    wait_for("the breaker to say that the topic is missing", Duration::from_secs(90), || {
        number += 1;
        client.insist(&event(&format!("while-{number}")), SOON);
        sidecar.stats()["breaker"]["reason"].as_str().unwrap_or_default().contains("does not exist")
    });
    kafka.topic("audit");
    wait_for("delivery without a restart", LATER, || sidecar.stats()["sinks"][0]["backlog"] == 0);
    let records = read_all(&kafka.plain(), "audit");
    assert!(events(&records).contains_key(&format!("while-{number}")));
}

#[test]
fn a_missing_topic_is_made_where_the_policy_asks_for_it() {
    let kafka = Kafka::start();
    let create = "    create: {partitions: 2, replicationFactor: 1}\n";
    let sidecar = Sidecar::start(&policy(&kafka.plain(), "made", &format!("{create}{BRISK}")));
    assert_eq!(Client::new(&sidecar.ingest()).insist(&event("one"), SOON), 201);
    sidecar.drained(LATER);
    assert!(events(&read_all(&kafka.plain(), "made")).contains_key("one"));
}

#[test]
fn a_sidecar_without_a_configuration_spools_until_it_comes() {
    let kafka = kafka_with("audit");
    let policy = policy(&kafka.plain(), "audit", BRISK);
    let mut sidecar = Sidecar::prepare(&policy).without_policy();
    sidecar.up();
    let client = Client::new(&sidecar.ingest());
    assert_eq!(client.insist(&event("early"), SOON), 201);
    let told = sidecar.stats().to_string();
    assert!(told.contains("cannot be read"), "stats say that the configuration is missing: {told}");
    // Killed before it came: what was taken is still there, and so is the question.
    sidecar.kill();
    sidecar.up();
    sidecar.write_policy(&policy);
    sidecar.drained(LATER);
    assert!(events(&read_all(&kafka.plain(), "audit")).contains_key("early"));
    assert!(!sidecar.stats().to_string().contains("cannot be read"));
}

#[test]
fn a_right_that_is_revoked_holds_events_until_it_is_granted() {
    let kafka = kafka_with("audit");
    let sasl = "    sasl: {mechanism: SCRAM-SHA-256, username: steno, passwordSecretRef: {name: kafka, key: password}}\n";
    let mut sidecar = Sidecar::prepare(&policy(&kafka.sasl(), "audit", &format!("{sasl}{BRISK}")));
    kafka.secrets(&sidecar.secrets());
    sidecar.up();
    let client = Client::new(&sidecar.ingest());
    client.insist(&event("before"), SOON);
    sidecar.drained(SOON);
    kafka.admin(&["acl-revoke", "steno", "audit"]);
    let mut acked = BTreeMap::from([("before".to_owned(), "payload of before".to_owned())]);
    let mut number = 0;
    wait_for("the breaker to name the missing right", SOON, || {
        number += 1;
        let id = format!("while-{number}");
        client.insist(&event(&id), SOON);
        acked.insert(id.clone(), format!("payload of {id}"));
        sidecar.stats()["breaker"]["reason"].as_str().unwrap_or_default().contains("authorise")
    });
    assert_eq!(sidecar.stats()["metrics"]["total_dead_letters"], 0, "a right that is missing is never the record's fault");
    kafka.admin(&["acl-grant", "steno", "audit"]);
    sidecar.drained(LATER);
    check(&read_all(&kafka.plain(), "audit"), &acked);
}

#[test]
fn a_record_that_the_broker_refuses_is_a_dead_letter_and_the_others_arrive() {
    let kafka = Kafka::start();
    kafka.admin(&["topic-create", "audit", "1", "max.message.bytes=20000"]);
    kafka.topic("dead");
    let more = "    compression: none\n  limits: {maxEventBytes: 60Ki}\n  deadLetter: {topic: dead}\n";
    let sidecar = Sidecar::start(&policy(&kafka.plain(), "audit", more));
    let client = Client::new(&sidecar.ingest());
    let mut acked = BTreeMap::new();
    for number in 0..40 {
        let id = format!("e{number}");
        let mut body = event(&id);
        if number == 20 {
            // Text that does not compress away and is no secret.
            let text: String =
                (0..40_000u32).map(|index| char::from(b'a' + (index.wrapping_mul(2_654_435_761) >> 27) as u8 % 26)).collect();
            body["metadata"]["large"] = json!(text);
        } else {
            acked.insert(id, format!("payload of e{number}"));
        }
        assert_eq!(client.insist(&body, SOON), 201);
    }
    sidecar.drained(LATER);
    let records = read_all(&kafka.plain(), "audit");
    check(&records, &acked);
    assert!(!events(&records).contains_key("e20"));
    let letter = records.iter().find(|record| record.json["kind"] == "DeadLetter").expect("the chain tells of it");
    assert_eq!(letter.json["metadata"]["eventId"], "e20");
    let dead = read_all(&kafka.plain(), "dead");
    assert_eq!(dead.len(), 1);
    assert_eq!(dead[0].json["eventId"], "e20");
    assert_eq!(dead[0].json["integrity"]["hash"], letter.json["metadata"]["hash"]);
}

#[test]
fn a_full_disk_refuses_and_takes_again_once_it_is_freed() {
    let kafka = kafka_with("audit");
    kafka.down();
    let disk = Ext4::new(40 << 20);
    let more = format!("  spool: {{maxBytes: 64Mi}}\n{BRISK}");
    let mut sidecar = Sidecar::prepare(&policy(&kafka.plain(), "audit", &more)).with_journal(&disk.path().join("journal"));
    sidecar.up();
    // Somebody else's file takes what the spool will need.
    let client = Client::new(&sidecar.ingest());
    let (mut acked, mut number, mut refused) = (BTreeMap::new(), 0, 0);
    while refused < 20 {
        let batch: Vec<Value> = (0..100).map(|index| event(&format!("d{number}-{index}"))).collect();
        number += 1;
        match client.batch(&batch).expect("an answer") {
            (200, _) => acked.extend(
                batch
                    .iter()
                    .map(|event| (event["eventId"].as_str().unwrap().to_owned(), event["message"].as_str().unwrap().to_owned())),
            ),
            (503, body) => {
                assert_eq!(body["reason"], "spool_full", "{body}");
                assert!(body["retryAfterMs"].as_u64().is_some());
                refused += 1;
            }
            (status, body) => {
                assert_eq!(status, 207, "{body}");
                let results = body["results"].as_array().unwrap().clone();
                for (event, result) in batch.iter().zip(results) {
                    if result["code"] == 201 {
                        acked
                            .insert(event["eventId"].as_str().unwrap().to_owned(), event["message"].as_str().unwrap().to_owned());
                    }
                }
                refused += 1;
            }
        }
        assert!(number < 5_000, "the disk never got full");
    }
    assert!(!acked.is_empty());
    // A crash on the full disk changes nothing; it serves, though it is not ready for writes.
    sidecar.kill();
    sidecar.up_until("/healthz");
    kafka.up();
    sidecar.drained(LATER);
    wait_for("events to be taken again", SOON, || {
        client.event(&event("again")).is_some_and(|(status, _)| status == 201 || status == 200)
    });
    acked.insert("again".into(), "payload of again".into());
    sidecar.drained(LATER);
    check(&read_all(&kafka.plain(), "audit"), &acked);
}

#[test]
fn sigterm_with_a_backlog_delivers_it_and_closes_the_chain() {
    let kafka = kafka_with("audit");
    let mut sidecar = Sidecar::start(&policy(&kafka.plain(), "audit", BRISK));
    kafka.kill();
    let acked = post_all(&sidecar.ingest(), "s", 4000);
    kafka.up();
    sidecar.term();
    assert_eq!(sidecar.ended(Duration::from_mins(1)), Some(0));
    let records = read_all(&kafka.plain(), "audit");
    check(&records, &acked);
    assert!(records.iter().any(|record| record.json["kind"] == "Close"), "the chain's end is not on record");
    // Without a broker it ends in time all the same, and its successor has everything.
    sidecar.write_policy(&policy(&kafka.plain(), "audit", &format!("  sidecar: {{drainTimeout: 1s}}\n{BRISK}")));
    sidecar.up();
    kafka.kill();
    let more = post_all(&sidecar.ingest(), "t", 2000);
    sidecar.term();
    // Its pod has thirty seconds for that, unless it says otherwise.
    assert_eq!(sidecar.ended(Duration::from_secs(30)), Some(0));
    kafka.up();
    sidecar.up();
    sidecar.drained(LATER);
    check(&read_all(&kafka.plain(), "audit"), &more);
}

#[test]
fn a_reload_under_load_fails_no_request_and_takes_effect() {
    let kafka = kafka_with("audit");
    kafka.topic("elsewhere");
    let sidecar = Sidecar::start(&policy(&kafka.plain(), "audit", ""));
    let load = Load::start(&sidecar.ingest(), 6, "r");
    wait_for("events to flow", SOON, || load.count() > 300);
    for round in 0..scaled(4, 30) {
        let before = load.count();
        sidecar.write_policy(&policy(&kafka.plain(), "audit", &format!("  dedupe: {{window: {}h}}\n", round + 2)));
        let wanted = (round + 1) as f64;
        wait_for("the reload", SOON, || sidecar.metric("steno_config_reloads_total{result=\"ok\"} ") >= wanted);
        wait_for("events to flow", SOON, || load.count() > before + 100);
    }
    // Invalid: the old one stays, and it is told.
    sidecar.write_policy("kind: AuditPolicy\nspec: {}\n");
    wait_for("the fault to be told", SOON, || sidecar.stats()["config"]["error"].is_string());
    assert_eq!(sidecar.metric("steno_config_error "), 1.0);
    // Another destination, with another rule.
    let moved = policy(&kafka.plain(), "elsewhere", "  redaction: {rules: [{path: metadata.filler, action: Replace}]}\n");
    sidecar.write_policy(&moved);
    wait_for("the new destination", SOON, || {
        sidecar.stats()["sinks"][0]["destination"].as_str().unwrap_or_default().ends_with("elsewhere")
    });
    let before = load.count();
    wait_for("events to flow", SOON, || load.count() > before + 300);
    let statuses = load.statuses.clone();
    let acked = load.finish();
    let statuses = statuses.lock().unwrap().clone();
    assert!(statuses.keys().all(|status| matches!(status, 200 | 201)), "{statuses:?}");
    sidecar.drained(LATER);
    let mut records = read_all(&kafka.plain(), "audit");
    let after = read_all(&kafka.plain(), "elsewhere");
    assert!(after.iter().any(|record| record.json["metadata"]["filler"] == "[REDACTED]"), "the new rule does not bite");
    records.extend(after);
    check(&records, &acked);
    assert!(records.iter().filter(|record| record.json["kind"] == "Config").count() >= 2);
}

#[test]
fn critical_events_are_delivered_at_once_and_spooled_at_once_during_an_outage() {
    let kafka = kafka_with("audit");
    let sidecar = Sidecar::start(&policy(&kafka.plain(), "audit", BRISK));
    let client = Client::new(&sidecar.ingest());
    let critical = |id: &str| {
        let mut body = event(id);
        body["severity"] = json!("critical");
        body
    };
    let (status, body) = client.event(&critical("c1")).unwrap();
    assert_eq!((status, &body["delivery"]), (201, &json!("delivered")), "{body}");
    kafka.kill();
    let mut number = 0;
    wait_for("the breaker to open", SOON, || {
        number += 1;
        let (status, body) = client.event(&critical(&format!("o{number}"))).unwrap();
        assert_eq!((status, &body["delivery"]), (201, &json!("spooled")), "{body}");
        sidecar.breaker() == "open"
    });
    kafka.up();
    sidecar.drained(LATER);
    let acked = (1..=number).map(|number| (format!("o{number}"), format!("payload of o{number}"))).collect();
    check(&read_all(&kafka.plain(), "audit"), &acked);
}

/// A JWT without a signature, which Kafka's validator for tests takes.
fn unsecured_token(user: &str, lives: Duration) -> String {
    use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let claims = json!({"sub": user, "iat": now.as_secs(), "exp": (now + lives).as_secs()}).to_string();
    format!("{}.{}.", BASE64_URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#), BASE64_URL_SAFE_NO_PAD.encode(claims))
}

#[test]
fn tls_with_client_certificates_and_every_sasl_mechanism_deliver() {
    let kafka = kafka_with("audit");
    let ca = "caSecretRef: {name: kafka, key: ca.pem}";
    let mutual = format!(
        "    tls: {{{ca}, certSecretRef: {{name: kafka, key: client.pem}}, keySecretRef: {{name: kafka, key: client.key}}}}\n"
    );
    let sasl = |mechanism: &str| {
        format!(
            "    tls: {{{ca}}}\n    sasl: {{mechanism: {mechanism}, username: steno, passwordSecretRef: {{name: kafka, key: password}}}}\n"
        )
    };
    let ways = [
        ("mtls", kafka.tls(), mutual),
        ("scram256", kafka.sasl_tls(), sasl("SCRAM-SHA-256")),
        ("scram512", kafka.sasl_tls(), sasl("SCRAM-SHA-512")),
        ("plain", kafka.sasl_tls(), sasl("PLAIN")),
        (
            "token",
            kafka.sasl_tls(),
            format!("    tls: {{{ca}}}\n    sasl: {{mechanism: OAUTHBEARER, tokenSecretRef: {{name: kafka, key: token}}}}\n"),
        ),
        (
            "token-once",
            kafka.sasl_tls(),
            format!(
                "    guarantee: ExactlyOnce\n    tls: {{{ca}}}\n    sasl: {{mechanism: OAUTHBEARER, tokenSecretRef: {{name: kafka, key: token}}}}\n"
            ),
        ),
    ];
    for (name, brokers, more) in ways {
        let mut sidecar = Sidecar::prepare(&policy(&brokers, "audit", &more));
        kafka.secrets(&sidecar.secrets());
        sidecar.put_secret("kafka", "token", unsecured_token("steno", Duration::from_mins(10)));
        sidecar.up();
        assert_eq!(Client::new(&sidecar.ingest()).insist(&event(name), SOON), 201);
        sidecar.drained(LATER);
    }
    let records = read_all(&kafka.plain(), "audit");
    let found = events(&records);
    assert!(["mtls", "scram256", "scram512", "plain", "token", "token-once"].iter().all(|name| found.contains_key(*name)));
    assert!(verify(&records).is_clean());
}

#[test]
fn a_wrong_password_is_told_and_a_mended_secret_is_picked_up() {
    let kafka = kafka_with("audit");
    let sasl = "    sasl: {mechanism: SCRAM-SHA-256, username: steno, passwordSecretRef: {name: kafka, key: password}}\n";
    let mut sidecar = Sidecar::prepare(&policy(&kafka.sasl(), "audit", &format!("{sasl}{BRISK}")));
    kafka.secrets(&sidecar.secrets());
    std::fs::write(sidecar.secrets().join("kafka/password"), "wrong").unwrap();
    sidecar.up();
    assert_eq!(Client::new(&sidecar.ingest()).insist(&event("one"), SOON), 201);
    wait_for("the breaker to open", Duration::from_mins(1), || sidecar.breaker() != "closed");
    assert!(!sidecar.log().contains("wrong\""), "a password is in the log");
    kafka.secrets(&sidecar.secrets());
    sidecar.drained(LATER);
}
