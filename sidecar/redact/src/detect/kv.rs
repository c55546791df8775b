//! A secret name with a value beside it, in free text: `password=…`, JSON that no parser takes, YAML, header lines, command lines, SQL, XML, multipart.
//!
//! The scan goes through the text once. At each sign that may stand between a name and a value it reads the name before it
//! ([`crate::names::class`]) and then the value behind it. A value ends where its notation says so: at its own quote (escaped and doubled quotes are part
//! of it), at the end of the line in YAML, INI and headers, at `</`, and otherwise at a space or at a separator that is
//! followed by the next name. So a password with a comma or a brace in it is cut out whole.
use super::{pattern, worked};
use crate::names::{Class, class, is_secret, is_small, is_state, looks_random};

/// Longest name that is read.
const NAME: usize = 80;
/// Bytes behind a weaker name that are looked at.
const MOST_OF_SOFT: usize = 512;
/// Longest beginning of a line that is looked at.
const LINE: usize = 200;

/// Words that stand where a secret would, and are none.
const STOP: &[&str] = &[
    "absent",
    "active",
    "attempt",
    "attempts",
    "available",
    "changed",
    "confirmed",
    "connection",
    "correct",
    "created",
    "cleared",
    "deleted",
    "disabled",
    "empty",
    "enabled",
    "expired",
    "failed",
    "false",
    "found",
    "filtered",
    "hidden",
    "incorrect",
    "invalid",
    "is",
    "issued",
    "loaded",
    "locked",
    "masked",
    "mismatch",
    "missing",
    "must",
    "n/a",
    "nil",
    "no",
    "none",
    "not",
    "null",
    "ok",
    "omitted",
    "optional",
    "present",
    "received",
    "rejected",
    "redacted",
    "removed",
    "required",
    "reset",
    "revoked",
    "rotated",
    "secret",
    "sent",
    "skipped",
    "stored",
    "succeeded",
    "timeout",
    "too",
    "true",
    "unchanged",
    "undefined",
    "unset",
    "updated",
    "unused",
    "used",
    "valid",
    "validated",
    "verified",
    "was",
    "wrong",
    "yes",
    "password",
    "token",
    "str",
    "string",
    "text",
    "varchar",
    "bool",
    "boolean",
    "int",
    "bytes",
    "accepted",
    "declined",
    "denied",
    "granted",
    "allowed",
    "user",
    "char",
    "object",
    "any",
    "unknown",
    "expected",
    "projected",
    "unexpected",
];

/// What a right to secrets may be for: `secrets:read`, `api_key:create`.
const RIGHTS: &[&str] = &[
    "*",
    "all",
    "approve",
    "assign",
    "create",
    "decrypt",
    "delete",
    "edit",
    "encrypt",
    "export",
    "generate",
    "get",
    "grant",
    "import",
    "inspect",
    "introspect",
    "issue",
    "list",
    "manage",
    "patch",
    "read",
    "readonly",
    "read_only",
    "read_write",
    "refresh",
    "remove",
    "renew",
    "revoke",
    "rotate",
    "sign",
    "update",
    "use",
    "validate",
    "verify",
    "view",
    "watch",
    "write",
];

/// Whether `name:value` is a right to secrets, and no secret.
fn is_right(text: &str, sign: usize, value: &str) -> bool {
    text.as_bytes().get(sign + 1).is_some_and(u8::is_ascii_graphic)
        && value.split([',', ':', '|']).all(|right| RIGHTS.contains(&right))
}

/// Whether a value stands for a secret without being one: a reference to a variable, a template, a mark of redaction, a word.
pub(super) fn is_placeholder(value: &str) -> bool {
    let value = value.trim();
    let inner = |open: &str, close: &str| {
        value.strip_prefix(open).and_then(|rest| rest.strip_suffix(close)).filter(|inner| !inner.contains(close))
    };
    let is_words =
        |text: &str| text.chars().all(|c| c.is_alphabetic() || matches!(c, ' ' | '_' | '-' | '.' | ':' | '*' | '/' | '|'));
    let is_mask = |c: char| matches!(c, '*' | 'x' | 'X' | '•' | '.' | '#' | '?' | '-' | '_');
    if value.chars().all(is_mask) && (value.len() != 1 || value == "*" || value == "-") {
        return true;
    }
    if [("<", ">"), ("[", "]"), ("{", "}"), ("(", ")")].iter().any(|(open, close)| inner(open, close).is_some_and(is_words)) {
        return true;
    }
    if [("${", "}"), ("$(", ")"), ("{{", "}}"), ("<%", "%>"), ("#{", "}"), ("%{", "}")]
        .iter()
        .any(|(open, close)| inner(open, close).is_some())
    {
        return true;
    }
    if inner("%", "%").is_some_and(|name| name.len() > 1 && name.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_')) {
        return true;
    }
    // `%s`, `%[1]v`, `%(name)s`; `$NAME` and `$1`.
    if let Some(rest) = value.strip_prefix('%') {
        let verb = rest.trim_start_matches(|c: char| {
            matches!(c, '[' | ']' | '(' | ')' | '_') || c.is_ascii_digit() || rest.starts_with('(')
        });
        if verb.len() == 1 && verb.bytes().all(|byte| byte.is_ascii_lowercase()) || rest.starts_with('(') && rest.ends_with(")s")
        {
            return true;
        }
    }
    if let Some(rest) = value.strip_prefix('$') {
        let is_name = rest.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_');
        let is_short = rest.bytes().all(|byte| byte.is_ascii_digit()) && rest.len() < 3;
        if is_short || is_name && rest.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return true;
        }
    }
    let word = value.trim_matches(['*', '_', '`']).trim_end_matches(['.', '!', ':', ',', ';', ')']);
    // A parameter of a statement.
    let is_bound = value
        .strip_prefix([':', '@'])
        .is_some_and(|name| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'));
    if value == "?" || is_bound {
        return true;
    }
    STOP.iter().any(|stop| stop.eq_ignore_ascii_case(word)) || value.starts_with("(empty")
}

/// A name's place.
struct Name<'t> {
    text: &'t str,
    start: usize,
    /// It stands between quotes of its own.
    is_quoted: bool,
    /// A quote is open before it, which the value may share.
    opened: Option<u8>,
    /// It is a parameter of a URL.
    is_parameter: bool,
    /// Nothing else stands before it in its line.
    begins_line: bool,
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-') || byte >= 0x80
}

/// The name that ends before a sign.
fn name_before(text: &str, sign: usize) -> Option<Name<'_>> {
    let bytes = text.as_bytes();
    let mut end = sign;
    let spaces = bytes[..end].iter().rev().take(8).take_while(|byte| matches!(byte, b' ' | b'\t')).count();
    end -= spaces;
    let mut closed = None;
    let mut decorations = 0;
    // `[password:protected] =>`
    for kind in [":protected]", ":private]"] {
        if text[..end].ends_with(kind) {
            end -= kind.len();
        }
    }
    while end > 0 && decorations < 8 && matches!(bytes[end - 1], b'"' | b'\'' | b'`' | b'\\' | b']' | b')' | b'[' | b'*' | b'?') {
        if matches!(bytes[end - 1], b'"' | b'\'' | b'`') {
            closed = Some(bytes[end - 1]);
        }
        end -= 1;
        decorations += 1;
    }
    end -= bytes[..end].iter().rev().take(8).take_while(|byte| matches!(byte, b' ' | b'\t')).count();
    let length = bytes[..end].iter().rev().take(NAME).take_while(|byte| is_name_byte(**byte)).count();
    let mut start = end - length;
    while start < end && !text.is_char_boundary(start) {
        start += 1;
    }
    if start >= end || !bytes[start..end].iter().any(|byte| byte.is_ascii_alphabetic() || *byte >= 0x80) {
        return None;
    }
    let opened = start.checked_sub(1).map(|at| bytes[at]).filter(|byte| matches!(byte, b'"' | b'\'' | b'`'));
    let is_quoted = closed.is_some() && opened.is_some();
    let is_parameter = start > 0 && matches!(bytes[start - 1], b'?' | b'&') && bytes[sign] == b'=';
    // `arn:aws:secretsmanager:…:secret:name`
    if start > 0 && bytes[start - 1] == b':' && bytes[sign] == b':' {
        let from = bytes[..start].iter().rev().take(NAME).take_while(|byte| !byte.is_ascii_whitespace()).count();
        if bytes[start - from..start].starts_with(b"arn:") {
            return None;
        }
    }
    let from = start.saturating_sub(LINE);
    let line = bytes[from..start].iter().rposition(|byte| matches!(byte, b'\n' | b'\r')).map_or(from, |at| from + at + 1);
    let before = &bytes[line..start];
    let has_begun = line == 0 || line > from || start < LINE;
    let begins_line = has_begun
        && (before
            .iter()
            .all(|byte| matches!(byte, b' ' | b'\t' | b'-' | b'"' | b'\'' | b'#' | b'+' | b'*' | b'>' | b'<' | b'['))
            || before.trim_ascii() == b"export"
            || before.trim_ascii() == b"set");
    Some(Name {
        text: &text[start..end],
        start,
        is_quoted,
        opened: opened.filter(|_| !is_quoted && closed.is_none()),
        is_parameter,
        begins_line,
    })
}

/// The class of a name, with the word before it where only both are a name: `mot de passe`, `\u{643}\u{644}\u{645}\u{629} \u{627}\u{644}\u{645}\u{631}\u{648}\u{631}`.
fn class_of_words(text: &str, name: &Name<'_>) -> Class {
    const LAST: &[&str] = &["passe", "sandi", "acceso", "clave", "key"];
    let found = class(name.text);
    if found != Class::Plain
        || name.is_quoted
        || name.text.is_ascii() && !LAST.iter().any(|last| name.text.eq_ignore_ascii_case(last))
    {
        return found;
    }
    let from = text.floor_char_boundary(name.start.saturating_sub(24));
    // One blank between words, and no sign: what stands in the field before is another matter.
    let Some(before) = text[from..name.start].strip_suffix(' ') else { return found };
    let is_sign = |c: char| c.is_ascii() && !c.is_ascii_alphanumeric() && c != '-' && c != '_';
    let mut words = before.rsplit(is_sign).take(2);
    let (one, two) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let two = if before.len() > one.len() && before[..before.len() - one.len()].ends_with(' ') { two } else { "" };
    if one.is_empty() {
        return found;
    }
    match class(&format!("{one} {}", name.text)) {
        // `two one key` would join what is no name.
        Class::Plain if !name.text.eq_ignore_ascii_case("key") => class(&format!("{two} {one} {}", name.text)),
        found => found,
    }
}

/// Whether a name before a sign, or what it belongs to (`Password for bob:`), is secret.
fn class_at(text: &str, name: &Name<'_>) -> Class {
    let found = class_of_words(text, name);
    // What a parser says of its own tokens.
    let about = text[..name.start].trim_end();
    if ["nexpected", "xpected", "nvalid", "unknown", "missing"].iter().any(|word| about.ends_with(word))
        && name.text.eq_ignore_ascii_case("token")
    {
        return Class::Plain;
    }
    if found != Class::Plain || name.is_quoted {
        return found;
    }
    let before = &text[..name.start];
    let Some(before) = before.strip_suffix(' ').and_then(|before| before.strip_suffix("for")) else { return found };
    let before = before.trim_end_matches(' ');
    let word = before.rsplit(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default();
    if word.len() <= 24 { class(word) } else { found }
}

/// A sign between a name and a value.
pub(super) const SIGNS: u8 = 1;
/// A space between them.
pub(super) const SPACED: u8 = 2;
/// Short options of commands.
pub(super) const COMMANDS: u8 = 4;
/// What spans lines.
pub(super) const BLOCKS: u8 = 8;

/// Finds them, in the parts that may have any.
pub(super) fn kv(text: &str, parts: u8, add: &mut dyn FnMut(usize, usize)) {
    if parts & SIGNS != 0 {
        signs(text, add);
    }
    if parts & !SIGNS == 0 {
        return;
    }
    let lower = text.to_ascii_lowercase();
    if parts & SPACED != 0 {
        spaced(text, &lower, add);
    }
    if parts & COMMANDS != 0 {
        commands(text, &lower, add);
        tools(text, &lower, add);
    }
    if parts & BLOCKS != 0 {
        blocks(text, &lower, add);
    }
}

/// Where lines end. Asked for places that only go up, it looks at each byte once.
struct Lines<'t> {
    text: &'t str,
    end: usize,
    has_several: bool,
}

impl<'t> Lines<'t> {
    fn of(text: &'t str) -> Self {
        Self { text, end: 0, has_several: text.contains('\n') }
    }

    fn end_of(&mut self, at: usize) -> usize {
        if at >= self.end || self.end == 0 {
            let rest = &self.text.as_bytes()[at..];
            worked!(memchr::memchr2(b'\n', b'\r', rest).unwrap_or(rest.len()));
            self.end = memchr::memchr2(b'\n', b'\r', rest).map_or(self.text.len(), |length| at + length);
        }
        self.end.max(at)
    }
}

fn signs(text: &str, add: &mut dyn FnMut(usize, usize)) {
    let bytes = text.as_bytes();
    let lines = &mut Lines::of(text);
    let mut at = 0;
    while at < bytes.len() {
        let sign = bytes[at];
        let next = match sign {
            b':' if bytes[at..].starts_with(b"://") => at + 3,
            b'=' | b':' => beside_sign(lines, at, add),
            b'-' if bytes.get(at + 1) == Some(&b'>') => beside_sign(lines, at, add),
            b'-' if bytes.get(at + 1) == Some(&b'-') => flag(text, at, add),
            b'<' => element(text, at, add),
            _ => at + 1,
        };
        at = next.max(at + 1);
    }
}

/// At `=`, `:`, `=>`, `:=`, `==`, `->`, `::`. Gives back where the scan goes on.
fn beside_sign(lines: &mut Lines<'_>, at: usize, add: &mut dyn FnMut(usize, usize)) -> usize {
    let text = lines.text;
    let bytes = text.as_bytes();
    // An arrow; else only the signs themselves, for a value may begin with `-`.
    let is_arrow = bytes[at] == b'-';
    let is_part = |byte: &&u8| matches!(byte, b'=' | b':' | b'>') || is_arrow && **byte == b'-';
    let end = at + bytes[at..].iter().take(3).take_while(is_part).count().max(1);
    let Some(name) = name_before(text, at) else { return end };
    let found = class_at(text, &name);
    if found == Class::Plain {
        return end;
    }
    let is_colon = bytes[at] == b':' && end == at + 1;
    // Of what is only perhaps a secret no more is looked at than a secret has.
    let text = if found == Class::Soft { &text[..text.floor_char_boundary(end + MOST_OF_SOFT)] } else { text };
    let Some((start, stop)) = value_after(text, lines, end, &name, is_colon) else { return end };
    let value = &text[start..stop];
    worked!(value.len());
    let is_none = is_placeholder(value)
        || is_small(name.text, value)
        || found == Class::Soft && !looks_random(value.trim_end_matches(['"', '\'']))
        || name.text.to_ascii_lowercase().ends_with("tokens") && value.bytes().all(|byte| byte.is_ascii_digit())
        || is_directory(name.text, value)
        || is_colon && is_right(text, at, value)
        || is_colon && is_said(text, start, value)
        || is_address(value);
    if !is_none {
        add(start, stop);
        return became(text, stop, add);
    }
    // `password: none -> x`: it is set for the first time.
    if found == Class::Secret && is_placeholder(value) { became(text, stop, add).max(end) } else { end }
}

/// Whether a value without quotes is a sentence about a secret: `denied by policy p-1`.
fn is_said(text: &str, start: usize, value: &str) -> bool {
    let is_quoted = text[..start].ends_with(['"', '\'', '`']);
    let mut words = value.split(' ');
    let is_state = words.next().is_some_and(is_state);
    let second = words.clone().next();
    !is_quoted
        && is_state
        && second.is_some_and(|second| second != "to" && !second.starts_with(['-', '=', '>']))
        && !words.any(looks_random)
}

/// `"old" -> "new"`: the second value of a change. Gives back where the scan goes on.
fn became(text: &str, from: usize, add: &mut dyn FnMut(usize, usize)) -> usize {
    pattern!(shape, r#"^["']?[ \t]*(?:->|=>)[ \t]*(?:"([^"\n]+)"|'([^'\n]+)'|([^\s"',;]+))"#);
    let arrow = text.as_bytes()[from..].iter().take(8).any(|byte| *byte == b'>');
    let found = if arrow { shape().and_then(|shape| shape.captures(&text[from..])) } else { None };
    let Some(value) = found.and_then(|found| found.iter().skip(1).flatten().next().map(|value| value.range())) else {
        return from;
    };
    let (start, end) = (from + value.start, from + value.end);
    if !is_placeholder(&text[start..end]) {
        add(start, end);
    }
    end
}

/// `PWD=/srv/app` is where somebody is.
fn is_directory(name: &str, value: &str) -> bool {
    let folded = name.to_ascii_lowercase();
    matches!(folded.as_str(), "pwd" | "oldpwd" | "passwd")
        && (value.starts_with(['/', '~', '.']) || value.get(1..3) == Some(":\\"))
}

/// The name of a secret that is kept elsewhere.
fn is_address(value: &str) -> bool {
    value.starts_with("arn:aws:secretsmanager:")
        || value.starts_with("arn:aws:ssm:")
        || value.starts_with("vault:") && !value.contains('=')
}

/// Where the value behind a sign stands.
fn value_after(text: &str, lines: &mut Lines<'_>, from: usize, name: &Name<'_>, is_colon: bool) -> Option<(usize, usize)> {
    let bytes = text.as_bytes();
    let blanks = |at: usize| at + bytes[at..].iter().take(32).take_while(|byte| matches!(byte, b' ' | b'\t')).count();
    let mut start = blanks(from);
    // `*Password:* x`, `<b>Password:</b> <code>x</code>`, and JSON that is wrapped.
    if let Some(behind) = dressed(text, start, name) {
        start = behind;
    }
    // `string(15) "…"`, `!vault …`, `"""…"""`
    if let Some(behind) = decoration(text, start) {
        start = blanks(behind);
    }
    let first = *bytes.get(start)?;
    if matches!(first, b'\n' | b'\r') {
        return None;
    }
    if matches!(first, b'|' | b'>') && is_colon && name.begins_line {
        return block_scalar(text, start, name.start);
    }
    // `Some("…")`, `PASSWORD('…')`, `b'…'`
    let wrapped = bytes[start..].iter().take(24).take_while(|byte| is_name_byte(**byte) || **byte == b':').count();
    match bytes.get(start + wrapped) {
        Some(b'(') if matches!(bytes.get(start + wrapped + 1), Some(b'"' | b'\'')) => start += wrapped + 1,
        Some(b'"' | b'\'') if wrapped == 1 && bytes[start].is_ascii_alphabetic() => start += 1,
        _ => {}
    }
    let escapes = bytes[start..].iter().take(16).take_while(|byte| **byte == b'\\').count();
    if let Some(quote @ (b'"' | b'\'' | b'`')) = bytes.get(start + escapes).copied()
        && name.opened != Some(quote)
    {
        let begin = start + escapes + 1;
        return Some((begin, quoted_end(bytes, begin, quote, escapes)));
    }
    let is_list = bytes[start] == b'[' && matches!(bytes.get(start + 1), Some(b'"' | b'\''));
    if is_list || name.is_quoted && matches!(bytes[start], b'{' | b'[') {
        return Some((start, nested_end(bytes, start)));
    }
    if bytes[start..].starts_with(b"<![CDATA[") {
        let end = memchr::memmem::find(&bytes[start..], b"]]>").map_or(text.len(), |at| start + at);
        return Some((start + 9, end));
    }
    let is_header = is_colon && is_secret_header(name.text);
    // A scheme is no secret, and tells what kind of one follows.
    if is_header && let Some(after) = scheme(text, start) {
        start = after;
    }
    if let Some(quote) = name.opened {
        let end = bytes[start..].iter().position(|byte| *byte == quote || *byte == b'\n').map_or(text.len(), |at| start + at);
        return Some((start, end)).filter(|(start, end)| start < end);
    }
    let line_end = lines.end_of(start).min(text.len());
    let is_line = is_colon && !name.is_quoted && name.begins_line && (lines.has_several || is_header);
    if is_line {
        let mut end = line_end;
        while end > start && matches!(bytes[end - 1], b' ' | b'\t' | b',') {
            end -= 1;
        }
        return Some((start, end)).filter(|(start, end)| start < end);
    }
    if bytes[start..].starts_with(b"{{") || bytes[start..].starts_with(b"${{") {
        let end = memchr::memmem::find(&bytes[start..line_end], b"}}").map_or(line_end, |at| start + at + 2);
        return Some((start, end));
    }
    if name.is_parameter {
        let rest = &text[start..line_end];
        // A `&` that no name follows is part of it: nobody escaped it.
        let end = rest.find(['#', ' ', '"', '\'', '<', '>', ';']).map_or(line_end, |at| start + at);
        let end = bytes[start..end]
            .iter()
            .enumerate()
            .position(|(at, byte)| *byte == b'&' && is_name_next(bytes, start + at + 1, line_end))
            .map_or(end, |at| start + at);
        return Some((start, end)).filter(|(start, end)| start < end);
    }
    if bytes[start..].starts_with(b"$(") {
        let end = memchr::memchr(b')', &bytes[start..line_end]).map_or(line_end, |at| start + at + 1);
        return Some((start, end));
    }
    let mut end = bare_end(bytes, start, line_end);
    // In `Server=db;Password=a b;User=c` a value ends at its `;`.
    let is_of_string = bytes[from - 1] == b'=' && text[..name.start].trim_end_matches(' ').ends_with(';');
    if is_of_string && bytes.get(end).is_some_and(|byte| *byte == b' ') {
        let more = memchr::memchr2(b';', b'=', &bytes[end..line_end]).map_or(end, |length| end + length);
        if bytes.get(more) == Some(&b';') {
            end = more;
        }
    }
    // A bracket that the value opened belongs to it.
    for (open, close) in [(b'{', b'}'), (b'(', b')'), (b'[', b']'), (b'<', b'>')] {
        let count = |sign: u8| memchr::memchr_iter(sign, &bytes[start..end]).count();
        if end < line_end && bytes[end] == close && count(open) > count(close) {
            end += 1;
        }
    }
    Some((start, end)).filter(|(start, end)| start < end)
}

/// Where the value begins behind marks of Markdown or HTML, or, after a name in quotes, behind the end of a line.
fn dressed(text: &str, start: usize, name: &Name<'_>) -> Option<usize> {
    pattern!(
        marks,
        r"^(?:\*{1,2}|_{1,2}|</?(?:b|i|em|strong|code|span|td|th|dt|dd|pre|tt)>)(?:[ \t]*(?:\*{1,2}|</?(?:b|i|em|strong|code|span|td|th|dt|dd|pre|tt)>))*[ \t]*"
    );
    let rest = text.get(start..)?;
    if name.is_quoted && rest.starts_with(['\n', '\r']) {
        let blanks = rest.bytes().take(64).take_while(u8::is_ascii_whitespace).count();
        return rest[blanks..].starts_with('"').then_some(start + blanks);
    }
    if !rest.starts_with(['*', '_', '<']) {
        return None;
    }
    let behind = start + marks()?.find(rest)?.end();
    text[behind..].starts_with(|c: char| !c.is_whitespace()).then_some(behind)
}

/// Where the value begins behind what only says what it is.
fn decoration(text: &str, start: usize) -> Option<usize> {
    pattern!(shape, r"^(?:string\(\d+\)[ \t]*|!+[A-Za-z][A-Za-z0-9_/.:-]*[ \t]+)[^\s]");
    let rest = text.get(start..)?;
    if rest.starts_with("\"\"\"") {
        return Some(start + 2);
    }
    if !rest.starts_with(['s', '!']) {
        return None;
    }
    shape()?.find(rest).map(|found| start + found.end() - found.as_str().chars().next_back().map_or(0, char::len_utf8))
}

/// Whether a header's whole value is secret.
fn is_secret_header(name: &str) -> bool {
    let folded = name.to_ascii_lowercase();
    folded.ends_with("authorization") || folded.ends_with("cookie")
}

/// Where the credentials begin behind a scheme of HTTP authentication; `None`: there is none.
fn scheme(text: &str, start: usize) -> Option<usize> {
    pattern!(
        shape,
        r#"(?i)^(?:bearer|basic|digest|token|negotiate|ntlm|hawk|hmac|aws4-hmac-sha256|sharedkey|sharedkeylite|geniekey|ssws|splunk|apikey|api-key|key|mac|oauth|dpop|gnap|scram-sha-(?:1|256)|vapid|privatetoken|bot)(?:[ \t+]|%20)+["']?"#
    );
    let found = shape()?.find(text.get(start..)?)?;
    Some(start + found.end()).filter(|end| *end < text.len())
}

/// The end of a quoted value. A quote is part of it where it is escaped once more than the opening one, or doubled.
fn quoted_end(bytes: &[u8], begin: usize, quote: u8, escapes: usize) -> usize {
    let mut at = begin;
    while at < bytes.len() {
        worked!(1);
        if bytes[at] != quote {
            at += 1;
            continue;
        }
        let before = bytes[begin..at].iter().rev().take_while(|byte| **byte == b'\\').count();
        let is_escaped = if escapes == 0 { before % 2 == 1 } else { before > escapes };
        let is_doubled = escapes == 0 && quote == b'\'' && bytes.get(at + 1) == Some(&quote);
        if is_doubled {
            at += 2;
            continue;
        }
        if !is_escaped {
            return at - before.min(escapes);
        }
        at += 1;
    }
    bytes.len()
}

/// The end of an object or a list, or of the text.
fn nested_end(bytes: &[u8], start: usize) -> usize {
    let (mut depth, mut is_text, mut at) = (0usize, false, start);
    while at < bytes.len() {
        worked!(1);
        match bytes[at] {
            b'\\' => at += 1,
            b'"' => is_text = !is_text,
            b'{' | b'[' if !is_text => depth += 1,
            b'}' | b']' if !is_text => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return at + 1;
                }
            }
            _ => {}
        }
        at += 1;
    }
    bytes.len()
}

/// The end of a value without quotes: a space, or a separator with the next name behind it, or a closing sign at the end.
fn bare_end(bytes: &[u8], start: usize, line_end: usize) -> usize {
    let mut at = start;
    while at < line_end {
        let byte = bytes[at];
        match byte {
            b' ' | b'\t' => return at,
            b'&' if is_name_next(bytes, at + 1, line_end) => return at,
            b',' | b';' | b'&' | b')' | b'}' | b']' | b'"' | b'\'' | b'>' | b'<' | b'`' | b'|' => {
                let signs = bytes[at..line_end]
                    .iter()
                    .take_while(|byte| {
                        matches!(byte, b',' | b';' | b')' | b'}' | b']' | b'"' | b'\'' | b'>' | b'/' | b'`' | b'|')
                    })
                    .count()
                    .max(1);
                let behind = at + signs;
                if behind >= line_end
                    || matches!(bytes[behind], b' ' | b'\t')
                    || is_name_next(bytes, behind, line_end)
                    || byte == b'<'
                {
                    return at;
                }
                at = behind;
            }
            _ => at += 1,
        }
    }
    line_end
}

/// Whether a name and a sign follow.
fn is_name_next(bytes: &[u8], from: usize, line_end: usize) -> bool {
    let rest = &bytes[from..line_end];
    let length = rest.iter().take(NAME).take_while(|byte| is_name_byte(**byte) || matches!(byte, b'[' | b'"' | b'\'')).count();
    length > 0 && matches!(rest[length..].iter().find(|byte| **byte != b' '), Some(b'=' | b':'))
}

/// A block of YAML (`|`, `>`): the lines that are indented more than the name.
fn block_scalar(text: &str, sign: usize, name: usize) -> Option<(usize, usize)> {
    let bytes = text.as_bytes();
    let header = bytes[sign..].iter().position(|byte| *byte == b'\n')? + sign;
    if !bytes[sign + 1..header].iter().all(|byte| matches!(byte, b'-' | b'+' | b' ' | b'\r') || byte.is_ascii_digit()) {
        return None;
    }
    let line = bytes[..name].iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let indent = name - line;
    let (mut at, mut end) = (header + 1, header + 1);
    while at < bytes.len() {
        let stop = bytes[at..].iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |length| at + length);
        let deep = bytes[at..stop].iter().take_while(|byte| **byte == b' ').count();
        let is_blank = bytes[at..stop].iter().all(u8::is_ascii_whitespace);
        if !is_blank && deep <= indent {
            break;
        }
        if !is_blank {
            end = stop;
        }
        at = stop + 1;
    }
    let start = header + 1 + bytes[header + 1..].iter().take_while(|byte| matches!(byte, b' ' | b'\n')).count();
    Some((start, end)).filter(|(start, end)| start < end)
}

/// `--password x`. What has a `=` is found there.
fn flag(text: &str, at: usize, add: &mut dyn FnMut(usize, usize)) -> usize {
    let bytes = text.as_bytes();
    let start = at + 2;
    let length = bytes[start..]
        .iter()
        .take(NAME)
        .take_while(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
        .count();
    let end = start + length;
    if length < 3
        || !matches!(bytes.get(end), Some(b' ' | b'\t'))
        || bytes.get(at.wrapping_sub(1)).is_some_and(u8::is_ascii_alphanumeric)
    {
        return end.min(at + 2);
    }
    if class(&text[start..end]) == Class::Plain {
        return end;
    }
    word_after(text, end, add).unwrap_or(end)
}

/// The next word of a command line, if it is a value. Adds it; gives back its end.
fn word_after(text: &str, from: usize, add: &mut dyn FnMut(usize, usize)) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut start = from + bytes[from..].iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
    // What a shell gives on standard input.
    if bytes[start..].starts_with(b"<<<") {
        start += 3 + bytes[start + 3..].iter().take_while(|byte| **byte == b' ').count();
    }
    let quote = bytes.get(start).copied().filter(|byte| matches!(byte, b'"' | b'\''));
    let end = if let Some(quote) = quote {
        start += 1;
        quoted_end(bytes, start, quote, 0)
    } else {
        start + bytes[start..].iter().take_while(|byte| !byte.is_ascii_whitespace() && **byte != b'|').count()
    };
    let value = text.get(start..end)?;
    if value.is_empty() || value.starts_with("--") || is_placeholder(value) {
        return None;
    }
    add(start, end);
    Some(end)
}

/// `<password>x</password>`, whatever its namespace and attributes.
fn element(text: &str, at: usize, add: &mut dyn FnMut(usize, usize)) -> usize {
    let bytes = text.as_bytes();
    let length = bytes[at + 1..].iter().take(NAME).take_while(|byte| is_name_byte(**byte) || **byte == b':').count();
    let end = at + 1 + length;
    if length < 3 || !matches!(bytes.get(end), Some(b'>' | b' ' | b'\t' | b'\n')) {
        return at + 1;
    }
    let Some(name) = text.get(at + 1..end) else { return at + 1 };
    if !is_secret(name.rsplit(':').next().unwrap_or_default()) {
        return at + 1;
    }
    let Some(close) = bytes[end..].iter().take(512).position(|byte| *byte == b'>').map(|close| end + close) else { return end };
    if bytes[close - 1] == b'/' {
        return end;
    }
    let mut start = close + 1;
    let stop = if bytes[start..].starts_with(b"<![CDATA[") {
        start += 9;
        memchr::memmem::find(&bytes[start..], b"]]>").map_or(text.len(), |stop| start + stop)
    } else {
        // Without an end it is XML that was cut off, or no XML at all.
        let stop = bytes[start..].iter().position(|byte| *byte == b'<').map(|stop| start + stop);
        let is_xml = || text.trim_start().starts_with('<');
        let Some(stop) = stop.or_else(|| is_xml().then_some(text.len())) else { return close };
        stop
    };
    let value = &text[start..stop];
    let is_none = is_placeholder(value) || is_small(name, value);
    if start < stop && !value.trim().is_empty() && !is_none {
        add(start, stop);
    }
    stop
}

/// Adds the first group of each match that has one.
fn first_group(text: &str, shape: Option<&'static regex::Regex>, add: &mut dyn FnMut(usize, usize)) {
    for found in shape.into_iter().flat_map(|shape| shape.captures_iter(text)) {
        if let Some(value) = found.iter().skip(1).flatten().next().filter(|value| !is_placeholder(value.as_str())) {
            add(value.start(), value.end());
        }
    }
}

/// Of each match whose first group is a secret name, adds the next group that it has.
fn named_group(text: &str, shape: Option<&'static regex::Regex>, add: &mut dyn FnMut(usize, usize)) {
    for found in shape.into_iter().flat_map(|shape| shape.captures_iter(text)) {
        let value = found.iter().skip(2).flatten().next();
        if let (Some(name), Some(value)) = (found.get(1), value)
            && is_secret(name.as_str())
            && !is_placeholder(value.as_str())
        {
            add(value.start(), value.end());
        }
    }
}

/// Adds all groups of each match.
fn all_groups(text: &str, shape: Option<&'static regex::Regex>, add: &mut dyn FnMut(usize, usize)) {
    for found in shape.into_iter().flat_map(|shape| shape.captures_iter(text)) {
        for value in found.iter().skip(1).flatten().filter(|value| !is_placeholder(value.as_str())) {
            add(value.start(), value.end());
        }
    }
}

// --- names with only a space behind them ---

/// SQL and configuration files, where a space stands between a name and its value.
fn spaced(text: &str, lower: &str, add: &mut dyn FnMut(usize, usize)) {
    pattern!(
        identified,
        r#"(?i)identified\s+(?:with\s+\S+\s+)?(?:by|as)\s+(?:password\s+)?(?:values\s+)?(?:'((?:[^']|''|\\')*)'|"([^"]*)"|([^\s;'"]+))"#
    );
    pattern!(set, r"(?i)set\s+password\s+(?:for\s+[^=;]{1,200})?=\s*(?:(?:old_)?password\s*\(\s*)?'((?:[^']|'')*)'");
    pattern!(
        server,
        r"(?im)(?:^|\s)(?:requirepass|masterauth|rootpw|olcRootPW|enable secret(?: \d)?|snmp-server community|auth-pass|ACL SETUSER \S+ on >|(?:unseal|recovery) key \d+:|username \S+(?: privilege \d+ (?:password|secret)(?: \d)?| (?:password|secret) \d))[ \t]*(?:--[a-z]+[ \t]+)?([^\s>~]+)"
    );
    pattern!(
        called,
        r#"(?i)(?:\bsp_(?:addlogin|password)\s+[^;\n]{0,80}?,|\bcreateUser\(\s*["'][^"']*["']\s*,|\bchangeUserPassword\(\s*["'][^"']*["']\s*,|\bdb\.auth\(\s*["'][^"']*["']\s*,|password\s+(?:from\s+'[^']*'\s+)?to|password\s+like|password\s*(?:<>|!=)|@\w*(?:pwd|pass\w{0,5})\s+n?varchar\s*\([^)]{0,8}\)\s*=|password\s+(?:E|N|U&))\s*N?["']([^"']+)["']"#
    );
    pattern!(community, r"(?im)^[ \t]*(?:snmp-server[ \t]+)?community[ \t]+([^\s:=]+)[ \t]+(?:ro|rw)\b");
    pattern!(redis, r"(?im)^\s*(?:\d+\)\s*)?AUTH\s+(?:[A-Za-z0-9_.-]+\s+)?([^\s]{4,})\s*$");
    pattern!(connect, r"(?i)\bconnect\s+[A-Za-z0-9_$#]+/([^\s@]+)@");
    pattern!(literal, r"(?i)--from-literal[= ]['\x22]?[A-Za-z0-9_.-]+=([^\s'\x22]+)");
    pattern!(
        changed,
        r#"(?i)\b(?:password|passphrase|secret|token|api key|pin)["']?\s+(?:was\s+)?changed\s+from\s+["']?([^\s"']+)["']?\s+to\s+["']?([^\s"']+)"#
    );
    pattern!(crypt, r"(?i)pgp_sym_(?:en|de)crypt(?:_bytea)?\s*\([^']{0,200}?,\s*'((?:[^']|'')*)'");
    pattern!(insert, r"(?i)insert\s+into\s+[^()]{1,80}\(([^()]{1,400})\)\s*values\s*\(([^()]{1,2000})\)");
    pattern!(netrc, r"(?i)\bmachine\s+\S+\s+login\s+\S+\s+password\s+(\S+)");
    // `define('DB_PASSWORD', '…')`, `setProperty("db.password", "…")`
    pattern!(
        argument,
        r#"\b(?:define|putenv|setenv|setProperty|set_property|setRequestHeader|setHeader|addHeader|set_header|set_env)\(\s*["']([A-Za-z][A-Za-z0-9_.:-]{2,60})["']\s*,\s*(?:"([^"\n]+)"|'([^'\n]+)')\s*\)"#
    );
    pattern!(hcl, r#"(?s)variable\s+"([^"]{1,80})"\s*\{[^}]{0,400}?default\s*=\s*"([^"]*)""#);
    let has = |word: &str| lower.contains(word);
    if has("identified") && ["user", "role", "grant", "database"].iter().any(|word| has(word)) {
        first_group(text, identified(), add);
    }
    if has("set password") {
        first_group(text, set(), add);
    }
    if has("pass")
        || has("auth")
        || has("rootpw")
        || has("unseal")
        || has("username ")
        || has("recovery")
        || has("secret")
        || has("community")
        || has("setuser")
    {
        first_group(text, server(), add);
    }
    if has("community") {
        first_group(text, community(), add);
    }
    first_group(text, called(), add);
    if has("auth") {
        first_group(text, redis(), add);
    }
    if has("connect ") {
        first_group(text, connect(), add);
    }
    if has("from-literal") {
        first_group(text, literal(), add);
    }
    if has("changed from") {
        for found in changed().into_iter().flat_map(|shape| shape.captures_iter(text)) {
            for value in found.iter().skip(1).flatten() {
                add(value.start(), value.end());
            }
        }
    }
    if has("value") {
        if text.contains('<') {
            markup(text, add);
        }
        value_pairs(text, add);
    } else if text.contains("</") {
        markup(text, add);
    }
    if has("pgp_sym") {
        first_group(text, crypt(), add);
    }
    if has("machine ") {
        first_group(text, netrc(), add);
    }
    if has("variable") {
        named_group(text, hcl(), add);
    }
    if has("insert") {
        inserted(insert(), text, add);
    }
    named_group(text, argument(), add);
    named(text, add);
}

/// `name: DB_PASSWORD` and `value: …` beside each other, in either order.
fn value_pairs(text: &str, add: &mut dyn FnMut(usize, usize)) {
    pattern!(
        paired,
        r#"(?im)\b(?:key|name|field|variable)\s*[=:]\s*["']?([A-Za-z0-9_.-]{3,80})["']?[\s,;]+value\s*[=:]\s*(?:"([^"]*)"|'([^']*)'|([^\s,;"']+))"#
    );
    pattern!(
        reversed,
        r#"(?im)\bvalue\s*[=:]\s*["']?([^\s"',;]+)["']?[\s,;]+(?:key|name|field|variable)\s*[=:]\s*["']?([A-Za-z0-9_.-]{3,80})"#
    );
    named_group(text, paired(), add);
    for found in reversed().into_iter().flat_map(|shape| shape.captures_iter(text)) {
        if let (Some(value), Some(name)) = (found.get(1), found.get(2))
            && is_secret(name.as_str())
            && !is_placeholder(value.as_str())
        {
            add(value.start(), value.end());
        }
    }
}

/// A name, a space and a value in quotes, or one that looks random.
fn named(text: &str, add: &mut dyn FnMut(usize, usize)) {
    pattern!(quoted, r#"(?i)([A-Za-z][A-Za-z0-9_.-]{2,60})[ \t]+(?:'((?:[^']|'')*)'|"([^"]*)"|([^\s'"<>(){}\[\]]{10,}))"#);
    let mut at = 0;
    while let Some(found) = quoted().and_then(|shape| shape.captures_at(text, at)) {
        let (Some(name), Some(whole)) = (found.get(1), found.get(0)) else { break };
        at = name.end();
        if class(name.as_str()) != Class::Secret {
            continue;
        }
        let bare = found.get(4);
        let value = found.get(2).or_else(|| found.get(3)).or(bare);
        let Some(value) = value.filter(|value| !is_placeholder(value.as_str())) else { continue };
        // `secret "db-creds" not found` names one.
        let is_password = ["pass", "pwd"].iter().any(|word| name.as_str().to_ascii_lowercase().contains(word));
        if bare.is_none() && !is_password && !name.as_str().contains('_') && !looks_random(value.as_str()) {
            continue;
        }
        let is_token = looks_random(value.as_str()) && !value.as_str().contains([':', '=', '/', '@']);
        if bare.is_some() && !is_token {
            continue;
        }
        add(value.start(), value.end());
        at = whole.end();
    }
}

/// Names in attributes of XML and HTML: the value in another attribute, in the element, or in the next one.
fn markup(text: &str, add: &mut dyn FnMut(usize, usize)) {
    pattern!(
        element,
        r#"(?is)<[a-z][a-z0-9:_-]*\s[^<>]{0,400}?\b(?:name|key|type|id|parameter)\s*=\s*["']([^"'<>]{1,120})["'][^<>]{0,400}>"#
    );
    pattern!(value, r#"(?is)\b(?:value|content|default)\s*=\s*(?:"([^"]*)"|'([^']*)')"#);
    pattern!(inside, r"(?is)^\s*(?:<(?:value|string|data)>)?([^<>]+)</");
    pattern!(listed, r"(?is)<key>([^<>]{1,120})</key>\s*<(?:string|data)>([^<>]*)</");
    for found in element().into_iter().flat_map(|shape| shape.captures_iter(text)) {
        let (Some(all), Some(name)) = (found.get(0), found.get(1)) else { continue };
        if !is_secret(name.as_str()) {
            continue;
        }
        let own = value().and_then(|shape| shape.captures(all.as_str()));
        let own =
            own.and_then(|own| own.get(1).or_else(|| own.get(2)).map(|own| (all.start() + own.start(), all.start() + own.end())));
        let close = text.floor_char_boundary(all.end() + 4096);
        let below = || {
            let part = inside()?.captures(&text[all.end()..close])?.get(1)?;
            Some((all.end() + part.start(), all.end() + part.end()))
        };
        if let Some((start, end)) = own.or_else(below).filter(|(start, end)| !is_placeholder(&text[*start..*end])) {
            add(start, end);
        }
    }
    named_group(text, listed(), add);
}

/// `INSERT INTO users(email, password) VALUES ('a', '…')`: the value of the column.
fn inserted(shape: Option<&'static regex::Regex>, text: &str, add: &mut dyn FnMut(usize, usize)) {
    for found in shape.into_iter().flat_map(|shape| shape.captures_iter(text)) {
        let (Some(columns), Some(values)) = (found.get(1), found.get(2)) else { continue };
        let columns = columns.as_str().split(',').map(|column| is_secret(column.trim_matches([' ', '"', '`', '[', ']'])));
        let mut at = values.start();
        for is_secret in columns {
            let rest = &text.as_bytes()[at..values.end()];
            let blanks = rest.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
            let start = at + blanks;
            let (from, to, next) = if rest.get(blanks) == Some(&b'\'') {
                let end = quoted_end(text.as_bytes(), start + 1, b'\'', 0).min(values.end());
                (start + 1, end, end + 1)
            } else {
                let end = rest.iter().position(|byte| *byte == b',').map_or(values.end(), |length| at + length);
                (start, end, end)
            };
            if is_secret && from < to && !is_placeholder(&text[from..to]) {
                add(from, to);
            }
            let comma = text.as_bytes()[next.min(values.end())..values.end()].iter().position(|byte| *byte == b',');
            let Some(comma) = comma else { break };
            at = next + comma + 1;
        }
    }
}

/// Command lines whose short options carry a secret.
fn commands(text: &str, lower: &str, add: &mut dyn FnMut(usize, usize)) {
    pattern!(
        mysql,
        r"(?i)\b(?:mysql|mysqldump|mysqladmin|mariadb|mariadb-dump|7za?|7zz|rar|unrar)\b[^\n|;]{0,200}?\s-p([^\s'\x22-][^\s]*|'[^']*'|\x22[^\x22]*\x22)"
    );
    pattern!(
        spaced,
        r"(?i)\b(?:sshpass|(?:docker|podman|nerdctl|helm|helm registry|skopeo|buildah|oras|crane|az|cf|oc|twine|doctl)\s+(?:registry\s+)?(?:login|auth|upload)|ldapsearch|ipmitool|sqlcmd|bcp|isql|mongo|mongosh|mongodump|useradd|usermod|ldap\w+|mosquitto_\w+|psexec|winexe|rabbitmqadmin|kinit|keytool|zip|unzip|ansible-vault|redis-cli|valkey-cli)\b[^\n|;]{0,200}?\s-(?:p|P|a|w|storepass|keypass|passin|passout)[ \t]*(?:pass:)?('[^']+'|\x22[^\x22]+\x22|[^\s'\x22-][^\s]*)"
    );
    pattern!(user, r"(?i)(?:\s-u|\s-a|--user|--proxy-user|--userpass|-U)[ =]*['\x22]?([^\s:'\x22/]{1,80}):([^\s'\x22]+)");
    pattern!(snmp, r"(?i)\bsnmp\w+\b[^\n|;]{0,160}?\s-(?:c|A|X)\s*(\S+)(?:[^\n|;]{0,80}?\s-X\s*(\S+))?");
    pattern!(
        oracle,
        r#"(?i)(?:\b(?:sqlplus|sqlcl|expdp|impdp|sqlldr|rman target)\b\s+(?:-\S+\s+)*|jdbc:oracle:(?:thin|oci8?):|\)\)\)/)[A-Za-z][A-Za-z0-9_$#.]{0,60}/("[^"]+"|[^\s@"]+)"#
    );
    pattern!(
        after_user,
        r"(?i)\b(?:net\s+user|rabbitmqctl\s+(?:add_user|change_password|authenticate_user)|htpasswd\s+-\w*b\w*\s+\S+|smbpasswd\s+\S*|svn\s+--username)\s+\S+\s+([^\s/-]\S*)"
    );
    pattern!(chpasswd, r#"(?i)echo\s+(?:-\w+\s+)?["']?[^\s:"']+:([^\s"']+)["']?\s*\|\s*(?:sudo\s+)?chpasswd"#);
    pattern!(piped, r#"(?i)echo\s+(?:-\w+\s+)?["']?([^\s"'|]+)["']?\s*\|\s*(?:sudo\s+-S|docker\s+login|passwd\s+--stdin)"#);
    pattern!(vault, r"(?i)\bvault\s+(?:kv\s+put|write)\s+(\S+)((?:\s+[A-Za-z0-9_.-]+=\S+)+)");
    pattern!(dsn, r"(?:^|[\s\x22'=])[A-Za-z0-9_.-]{1,64}:([^\s@/]+)@(?:tcp|unix)\(");
    pattern!(
        is_now,
        r"(?i)\b(?:password|passphrase|passcode|api key|access key|secret key|token)\s+(?:is|was set to|=)\s*:?\s+['\x22]?([^\s'\x22]{6,})"
    );
    pattern!(mysqld, r"(?i)temporary password is generated for \S+:\s+(\S+)");
    pattern!(
        otp,
        r"(?i)\b(?:verification|security|login|confirmation|authentication|one[- ]time|access|2fa|mfa|otp|passcode)\s+(?:pass)?(?:code|pin|password|otp)?\s*(?:is|:|=)\s*([0-9]{4,8})\b"
    );
    let has = |words: &[&str]| words.iter().any(|word| lower.contains(word));
    if has(&[" -p"]) && has(&["mysql", "mariadb", "7z", "rar"]) {
        all_groups(text, mysql(), add);
    }
    if has(&[" -p", " -a", " -w", "-storepass", "-keypass", "-pass"]) {
        all_groups(text, spaced(), add);
    }
    if has(&["snmp"]) {
        all_groups(text, snmp(), add);
    }
    if has(&["sqlplus", "sqlcl", "expdp", "impdp", "sqlldr", "rman", "jdbc:oracle", ")))/"]) {
        all_groups(text, oracle(), add);
    }
    if has(&["net user", "rabbitmqctl", "htpasswd", "smbpasswd"]) {
        all_groups(text, after_user(), add);
    }
    if has(&["chpasswd"]) {
        all_groups(text, chpasswd(), add);
    }
    if has(&["echo"]) {
        all_groups(text, piped(), add);
    }
    if has(&["code", "2fa", "mfa", "otp", "pin", "one-time", "one time"]) {
        all_groups(text, otp(), add);
    }
    if has(&["@tcp(", "@unix("]) {
        all_groups(text, dsn(), add);
    }
    if has(&["temporary password"]) {
        all_groups(text, mysqld(), add);
    }
    if has(&[" is ", " was set", " is:", " = "]) {
        for value in is_now().into_iter().flat_map(|shape| shape.captures_iter(text)).filter_map(|found| found.get(1)) {
            if looks_random(value.as_str().trim_end_matches(['.', ','])) {
                add(value.start(), value.end());
            }
        }
    }
    if has(&[" -u", "--user", "--proxy-user", "http -a", "https -a"]) {
        for found in user().into_iter().flat_map(|shape| shape.captures_iter(text)) {
            if let Some(value) = found
                .get(2)
                .filter(|value| !is_placeholder(value.as_str()) && !value.as_str().bytes().all(|byte| byte.is_ascii_digit()))
            {
                add(value.start(), value.end());
            }
        }
    }
    if has(&["vault "]) {
        for found in vault().into_iter().flat_map(|shape| shape.captures_iter(text)).filter_map(|found| found.get(2)) {
            let mut at = found.start();
            for pair in found.as_str().split_ascii_whitespace() {
                let start = at + text[at..].find(pair).unwrap_or_default();
                if let Some((name, value)) = pair.split_once('=').filter(|(_, value)| !is_placeholder(value)) {
                    add(start + name.len() + 1, start + name.len() + 1 + value.len());
                }
                at = start + pair.len();
            }
        }
    }
}

/// Tools that are called with a secret in an option of their own.
fn tools(text: &str, lower: &str, add: &mut dyn FnMut(usize, usize)) {
    const WORDS: &[&str] = &[
        "openssl",
        "smb",
        "rpcclient",
        "vault login",
        "ssh-keygen",
        "storepass",
        "keypass",
        "lftp",
        "securestring",
        "htpasswd",
        "net use",
        "curl",
        "xfreerdp",
        "kinit",
        "wpa_passphrase",
        "doctl",
        "psk",
    ];
    pattern!(
        shape,
        r#"(?im)(?:\bopenssl\b[^\n|;]{0,200}?\s-(?:k[ \t]+|pass(?:in|out)?[ \t]+pass:)(\S+)|\b(?:smbclient|smbget|rpcclient)\b[^\n|;]{0,200}?\s-U[ \t]*[^\s%]+%(\S+)|\bvault\s+login\s+(?:-[a-z-]+(?:=\S+)?\s+){0,8}([^\s=-][^\s=]*)[ \t]*$|\bssh-keygen\b[^\n|;]{0,200}?\s-(?:N|P)[ \t]+(?:'([^'\n]+)'|"([^"\n]+)"|([^\s'"]+))|-(?:src|dest)?(?:store|key)pass[ \t]+([^\s-]\S*)|\blftp\b[^\n|;]{0,200}?\s-u[ \t]*[^\s,]+,(\S+)|\bConvertTo-SecureString\s+(?:-String\s+)?["']([^"'\n]+)|\bhtpasswd\s+-\w*n\w*b\w*\s+\S+\s+(\S+)|\bcurl\b[^\n|;]{0,200}?\s(?:(?-i:-E)|--cert)[ =]+[^\s:]{2,}:([^\s/]\S*)|\bxfreerdp\b[^\n|;]{0,200}?\s/p:(\S+)|\bkinit\b[^\n|;]{0,100}?<<<\s*["']?([^\s"']+)|\bwpa_passphrase\s+\S+\s+(\S+)|\bdoctl\s+auth\s+init\s+(?:-t|--access-token)[ =](\S+)|\bPSK\s+"([^"\n]+)"|\bnet\s+use\s+[^\n]{0,160}?\\\S+\s+([^\s/]\S*)\s+/user)"#
    );
    if WORDS.iter().any(|word| lower.contains(word)) {
        all_groups(text, shape(), add);
    }
}

/// What spans lines: a part of a form, a Kubernetes Secret, a `PuTTY` key file.
fn blocks(text: &str, lower: &str, add: &mut dyn FnMut(usize, usize)) {
    pattern!(
        part,
        r#"(?is)content-disposition:\s*form-data;[^\n]*?name="?([^"\n;]{1,80})"?[^\n]*\n(?:[^\n]+\n)*?\r?\n(.*?)(?:\r?\n--|\z)"#
    );
    if lower.contains("form-data") {
        named_group(text, part(), add);
    }
    if lower.contains("kind: secret") {
        secret_manifest(text, add);
    }
    if lower.contains("putty-user-key-file") || lower.contains("private-lines") {
        pattern!(ppk, r"(?s)Private-Lines:\s*\d+\s*\n(.*?)(?:\nPrivate-MAC|\z)");
        for value in ppk().into_iter().flat_map(|shape| shape.captures_iter(text)).filter_map(|found| found.get(1)) {
            add(value.start(), value.end());
        }
    }
}

/// Secrets in YAML: each value under `data` and `stringData`, wherever `kind` stands.
fn secret_manifest(text: &str, add: &mut dyn FnMut(usize, usize)) {
    let mut at = 0;
    for document in text.split_inclusive("\n---") {
        let is_secret = document.lines().any(|line| line.trim().trim_start_matches("- ").eq_ignore_ascii_case("kind: Secret"));
        if is_secret {
            manifest(document, at, add);
        }
        at += document.len();
    }
}

/// The values of a document that begins at a place of the text.
fn manifest(document: &str, offset: usize, add: &mut dyn FnMut(usize, usize)) {
    let (mut at, mut section) = (offset, None);
    for line in document.split_inclusive('\n') {
        let begin = at;
        at += line.len();
        let trimmed = line.trim();
        let indent = line.len() - line.trim_start().len();
        if section.is_some_and(|section| indent <= section) && !trimmed.is_empty() {
            section = None;
        }
        if section.is_some() && !trimmed.is_empty() {
            // `name: value`, or a line of a block.
            let value = trimmed.split_once(':').map_or(trimmed, |(_, value)| value.trim());
            if !value.is_empty() && !matches!(value, "|" | "|-" | ">" | ">-") {
                let start = begin + line.rfind(value).unwrap_or_default();
                add(start, start + value.len());
            }
        }
        if matches!(trimmed.trim_start_matches("- "), "data:" | "stringData:") {
            section = Some(indent);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::found, *};

    fn all(text: &str, add: &mut dyn FnMut(usize, usize)) {
        kv(text, u8::MAX, add);
    }

    #[test]
    fn a_value_is_cut_out_whole_and_nothing_else() {
        for (text, wanted) in [
            ("Server=db;Password=s3cr3t; DB_PASSWORD = 'a b' api-key: k9", &["s3cr3t", "a b", "k9"][..]),
            (r#"{\"password\":\"hunter2\"} pwd="two warm so"#, &["hunter2", "two warm so"]),
            ("password=aB3,x}y)z next", &["aB3,x}y)z"]),
            ("Login(user=bob, password=a,b, mfa=false)", &["a,b"]),
            (r#"password="a\"b" x"#, &[r#"a\"b"#]),
            ("password='a''b' x", &["a''b"]),
            ("password: one two three\nhost: x", &["one two three"]),
            ("a:\n  password: |\n    one\n    two\n  b: x", &["one\n    two"]),
            ("Authorization: Bearer abc def", &["abc def"]),
            ("curl -H 'X-Api-Key: abc def' http://x", &["abc def"]),
            ("<ns:password a=\"b\">x y</ns:password>", &["x y"]),
            ("tool --password x --verbose", &["x"]),
            ("password => \"x\", token := 'y'", &["x", "y"]),
            (r#"{"a": 12345678901234567890, "token": {"x": "}"}, "b": 1}"#, &[r#"{"x": "}"}"#]),
            ("Password for bob: x", &["x"]),
            ("a=1&password=x&y&b=2", &["x&y"]),
            ("Server=db;Password=a b c;User=x", &["a b c"]),
            ("~ token = \"a1\" -> \"b2\"", &["a1", "b2"]),
            ("*Password:* Tr0ub4dor", &["Tr0ub4dor"]),
            ("<b>Password:</b> <code>Tr0ub4dor</code>", &["Tr0ub4dor"]),
            ("{\"password\":\n  \"x1y2\"", &["x1y2"]),
            ("gh auth login --with-token <<< abc123", &["abc123"]),
            ("define('DB_PASSWORD', 'x1y2');", &["x1y2"]),
            ("\u{43f}\u{430}\u{440}\u{43e}\u{43b}\u{44c}: x1y2", &["x1y2"]),
            ("Mot de passe : x1y2", &["x1y2"]),
            ("Unseal Key 1: q1w2e3", &["q1w2e3"]),
            ("password: none -> Tr0ub4dorX9q", &["Tr0ub4dorX9q"]),
            ("{'passphrase': 'correct horse battery staple'}", &["correct horse battery staple"]),
            ("password: 'no more tears'", &["no more tears"]),
            ("community x1y2z3 ro", &["x1y2z3"]),
            ("username bob privilege 15 secret 5 x1y2z3", &["x1y2z3"]),
            ("datadog key := `wodklnbe86rrgejtf5`", &["wodklnbe86rrgejtf5"]),
            ("openssl enc -aes-256-cbc -k x1y2 -in f", &["x1y2"]),
            ("openssl rsa -passin pass:x1y2 -pubin -in f", &["x1y2"]),
            ("smbclient //h/s -U bob%x1y2", &["x1y2"]),
            ("vault login x1y2", &["x1y2"]),
            ("ssh-keygen -t rsa -N x1y2 -f k", &["x1y2"]),
            ("keytool -importkeystore -srcstorepass x1 -deststorepass y2 -destkeypass z3", &["x1", "y2", "z3"]),
            ("lftp -u bob,x1y2 host", &["x1y2"]),
            ("ConvertTo-SecureString 'x1y2' -AsPlainText", &["x1y2"]),
            (r"net use Z: \\srv\share x1y2 /user:bob", &["x1y2"]),
            ("passwords: ['x1', 'x2'] b", &["['x1', 'x2']"]),
        ] {
            assert_eq!(found(all, text), wanted, "{text}");
        }
    }

    #[test]
    fn what_only_talks_about_a_secret_stays() {
        for text in [
            "password:\nuser: bob",
            "password: required, password=***, pwd=${DB_PASSWORD} secret=null",
            "password={{ .Values.pw }}",
            "wrong password: 3 attempts left",
            "pwd=/srv/app shell=bash",
            "using password: YES",
            "password length: 14",
            "password=[REDACTED] token=<token> secret=%s",
            "permission secrets:read granted",
            "scopes tokens:write, api_key:create user:password:update",
            "wrong password: attempt 3 of 5",
            "Authorization: failed",
            "existingSecret: pg-auth",
            "authorization: denied by policy p-1",
            "join our community today",
            "Enter your username and password to continue",
            "configMapKeyRef:\n  name: shop-api\n  key: LOG_LEVEL",
            "topic=session, key=42",
            "Created issue with Jira key: STENO-42",
            "i18n.t(\"password\", \"Passwort\")",
            "curl -e https://ref.example.com:8080/a https://x",
            "*Password:* _required_",
        ] {
            assert!(found(all, text).is_empty(), "{text}: {:?}", found(all, text));
        }
    }
}
