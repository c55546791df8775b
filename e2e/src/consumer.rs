//! A consumer that reads a topic from the beginning to its end.
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::OnceLock,
    time::{Duration, Instant},
};

use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::KafkaError,
    message::Headers,
};
use serde_json::Value;
use steno_chain::{Verdict, Verifier};

/// A record as it came.
#[derive(Debug, Clone)]
pub struct Record {
    /// Its text.
    pub text: String,
    /// The same, read.
    pub json: Value,
    /// Its key.
    pub key: Option<String>,
    /// Its headers.
    pub headers: BTreeMap<String, String>,
}

/// The published schema of a record, closed: what it does not name is a fault here.
fn schema(record: &Value) -> &'static jsonschema::Validator {
    static RECORD: OnceLock<jsonschema::Validator> = OnceLock::new();
    static INTENT: OnceLock<jsonschema::Validator> = OnceLock::new();
    let (schema, text) = if record["kind"] == "Intent" {
        (&INTENT, include_str!("../../docs/reference/intent.schema.json"))
    } else {
        (&RECORD, include_str!("../../docs/reference/record.schema.json"))
    };
    schema.get_or_init(|| {
        let mut schema: Value = serde_json::from_str(text).expect("JSON");
        schema["additionalProperties"] = false.into();
        jsonschema::validator_for(&schema).expect("a schema")
    })
}

/// All records of a topic that are there now.
#[track_caller]
pub fn read_all(brokers: &str, topic: &str) -> Vec<Record> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", "e2e")
        .set("enable.auto.commit", "false")
        .set("fetch.wait.max.ms", "50")
        .set("enable.partition.eof", "true")
        .set("check.crcs", "true")
        .create()
        .expect("a consumer");
    let wait = Duration::from_secs(10);
    let metadata = consumer.fetch_metadata(Some(topic), wait).expect("metadata");
    let mut list = TopicPartitionList::new();
    let mut ends = BTreeSet::new();
    for partition in metadata.topics()[0].partitions() {
        let (low, high) = consumer.fetch_watermarks(topic, partition.id(), wait).expect("watermarks");
        if high > low {
            list.add_partition_offset(topic, partition.id(), Offset::Offset(low)).expect("a partition");
            ends.insert(partition.id());
        }
    }
    consumer.assign(&list).expect("assigned");
    let mut records = Vec::new();
    let until = Instant::now() + Duration::from_mins(5);
    while !ends.is_empty() {
        assert!(Instant::now() < until, "the topic could not be read to its end");
        let Some(message) = consumer.poll(Duration::from_millis(200)) else { continue };
        let message = match message {
            // The last offsets of a topic may be no records: markers of transactions.
            Err(KafkaError::PartitionEOF(partition)) => {
                ends.remove(&partition);
                continue;
            }
            message => message.expect("a message"),
        };
        let text = String::from_utf8(message.payload().unwrap_or_default().to_vec()).expect("UTF-8");
        let json = serde_json::from_str(&text).expect("JSON");
        let fault = schema(&json).iter_errors(&json).next().map(|fault| format!("{}: {fault}", fault.instance_path()));
        assert!(fault.is_none(), "not as the published schema says: {fault:?}\n{text}");
        let key = message.key().map(|key| String::from_utf8_lossy(key).into_owned());
        let headers = message.headers().into_iter().flat_map(Headers::iter);
        let headers = headers
            .map(|header| (header.key.to_owned(), String::from_utf8_lossy(header.value.unwrap_or_default()).into_owned()))
            .collect();
        records.push(Record { text, json, key, headers });
    }
    records
}

/// Payloads of events by id: the members that the client sent.
pub fn events(records: &[Record]) -> BTreeMap<String, Vec<&Record>> {
    let mut events: BTreeMap<String, Vec<&Record>> = BTreeMap::new();
    for record in records.iter().filter(|record| record.json["kind"] == "Event") {
        events.entry(record.json["eventId"].as_str().unwrap_or_default().to_owned()).or_default().push(record);
    }
    events
}

/// A record that came another way than by Kafka.
pub fn record(text: &str) -> Record {
    let json = serde_json::from_str(text).expect("JSON");
    Record { text: text.into(), json, key: None, headers: BTreeMap::new() }
}

/// What the chains show of the records of Kafka.
pub fn verify(records: &[Record]) -> Verdict {
    verify_of("kafka", records)
}

/// What the chains show of the records of a sink.
pub fn verify_of(sink: &str, records: &[Record]) -> Verdict {
    let mut verifier = Verifier::of(sink);
    records.iter().for_each(|record| verifier.add(&record.text));
    verifier.finish()
}

/// The oracle: every acked id is there with its exact payload, its copies (redelivery) are the same record, nothing else is there, and the
/// chains have no unexplained gap.
#[track_caller]
pub fn check(records: &[Record], acked: &BTreeMap<String, String>) {
    check_of("kafka", records, acked);
}

/// The same for the records of a sink.
#[track_caller]
pub fn check_of(sink: &str, records: &[Record], acked: &BTreeMap<String, String>) {
    let events = events(records);
    for (id, payload) in acked {
        let found =
            events.get(id).unwrap_or_else(|| panic!("acked {id} is not there ({} acked, {} there)", acked.len(), events.len()));
        assert!(found.iter().all(|record| record.json["message"] == **payload), "{id} has another payload");
        assert!(found.iter().all(|record| record.text == found[0].text), "{id} is there as two different records");
    }
    let verdict = verify_of(sink, records);
    assert!(verdict.is_clean(), "the chains: {:?}", verdict.findings.iter().map(ToString::to_string).collect::<Vec<_>>());
    assert!(!records.iter().any(|record| record.text.contains("tampered")), "a refused payload is on the topic");
}
