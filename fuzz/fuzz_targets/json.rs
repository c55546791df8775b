//! Any text: parsing ends, and what is parsed is written canonically, once and for all, and as another parser sees it.
#![no_main]
use libfuzzer_sys::fuzz_target;
use steno_event::{
    array_items,
    json::{canonical, parse},
    ndjson,
};

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    ndjson(text).for_each(|(_, item)| drop(parse(item)));
    if let Ok(items) = array_items(text) {
        items.into_iter().for_each(|item| drop(parse(item)));
    }
    let Ok(json) = parse(text) else { return };
    let first = canonical(&json);
    let again = parse(&first).expect("what was written is JSON");
    assert_eq!(first, canonical(&again), "canonical text is its own canonical form");
    // Numbers beyond what a double holds are refused by one of the two and bent by the other; everything else is the same.
    if let (Ok(ours), Ok(theirs)) =
        (serde_json::from_str::<serde_json::Value>(&first), serde_json::from_str::<serde_json::Value>(text))
    {
        assert_eq!(shape(&ours), shape(&theirs));
    }
});

/// Structure, names and texts.
fn shape(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::Object(members) => {
            let mut shown: Vec<String> = members.iter().map(|(name, value)| format!("{name:?}:{}", shape(value))).collect();
            shown.sort();
            format!("{{{}}}", shown.join(","))
        }
        serde_json::Value::Array(items) => format!("[{}]", items.iter().map(shape).collect::<Vec<_>>().join(",")),
        serde_json::Value::Number(_) => "0".into(),
        other => other.to_string(),
    }
}
