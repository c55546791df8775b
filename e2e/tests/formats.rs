//! Ways in, by clients that others wrote (feature `formats`: Python and Node.js; `e2e/formats/fetch` brings their SDKs).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use std::{collections::BTreeMap, path::PathBuf, process::Command, time::Duration};

use serde_json::{Value, json};
use steno_e2e::{
    consumer::{events, read_all, verify},
    kafka::Kafka,
    sidecar::{Sidecar, policy},
};

/// Where `e2e/formats/fetch` put the SDKs.
fn clients() -> PathBuf {
    let fetched = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/formats/fetch")).output().unwrap();
    assert!(fetched.status.success(), "{}", String::from_utf8_lossy(&fetched.stderr));
    String::from_utf8(fetched.stdout).unwrap().trim().into()
}

fn script(name: &str) -> String {
    format!("{}/formats/{name}", env!("CARGO_MANIFEST_DIR"))
}

#[track_caller]
fn run(command: &mut Command) -> String {
    let done = command.output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success(), "{command:?}: {text}");
    text
}

struct Rig {
    kafka: Kafka,
    sidecar: Sidecar,
    url: String,
}

impl Rig {
    fn start() -> Self {
        let kafka = Kafka::start();
        kafka.topic("audit");
        let sidecar = Sidecar::start(&policy(&kafka.plain(), "audit", ""));
        let url = format!("http://{}", sidecar.ingest());
        Self { kafka, sidecar, url }
    }

    /// All that reached the topic, by event id; each once, the chain whole.
    fn on_the_topic(&self) -> BTreeMap<String, Value> {
        self.sidecar.drained(Duration::from_secs(30));
        let records = read_all(&self.kafka.plain(), "audit");
        assert!(verify(&records).is_clean());
        let events = events(&records);
        assert!(events.values().all(|records| records.len() == 1));
        events.into_iter().map(|(id, records)| (id, records[0].json.clone())).collect()
    }
}

#[test]
fn events_of_the_cloudevents_sdks_arrive_in_every_mode() {
    let (rig, clients) = (Rig::start(), clients());
    let python = clients.join("python/bin/python");
    let said = run(Command::new(python).arg(script("cloudevents_client.py")).arg(&rig.url));
    assert_eq!(said.matches("\"created\"").count(), 3, "{said}");
    let said = run(Command::new("node").arg(script("cloudevents_client.mjs")).arg(&rig.url).arg(clients.join("package.json")));
    assert_eq!(said.matches("\"created\"").count(), 4, "{said}");
    let events = rig.on_the_topic();
    let ids: Vec<&str> = events.keys().map(String::as_str).collect();
    let python = ["/sdk/python|py-1", "/sdk/python|py-2", "/sdk/python|py-3"];
    let javascript = ["/sdk/javascript|js-1", "/sdk/javascript|js-2", "/sdk/javascript|js-3", "/sdk/javascript|js-4"];
    assert_eq!(ids, [&javascript[..], &python[..]].concat());
    for (number, mode) in [(1, "structured"), (2, "binary")] {
        let event = &events[&format!("/sdk/python|py-{number}")];
        assert_eq!(event["metadata"]["data"], json!({"mode": mode, "text": "naïve"}));
        assert_eq!((&event["action"], &event["actor"]["id"]), (&json!("order.deleted"), &json!("ü 17")), "{event}");
        assert!(event["occurredAt"].as_str().is_some_and(|time| time.starts_with("20")), "{event}");
    }
    assert_eq!(events["/sdk/python|py-3"]["metadata"]["dataBase64"], "/wA=");
    for number in 1..=4 {
        let event = &events[&format!("/sdk/javascript|js-{number}")];
        assert_eq!((&event["metadata"]["data"], &event["outcome"]), (&json!({"number": number}), &json!("success")), "{event}");
        assert_eq!(event["resource"]["id"], format!("order/{number}"));
    }
}

#[test]
fn log_records_of_the_opentelemetry_sdk_arrive_and_what_is_no_event_is_told() {
    let (rig, clients) = (Rig::start(), clients());
    let python = clients.join("python/bin/python");
    let said = run(Command::new(python).arg(script("otlp_client.py")).arg(&rig.url));
    let events = rig.on_the_topic();
    assert_eq!(events.len(), 200, "{said}");
    let event = &events["otel-7"];
    assert_eq!(
        (&event["action"], &event["actor"]["id"], &event["message"]),
        (&json!("user.login"), &json!("u-7"), &json!("signed in"))
    );
    assert_eq!((&event["severity"], &event["service"]), (&json!("warning"), &json!("sdk-python")), "{event}");
}

/// Requests that a generator makes from `/openapi.yaml`: whatever they hold, answers are those of the description. The description is linted, too.
#[test]
fn what_openapi_says_holds_for_requests_that_a_generator_makes() {
    let clients = clients();
    let kafka = Kafka::start();
    kafka.topic("audit");
    let sidecar = Sidecar::start(&policy(&kafka.plain(), "audit", "  query: {enabled: true}\n"));
    let url = format!("http://{}", sidecar.ingest());
    let document = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/openapi.yaml");
    let rules = concat!(env!("CARGO_MANIFEST_DIR"), "/formats/spectral.yaml");
    let lint = clients.join("node_modules/.bin/spectral");
    run(Command::new(lint).args(["lint", document, "--ruleset", rules, "--fail-severity", "warn"]));
    // A path that the status port answers is not asked here, and a flush may wait for minutes.
    let other_ports = "^/(healthz|readyz|metrics|v1/stats|v1/dead|v1/flush)";
    let checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,response_schema_conformance";
    let printed = run(Command::new(clients.join("python/bin/schemathesis"))
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/formats"))
        .env("SCHEMATHESIS_HOOKS", "schemathesis_hooks")
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .args([
            "run",
            &format!("{url}/openapi.yaml"),
            "--url",
            &url,
            "--exclude-path-regex",
            other_ports,
            "--checks",
            checks,
            "--max-examples",
            "40",
            "--seed",
            "1",
            "--no-color",
        ]));
    assert!(printed.contains("No issues found") || printed.contains("passed"), "{printed}");
    sidecar.drained(Duration::from_mins(1));
    assert!(verify(&read_all(&kafka.plain(), "audit")).is_clean());
}
