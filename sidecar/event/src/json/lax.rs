//! Taking a text apart without believing it: only strings and brackets count. For text of which one part must not spoil the others.

/// The members of an object: names as they stand between their quotes, and values as the texts they stand in. `None`: it is no object.
pub fn members(text: &str) -> Option<Vec<(&str, &str)>> {
    let mut members = Vec::new();
    let mut at = open(text, b'{')?;
    if text.as_bytes().get(at) == Some(&b'}') {
        return ends(text, at + 1).then_some(members);
    }
    loop {
        let name_end = string(text.as_bytes(), at)?;
        let name = text.get(at + 1..name_end - 1)?;
        at = blank(text.as_bytes(), name_end);
        if text.as_bytes().get(at) != Some(&b':') {
            return None;
        }
        at = blank(text.as_bytes(), at + 1);
        let end = value(text.as_bytes(), at)?;
        members.push((name, text.get(at..end)?));
        at = blank(text.as_bytes(), end);
        match text.as_bytes().get(at)? {
            b',' => at = blank(text.as_bytes(), at + 1),
            b'}' => return ends(text, at + 1).then_some(members),
            _ => return None,
        }
    }
}

/// The items of a list, at most so many, as the texts they stand in. `None`: it is no list.
pub fn items(text: &str, most: usize) -> Option<Vec<&str>> {
    let mut items = Vec::new();
    let mut at = open(text, b'[')?;
    if text.as_bytes().get(at) == Some(&b']') {
        return ends(text, at + 1).then_some(items);
    }
    while items.len() < most {
        let end = value(text.as_bytes(), at)?;
        items.push(text.get(at..end)?);
        at = blank(text.as_bytes(), end);
        match text.as_bytes().get(at)? {
            b',' => at = blank(text.as_bytes(), at + 1),
            b']' => return ends(text, at + 1).then_some(items),
            _ => return None,
        }
    }
    Some(items)
}

/// The end of the object that a text begins with; `None`: it begins with none, or that has no end.
pub fn object_end(text: &str) -> Option<usize> {
    text.starts_with('{').then(|| value(text.as_bytes(), 0))?
}

/// Behind an opening bracket.
fn open(text: &str, bracket: u8) -> Option<usize> {
    let at = blank(text.as_bytes(), 0);
    (text.as_bytes().get(at) == Some(&bracket)).then(|| blank(text.as_bytes(), at + 1))
}

/// Whether nothing follows.
fn ends(text: &str, at: usize) -> bool {
    blank(text.as_bytes(), at) == text.len()
}

fn blank(bytes: &[u8], mut at: usize) -> usize {
    while bytes.get(at).is_some_and(|byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r')) {
        at += 1;
    }
    at
}

/// The end of a string that begins here.
fn string(bytes: &[u8], at: usize) -> Option<usize> {
    if bytes.get(at) != Some(&b'"') {
        return None;
    }
    let mut at = at + 1;
    loop {
        match bytes.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

/// The end of a value that begins here.
fn value(bytes: &[u8], mut at: usize) -> Option<usize> {
    match bytes.get(at)? {
        b'"' => return string(bytes, at),
        b'{' | b'[' => {}
        b',' | b':' | b']' | b'}' => return None,
        _ => {
            while bytes.get(at).is_some_and(|byte| !matches!(byte, b',' | b']' | b'}' | b' ' | b'\t' | b'\n' | b'\r')) {
                at += 1;
            }
            return Some(at);
        }
    }
    let mut depth = 0usize;
    loop {
        match bytes.get(at)? {
            b'"' => at = string(bytes, at)?,
            b'{' | b'[' => {
                depth += 1;
                at += 1;
            }
            b'}' | b']' => {
                depth -= 1;
                at += 1;
                if depth == 0 {
                    return Some(at);
                }
            }
            _ => at += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn parts_are_told_apart_whatever_is_in_them() {
        let text = r#" { "a" : "\"}" , "b":{"x":[1,{"y":"]"}]},"c":"\ud800","d":-1e5, "e":[]} "#;
        let expected = [("a", r#""\"}""#), ("b", r#"{"x":[1,{"y":"]"}]}"#), ("c", r#""\ud800""#), ("d", "-1e5"), ("e", "[]")];
        assert_eq!(members(text).unwrap(), expected);
        assert_eq!(items(r#"[1 , {"a":"]"},[[]] ]"#, 9).unwrap(), ["1", r#"{"a":"]"}"#, "[[]]"]);
        assert_eq!(items("[1,2,3]", 2).unwrap(), ["1", "2"]);
        assert!(members("{}").unwrap().is_empty() && items("[]", 1).unwrap().is_empty());
        let deep = format!("[{}1{}]", "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(items(&deep, 2).unwrap().len(), 1);
        for bad in ["", "{", "[1", "{\"a\"}", "{\"a\":}", "[1,]", "[,]", "{\"a\":1}x", "{a:1}", "[\"", "\"x\"", "[}"] {
            assert!(members(bad).is_none() && items(bad, 9).is_none(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_text_is_too_odd(text in "[\\[\\]{}\",:\\\\a1 ü]{0,60}") {
            let _ = (members(&text), items(&text, 5));
        }
    }
}
