use super::*;
use crate::{Draft, json::canonical};

fn mapped(text: &str) -> String {
    let audit = audit(text).unwrap();
    canonical(&Json::Object(Draft::from_json(audit.event).unwrap().members))
}

const ITEM: &str = r#"{"level":"RequestResponse","auditID":"6f1a","stage":"ResponseComplete","requestURI":"/api/v1/namespaces/prod/secrets/db","verb":"get",
    "user":{"username":"system:serviceaccount:prod:web","uid":"u","groups":["g"]},"sourceIPs":["10.0.0.7","10.0.0.1"],"userAgent":"kubectl/v1.34",
    "objectRef":{"resource":"secrets","namespace":"prod","name":"db","apiVersion":"v1"},"responseStatus":{"metadata":{},"code":403},
    "requestObject":{"a":1},"requestReceivedTimestamp":"2026-03-01T10:00:00.000000Z","stageTimestamp":"2026-03-01T10:00:00.004500Z",
    "annotations":{"authorization.k8s.io/decision":"forbid"}}"#;

#[test]
fn an_audit_event_says_who_did_what_to_what_and_how_it_went() {
    let expected = r#"{"action":"kubernetes.get secrets","actor":{"id":"system:serviceaccount:prod:web","type":"serviceaccount"},"category":"user-action","durationMs":4.5,"eventId":"6f1a/ResponseComplete","metadata":{"kubernetes":{"annotations":{"authorization.k8s.io/decision":"forbid"},"level":"RequestResponse","objectRef":{"apiVersion":"v1"},"requestURI":"/api/v1/namespaces/prod/secrets/db","responseStatus":{"code":403,"metadata":{}},"sourceIPs":["10.0.0.1"],"stage":"ResponseComplete","user":{"groups":["g"],"uid":"u"}},"requestObject":{"a":1}},"occurredAt":"2026-03-01T10:00:00.004500000Z","operation":"get","outcome":"denied","requestId":"6f1a","resource":{"id":"prod/db","type":"secrets"},"severity":"warning","source":{"ip":"10.0.0.7","userAgent":"kubectl/v1.34"}}"#;
    assert_eq!(mapped(ITEM), expected);
}

#[test]
fn what_double_does_not_hold_and_what_is_too_deep_is_kept_as_text_and_marked() {
    let deep = format!("{}7{}", "[".repeat(100), "]".repeat(100));
    let text = ITEM.replace(r#"{"a":1}"#, &format!(r#"{{"big":9007199254740993,"deep":{deep}}}"#));
    let shown = mapped(&text);
    assert!(shown.contains(r#""big":"9007199254740993""#), "{shown}");
    assert!(shown.contains(r#""convertedToText":["requestObject"]"#), "{shown}");
    assert!(crate::json::parse(&shown).is_ok(), "what is kept can be read again");
}

#[test]
fn a_body_that_is_no_good_json_is_kept_as_its_text_and_the_rest_of_the_event_is_there() {
    for body in [r#"{"a":1,"a":2}"#, r#"{"a":"\ud800"}"#, "{1}"] {
        let shown = mapped(&ITEM.replace(r#"{"a":1}"#, body));
        assert!(
            shown.contains(r#""action":"kubernetes.get secrets""#) && shown.contains(r#""convertedToText":["requestObject"]"#),
            "{shown}"
        );
    }
}

#[test]
fn names_that_are_too_long_are_cut_and_say_so() {
    let shown = mapped(&ITEM.replace("\"name\":\"db\"", &format!("\"name\":\"{}\"", "ü".repeat(1000))));
    assert!(shown.contains(r#""shortened":["id"]"#), "{shown}");
}

#[test]
fn an_item_that_cannot_be_read_is_named_as_far_as_it_can_be() {
    for (text, audit_id, stage) in [
        (r#"{"auditID":"a-1","stage":"Panic","verb":"x","verb":"y"}"#, Some("a-1"), Some("Panic")),
        (r#"{"auditID":"a-1"}"#, Some("a-1"), None),
        (r#"{"auditID":"<secret>","stage":"s","stage":"t"}"#, None, Some("s")),
        ("7", None, None),
    ] {
        let fault = audit(text).unwrap_err();
        assert_eq!((fault.audit_id.as_deref(), fault.stage.as_deref()), (audit_id, stage), "{text}");
        assert!(!fault.fault.contains("secret"));
    }
}

#[test]
fn a_list_is_taken_apart_without_reading_its_items() {
    let body = r#"{"kind":"EventList","metadata":{},"items":[{"a":1},7,{"b":[1,2]}],"x":[1]}"#;
    assert_eq!(items(body).unwrap(), [r#"{"a":1}"#, "7", r#"{"b":[1,2]}"#]);
    assert!(items(r#"{"kind":"EventList"}"#).is_none() && items("[").is_none());
    let many = format!(r#"{{"items":[{}1]}}"#, "1,".repeat(50_000));
    assert_eq!(items(&many).unwrap().len(), MOST_ITEMS + 1);
}

#[test]
fn what_is_not_what_it_should_be_stays_as_it_came() {
    let text = r#"{"auditID":"a","stage":"ResponseComplete","verb":7,"stageTimestamp":"yesterday","requestReceivedTimestamp":5,"user":"root","objectRef":["x"],"userAgent":{"a":1}}"#;
    let event = crate::json::canonical(&audit(text).unwrap().event);
    for kept in [
        "\"verb\":7",
        "\"stageTimestamp\":\"yesterday\"",
        "\"requestReceivedTimestamp\":5",
        "\"user\":\"root\"",
        "\"objectRef\":[\"x\"]",
        "\"userAgent\":{\"a\":1}",
    ] {
        assert!(event.contains(kept), "{kept}: {event}");
    }
    assert!(event.contains("requestReceivedTimestamp\",\"stageTimestamp"), "both times are marked: {event}");
}
