//! Sinks beside Kafka as tests use them: their lines in a policy, and what they have.
use std::{collections::BTreeMap, time::Duration};

use serde_json::Value;

use crate::{
    client::{Client, event},
    consumer::{Record, record},
    kafka::Kafka,
    postgres::{PASSWORD, Postgres},
    receiver::{Certs, Receiver},
    sidecar::{Sidecar, policy},
    wait_for,
};

/// How long something that comes soon may take.
pub const SOON: Duration = Duration::from_mins(1);
/// How long a backlog may take.
pub const LATER: Duration = Duration::from_mins(3);
/// A breaker that opens and tries again quickly.
pub const BRISK: &str = "breaker: {failureThreshold: 2, cooldown: 1s, noBrokerFor: 3s}";
/// The receiver's token.
pub const TOKEN: &str = "a-token";

/// Lays out the secrets that the sinks name.
pub fn secrets(sidecar: &Sidecar, certs: &Certs) {
    for (key, value) in [("ca", &certs.ca), ("cert", &certs.client.0), ("key", &certs.client.1)] {
        sidecar.put_secret("tls", key, value);
    }
    sidecar.put_secret("http", "token", TOKEN);
    sidecar.put_secret("db", "password", PASSWORD);
}

/// TLS of a sink.
pub fn tls(mutual: bool) -> String {
    let own = if mutual { ", certSecretRef: {name: tls, key: cert}, keySecretRef: {name: tls, key: key}" } else { "" };
    format!("{{caSecretRef: {{name: tls, key: ca}}{own}}}")
}

/// A `File` sink's line.
pub fn file_sink(more: &str) -> String {
    format!("  - {{name: archive, type: File, {BRISK}{more}}}\n")
}

/// An `Http` sink's line.
pub fn http_sink(receiver: &Receiver, more: &str) -> String {
    let (url, tls) = (receiver.url(), tls(true));
    format!(
        "  - {{name: siem, type: Http, {BRISK}, http: {{url: '{url}', tokenSecretRef: {{name: http, key: token}}, tls: {tls}, timeout: 3s}}{more}}}\n"
    )
}

/// A `Postgres` sink's line.
pub fn postgres_sink(database: &Postgres, more: &str) -> String {
    let (port, tls) = (database.port(), tls(false));
    format!(
        "  - {{name: db, type: Postgres, {BRISK}, postgres: {{host: 127.0.0.1, port: {port}, database: audit, user: steno, passwordSecretRef: {{name: db, key: password}}, tls: {tls}, createSchema: true}}{more}}}\n"
    )
}

/// A policy with sinks.
pub fn spec(kafka: &Kafka, sinks: &[String], more: &str) -> String {
    policy(&kafka.plain(), "audit", &format!("  {BRISK}\n{more}  sinks:\n{}", sinks.concat()))
}

/// Records of the files of a sink, oldest first.
pub fn lines(sidecar: &Sidecar) -> Vec<Record> {
    let mut files: Vec<_> = std::fs::read_dir(sidecar.journal().join("files/archive"))
        .expect("it is there")
        .map(|file| file.expect("it is there").path())
        .collect();
    files.sort();
    files
        .iter()
        .flat_map(|file| std::fs::read_to_string(file).expect("it is there").lines().map(record).collect::<Vec<_>>())
        .collect()
}

/// Records that the receiver has.
pub fn received(receiver: &Receiver) -> Vec<Record> {
    receiver.events().iter().map(|event| record(&event["data"].to_string())).collect()
}

/// Records that the database has.
pub fn stored(database: &Postgres) -> Vec<Record> {
    database
        .sql("SELECT convert_from(body, 'UTF8') FROM steno.events ORDER BY chain_seq")
        .iter()
        .map(|text| record(text))
        .collect()
}

/// How a sink stands.
pub fn sink(sidecar: &Sidecar, name: &str) -> Value {
    let stats = sidecar.stats();
    stats["sinks"].as_array().expect("it is there").iter().find(|sink| sink["name"] == name).unwrap_or(&Value::Null).clone()
}

/// Whether a sink's breaker is open.
pub fn is_open(sidecar: &Sidecar, name: &str) -> bool {
    sink(sidecar, name)["breaker"]["state"] == "open"
}

/// Posts events until all are taken; their ids and payloads.
#[track_caller]
pub fn post(sidecar: &Sidecar, name: &str, count: usize) -> BTreeMap<String, String> {
    let client = Client::new(&sidecar.ingest());
    let ids: Vec<String> = (0..count).map(|index| format!("{name}-{index}")).collect();
    for ids in ids.chunks(500) {
        let batch: Vec<Value> = ids.iter().map(|id| event(id)).collect();
        // Where the spool is full for a moment some are refused; a client sends them again.
        wait_for("a batch to be taken", SOON, || client.batch(&batch).expect("an answer").0 == 200);
    }
    ids.into_iter().map(|id| (id.clone(), format!("payload of {id}"))).collect()
}
