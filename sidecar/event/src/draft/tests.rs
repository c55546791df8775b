//! What users of audit libraries send becomes the one model, or is refused by name.
use super::*;
use crate::json::{canonical, parse};

fn fill() -> Fill {
    Fill {
        tenant: "prod".into(),
        tenant_enforced: false,
        service: "shop".into(),
        category: "user-action".into(),
        outcome: "unknown".into(),
        severity: "info",
        require: Vec::new(),
        writer: Arc::from("{}"),
    }
}

fn draft(text: &str) -> Result<Draft<'_>, Invalid> {
    Draft::from_json(parse(text).unwrap())
}

fn mapped(text: &str) -> String {
    canonical(&Json::Object(draft(text).unwrap().members))
}

#[test]
fn flat_spellings_are_mapped() {
    let text = r#"{"event_id":"e1","timestamp":"2026-03-01T12:00:00+02:00","level":"WARN","service_name":"pay","user_id":17,
        "session_id":"s","request_id":"r","resource_type":"card","resource_id":"c1","event_type":"card.add","event_category":"entity-mutation",
        "description":"d","ip_address":"10.0.0.1","user_agent":"curl","error_code":404,"error_message":"no","stack_trace":"at x","duration_ms":12.5}"#;
    assert_eq!(
        mapped(text),
        r#"{"action":"card.add","actor":{"id":"17","sessionId":"s"},"category":"entity-mutation","durationMs":12.5,"error":{"code":"404","message":"no","stack":"at x"},"eventId":"e1","message":"d","occurredAt":"2026-03-01T10:00:00.000000000Z","requestId":"r","resource":{"id":"c1","type":"card"},"service":"pay","severity":"warning","source":{"ip":"10.0.0.1","userAgent":"curl"}}"#
    );
}

#[test]
fn unknown_members_go_to_metadata_and_nothing_is_overwritten() {
    assert_eq!(mapped(r#"{"action":"a","foo":1,"metadata":{"foo":2}}"#), r#"{"action":"a","metadata":{"foo":2,"foo~2":1}}"#);
    assert_eq!(mapped(r#"{"action":"a","event_type":"b"}"#), r#"{"action":"a","metadata":{"event_type":"b"}}"#);
    assert_eq!(
        mapped(r#"{"action":"a","userId":"u","actor":{"id":"u","type":"user"}}"#),
        r#"{"action":"a","actor":{"id":"u","type":"user"}}"#
    );
    assert_eq!(mapped(r#"{"action":"a","reason":null,"before":null}"#), r#"{"action":"a","before":null}"#);
}

#[test]
fn what_is_no_event_is_refused_by_name() {
    for (text, field) in [
        ("[]", "(body)"),
        ("{}", "action"),
        (r#"{"action":""}"#, "action"),
        (r#"{"action":1}"#, "action"),
        (r#"{"action":"a","actor":"bob"}"#, "actor"),
        (r#"{"action":"a","actor":{"id":7}}"#, "actor.id"),
        (r#"{"action":"a","severity":"loud"}"#, "severity"),
        (r#"{"action":"a","occurredAt":"soon"}"#, "occurredAt"),
        (r#"{"action":"a","durationMs":-1}"#, "durationMs"),
        (r#"{"action":"a","metadata":[]}"#, "metadata"),
        (r#"{"action":"a","kind":"Drop"}"#, "kind"),
        (r#"{"action":"a","integrity":{}}"#, "integrity"),
        (r#"{"action":"a","writer":{}}"#, "writer"),
    ] {
        assert_eq!(draft(text).unwrap_err().field, field, "{text}");
    }
}

#[test]
fn an_enforced_tenant_cannot_be_renamed_and_required_members_must_be_there() {
    let enforced =
        Fill { tenant_enforced: true, require: vec![vec!["resource".into(), "id".into()], vec!["tenantId".into()]], ..fill() };
    assert!(draft(r#"{"action":"a","tenantId":"other"}"#).unwrap().tenant(&enforced).is_err());
    assert_eq!(draft(r#"{"action":"a","tenantId":"prod"}"#).unwrap().tenant(&enforced).unwrap(), "prod");
    assert_eq!(draft(r#"{"action":"a"}"#).unwrap().check_required(&enforced).unwrap_err().field, "resource.id");
    assert!(draft(r#"{"action":"a","entityId":"7"}"#).unwrap().check_required(&enforced).is_ok());
}

#[test]
fn numbers_of_levels_are_severities() {
    for (level, severity) in [(10, "debug"), (30, "info"), (40, "warning"), (60, "critical")] {
        let text = format!(r#"{{"action":"a","level":{level}}}"#);
        assert_eq!(draft(&text).unwrap().text("severity"), Some(severity));
    }
    assert!(draft(r#"{"action":"a","severity":35}"#).is_err());
}

#[test]
fn what_was_left_out_is_filled_in_and_known_to_be() {
    let mut draft = draft(r#"{"action":"a","severity":"ERROR","user_id":"u"}"#).unwrap();
    draft.supply_id("id");
    draft.supply_id("another");
    let filled = draft.complete(&fill(), &Received::at(1_772_359_200_000));
    assert_eq!(
        canonical(&Json::Object(draft.members)),
        r#"{"action":"a","actor":{"id":"u","type":"user"},"category":"user-action","eventId":"id","kind":"Event","occurredAt":"2026-03-01T10:00:00.000000000Z","outcome":"unknown","receivedAt":"2026-03-01T10:00:00.000Z","schemaVersion":"1","service":"shop","severity":"error","tenantId":"prod","writer":{}}"#
    );
    assert!(
        filled.contains("occurredAt") && filled.contains("tenantId") && !filled.contains("severity") && !filled.contains("actor")
    );
}
