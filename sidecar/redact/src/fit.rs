//! Fitting a record into its bound: whole values are cut, largest first, and each is marked.
use std::{
    borrow::Cow,
    collections::{BTreeMap, HashSet},
};

use steno_event::json::{Form, Json, Object, write_json};

/// How it went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fit {
    /// It fits as it is.
    Whole,
    /// Something was cut, and is marked.
    Truncated,
    /// It does not fit whatever is cut.
    TooLarge,
}

/// Bytes of a value that are kept at least.
const KEPT: usize = 64;
/// Bytes that one mark needs at most, besides its path.
const MARK: usize = 48;
/// Values that are cut one by one.
const MOST_MARKS: usize = 128;

fn size(value: &Json<'_>) -> usize {
    let mut out = Vec::new();
    write_json(&mut out, value, Form::Shown);
    out.len()
}

fn size_of(members: &Object<'_>) -> usize {
    members
        .iter()
        .filter(|(_, value)| !matches!(value, Json::Removed))
        .map(|(name, value)| name.len() + 4 + size(value))
        .sum::<usize>()
        + 1
}

/// The order in which values are cut; `None`: never.
fn rank(path: &str) -> Option<u8> {
    let top = path.split(['.', '[']).next().unwrap_or_default();
    match top {
        "before" | "after" => Some(0),
        "metadata" if path.to_ascii_lowercase().contains("body") => Some(0),
        "metadata" => Some(1),
        "error" if path != "error.code" => Some(2),
        "message" | "reason" => Some(2),
        "source" => Some(3),
        "actor" | "resource" if path.split('.').nth(1).is_some_and(|member| !matches!(member, "id" | "type" | "sessionId")) => {
            Some(3)
        }
        _ => None,
    }
}

struct Leaf {
    path: String,
    rank: u8,
    length: usize,
}

fn leaves(path: &str, value: &Json<'_>, out: &mut Vec<Leaf>) {
    match value {
        Json::Object(object) => {
            for (name, value) in object.iter() {
                leaves(&format!("{path}.{name}"), value, out);
            }
        }
        Json::Array(items) => {
            for (index, value) in items.iter().enumerate() {
                leaves(&format!("{path}[{index}]"), value, out);
            }
        }
        Json::String(text) if text.len() > KEPT => {
            out.extend(rank(path).map(|rank| Leaf { path: path.to_owned(), rank, length: text.len() }));
        }
        Json::Redacted(text) if text.shown.len() > KEPT => {
            out.extend(rank(path).map(|rank| Leaf { path: path.to_owned(), rank, length: text.shown.len() }));
        }
        _ => {}
    }
}

/// The value at a path, as [`leaves`] writes paths.
fn change(path: &str, at: &str, value: &mut Json<'_>, act: &mut dyn FnMut(&mut Json<'_>)) {
    if path == at {
        act(value);
        return;
    }
    match value {
        Json::Object(object) => {
            for (name, value) in object.iter_mut() {
                let below = format!("{at}.{name}");
                if path.starts_with(&below) {
                    change(path, &below, value, act);
                }
            }
        }
        Json::Array(items) => {
            for (index, value) in items.iter_mut().enumerate() {
                let below = format!("{at}[{index}]");
                if path.starts_with(&below) {
                    change(path, &below, value, act);
                }
            }
        }
        _ => {}
    }
}

fn cut(text: &str, length: usize) -> String {
    let mut end = length.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

/// Parts of the names of members that say who did what, where, with which outcome: shortened last.
const TELLING: &[&str] = &[
    "user",
    "impersonat",
    "decision",
    "verb",
    "uri",
    "objectref",
    "outcome",
    "stage",
    "auditid",
    "status",
    "code",
    "method",
    "actor",
];
/// Bytes of such a member that stay.
const TELLING_BYTES: usize = 2048;
/// An object up to here goes as a whole.
const SMALL: usize = 256;
/// Items that stay of a list that says who did it.
const TELLING_ITEMS: usize = 8;

fn is_telling(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    TELLING.iter().any(|part| name.contains(part))
}

/// Takes members out of an object, the largest first, until it is so much shorter. Gives back by how much it is.
fn shrink(value: &mut Json<'_>, path: &str, over: usize, marks: &mut Vec<(String, usize)>) -> usize {
    let before = size(value);
    let Json::Object(object) = value else { return 0 };
    let mut sizes: Vec<(String, usize)> = object.iter().map(|(name, value)| (name.to_string(), size(value))).collect();
    sizes.sort_by_key(|(_, size)| std::cmp::Reverse(*size));
    let (mut saved, mut gone) = (0usize, HashSet::new());
    for (name, length) in sizes {
        if saved >= over {
            break;
        }
        match object.get_mut(&name) {
            Some(child @ Json::Object(_)) if length > SMALL => {
                let below = format!("{path}.{}", cut(&name, 64));
                saved += shrink(child, &below, over - saved, marks);
            }
            Some(Json::Array(items)) if is_telling(&name) && length > SMALL && items.len() > TELLING_ITEMS => {
                items.truncate(TELLING_ITEMS);
                saved += length.saturating_sub(items.iter().map(size).sum());
                marks.push((format!("{path}.{}", cut(&name, 64)), length));
            }
            _ if is_telling(&name) && length <= TELLING_BYTES => {}
            _ => {
                saved += length + name.len() + 4;
                gone.insert(name);
            }
        }
    }
    if !gone.is_empty() {
        let members = std::mem::take(object).into_members().into_iter().filter(|(name, _)| !gone.contains(&**name)).collect();
        *object = Object::from_members(members).unwrap_or_default();
        marks.retain(|(known, _)| {
            !gone.iter().any(|name| known.strip_prefix(path).is_some_and(|rest| rest == format!(".{name}")))
        });
        marks.push((path.to_owned(), before));
    }
    saved
}

/// Fits a completed record into `max` bytes, of which `reserve` are kept for `integrity`.
pub fn fit(members: &mut Object<'_>, max: usize, reserve: usize) -> Fit {
    let original = size_of(members);
    let mut now = original + reserve;
    if now <= max {
        return Fit::Whole;
    }
    let mut marks: Vec<(String, usize)> = Vec::new();
    // The member itself, with the original size.
    now += 80;
    let mut found = Vec::new();
    for (name, value) in members.iter() {
        leaves(name, value, &mut found);
    }
    found.sort_by_key(|leaf| (leaf.rank, std::cmp::Reverse(leaf.length)));
    for leaf in found {
        // A cut that saves less than its mark costs makes the record longer; many marks are better one for the whole subtree.
        if leaf.length < KEPT + leaf.path.len() + 2 * MARK || marks.len() >= MOST_MARKS {
            continue;
        }
        if now <= max {
            break;
        }
        let (top, mark) = (leaf.path.split(['.', '[']).next().unwrap_or_default().to_owned(), leaf.path.len() + MARK);
        let mut saved = 0usize;
        if let Some(value) = members.get_mut(&top) {
            let over = now + mark - max;
            change(&leaf.path, &top, value, &mut |value| {
                let before = size(value);
                // Escapes make the written form longer than the text: cut again until enough is gone.
                let mut keep = leaf.length.saturating_sub(over).max(KEPT);
                loop {
                    let shorter = match &*value {
                        Json::String(text) => cut(text, keep),
                        Json::Redacted(text) => cut(&text.shown, keep),
                        _ => return,
                    };
                    *value = Json::String(Cow::Owned(shorter));
                    saved = before.saturating_sub(size(value));
                    if saved >= over || keep == KEPT {
                        break;
                    }
                    keep = (keep / 2).max(KEPT);
                }
            });
        }
        if saved > 0 {
            now = now + mark - saved;
            marks.push((leaf.path, leaf.length));
        }
    }
    // Many small values: of each subtree its largest members go, level by level; what says who did what stays.
    for (name, _) in subtrees(members) {
        if now <= max {
            break;
        }
        if let Some(value) = members.get_mut(name) {
            shrink(value, name, now + 2 * MARK - max, &mut marks);
        }
        let cost: usize = marks.iter().map(|(path, _)| path.len() + MARK).sum();
        now = size_of(members) + reserve + 80 + cost;
    }
    // Where that is not enough, whole subtrees go.
    for (name, length) in subtrees(members) {
        if now <= max {
            break;
        }
        let inside: usize =
            marks.iter().filter(|(path, _)| path.split(['.', '[']).next() == Some(name)).map(|(path, _)| path.len() + MARK).sum();
        marks.retain(|(path, _)| path.split(['.', '[']).next() != Some(name));
        members.insert(name, Json::Null);
        now = (now + name.len() + MARK + 4).saturating_sub(length + inside);
        marks.push((name.to_owned(), length));
    }
    mark(members, original, marks);
    if size_of(members) + reserve > max {
        fold_redactions(members);
    }
    if size_of(members) + reserve <= max { Fit::Truncated } else { Fit::TooLarge }
}

/// Members that may hold much, and their sizes, the largest first.
fn subtrees(members: &Object<'_>) -> Vec<(&'static str, usize)> {
    let mut all: Vec<(&str, usize)> =
        ["before", "after", "metadata", "error"].into_iter().filter_map(|name| Some((name, size(members.get(name)?)))).collect();
    all.sort_by_key(|(_, size)| std::cmp::Reverse(*size));
    all
}

/// What was redacted, as counts by rule instead of a list of paths.
fn fold_redactions(members: &mut Object<'_>) {
    let Some(Json::Array(entries)) = members.get("redactions") else { return };
    let mut counts: BTreeMap<String, f64> = BTreeMap::new();
    for entry in entries.iter().filter_map(Json::as_object) {
        let rule = entry.get("rule").and_then(Json::as_str).unwrap_or_default();
        let count = if let Some(Json::Number(count)) = entry.get("count") { *count } else { 1.0 };
        *counts.entry(rule.to_owned()).or_default() += count;
    }
    let folded = counts.into_iter().map(|(rule, count)| {
        let mut entry = Object::default();
        entry.insert("count", Json::Number(count));
        entry.insert("rule", Json::String(rule.into()));
        Json::Object(entry)
    });
    let folded = Json::Array(folded.collect());
    members.insert("redactions", folded);
}

fn mark(members: &mut Object<'_>, original: usize, mut marks: Vec<(String, usize)>) {
    marks.sort();
    let fields = marks.into_iter().map(|(path, length)| {
        let mut field = Object::default();
        field.insert("originalLength", Json::Number(length as f64));
        field.insert("path", Json::String(path.into()));
        Json::Object(field)
    });
    let mut truncation = Object::default();
    truncation.insert("fields", Json::Array(fields.collect()));
    truncation.insert("originalBytes", Json::Number(original as f64));
    members.insert("truncation", Json::Object(truncation));
}

/// Members that hold no text of the client's own making.
const SAFE: &[&str] = &["durationMs", "occurredAt", "severity"];

/// Fails closed: of an event whose redaction failed only what cannot hold a secret stays, and that it failed.
pub fn metadata_only(members: &mut Object<'_>) {
    let names: Vec<String> =
        members.iter().map(|(name, _)| name.to_string()).filter(|name| !SAFE.contains(&name.as_str())).collect();
    for name in names {
        members.remove(&name);
    }
    members.insert("action", Json::text("steno.redaction-failed"));
    let mut entry = Object::default();
    for (name, value) in [("action", "Remove"), ("path", "$"), ("rule", "failed")] {
        entry.insert(name, Json::text(value));
    }
    members.insert("redactions", Json::Array(vec![Json::Object(entry)]));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use steno_event::json::{canonical, parse};

    use super::*;

    fn members(text: &str) -> Object<'_> {
        match parse(text).unwrap() {
            Json::Object(object) => object,
            _ => unreachable!(),
        }
    }

    #[test]
    fn the_largest_values_are_cut_first_and_marked_with_their_length() {
        let (large, small) = ("é".repeat(2000), "m".repeat(300));
        let text = format!(r#"{{"action":"a","after":{{"x":"{large}","y":1}},"message":"{small}"}}"#);
        let mut record = members(&text);
        assert_eq!(fit(&mut record, 1000, 100), Fit::Truncated);
        let shown = canonical(&Json::Object(record.clone()));
        assert!(shown.len() + 100 <= 1000 && shown.contains(&small), "{shown}");
        assert!(
            shown.contains(r#""truncation":{"fields":[{"originalLength":4000,"path":"after.x"}],"originalBytes""#),
            "{shown}"
        );
        let mut same = members(&text);
        assert_eq!((fit(&mut same, 10_000, 100), same), (Fit::Whole, members(&text)));
    }

    #[test]
    fn many_small_values_go_as_a_whole_and_identifiers_never() {
        let inner: Vec<String> = (0..500).map(|index| format!(r#""k{index}":{index}"#)).collect();
        let text = format!(r#"{{"action":"a","actor":{{"id":"u"}},"metadata":{{{}}}}}"#, inner.join(","));
        let mut record = members(&text);
        assert_eq!(fit(&mut record, 600, 100), Fit::Truncated);
        assert!(canonical(&Json::Object(record)).contains(r#""actor":{"id":"u"}"#));
        // Padding hides nobody: who did what stays, whatever it is padded with.
        let addresses: Vec<String> = (0..9000).map(|index| format!(r#""10.0.{}.{}""#, index / 256, index % 256)).collect();
        for padding in [
            format!(r#""sourceIPs":[{}]"#, addresses.join(",")),
            format!(r#""annotations":{{{},"authorization.k8s.io/decision":"allow"}}"#, inner.join(",")),
        ] {
            let text = format!(
                r#"{{"action":"delete","actor":{{"id":"mallory"}},"metadata":{{"kubernetes":{{"impersonatedUser":{{"username":"system:masters"}},"requestURI":"/api/v1/secrets",{padding}}}}}}}"#
            );
            let mut record = members(&text);
            assert_eq!(fit(&mut record, 1500, 100), Fit::Truncated);
            let shown = canonical(&Json::Object(record));
            assert!(shown.len() + 100 <= 1500, "{}", shown.len());
            for told in ["system:masters", "/api/v1/secrets", "mallory"] {
                assert!(shown.contains(told), "{told} is gone: {shown}");
            }
            assert!(!padding.contains("decision") || shown.contains(r#"decision":"allow"#), "{shown}");
        }
        let huge = format!(r#"{{"action":"{}"}}"#, "a".repeat(2000));
        assert_eq!(fit(&mut members(&huge), 600, 100), Fit::TooLarge);
    }

    proptest! {
        #[test]
        fn what_is_called_fitting_fits(texts in prop::collection::vec("\\PC{0,400}", 1..12), max in 400usize..3000) {
            let mut record = members(r#"{"action":"a","eventId":"e"}"#);
            let mut metadata = Object::default();
            for (index, text) in texts.iter().enumerate() {
                metadata.insert(format!("k{index}"), Json::text(text.as_str()));
            }
            record.insert("metadata", Json::Object(metadata));
            if fit(&mut record, max, 100) != Fit::TooLarge {
                prop_assert!(canonical(&Json::Object(record)).len() + 100 <= max);
            }
        }
    }
}
