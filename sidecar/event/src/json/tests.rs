//! What is read is what is written, and what would not survive is refused.
use proptest::prelude::*;

use super::*;

fn fault(text: &str) -> FaultKind {
    parse(text).unwrap_err().kind
}

#[test]
fn what_is_not_json_is_a_syntax_fault() {
    for text in [
        "",
        "{",
        "[1,",
        "{\"a\"}",
        "nul",
        "NaN",
        "Infinity",
        "-",
        "01",
        "1.",
        "{\"a\":1,}",
        "[1] x",
        "'a'",
        "\"\\ud800\"",
        "\"\\x\"",
        "\"a\nb\"",
        "{\"a\":\"b",
    ] {
        assert!(matches!(fault(text), FaultKind::Syntax(_)), "{text:?}: {:?}", fault(text));
    }
}

#[test]
fn what_would_change_on_the_way_is_refused_and_named() {
    assert_eq!(fault(r#"{"b":1,"a":2,"b":3}"#), FaultKind::Duplicate("b".into()));
    assert_eq!(fault(r#"{"a":1,"\u0061":2}"#), FaultKind::Duplicate("a".into()));
    let deep = parse(r#"{"x":{"y":[1,9007199254740993]}}"#).unwrap_err();
    assert_eq!((deep.kind, deep.path.as_str()), (FaultKind::Number, "x.y[1]"));
}

#[test]
fn ten_thousand_levels_are_refused_without_a_stack() {
    assert_eq!(fault(&"[".repeat(10_000)), FaultKind::Depth);
    assert_eq!(fault(&"{\"a\":".repeat(10_000)), FaultKind::Depth);
    let most = "[".repeat(MAX_DEPTH) + &"]".repeat(MAX_DEPTH);
    assert!(parse(&most).is_ok());
}

#[test]
fn rfc_8785_examples_come_out_to_the_letter() {
    // RFC 8785, 3.2.2 and 3.2.3.
    let sample = r#"{"numbers":[333333333.3333333,4.50,2e-3,0.000000000000000000000000001],
        "string":"\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/","literals":[null,true,false]}"#;
    assert_eq!(
        canonical(&parse(sample).unwrap()),
        "{\"literals\":[null,true,false],\"numbers\":[333333333.3333333,4.5,0.002,1e-27],\"string\":\"€$\\u000f\\nA'B\\\"\\\\\\\\\\\"/\"}"
    );
    let order = r#"{"\u20ac":1,"\r":2,"\ufb33":3,"1":4,"\ud83d\ude00":5,"\u0080":6,"\u00f6":7}"#;
    let tree = parse(order).unwrap();
    let names: Vec<_> = tree.as_object().unwrap().iter().map(|(_, value)| canonical(value)).collect();
    assert_eq!(names, ["2", "4", "6", "7", "1", "5", "3"]);
}

fn json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i32>().prop_map(Into::into),
        (-1e15..1e15f64).prop_map(Into::into),
        any::<String>().prop_map(Into::into),
        "[a-z]{0,8}".prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 48, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Into::into),
            prop::collection::btree_map(any::<String>(), inner, 0..6)
                .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn the_canonical_form_is_that_of_an_independent_implementation(value in json()) {
        let text = value.to_string();
        let expected = serde_json_canonicalizer::to_string(&value).unwrap();
        let tree = parse(&text).unwrap();
        prop_assert_eq!(canonical(&tree), expected.clone());
        prop_assert_eq!(canonical(&parse(&expected).unwrap()), expected);
    }

    #[test]
    fn no_text_makes_the_reader_panic(text in any::<String>()) {
        let _ = parse(&text);
    }

    #[test]
    fn whatever_is_accepted_serde_json_accepts_too(text in r#"[\[\]{}:,"a0-9.eE+\-\\u ]{0,24}"#) {
        if parse(&text).is_ok() {
            prop_assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok());
        }
    }
}

#[test]
fn half_a_character_becomes_a_mark_and_a_whole_one_stays() {
    for (text, expected) in [
        (r#""\ud83d""#, Some(r#""\ufffd""#)),
        (r#""\ud83d\ude00 \ude00x""#, Some(r#""\ud83d\ude00 \ufffdx""#)),
        (r#""\\ud83d""#, None),
        (r#""\ud83d\ude00""#, None),
        (r#""\ud83d\n\ud83d""#, Some(r#""\ufffd\n\ufffd""#)),
        ("\"\\", None),
        ("", None),
    ] {
        assert_eq!(without_lone_surrogates(text).as_deref(), expected, "{text}");
    }
}
