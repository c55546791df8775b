//! A destination's fault is never a record's: poison among thousands, destinations that refuse everything, and the way back from `dead/`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use std::collections::BTreeMap;

use serde_json::{Value, json};
use steno_e2e::{
    client::{Client, event},
    consumer::{Record, check, events, read_all, verify, verify_of},
    kafka::Kafka,
    postgres::Postgres,
    receiver::{Certs, Receiver},
    sidecar::{Sidecar, policy},
    sinks::*,
    wait_for,
};

/// Text that does not compress away and is no secret.
fn noise(length: u32) -> String {
    (0..length).map(|index| char::from(b'a' + (index.wrapping_mul(2_654_435_761) >> 27) as u8 % 26)).collect()
}

/// Posts so many events, from several clients at a time; `spoil` makes some of them poison. Ids and payloads of the others.
fn post_poisoned(sidecar: &Sidecar, count: usize, spoil: impl Fn(usize, &mut Value) -> bool) -> BTreeMap<String, String> {
    let mut acked = BTreeMap::new();
    let mut batches: Vec<Vec<Value>> = vec![Vec::new()];
    for index in 0..count {
        let id = format!("p-{index}");
        let mut body = event(&id);
        if !spoil(index, &mut body) {
            acked.insert(id.clone(), format!("payload of {id}"));
        }
        if batches.last().unwrap().len() == 50 {
            batches.push(Vec::new());
        }
        batches.last_mut().unwrap().push(body);
    }
    std::thread::scope(|scope| {
        for part in 0..4 {
            let (batches, client) = (&batches, Client::new(&sidecar.ingest()));
            scope.spawn(move || {
                for batch in batches.iter().skip(part).step_by(4) {
                    wait_for("a batch to be taken", SOON, || client.batch(batch).expect("an answer").0 == 200);
                }
            });
        }
    });
    acked
}

fn of_kind(records: &[Record], kind: &str) -> usize {
    records.iter().filter(|record| record.json["kind"] == kind).count()
}

/// All others arrived, each once; and the chain names each that did not.
#[track_caller]
fn only_poison_is_missing(name: &str, records: &[Record], acked: &BTreeMap<String, String>) {
    let found = events(records);
    let missing: Vec<&String> = acked.keys().filter(|id| !found.contains_key(*id)).collect();
    assert!(missing.is_empty(), "{name}: {} innocent records are missing, such as {:?}", missing.len(), missing.first());
    assert!(found.values().all(|copies| copies.len() == 1), "{name}: some came twice");
    assert_eq!(found.len(), acked.len(), "{name}");
    assert!(verify_of(name, records).is_clean(), "{name}");
}

#[test]
fn poison_among_thousands_is_buried_alone_whatever_the_sink() {
    let (kafka, certs) = (Kafka::start(), Certs::make());
    kafka.admin(&["topic-create", "audit", "1", "max.message.bytes=30000"]);
    let receiver = Receiver::start(&certs, TOKEN);
    let database = Postgres::start(&certs.server.0, &certs.server.1);
    let sinks = [http_sink(&receiver, ""), postgres_sink(&database, "")];
    let text = spec(&kafka, &sinks, "  limits: {maxEventBytes: 128Ki}\n")
        .replace("    topic: audit\n", "    topic: audit\n    compression: none\n");
    let mut sidecar = Sidecar::prepare(&text);
    secrets(&sidecar, &certs);
    sidecar.up();
    // For the receiver, for the database, and for Kafka.
    let (word, zero, large) = (|index: usize| index % 33 == 5, |index: usize| index % 59 == 7, |index: usize| index % 30 == 11);
    let large_text = noise(40_000);
    let acked = post_poisoned(&sidecar, 3600, |index, body| {
        if word(index) {
            body["action"] = json!("poison");
        }
        if zero(index) {
            body["requestId"] = json!("no database takes \u{0}");
        }
        if large(index) {
            body["metadata"]["large"] = json!(large_text);
        }
        false
    });
    sidecar.drained(LATER);
    let without = |poison: &dyn Fn(usize) -> bool| {
        let number = |id: &str| id.strip_prefix("p-").unwrap().parse::<usize>().unwrap();
        acked.iter().filter(|(id, _)| !poison(number(id))).map(|(id, text)| (id.clone(), text.clone())).collect()
    };
    let topic = read_all(&kafka.plain(), "audit");
    only_poison_is_missing("kafka", &topic, &without(&large));
    only_poison_is_missing("siem", &received(&receiver), &without(&word));
    only_poison_is_missing("db", &stored(&database), &without(&zero));
    let count = |poison: &dyn Fn(usize) -> bool| (0..3600).filter(|index| poison(*index)).count();
    for (name, expected) in [("kafka", count(&large)), ("siem", count(&word)), ("db", count(&zero))] {
        assert_eq!(sink(&sidecar, name)["deadLetters"], json!(expected), "{name}");
    }
    assert_eq!(of_kind(&topic, "DeadLetter"), count(&large) + count(&word) + count(&zero), "one record for each");
    assert!(sidecar.stats()["health"]["issues"].to_string().contains("dead letters are kept"));
}

#[test]
fn a_receiver_that_refuses_everything_gets_no_dead_letters_and_everything_once_it_is_fixed() {
    let (kafka, certs) = (Kafka::start(), Certs::make());
    kafka.topic("audit");
    let receiver = Receiver::start(&certs, TOKEN);
    receiver.answer(400);
    let mut sidecar = Sidecar::prepare(&spec(&kafka, &[http_sink(&receiver, "")], ""));
    secrets(&sidecar, &certs);
    sidecar.up();
    let acked = post(&sidecar, "r", 200);
    wait_for("the breaker to open", SOON, || is_open(&sidecar, "siem"));
    let reason = sink(&sidecar, "siem")["breaker"]["reason"].to_string();
    assert!(reason.contains("takes nothing") && reason.contains("answers 400"), "{reason}");
    assert_eq!(sink(&sidecar, "siem")["deadLetters"], json!(0));
    assert_eq!(sidecar.stats()["health"]["status"], "degraded");
    receiver.answer(200);
    sidecar.drained(LATER);
    only_poison_is_missing("siem", &received(&receiver), &acked);
    check(&read_all(&kafka.plain(), "audit"), &acked);
    assert_eq!(sink(&sidecar, "siem")["deadLetters"], json!(0));
}

#[test]
fn a_compacted_topic_without_keys_and_a_latin1_database_bury_nothing() {
    let (kafka, certs) = (Kafka::start(), Certs::make());
    kafka.admin(&["topic-create", "audit", "1", "cleanup.policy=compact"]);
    let database = Postgres::start(&certs.server.0, &certs.server.1);
    database.database("latin", "ENCODING 'LATIN1' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'");
    let sinks = [postgres_sink(&database, "").replace("database: audit", "database: latin")];
    let mut sidecar = Sidecar::prepare(&spec(&kafka, &sinks, "  integrity: {scope: None}\n"));
    secrets(&sidecar, &certs);
    sidecar.up();
    let client = Client::new(&sidecar.ingest());
    for index in 0..100 {
        let mut body = event(&format!("c-{index}"));
        body["metadata"]["note"] = json!("日本語");
        client.insist(&body, SOON);
    }
    wait_for("both breakers to open", SOON, || {
        sidecar.breaker() != "closed" && sink(&sidecar, "db")["breaker"]["state"] != "closed"
    });
    let reason = sidecar.stats()["breaker"]["reason"].to_string();
    assert!(reason.contains("compacted") && reason.contains("cleanup.policy"), "{reason}");
    let reason = sink(&sidecar, "db")["breaker"]["reason"].to_string();
    assert!(reason.contains("LATIN1") && reason.contains("UTF8"), "{reason}");
    assert_eq!(sidecar.stats()["metrics"]["total_dead_letters"], json!(0));
    kafka.admin(&["topic-config", "audit", "cleanup.policy=delete"]);
    wait_for("Kafka to have everything", LATER, || sidecar.stats()["sinks"][0]["backlog"] == json!(0));
    assert_eq!(events(&read_all(&kafka.plain(), "audit")).len(), 100);
    assert_eq!(sink(&sidecar, "db")["deadLetters"], json!(0));
}

#[test]
fn an_answer_says_dead_lettered_and_a_requeued_letter_is_delivered_marked_and_on_record() {
    let kafka = Kafka::start();
    kafka.admin(&["topic-create", "audit", "1", "max.message.bytes=20000"]);
    let more = "    compression: none\n  ack: Delivered\n  limits: {maxEventBytes: 128Ki}\n";
    let sidecar = Sidecar::start(&policy(&kafka.plain(), "audit", more));
    let client = Client::new(&sidecar.ingest());
    let (status, body) = client.event(&event("good")).unwrap();
    assert_eq!((status, &body["delivery"]), (201, &json!("delivered")), "{body}");
    let mut large = event("large");
    large["metadata"]["large"] = json!(noise(60_000));
    let (status, body) = client.event(&large).unwrap();
    assert_eq!((status, &body["delivery"]), (201, &json!("dead_lettered")), "{body}");
    let dir = sidecar.journal().to_str().unwrap().to_owned();
    // The topic is as it was: the letter is refused again, and stays.
    assert_eq!(sidecar.tool(&["dead", "requeue", &dir, "--id", "large"]).0, 0);
    wait_for("it to be refused again", SOON, || sidecar.log().contains("refused again"));
    kafka.admin(&["topic-config", "audit", "max.message.bytes=1000000"]);
    // Whoever changes the topic has the sidecar look at it again: a policy that is applied, or a restart.
    let mut sidecar = sidecar;
    sidecar.term();
    assert_eq!(sidecar.ended(SOON), Some(0));
    sidecar.up();
    assert_eq!(sidecar.tool(&["dead", "requeue", &dir, "--all"]).0, 0);
    wait_for("the letter to be delivered", SOON, || sidecar.tool(&["dead", "list", &dir]).1.contains("no dead letters"));
    sidecar.drained(SOON);
    let records = read_all(&kafka.plain(), "audit");
    let large = records.iter().find(|record| record.json["eventId"] == "large").expect("it is on the topic");
    assert_eq!(large.headers.get("steno_requeued").map(String::as_str), Some("true"));
    let told = records.iter().find(|record| record.json["kind"] == "Requeue").expect("the chain tells of it");
    assert_eq!(told.json["metadata"]["hash"], large.json["integrity"]["hash"]);
    assert!(verify(&records).is_clean());
    assert!(!sidecar.stats()["health"]["issues"].to_string().contains("dead letters"));
    assert_eq!(sidecar.tool(&["dead", "list", "/nope"]).0, 1);
    assert_eq!(sidecar.tool(&["dead", "requeue", &dir, "--id", "nobody"]).0, 1);
}

#[test]
fn a_request_of_critical_events_waits_once_and_not_for_each() {
    let kafka = Kafka::start();
    kafka.topic("audit");
    let sidecar = Sidecar::start(&policy(&kafka.plain(), "audit", "  critical: {timeout: 2s}\n"));
    let client = Client::new(&sidecar.ingest());
    client.insist(&event("first"), SOON);
    sidecar.drained(SOON);
    kafka.pause(true);
    let batch: Vec<Value> = (0..200)
        .map(|index| {
            let mut body = event(&format!("c-{index}"));
            body["severity"] = json!("critical");
            body
        })
        .collect();
    // The client of these tests gives up after ten seconds; one deadline is two.
    let (status, body) = client.batch(&batch).expect("an answer in time");
    assert_eq!((status, &body["results"][199]["delivery"]), (200, &json!("spooled")), "{body}");
    // A broker that hangs opens the breaker, though nothing failed.
    wait_for("the breaker to open", SOON, || sidecar.breaker() == "open");
    let found = sidecar.stats();
    assert!(found["breaker"]["failures"] == json!(0), "it opened by silence, not by a time-out: {}", found["breaker"]);
    kafka.pause(false);
    sidecar.drained(LATER);
}

#[test]
fn a_broker_that_speaks_otherwise_is_named_in_its_own_words() {
    let kafka = Kafka::start();
    kafka.topic("audit");
    let cases = [
        ("    tls: {caSecretRef: {name: kafka, key: ca.pem}}\n", kafka.plain(), "SSL"),
        (
            "    sasl: {mechanism: SCRAM-SHA-512, username: steno, passwordSecretRef: {name: kafka, key: password}}\n",
            kafka.plain(),
            "SASL",
        ),
    ];
    for (more, brokers, named) in cases {
        let mut sidecar = Sidecar::prepare(&policy(&brokers, "audit", &format!("{more}  {BRISK}\n")));
        kafka.secrets(&sidecar.secrets());
        sidecar.up();
        Client::new(&sidecar.ingest()).insist(&event("one"), SOON);
        wait_for("the breaker to open", SOON, || sidecar.breaker() == "open");
        let reason = sidecar.stats()["breaker"]["reason"].as_str().unwrap().to_owned();
        assert!(reason.contains(named), "{reason}");
    }
}

#[test]
fn a_client_that_cannot_be_made_is_an_invalid_configuration_and_the_old_one_goes_on() {
    let kafka = Kafka::start();
    kafka.topic("audit");
    let sidecar = Sidecar::start(&policy(&kafka.plain(), "audit", ""));
    let client = Client::new(&sidecar.ingest());
    for (config, named) in [
        ("reconnect.backoff.ms: '5000'", "reconnect.backoff.max.ms"),
        ("linger.ms: '5000', message.timeout.ms: '1000'", "message.timeout.ms"),
        ("queue.buffering.max.kbytes: '1024'", "limits.maxEventBytes"),
    ] {
        let limits = if config.starts_with("queue") { "  limits: {maxEventBytes: 1Mi}\n" } else { "" };
        let text = policy(&kafka.plain(), "audit", &format!("    config: {{{config}}}\n{limits}"));
        let path = sidecar.journal().with_file_name("wrong.yaml");
        std::fs::write(&path, &text).unwrap();
        let (code, said) = sidecar.tool(&["check", path.to_str().unwrap()]);
        assert!(code != 0 && said.contains(named), "{said}");
        sidecar.write_policy(&text);
        wait_for("the fault to be told", SOON, || sidecar.stats()["config"]["error"].to_string().contains(named));
        client.insist(&event(config), SOON);
        sidecar.drained(SOON);
    }
    // With transactions this is what librdkafka refused: the transaction's time-out follows now.
    let text = policy(&kafka.plain(), "audit", "    guarantee: ExactlyOnce\n    config: {socket.timeout.ms: '120000'}\n");
    sidecar.write_policy(&text);
    wait_for("the new configuration", SOON, || sidecar.stats()["config"]["error"].is_null());
    client.insist(&event("by-transaction"), SOON);
    sidecar.drained(LATER);
    assert!(events(&read_all(&kafka.plain(), "audit")).contains_key("by-transaction"));
}

#[test]
fn kafka_as_it_comes_makes_topics_only_as_the_policy_says() {
    // Kafka's own default: brokers create a topic that somebody asks for.
    let kafka = Kafka::with_settings("auto.create.topics.enable=true\nnum.partitions=1\n");
    let create = "    create: {partitions: 3, replicationFactor: 1}\n";
    let sidecar = Sidecar::start(&policy(&kafka.plain(), "made", create));
    Client::new(&sidecar.ingest()).insist(&event("one"), SOON);
    sidecar.drained(LATER);
    let partitions = || kafka.admin(&["topic-describe", "made"]).matches("Partition: ").count();
    assert_eq!(partitions(), 3);
    let mistyped = Sidecar::start(&policy(&kafka.plain(), "mistyped", &format!("  {BRISK}\n")));
    Client::new(&mistyped.ingest()).insist(&event("one"), SOON);
    wait_for("the breaker to say so", SOON, || {
        mistyped.stats()["breaker"]["reason"].as_str().unwrap_or_default().contains("does not exist")
    });
    assert!(!kafka.admin(&["topic-list"]).contains("mistyped"), "a mistyped topic was made");
    // One that is there, with another number of partitions than the policy asks for.
    let other = policy(&kafka.plain(), "made", "    create: {partitions: 6, replicationFactor: 1}\n");
    let sidecar = Sidecar::start(&other);
    wait_for("the preflight's warning", SOON, || {
        sidecar.stats()["recommendations"].to_string().contains("kafka.create asks for 6")
    });
}

#[test]
fn one_partition_without_a_leader_holds_up_its_own_records_only() {
    let kafka = Kafka::start();
    let second = kafka.second_broker();
    // Five partitions on the first broker, one on the second.
    kafka.admin(&["topic-assign", "audit", "1,1,1,2,1,1"]);
    let sidecar = Sidecar::start(&policy(&kafka.plain(), "audit", "    key: EventId\n"));
    let mut acked = post(&sidecar, "before", 500);
    sidecar.drained(LATER);
    second.kill();
    acked.extend(post(&sidecar, "while", 20_000));
    // Five sixths are through while one partition has no leader.
    wait_for("the other partitions to have theirs", SOON, || {
        sidecar.stats()["sinks"][0]["delivered"].as_u64().unwrap() > 500 + 20_000 * 4 / 5
    });
    let found = sidecar.stats();
    assert!(found["sinks"][0]["backlog"].as_u64().unwrap() > 0);
    wait_for("health to say so", SOON, || sidecar.stats()["health"]["status"] == "degraded");
    second.up();
    sidecar.drained(LATER);
    check(&read_all(&kafka.plain(), "audit"), &acked);
}

#[test]
fn a_topic_limit_that_nothing_fits_buries_nothing_and_one_that_is_raised_counts_at_once() {
    let kafka = Kafka::start();
    for (topic, guarantee) in [("least", "AtLeastOnce"), ("exactly", "ExactlyOnce")] {
        kafka.admin(&["topic-create", topic, "1", "max.message.bytes=300"]);
        let more = format!("    guarantee: {guarantee}\n    compression: none\n  {BRISK}\n");
        let sidecar = Sidecar::start(&policy(&kafka.plain(), topic, &more));
        let acked = post(&sidecar, topic, 30);
        wait_for("the breaker to open", SOON, || sidecar.breaker() == "open");
        assert_eq!(sidecar.stats()["metrics"]["total_dead_letters"], json!(0));
        kafka.admin(&["topic-config", topic, "max.message.bytes=1000000"]);
        sidecar.drained(LATER);
        check(&read_all(&kafka.plain(), topic), &acked);
        assert_eq!(sidecar.stats()["metrics"]["total_dead_letters"], json!(0));
    }
}

#[test]
fn a_deleted_topic_is_made_again_in_transactions_too_and_a_requeue_does_not_hide_a_hang() {
    let kafka = Kafka::start();
    let more = format!(
        "    guarantee: ExactlyOnce\n    compression: none\n    create: {{partitions: 2, replicationFactor: 1}}\n  {BRISK}\n"
    );
    let sidecar = Sidecar::start(&policy(&kafka.plain(), "again", &more));
    post(&sidecar, "one", 20);
    sidecar.drained(LATER);
    kafka.admin(&["topic-delete", "again"]);
    post(&sidecar, "two", 20);
    sidecar.drained(LATER);
    assert!(events(&read_all(&kafka.plain(), "again")).contains_key("two-19"));
    // A letter that waits for a broker that stands still.
    kafka.admin(&["topic-config", "again", "max.message.bytes=20000"]);
    let client = Client::new(&sidecar.ingest());
    let mut large = event("large");
    large["metadata"]["large"] = json!(noise(60_000));
    client.insist(&large, SOON);
    client.insist(&event("after"), SOON);
    let dir = sidecar.journal().to_str().unwrap().to_owned();
    wait_for("the dead letter", LATER, || sidecar.tool(&["dead", "list", &dir]).1.contains("kafka"));
    sidecar.drained(LATER);
    kafka.pause(true);
    assert_eq!(sidecar.tool(&["dead", "requeue", &dir, "--all"]).0, 0);
    client.insist(&event("meanwhile"), SOON);
    wait_for("the breaker to open", SOON, || sidecar.breaker() == "open");
    kafka.pause(false);
    sidecar.drained(LATER);
}
