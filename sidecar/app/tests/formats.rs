//! Events in other formats, over the wire: what is taken, what is answered.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod rig;

use rig::{JSON, Rig};
use serde_json::json;

const STRUCTURED: &str = "Content-Type: application/cloudevents+json; charset=utf-8\r\n";
const CLOUD: &str = r#"{"specversion":"1.0","id":"7","source":"/orders","type":"order.deleted","data":{"n":1}}"#;

#[test]
fn a_cloudevent_is_the_same_event_in_each_mode() {
    let rig = Rig::new("");
    let (status, _, body) = rig.post("/v1/events", STRUCTURED, CLOUD.as_bytes());
    assert_eq!((status, &body["eventId"]), (201, &json!("/orders|7")), "{body}");
    let (status, _, body) = rig.post("/v1/events", STRUCTURED, CLOUD.as_bytes());
    assert_eq!((status, &body["status"]), (200, &json!("duplicate_accepted")), "{body}");
    let binary = format!("{JSON}ce-specversion: 1.0\r\nCE-ID: 8\r\nce-source: /orders\r\nce-type: order.deleted\r\n");
    let (status, _, body) = rig.post("/v1/events", &binary, br#"{"n":1}"#);
    assert_eq!((status, &body["eventId"]), (201, &json!("/orders|8")), "{body}");
    let (status, _, body) = rig.post("/v1/events", &binary.replace(JSON, ""), b"");
    assert_eq!((status, body["reason"].as_str()), (409, Some("conflict")), "other data under the same source and id: {body}");
    let batch = format!("[{CLOUD},{},{{}}]", CLOUD.replace("\"7\"", "\"9\""));
    for path in ["/v1/events", "/v1/events/batch"] {
        let (status, _, body) = rig.post(path, "Content-Type: application/cloudevents-batch+json\r\n", batch.as_bytes());
        let codes: Vec<u64> = body["results"].as_array().unwrap().iter().map(|item| item["code"].as_u64().unwrap()).collect();
        let second = if path == "/v1/events" { 201 } else { 200 };
        assert_eq!((status, codes), (207, vec![200, second, 422]), "{body}");
    }
    let (status, _, body) = rig.post("/v1/events", STRUCTURED, br#"{"id":"7"}"#);
    assert_eq!((status, body["reason"].as_str()), (422, Some("not_an_event")), "{body}");
}

fn logs(records: &str) -> String {
    format!(r#"{{"resourceLogs":[{{"scopeLogs":[{{"logRecords":[{records}]}}]}}]}}"#)
}

#[test]
fn otlp_tells_what_it_refused_and_a_repeated_request_adds_nothing() {
    let rig = Rig::new("");
    let good = r#"{"timeUnixNano":"1772359200000000000","eventName":"user.login","body":{"stringValue":"hello"}}"#;
    let other = good.replace("hello", "goodbye");
    let (status, head, body) = rig.post("/v1/logs", JSON, logs(&format!("{good},{other},{{}}")).as_bytes());
    assert_eq!((status, &body["partialSuccess"]["rejectedLogRecords"]), (200, &json!("1")), "{body}");
    assert!(body["partialSuccess"]["errorMessage"].as_str().unwrap().contains("action"), "{body}");
    assert!(head.contains("application/json"), "{head}");
    let (status, _, body) = rig.post("/v1/logs", JSON, logs(&format!("{good},{other}")).as_bytes());
    assert_eq!((status, body), (200, json!({})));
    let metrics = rig.get("/metrics").1;
    for line in ["steno_events_accepted_total 2", "steno_events_duplicate_total 2"] {
        assert!(metrics.contains(line), "{line} is missing:\n{metrics}");
    }
    // ExportLogsServiceRequest{resource_logs: [{scope_logs: [{log_records: [{event_name: "a"}]}]}]}
    let protobuf = [0x0a, 7, 0x12, 5, 0x12, 3, 0x62, 1, b'a'];
    let (status, head, _) = rig.post("/v1/logs", "Content-Type: application/x-protobuf\r\n", &protobuf);
    assert_eq!(status, 200);
    assert!(head.contains("application/x-protobuf") && head.to_ascii_lowercase().contains("content-length: 0"), "{head}");
    for (headers, body, wanted) in [
        (JSON, "{".as_bytes(), 400),
        ("Content-Type: application/x-protobuf\r\n", b"\xff\xff", 400),
        ("Content-Type: text/plain\r\n", b"", 415),
    ] {
        let (status, head, _) = rig.post("/v1/logs", headers, body);
        assert_eq!(status, wanted, "{head}");
        assert!(!head.contains("problem+json"), "errors of OTLP are a Status: {head}");
    }
}

#[test]
fn otlp_is_told_to_come_again_where_that_helps() {
    let rig = Rig::new("  limits: {rate: {total: 1, burst: 1}}\n");
    let record = |text: &str| format!(r#"{{"eventName":"a","body":{{"stringValue":"{text}"}}}}"#);
    let (status, head, body) = rig.post("/v1/logs", JSON, logs(&format!("{},{}", record("1"), record("2"))).as_bytes());
    assert_eq!((status, &body["code"]), (429, &json!(8)), "{body}");
    assert!(head.to_ascii_lowercase().contains("retry-after: 1"), "{head}");
}

fn audit(id: &str, verb: &str) -> String {
    format!(
        r#"{{"auditID":"{id}","stage":"ResponseComplete","verb":"{verb}","user":{{"username":"u"}},"objectRef":{{"resource":"pods"}}}}"#
    )
}

fn list(items: &[String]) -> String {
    format!(r#"{{"kind":"EventList","apiVersion":"audit.k8s.io/v1","items":[{}]}}"#, items.join(","))
}

#[test]
fn one_bad_item_of_the_apiserver_spoils_nothing_and_no_rate_refuses_it() {
    let rig = Rig::new("  limits: {maxBodyBytes: 64Ki, maxBatchItems: 10, rate: {total: 1, burst: 1}}\n");
    let mut items: Vec<String> = (0..1500).map(|number| audit(&format!("id-{number}"), "get")).collect();
    items.push(r#"{"auditID":"bad","stage":"Panic","verb":"get","verb":"list"}"#.into());
    items.push("7".into());
    let text = list(&items);
    assert!(text.len() > 64 << 10);
    let (status, _, body) = rig.post("/k8s/audit", JSON, text.as_bytes());
    assert_eq!((status, &body), (200, &json!({"status": "accepted", "taken": 1500, "rejected": 2})));
    let (status, _, body) = rig.post("/k8s/audit", JSON, text.as_bytes());
    assert_eq!((status, &body["taken"]), (200, &json!(1500)), "the same batch again: {body}");
    let metrics = rig.get("/metrics").1;
    for line in ["steno_events_accepted_total 1500", "steno_events_duplicate_total 1500", "steno_items_rejected_total 4"] {
        assert!(metrics.contains(line), "{line} is missing:\n{metrics}");
    }
}

#[test]
fn an_audit_id_that_a_client_chose_again_is_an_event_of_its_own_and_no_conflict() {
    let rig = Rig::new("");
    for (verb, accepted) in [("get", 1), ("delete", 2), ("delete", 2), ("get", 2)] {
        let (status, _, body) = rig.post("/k8s/audit", JSON, list(&[audit("same", verb)]).as_bytes());
        assert_eq!((status, &body["taken"], &body["rejected"]), (200, &json!(1), &json!(0)), "{body}");
        let metrics = rig.get("/metrics").1;
        assert!(metrics.contains(&format!("steno_events_accepted_total {accepted}\n")), "{verb}: {metrics}");
        assert!(metrics.contains("steno_events_conflict_total 0\n"), "{metrics}");
    }
    // Both in one request.
    let (status, _, body) = rig.post("/k8s/audit", JSON, list(&[audit("two", "get"), audit("two", "delete")]).as_bytes());
    assert_eq!((status, &body["taken"]), (200, &json!(2)), "{body}");
}

#[test]
fn bytes_that_a_client_of_the_apiserver_chose_spoil_nothing() {
    let rig = Rig::new("  query: {enabled: true}\n  capture: {requestBodies: true}\n");
    let with = |id: &str, body: &str| audit(id, "patch").replace("\"verb\"", &format!("\"requestObject\":{body},\"verb\""));
    let items = [
        with("one", r#"{"a":1,"a":2}"#),
        with("two", r#"{"a":"\ud800"}"#),
        with("three", &format!("{}1{}", "[".repeat(500), "]".repeat(500))),
    ];
    let mut body = list(&items).into_bytes();
    let text = list(&[with("four", r#"{"a":"?"}"#)]);
    let place = text.find('?').unwrap();
    let (status, _, answer) = rig.post("/k8s/audit", JSON, &body);
    assert_eq!((status, &answer["taken"], &answer["rejected"]), (200, &json!(3), &json!(0)), "{answer}");
    body = text.into_bytes();
    body[place] = 0xff;
    let (status, _, answer) = rig.post("/k8s/audit", JSON, &body);
    assert_eq!((status, &answer["taken"]), (200, &json!(1)), "{answer}");
    let (_, _, page) = rig.ask("/v1/events?operation=x", "");
    assert_eq!(page["reason"], "bad_request");
    let (_, _, page) = rig.ask("/v1/events?requestId=one", "");
    assert_eq!(page["events"][0]["metadata"]["requestObject"], r#"{"a":1,"a":2}"#);
}

#[test]
fn a_flood_of_unreadable_items_is_told_in_few_records() {
    let rig = Rig::new("  query: {enabled: true}\n");
    let (status, _, body) = rig.post("/k8s/audit", JSON, list(&vec!["7".into(); 5000]).as_bytes());
    assert_eq!((status, &body["rejected"]), (200, &json!(5000)), "{body}");
    let (_, _, page) = rig.ask("/v1/events?kind=Rejected&limit=1000", "");
    assert_eq!(page["events"].as_array().unwrap().len(), 101);
    let (status, _, _) = rig.post("/k8s/audit", JSON, list(&vec!["7".into(); 10_001]).as_bytes());
    assert_eq!(status, 413);
}

#[test]
fn otlp_gets_through_a_small_burst_by_being_sent_again() {
    let rig = Rig::new("  limits: {rate: {total: 1000, burst: 3}}\n");
    let records: Vec<String> = (0..10)
        .map(|number| format!(r#"{{"eventName":"a","timeUnixNano":"{}"}}"#, 1_772_359_200_000_000_000u64 + number))
        .collect();
    let request = logs(&records.join(","));
    let tries = (0..2000).find(|_| rig.post("/v1/logs", JSON, request.as_bytes()).0 == 200);
    assert!(tries.is_some(), "{}", rig.get("/metrics").1);
    assert!(rig.get("/metrics").1.contains("steno_events_accepted_total 10\n"));
}

#[test]
fn a_body_that_is_no_list_is_on_record() {
    let rig = Rig::new("");
    let (status, _, body) = rig.post("/k8s/audit", JSON, br#"{"items":[{"#);
    assert_eq!((status, body["reason"].as_str()), (400, Some("not_json")), "{body}");
    assert!(rig.get("/metrics").1.contains("steno_items_rejected_total 1\n"));
}
