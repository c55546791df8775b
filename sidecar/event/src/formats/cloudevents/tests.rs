use super::*;
use crate::{
    Draft,
    json::{canonical, parse_repaired},
};

fn mapped(text: &str) -> Result<String, String> {
    let (tree, converted) = parse_repaired(text).unwrap();
    let (tree, converted) = structured(tree, converted).map_err(|invalid| invalid.to_string())?;
    let mut draft = Draft::from_json(tree).map_err(|invalid| invalid.to_string())?;
    draft.note_converted(converted);
    Ok(canonical(&Json::Object(draft.members)))
}

#[test]
fn attributes_become_members_and_data_stays_as_it_was() {
    let text = r#"{"specversion":"1.0","id":"7","source":"/orders","type":"order.deleted","subject":"order/42",
        "time":"2026-03-01T10:00:00Z","tenantid":"acme","actorid":"u1","outcome":"success","region":"eu",
        "traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01","datacontenttype":"application/json",
        "data":{"kind":"Pod","action":{"not":"ours"}}}"#;
    let expected = r#"{"action":"order.deleted","actor":{"id":"u1"},"eventId":"/orders|7","metadata":{"cloudevent":{"region":"eu","source":"/orders"},"data":{"action":{"not":"ours"},"kind":"Pod"}},"occurredAt":"2026-03-01T10:00:00.000000000Z","outcome":"success","resource":{"id":"order/42"},"spanId":"b7ad6b7169203331","tenantId":"acme","traceId":"0af7651916cd43dd8448eb211c80319c"}"#;
    assert_eq!(mapped(text).unwrap(), expected);
}

#[test]
fn data_of_the_events_own_schema_is_the_event_and_the_envelope_says_who_it_is() {
    let text = r#"{"specversion":"1.0","id":"7","source":"s","type":"t","dataschema":"urn:steno:event",
        "data":{"action":"user.login","eventId":"mine","actor":{"id":"u1"},"colour":"red"}}"#;
    let expected = r#"{"action":"user.login","actor":{"id":"u1"},"eventId":"s|7","metadata":{"cloudevent":{"dataEventId":"mine","dataschema":"urn:steno:event","source":"s","type":"t"},"colour":"red"}}"#;
    assert_eq!(mapped(text).unwrap(), expected);
    let imitated = text.replace("\"action\"", "\"kind\":\"Drop\",\"action\"");
    assert_eq!(mapped(&imitated).unwrap_err(), "kind: is filled in by the sidecar; leave it out");
}

#[test]
fn sources_and_ids_do_not_run_into_each_other() {
    let event = |source: &str, id: &str| {
        let text = format!(r#"{{"specversion":"1.0","id":"{id}","source":"{source}","type":"t"}}"#);
        mapped(&text).unwrap()
    };
    assert_ne!(event("a|b", "c"), event("a", "b|c"));
}

#[test]
fn what_is_no_cloudevent_is_told_what_it_lacks() {
    let whole = r#"{"specversion":"1.0","id":"7","source":"s","type":"t"}"#;
    assert!(mapped(whole).is_ok());
    for (without, said) in [
        (r#""id":"7","#, "id: is missing; CloudEvents 1.0 requires it"),
        (r#""source":"s","#, "source: is missing; CloudEvents 1.0 requires it"),
        (r#","type":"t""#, "type: is missing; CloudEvents 1.0 requires it"),
        (r#""specversion":"1.0","#, "specversion: is missing; CloudEvents 1.0 requires it"),
    ] {
        assert_eq!(mapped(&whole.replace(without, "")).unwrap_err(), said);
    }
    assert!(mapped(&whole.replace("1.0", "0.3")).unwrap_err().starts_with("specversion: is not 1.0"));
    assert!(
        mapped(&whole.replace('}', r#","data":1,"data_base64":"AA=="}"#)).unwrap_err().starts_with("data_base64: stands beside")
    );
    assert!(mapped("[]").unwrap_err().starts_with("(body): is an array"));
}

#[test]
fn headers_of_binary_mode_are_decoded_and_bodies_kept_by_their_type() {
    let headers: Vec<(&str, &[u8])> = vec![
        ("specversion", b"1.0"),
        ("id", b"7"),
        ("source", b"s"),
        ("type", b"t"),
        ("message", b"Euro%20%E2%82%AC"),
        ("quoted", b"\"a\\\"b\""),
    ];
    let shown = |media: &str, body: &[u8]| {
        let data = body_data(media, body).unwrap();
        let data = match data {
            Data::Json(value, kept) => Data::Json(Json::Raw(canonical(&value).into()), kept),
            Data::Base64(text) => Data::Base64(Cow::Owned(text.into_owned())),
            Data::None => Data::None,
        };
        canonical(&binary(headers.clone(), data).unwrap().0)
    };
    let none = shown("", b"");
    assert!(none.contains(r#""message":"Euro €""#) && none.contains(r#""quoted":"a\"b""#) && !none.contains("\"data"), "{none}");
    assert!(shown("application/json", br#"{"a":1}"#).contains(r#""data":{"a":1}"#));
    assert!(shown("application/vnd.x+json", br"[1]").contains(r#""data":[1]"#));
    assert!(shown("", b"[1]").contains(r#""data":[1]"#) && shown("", b"{").contains(r#""data":"{""#));
    assert!(shown("text/plain", b"hello").contains(r#""data":"hello""#));
    assert!(shown("application/x-www-form-urlencoded", b"password=x").contains(r#""data":"password=x""#), "redaction sees text");
    assert!(shown("application/octet-stream", b"\xff\0").contains(r#""dataBase64":"/wA=""#));
    assert!(body_data("application/json", b"{").is_err());
    let latin: Vec<(&str, &[u8])> = headers.iter().copied().chain([("actorid", &b"\xfc 17"[..])]).collect();
    assert!(canonical(&binary(latin, Data::None).unwrap().0).contains(r#""actor":{"id":"ü 17"}"#));
    let bad: Vec<(&str, &[u8])> = vec![("specversion", b"1.0"), ("id", b"%ff")];
    assert!(binary(bad, Data::None).unwrap_err().problem.contains("UTF-8"));
}
