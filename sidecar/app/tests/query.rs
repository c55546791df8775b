//! Looking back over the wire: who may, what is found, what is said of a bad question.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod rig;

use rig::{JSON, Rig};
use serde_json::{Value, json};

const ON: &str = "  query: {enabled: true}\n";

fn ids(page: &Value) -> Vec<&str> {
    page["events"].as_array().unwrap().iter().map(|event| event["eventId"].as_str().unwrap()).collect()
}

#[test]
fn what_was_acknowledged_is_found_at_once_and_shown_as_it_was_written() {
    let rig = Rig::new(ON);
    for (id, actor) in [("one", "alice"), ("two", "bob"), ("three", "alice")] {
        let event = format!(
            r#"{{"eventId":"{id}","action":"user.login","actor":{{"id":"{actor}"}},"metadata":{{"password":"hunter22"}}}}"#
        );
        assert_eq!(rig.event(&event).0, 201);
    }
    let (status, _, page) = rig.ask("/v1/events?actor.id=alice", "");
    assert_eq!((status, ids(&page), &page["next"]), (200, vec!["three", "one"], &Value::Null));
    let event = &page["events"][0];
    assert_eq!(event["metadata"]["password"], "[REDACTED]");
    assert!(event["integrity"]["hash"].is_string() && event["kind"] == "Event", "{event}");
    let (_, _, page) = rig.ask("/v1/events?order=oldest&limit=2", "");
    assert_eq!(ids(&page), ["one", "two"]);
    let next = page["next"].as_str().unwrap();
    let (_, _, page) = rig.ask(&format!("/v1/events?order=oldest&limit=2&cursor={next}"), "");
    assert_eq!((ids(&page), &page["next"]), (vec!["three"], &Value::Null));
    let (status, _, page) = rig.post("/v1/events/query", JSON, br#"{"actor.id":["bob","alice"],"order":"oldest","limit":10}"#);
    assert_eq!((status, ids(&page)), (200, vec!["one", "two", "three"]));
    let (status, _, event) = rig.ask("/v1/events/two", "");
    assert_eq!((status, &event["actor"]["id"]), (200, &json!("bob")));
    let (status, _, problem) = rig.ask("/v1/events/four", "");
    assert_eq!((status, &problem["reason"]), (404, &json!("not_found")));
    let (_, _, page) = rig.ask("/v1/events?kind=Genesis", "");
    assert_eq!(page["events"][0]["kind"], "Genesis");
}

#[test]
fn an_id_that_was_redacted_is_still_found_by_what_was_sent() {
    let rig = Rig::new(ON);
    assert_eq!(rig.event(r#"{"eventId":"card 4111 1111 1111 1111","action":"a"}"#).0, 201);
    let (status, _, event) = rig.ask("/v1/events/card%204111%201111%201111%201111", "");
    assert_eq!(status, 200);
    assert!(!event.to_string().contains("4111 1111 1111 1111"), "{event}");
}

#[test]
fn nobody_looks_back_unless_the_policy_says_so_and_with_a_token_only_who_has_it() {
    let rig = Rig::new("");
    for answer in [rig.ask("/v1/events", ""), rig.ask("/v1/events/x", ""), rig.post("/v1/events/query", JSON, b"{}")] {
        assert_eq!((answer.0, &answer.2["reason"]), (403, &json!("query_disabled")), "{answer:?}");
    }
    let rig = Rig::new("  query: {enabled: true, tokenSecretRef: {name: query, key: token}}\n");
    for headers in ["", "Authorization: Bearer s3cret\r\n", "Authorization: Basic s3cret-token\r\n", "Authorization: Bearer \r\n"]
    {
        let (status, head, problem) = rig.ask("/v1/events", headers);
        assert_eq!((status, &problem["reason"]), (401, &json!("unauthorized")), "{headers}");
        assert!(head.to_ascii_lowercase().contains("www-authenticate: bearer"), "{head}");
    }
    assert_eq!(rig.ask("/v1/events", "Authorization: Bearer s3cret-token\r\n").0, 200);
    let rig = Rig::new("  query: {enabled: true, tokenSecretRef: {name: query, key: missing}}\n");
    assert_eq!(rig.ask("/v1/events", "").2["reason"], "query_disabled", "a token that is not there lets nobody in");
}

#[test]
fn a_bad_question_is_told_what_is_wrong_with_it() {
    let rig = Rig::new(ON);
    for (path, named) in [
        ("/v1/events?colour=red", "colour"),
        ("/v1/events?limit=1001", "limit"),
        ("/v1/events?from=today", "from"),
        ("/v1/events?cursor=AAAA", "cursor"),
    ] {
        let (status, _, problem) = rig.ask(path, "");
        assert_eq!((status, &problem["reason"]), (400, &json!("bad_request")), "{path}");
        assert!(problem["detail"].as_str().unwrap().starts_with(named), "{problem}");
    }
    for (body, status) in [("[]", 400), ("{", 400), (r#"{"action":{}}"#, 400), (r#"{"action":[true]}"#, 400)] {
        assert_eq!(rig.post("/v1/events/query", JSON, body.as_bytes()).0, status, "{body}");
    }
    assert_eq!(rig.post("/v1/events/query", "", b"{}").0, 415);
    assert_eq!(rig.ask("/v1/events/query", "").0, 405);
}
