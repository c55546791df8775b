//! Rules that meet: the strongest counts, an exception is its own rule's, and an id that is hidden is hidden whole.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use steno_crds::{Capture, Detector, Redaction, RedactionAction as Action, RedactionRule};
use steno_event::{
    Draft,
    json::{Json, canonical, parse},
};
use steno_redact::{Fit, HashKey, Redactor, fit};

fn rule(action: Action) -> RedactionRule {
    RedactionRule { path: None, detector: None, regex: None, action, except: Vec::new() }
}

/// What readers see of an event under these rules.
fn seen(rules: Vec<RedactionRule>, event: &str) -> String {
    let key = HashKey { id: "k1".into(), key: b"a key of the test".to_vec() };
    let redactor = Redactor::compile(&Redaction { rules, ..Redaction::default() }, &Capture::default(), Some(key)).unwrap();
    let mut draft = Draft::from_json(parse(event).unwrap()).unwrap();
    let report = redactor.apply(&mut draft.members, None);
    if let Some(redactions) = report.redactions {
        draft.members.insert("redactions", redactions);
    }
    canonical(&Json::Object(draft.members))
}

#[test]
fn personal_data_is_found_where_a_rule_asks_and_nowhere_else() {
    let event = r#"{"action":"a","message":"called +44 20 7946 0958, born 12 May 1980, NINO AB123456C","metadata":{"mobilePhone":"0171 5551234","dateOfBirth":"1980-05-12","nationalId":"AB-4711-X","phoneVerified":true,"phoneCount":2,"created":"1980-05-12"}}"#;
    assert!(seen(vec![], event).contains("0171 5551234"), "off unless a policy asks");
    let asks = |detector| RedactionRule { detector: Some(detector), ..rule(Action::Replace) };
    let shown = seen(vec![asks(Detector::Phone), asks(Detector::DateOfBirth), asks(Detector::NationalId)], event);
    for gone in ["7946", "0171", "12 May", "\"dateOfBirth\":\"1980", "AB123456C", "4711"] {
        assert!(!shown.contains(gone), "{gone}: {shown}");
    }
    for kept in ["\"phoneVerified\":true", "\"phoneCount\":2", "\"created\":\"1980-05-12\"", "called [REDACTED], born [REDACTED]"]
    {
        assert!(shown.contains(kept), "{kept}: {shown}");
    }
}

#[test]
fn personal_data_is_found_in_objects_and_beside_its_name() {
    let event = r#"{"action":"a","metadata":{
        "phone":{"countryCode":"+49","number":"30 901820","type":"mobile","verifiedAt":"2026-11-28T07:13:49Z"},
        "phones":[{"value":"0171 5551234","kind":"work"},"0171 5551235"],
        "dateOfBirth":{"day":12,"month":"May","year":1980},
        "nationalId":{"type":"CPF","value":"4711-0815-X"},
        "changes":[{"field":"mobilePhone","oldValue":"0171 5551236","newValue":"0171 5551237"},{"field":"city","oldValue":"4711 0815"}],
        "attributes":{"name":"birth_date","value":"1980-05-13"},
        "diff":[["phone","0171 5551238","0171 5551239"],["zip","5551240","5551241"]]}}"#;
    assert!(seen(vec![], event).contains("30 901820"), "off unless a policy asks");
    let asks = |detector| RedactionRule { detector: Some(detector), ..rule(Action::Replace) };
    let shown = seen(vec![asks(Detector::Phone), asks(Detector::DateOfBirth), asks(Detector::NationalId)], event);
    for gone in ["901820", "555123", ":12", "1980", "4711-0815-X"] {
        assert!(!shown.contains(gone), "{gone}: {shown}");
    }
    for kept in ["+49", "mobile", "2026-11-28T07:13:49Z", "CPF", "4711 0815", "5551240", "\"work\""] {
        assert!(shown.contains(kept), "{kept}: {shown}");
    }
}

const CARD: &str = "4111111111111111";

#[test]
fn an_exception_holds_for_its_own_rule_only() {
    let pan =
        |except: &str| RedactionRule { detector: Some(Detector::Pan), except: vec![except.into()], ..rule(Action::Replace) };
    let event = format!(r#"{{"action":"a","metadata":{{"test":"{CARD}","live":"{CARD}"}}}}"#);
    let one = seen(vec![pan("metadata.test")], &event);
    assert!(one.contains(&format!(r#""test":"{CARD}""#)) && !one.contains(&format!(r#""live":"{CARD}""#)), "{one}");
    let both = seen(vec![pan("metadata.test"), pan("metadata.live")], &event);
    assert!(!both.contains(CARD), "each rule still takes what the other leaves: {both}");
}

#[test]
fn a_path_that_masks_shows_nothing_of_what_a_detector_replaces() {
    let mask = RedactionRule { path: Some("metadata.note".into()), ..rule(Action::Mask) };
    let token = "ghp_PPC9ysJtmKP9UVh1DzShUp2qULfEET2kEHU2";
    let shown = seen(vec![mask.clone()], &format!(r#"{{"action":"a","metadata":{{"note":"use {token}"}}}}"#));
    assert!(!shown.contains("EHU2"), "{shown}");
    let shown = seen(vec![mask], r#"{"action":"a","metadata":{"note":"order 4711-0815-77"}}"#);
    assert!(shown.contains("1577"), "a mask still shows the end of what is no secret: {shown}");
}

#[test]
fn an_id_that_holds_a_secret_is_hashed_whole_json_or_not() {
    for id in [r#"{\"password\":\"hunter2\",\"user\":\"bob\"}"#, "bob password=hunter2"] {
        let shown = seen(vec![], &format!(r#"{{"action":"a","actor":{{"id":"{id}"}}}}"#));
        assert!(shown.contains(r#""id":"hmac-sha256:k1:"#) && !shown.contains("hunter2") && !shown.contains("bob"), "{shown}");
    }
}

#[test]
fn the_list_of_redactions_is_folded_before_an_event_is_given_up() {
    let members: Vec<String> =
        (0..60).map(|index| format!(r#""password{index:03}x":{{"a_long_name_{index:03}_password":"p"}}"#)).collect();
    let event = format!(r#"{{"action":"a","actor":{{"id":"u"}},"metadata":{{{}}}}}"#, members.join(","));
    let redactor = Redactor::compile(&Redaction::default(), &Capture::default(), None).unwrap();
    let mut draft = Draft::from_json(parse(&event).unwrap()).unwrap();
    let redactions = redactor.apply(&mut draft.members, None).redactions.unwrap();
    draft.members.insert("redactions", redactions);
    assert_eq!(fit(&mut draft.members, 1024, 100), Fit::Truncated);
    let shown = canonical(&Json::Object(draft.members));
    assert!(shown.len() <= 1024 && shown.contains(r#"{"count":60,"rule":"name:secret"}"#), "{shown}");
}

#[test]
fn one_mask_never_shows_what_another_hides() {
    // The platform hides digits; a namespace adds a mask that reaches further, and would show its own last characters.
    let regex = |regex: &str| RedactionRule { regex: Some(regex.into()), ..rule(Action::Mask) };
    let path = RedactionRule { path: Some("metadata.note".into()), ..rule(Action::Mask) };
    for namespace in [regex(".+"), path, regex(r"is \d{2}")] {
        for rules in [vec![regex(r"\d{4}"), namespace.clone()], vec![namespace.clone(), regex(r"\d{4}")]] {
            let shown = seen(rules, r#"{"action":"a","metadata":{"note":"my pin is 1234"}}"#);
            assert!(!shown.contains("1234") && !shown.contains("34\""), "{namespace:?}: {shown}");
        }
    }
}
