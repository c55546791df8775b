//! Any object with secrets put into it: none of them is in what comes out, and that is JSON.
#![no_main]
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use serde_json::{Map, Value};
use steno_crds::{Capture, Redaction};
use steno_event::json::{Form, Json, parse, write_json};
use steno_redact::Redactor;

const SECRET: &str = "hunter2-Zq9";
const CARD: &str = "4111111111111111";

static REDACTOR: LazyLock<Redactor> =
    LazyLock::new(|| Redactor::compile(&Redaction::default(), &Capture::default(), None).expect("the builtin rules compile"));

/// Puts secrets into every object, and into texts.
fn plant(value: &mut Value, names: &mut impl Iterator<Item = &'static str>) {
    match value {
        Value::Object(members) => {
            members.iter_mut().for_each(|(_, value)| plant(value, names));
            if let Some(name) = names.next() {
                members.insert(name.into(), SECRET.into());
                members.insert("inside".into(), format!("{{\"deep\":[{{\"{name}\":\"{SECRET}\"}}]}}").into());
                members.insert("card".into(), format!("paid with {CARD}, thanks").into());
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|value| plant(value, names)),
        _ => {}
    }
}

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if text.contains(SECRET) || text.contains(CARD) {
        return;
    }
    let Ok(Value::Object(payload)) = serde_json::from_str::<Value>(text) else { return };
    let mut metadata = Value::Object(payload);
    let mut names =
        ["password", "api_key", "Authorization", "clientSecret", "X-Auth-Token", "passwd"].into_iter().cycle().take(64);
    plant(&mut metadata, &mut names);
    let mut event = Map::new();
    event.insert("action".into(), "a".into());
    event.insert("metadata".into(), metadata);
    let text = Value::Object(event).to_string();
    let Ok(Json::Object(mut members)) = parse(&text) else { return };
    let _ = REDACTOR.apply(&mut members, None);
    let mut out = Vec::new();
    write_json(&mut out, &Json::Object(members), Form::Shown);
    let out = String::from_utf8(out).expect("UTF-8");
    assert!(serde_json::from_str::<Value>(&out).is_ok(), "what comes out is JSON: {out}");
    assert!(!out.contains(SECRET), "a secret survives: {out}");
    assert!(!out.contains(CARD), "a card number survives: {out}");
});
