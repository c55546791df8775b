//! Write intents over the wire: taken, given back, resolved, refused; and what is said of bad ones.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod rig;

use rig::{JSON, Rig};
use serde_json::{Value, json};

const SPOOL: &str = "  query: {enabled: true}\n  spool: {encryption: {keySecretRef: {name: spool, key: one}}}\n";

fn spec(more: &str) -> String {
    format!("{SPOOL}  intents: {{enabled: true, topic: intents, allowPodLoss: true{more}}}\n")
}

fn intent(id: &str, payload: &str) -> String {
    format!(
        r#"{{"intentId":"{id}","operation":"payment.insert","dtoType":"Payment","entityId":"p-1","payload":{payload},
            "replayKey":{{"env":"test","slug":"shop","version":"1","dtoType":"Payment","entityId":"p-1"}}}}"#
    )
}

fn post(rig: &Rig, path: &str, body: &str) -> (u16, Value) {
    let (status, _, body) = rig.post(path, JSON, body.as_bytes());
    (status, body)
}

fn open(rig: &Rig) -> Vec<String> {
    let (status, _, page) = rig.ask("/v1/intents?state=open", "");
    assert_eq!(status, 200, "{page}");
    page["intents"].as_array().unwrap().iter().map(|intent| intent["intentId"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn an_intent_is_given_back_byte_for_byte_until_it_is_resolved_and_its_event_is_in_the_trail() {
    let rig = Rig::new(&spec(""));
    let exact = r#"{ "b":1.0, "a" : 1e2, "password":"hunter22", "u":"é" }"#;
    let (status, answer) = post(&rig, "/v1/intents", &intent("one", exact));
    assert_eq!((status, &answer["status"], &answer["state"]), (201, &json!("created"), &json!("open")), "{answer}");
    let (status, answer) = post(&rig, "/v1/intents", &intent("one", exact));
    assert_eq!((status, &answer["status"]), (200, &json!("duplicate_accepted")), "a retry");
    let (status, answer) = post(&rig, "/v1/intents", &intent("one", "{}"));
    assert_eq!((status, &answer["reason"]), (409, &json!("intent_conflict")));
    // The same label twice: both are given back.
    assert_eq!(post(&rig, "/v1/intents", &intent("two", "[1]")).0, 201);
    assert_eq!(open(&rig), ["one", "two"]);
    let text = rig.text("/v1/intents/one");
    assert!(text.contains(exact), "not byte for byte: {text}");
    assert!(rig.text("/v1/intents").contains(exact));

    let (status, answer) =
        post(&rig, "/v1/intents/one/resolve", r#"{"outcome":"success","event":{"actor":{"id":"u-1"},"metadata":{"k":"v"}}}"#);
    assert_eq!((status, &answer["status"], &answer["event"]), (200, &json!("resolved"), &json!("created")), "{answer}");
    assert_eq!(answer["eventId"], "intent-one");
    assert_eq!(open(&rig), ["two"]);
    let (_, _, event) = rig.ask("/v1/events/intent-one", "");
    let shown = json!({"action": event["action"], "outcome": event["outcome"], "resource": event["resource"], "metadata": event["metadata"]});
    let wanted = json!({"action": "payment.insert", "outcome": "success", "resource": {"id": "p-1", "type": "Payment"},
        "metadata": {"intentId": "one", "k": "v"}});
    assert_eq!(shown, wanted);
    // Again, and otherwise.
    let (status, answer) =
        post(&rig, "/v1/intents/one/resolve", r#"{"outcome":"success","event":{"actor":{"id":"u-1"},"metadata":{"k":"v"}}}"#);
    assert_eq!((status, &answer["status"]), (200, &json!("duplicate_accepted")), "{answer}");
    let (status, answer) = post(&rig, "/v1/intents/one/resolve", r#"{"outcome":"failure"}"#);
    assert_eq!((status, &answer["reason"]), (409, &json!("intent_conflict")));
    let (_, _, ended) = rig.ask("/v1/intents/one", "");
    assert_eq!((&ended["state"], &ended["outcome"], &ended["payload"]), (&json!("resolved"), &json!("success"), &Value::Null));
    let (_, _, page) = rig.ask("/v1/intents?state=resolved", "");
    assert_eq!(page["intents"][0]["intentId"], "one");
    assert_eq!(post(&rig, "/v1/intents/none/resolve", r#"{"outcome":"success"}"#).0, 404);
}

#[test]
fn pages_of_open_intents_follow_each_other_without_a_gap() {
    let rig = Rig::new(&spec(""));
    for n in 0..7 {
        assert_eq!(post(&rig, "/v1/intents", &intent(&format!("i-{n}"), "1")).0, 201);
    }
    let (mut found, mut cursor) = (Vec::new(), String::new());
    loop {
        let (_, _, page) = rig.ask(&format!("/v1/intents?limit=3{cursor}"), "");
        found.extend(page["intents"].as_array().unwrap().iter().map(|intent| intent["intentId"].as_str().unwrap().to_owned()));
        // What is resolved meanwhile does not move the others.
        post(&rig, "/v1/intents/i-1/resolve", r#"{"outcome":"success"}"#);
        let Some(next) = page["next"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(found, (0..7).map(|n| format!("i-{n}")).collect::<Vec<_>>());
}

#[test]
fn a_full_journal_refuses_new_ones_and_still_answers_retries_and_takes_ends() {
    let rig = Rig::new(&spec(", maxBytes: 16Mi"));
    let payload = format!("\"{}\"", "x".repeat(200 << 10));
    let of = |n: usize| intent(&format!("i-{n}"), &payload);
    let taken = (0..200).take_while(|n| post(&rig, "/v1/intents", &of(*n)).0 == 201).count();
    assert!((30..200).contains(&taken), "{taken} were taken");
    let (status, answer) = post(&rig, "/v1/intents", &of(taken));
    assert_eq!((status, &answer["reason"]), (503, &json!("spool_full")), "{answer}");
    let (status, answer) = post(&rig, "/v1/intents", &of(0));
    assert_eq!((status, &answer["status"], &answer["state"]), (200, &json!("duplicate_accepted"), &json!("open")), "{answer}");
    let (status, answer) = post(&rig, "/v1/intents/i-0/resolve", r#"{"outcome":"success"}"#);
    assert_eq!((status, &answer["status"]), (200, &json!("resolved")), "{answer}");
}

#[test]
fn an_event_that_came_before_a_crash_does_not_keep_its_intent_open() {
    let rig = Rig::new(&spec(""));
    post(&rig, "/v1/intents", &intent("one", "1"));
    // As a sidecar leaves it that is killed between the event and the end.
    assert_eq!(rig.event(r#"{"eventId":"intent-one","action":"payment.insert","message":"other words"}"#).0, 201);
    let (status, answer) = post(&rig, "/v1/intents/one/resolve", r#"{"outcome":"success"}"#);
    assert_eq!((status, &answer["event"], &answer["status"]), (200, &json!("conflict"), &json!("resolved")), "{answer}");
    assert!(open(&rig).is_empty());
    // An id of the client's own that is used for something else is its mistake.
    post(&rig, "/v1/intents", &intent("two", "1"));
    let (status, answer) =
        post(&rig, "/v1/intents/two/resolve", r#"{"outcome":"success","event":{"eventId":"intent-one","action":"x"}}"#);
    assert_eq!((status, &answer["reason"]), (409, &json!("conflict")));
    assert_eq!(open(&rig), ["two"]);
}

#[test]
fn what_is_no_intent_is_refused_with_the_field_and_the_fix() {
    let rig = Rig::new(&spec(", maxPayloadBytes: 1Ki, maxOpen: 2"));
    let without = |name: &str| {
        let mut intent: Value = serde_json::from_str(&intent("x", "1")).unwrap();
        intent.as_object_mut().unwrap().remove(name);
        intent.to_string()
    };
    let with = |name: &str, value: Value| {
        let mut intent: Value = serde_json::from_str(&intent("x", "1")).unwrap();
        intent[name] = value;
        intent.to_string()
    };
    let deep = format!("{}{}", "[".repeat(300), "]".repeat(300));
    let table = [
        ("{".to_owned(), 400, "not_json", "EOF"),
        ("[]".into(), 422, "not_an_intent", ""),
        (without("payload"), 422, "not_an_intent", "payload"),
        (without("operation"), 422, "not_an_intent", "operation"),
        (without("replayKey"), 422, "not_an_intent", "replayKey"),
        (with("operation", json!("")), 422, "not_an_intent", "operation"),
        (with("entityId", json!("x".repeat(2000))), 422, "not_an_intent", "entityId"),
        (with("entityId", json!(7)), 422, "not_an_intent", "invalid type"),
        (with("colour", json!("red")), 422, "not_an_intent", "colour"),
        (with("intentId", json!("a b")), 422, "not_an_intent", "intentId"),
        (with("intentId", json!("4111111111111111")), 422, "not_an_intent", "intentId"),
        // One page must be readable for every client, whatever else is in it.
        (intent("x", &deep), 422, "not_an_intent", "payload: recursion"),
        (intent("x", "1e999"), 422, "not_an_intent", "payload: number"),
        (intent("x", r#""\ud800""#), 422, "not_an_intent", "payload: "),
        (intent("x", &json!("y".repeat(2000)).to_string()), 413, "intent_too_large", "maxPayloadBytes"),
        (intent("x", "1").replacen("\"operation\"", "\"intentId\":\"y\",\"operation\"", 1), 422, "not_an_intent", "duplicate"),
    ];
    for (body, status, reason, named) in table {
        let (found, problem) = post(&rig, "/v1/intents", &body);
        assert_eq!((found, &problem["reason"]), (status, &json!(reason)), "{} {problem}", &body[..body.len().min(80)]);
        assert!(problem["detail"].as_str().unwrap().contains(named), "{problem}");
    }
    assert_eq!(rig.post("/v1/intents", "Content-Type: text/plain\r\n", b"{}").0, 415);
    for (path, reason) in
        [("/v1/intents?state=all", "bad_request"), ("/v1/intents?limit=0", "bad_request"), ("/v1/intents/none", "not_found")]
    {
        assert_eq!(rig.ask(path, "").2["reason"], reason, "{path}");
    }
    assert_eq!(post(&rig, "/v1/intents", &intent("a", "1")).0, 201);
    assert_eq!(post(&rig, "/v1/intents", &intent("b", "1")).0, 201);
    let (status, problem) = post(&rig, "/v1/intents", &intent("c", "1"));
    assert_eq!((status, &problem["reason"]), (503, &json!("too_many_intents")));
    assert_eq!(post(&rig, "/v1/intents", &intent("a", "1")).0, 200, "a retry is none too many");
    for body in [
        "{}",
        r#"{"outcome":"paid by 4111 1111 1111 1111"}"#,
        r#"{"outcome":""}"#,
        r#"{"outcome":"success","event":{"outcome":"failure"}}"#,
        r#"{"outcome":"success","event":[]}"#,
    ] {
        assert_eq!(post(&rig, "/v1/intents/a/resolve", body).0, 422, "{body}");
    }
    assert_eq!(open(&rig), ["a", "b"], "what was refused changed nothing");
}

#[test]
fn a_pod_whose_spool_is_not_on_the_claim_takes_none_unless_the_policy_knows() {
    // The policy was changed after the pod was made: a pod keeps its volumes.
    let rig = Rig::new(
        "  spool: {encryption: {keySecretRef: {name: spool, key: one}}, volume: {type: PersistentVolumeClaim, persistentVolumeClaim: {claimName: c}}}\n  intents: {enabled: true, topic: intents}\n",
    );
    let (status, problem) = post(&rig, "/v1/intents", &intent("x", "1"));
    assert_eq!(status, 503, "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains("PersistentVolumeClaim"), "{problem}");
    assert!(open(&rig).is_empty());
}

#[test]
fn nobody_writes_intents_unless_the_policy_says_so_and_with_a_token_only_who_has_it() {
    let rig = Rig::new("");
    assert_eq!(post(&rig, "/v1/intents", &intent("x", "1")).1["reason"], "intents_disabled");
    assert_eq!(rig.ask("/v1/intents", "").2["reason"], "intents_disabled");
    let rig = Rig::new(&spec(", tokenSecretRef: {name: query, key: token}"));
    assert_eq!(post(&rig, "/v1/intents", &intent("x", "1")).0, 401);
    assert_eq!(rig.ask("/v1/intents", "").0, 401);
    let headers = format!("{JSON}Authorization: Bearer s3cret-token\r\n");
    assert_eq!(rig.post("/v1/intents", &headers, intent("x", "1").as_bytes()).0, 201);
}

#[test]
fn a_used_id_is_for_the_same_intent_only_and_a_2xx_says_open_or_how_it_ended() {
    let rig = Rig::new(&spec(""));
    assert_eq!(post(&rig, "/v1/intents", &intent("one", "1")).0, 201);
    assert_eq!(post(&rig, "/v1/intents/one/resolve", r#"{"outcome":"success"}"#).0, 200);
    let (status, answer) = post(&rig, "/v1/intents", &intent("one", "1"));
    assert_eq!((status, &answer["status"], &answer["state"]), (200, &json!("resolved"), &json!("resolved")), "{answer}");
    let (status, answer) = post(&rig, "/v1/intents", &intent("one", "2"));
    assert_eq!((status, &answer["reason"]), (409, &json!("intent_conflict")), "{answer}");
    for id in [".", ".."] {
        let (status, answer) = post(&rig, "/v1/intents", &intent(id, "1"));
        assert_eq!((status, &answer["reason"]), (422, &json!("not_an_intent")), "{id}: {answer}");
    }
}

#[test]
fn what_was_taken_can_always_end_while_nothing_is_delivered() {
    let rig = Rig::new(&spec(", maxBytes: 16Mi, maxOpen: 100000"));
    let payload = format!("\"{}\"", "x".repeat(900));
    let of = |n: usize| intent(&format!("i-{n}"), &payload);
    let taken = (0..20_000).take_while(|n| post(&rig, "/v1/intents", &of(*n)).0 == 201).count();
    assert!((1000..20_000).contains(&taken), "{taken} were taken");
    for n in 0..taken {
        let (status, answer) = post(&rig, &format!("/v1/intents/i-{n}/resolve"), r#"{"outcome":"success"}"#);
        assert_eq!(status, 200, "{n} of {taken}: {answer}");
    }
    assert!(open(&rig).is_empty());
}

#[test]
fn an_intent_whose_success_is_recorded_does_not_expire() {
    let rig = Rig::new(&spec(", expireAfter: 10s"));
    assert_eq!(post(&rig, "/v1/intents", &intent("one", "1")).0, 201);
    assert_eq!(post(&rig, "/v1/intents", &intent("two", "1")).0, 201);
    // As a sidecar leaves it that is killed between the event and the end, and an application that does not come back.
    assert_eq!(rig.event(r#"{"eventId":"intent-one","action":"payment.insert","outcome":"success"}"#).0, 201);
    let until = std::time::Instant::now() + std::time::Duration::from_mins(1);
    let ended = |id: &str| {
        loop {
            let (_, _, intent) = rig.ask(&format!("/v1/intents/{id}"), "");
            if intent["state"] != "open" {
                return intent;
            }
            assert!(std::time::Instant::now() < until, "{id} stays open");
            std::thread::sleep(std::time::Duration::from_millis(200));
        }
    };
    let (one, two) = (ended("one"), ended("two"));
    assert_eq!((&one["state"], &one["outcome"], &one["eventId"]), (&json!("resolved"), &json!("success"), &json!("intent-one")));
    assert_eq!(two["state"], "expired");
}
