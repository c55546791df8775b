//! The one pass over an event.
use std::{borrow::Cow, collections::HashMap, sync::Arc};

use parking_lot::MutexGuard;
use steno_crds::{Detector, RedactionAction as Action, Segment, fold_name};
use steno_event::{
    json::{Form, Json, MARKER, Object, Redacted, parse, write_json},
    names::IDENTIFIERS,
};

use crate::{
    HashKey,
    action::{self, REPLACED},
    detect::{self, Hit, INSIDE, personal},
    names::{self, Class},
    pairs,
    plain::PlainNames,
    report::Entry,
    rules::{Found, Redactor},
};

/// The pass.
pub(crate) struct Walk<'r> {
    rules: &'r Redactor,
    pub(crate) entries: Vec<Entry>,
    hits: Vec<Hit>,
    /// How many strings of JSON this is in.
    nested: u8,
    /// The event is about Kubernetes Secrets: what lies under `data` and `stringData` is one.
    is_of_secrets: bool,
    /// Hashes identifiers where the policy has no key.
    identity: Option<&'r HashKey>,
    plain: Option<MutexGuard<'r, PlainNames>>,
}

/// What is known of a place in the tree.
#[derive(Clone, Default)]
struct Place {
    /// Patterns that go on below: which, and how many steps of it are matched. Rules on paths come first, then exceptions.
    states: Vec<(usize, usize)>,
    /// Exceptions that hold here and below.
    except: Vec<usize>,
    /// Steps that are identifiers' so far; `None`: none can follow.
    identifier: Option<usize>,
    /// The value is an identifier.
    is_identifier: bool,
}

/// A part of a text that goes.
struct Span {
    start: usize,
    end: usize,
    action: Action,
    rule: Arc<str>,
}

/// A member whose name held secrets.
struct Renamed {
    index: usize,
    /// Bytes of the old name.
    length: usize,
    spans: Vec<Span>,
    /// What was found below it.
    entries: std::ops::Range<usize>,
}

/// What a member's name is.
struct Name {
    /// Its class, if neither it nor anything but that class speaks of secrets or personal data.
    class: Option<Class>,
    /// What it says to its object ([`pairs::says`]).
    says: u8,
}

/// Words of a command line that are looked at together.
const MOST_WORDS: usize = 128;
/// Levels of JSON in strings that are looked into as JSON; deeper ones as text.
const NESTED: u8 = 4;

impl Place {
    fn excepted(&self, except: &[usize]) -> bool {
        except.iter().any(|pattern| self.except.contains(pattern))
    }

    /// The strongest of the rules that make no exception here.
    fn strongest<'f>(&self, rules: &'f [Found]) -> Option<&'f Found> {
        rules.iter().filter(|found| !self.excepted(&found.except)).max_by_key(|found| found.action)
    }
}

// === impl Walk ===

impl<'r> Walk<'r> {
    pub(crate) fn new(rules: &'r Redactor, plain: Option<MutexGuard<'r, PlainNames>>, identity: Option<&'r HashKey>) -> Self {
        let (entries, hits) = Default::default();
        Self { rules, entries, hits, nested: 0, is_of_secrets: false, identity, plain }
    }

    /// Redacts an event's members.
    pub(crate) fn event(&mut self, members: &mut Object<'_>) {
        let patterns = self.rules.paths.len() + self.rules.patterns.len();
        let place =
            Place { states: (0..patterns).map(|pattern| (pattern, 0)).collect(), identifier: Some(0), ..Place::default() };
        self.is_of_secrets = pairs::is_about_secrets(members);
        self.object(members, &place, true);
    }

    fn segments(&self, pattern: usize) -> &'r [Segment] {
        let rules = self.rules;
        match pattern.checked_sub(rules.paths.len()) {
            None => &rules.paths[pattern].path,
            Some(except) => &rules.patterns[except],
        }
    }

    /// The place of a member (`Some(name)`) or element (`None`), and the path rules that address it.
    fn step(&self, place: &Place, name: Option<&str>) -> (Place, Vec<usize>) {
        let mut next = Place { except: place.except.clone(), ..Place::default() };
        let mut matched = Vec::new();
        if place.states.is_empty() {
            return (next, matched);
        }
        let folded = name.map(fold_name);
        let mut todo: Vec<(usize, usize)> = place.states.clone();
        let mut at = 0;
        while at < todo.len() {
            let (pattern, done) = todo[at];
            at += 1;
            let segments = self.segments(pattern);
            let Some(segment) = segments.get(done) else { continue };
            let mut reach = |done: usize, next: &mut Place| {
                if done == segments.len() {
                    match pattern.checked_sub(self.rules.paths.len()) {
                        None => matched.push(pattern),
                        Some(except) => next.except.push(except),
                    }
                } else if !next.states.contains(&(pattern, done)) {
                    next.states.push((pattern, done));
                }
            };
            match (segment, &folded) {
                (Segment::Deep, _) => {
                    // Either it ends here, and the next segment is tried on this step, or it takes the step.
                    if !todo.contains(&(pattern, done + 1)) {
                        todo.push((pattern, done + 1));
                    }
                    reach(done, &mut next);
                }
                (Segment::Any, _) => reach(done + 1, &mut next),
                (Segment::Name(wanted), Some(name)) if wanted == name => reach(done + 1, &mut next),
                // An element is no step for a name: `cards.number` also addresses `cards[3].number`.
                (Segment::Name(_), None) => reach(done, &mut next),
                (Segment::Name(_), Some(_)) => {}
            }
        }
        (next, matched)
    }

    // --- containers ---

    fn object(&mut self, object: &mut Object<'_>, place: &Place, top: bool) {
        let mut renamed: Vec<Renamed> = Vec::new();
        let mut says = 0;
        for (index, (name, value)) in object.iter_mut().enumerate() {
            let begun = self.entries.len();
            let known = self.name(name);
            says |= known.says;
            self.member(name, value, place, top, known.class);
            for entry in &mut self.entries[begun..] {
                let joint = if entry.path.is_empty() || entry.path.starts_with('[') { "" } else { "." };
                entry.path = format!("{name}{joint}{}", entry.path);
            }
            if known.class.is_none() && !top && !matches!(value, Json::Removed) {
                let spans = self.spans(name, place);
                if !spans.is_empty() {
                    renamed.push(Renamed { index, length: name.len(), spans, entries: begun..self.entries.len() });
                }
            }
        }
        if says & pairs::VALUE != 0 && !top {
            self.personal_pair(object, place);
        }
        if says != 0 && !top {
            self.pair(object, place, says);
            self.kube_secret(object, place);
        }
        if !renamed.is_empty() {
            self.rename(object, renamed);
        }
    }

    /// What a name is, and what it says to its object. Rules on paths are another matter.
    fn name(&mut self, name: &str) -> Name {
        const SOFT: u8 = 128;
        if let Some(known) = self.plain.as_ref().and_then(|plain| plain.get(name)) {
            let class = if known & SOFT == 0 { Class::Plain } else { Class::Soft };
            return Name { class: Some(class), says: known & !SOFT };
        }
        let (class, says) = (names::class(name), pairs::says(name));
        let holds_nothing = class != Class::Secret
            && self.personal(name).is_none()
            && self.uncaptured(name).is_none()
            && self.spans(name, &Place::default()).is_empty();
        if holds_nothing && let Some(plain) = &mut self.plain {
            plain.keep(name, says | if class == Class::Soft { SOFT } else { 0 });
        }
        Name { class: holds_nothing.then_some(class), says }
    }

    fn member(&mut self, name: &str, value: &mut Json<'_>, place: &Place, top: bool, class: Option<Class>) {
        let plain = class == Some(Class::Plain);
        let (mut next, matched) = self.step(place, Some(name));
        if let Some(depth) = place.identifier {
            let known = |path: &&&[&str]| path.get(depth) == Some(&name) && (depth == 0 || path.len() > depth);
            let of_path = IDENTIFIERS.iter().find(known);
            next.is_identifier = of_path.is_some_and(|path| path.len() == depth + 1) && (top || depth > 0);
            next.identifier = if top && of_path.is_some_and(|path| path.len() == 2) { Some(1) } else { None };
        }
        if matches!(value, Json::Redacted(_) | Json::Removed | Json::Raw(_)) {
            return;
        }
        let mut strongest: Option<(Action, Arc<str>)> = None;
        let mut wants = |action: Action, id: &Arc<str>| {
            if strongest.as_ref().is_none_or(|(known, _)| action > *known) {
                strongest = Some((action, id.clone()));
            }
        };
        for rule in matched.iter().map(|index| &self.rules.paths[*index]) {
            if !next.excepted(&rule.except) {
                wants(rule.action, &rule.id);
            }
        }
        if !plain && let Some(found) = self.secret_name(class.unwrap_or_else(|| names::class(name)), name, value, &next) {
            wants(found.action, &found.id);
        }
        if class.is_none()
            && let Some(detector) = self.personal(name)
            && let Some(found) = self.personal_value(detector, value, &next)
        {
            wants(found.action, &found.id);
        }
        if class.is_none()
            && let Some(id) = self.uncaptured(name)
        {
            wants(Action::Remove, &id);
        }
        if let (Some((action, rule)), Json::String(text)) = (&mut strongest, &*value) {
            // What a detector would hide entirely is not half shown because a path says so.
            for span in self.spans(text, &next) {
                if span.action > *action {
                    (*action, *rule) = (span.action, span.rule);
                } else if span.action == Action::Mask && span.end - span.start < text.len() {
                    // A mask of the whole shows its last characters, which the mask of a part may hide.
                    (*action, *rule) = (Action::Replace, span.rule);
                }
            }
        }
        match strongest {
            Some((action, rule)) => self.whole(value, action, rule, next.is_identifier),
            None => self.value(value, &next, name),
        }
    }

    /// The rule for a member whose name is secret, unless its value is none.
    fn secret_name(&self, class: Class, name: &str, value: &Json<'_>, place: &Place) -> Option<&'r Found> {
        let is_secret = match class {
            Class::Plain => false,
            Class::Soft => pairs::looks_random(value),
            Class::Secret => !pairs::says_nothing(name, value),
        };
        if is_secret { place.strongest(&self.rules.names) } else { None }
    }

    /// The detector of personal data, if it is on, that a name speaks of.
    fn personal(&self, name: &str) -> Option<Detector> {
        if self.rules.on & personal::ALL == 0 {
            return None;
        }
        personal::of_name(name).filter(|detector| self.rules.on & detect::bit(*detector) != 0)
    }

    /// The rule for a member whose name says that its value is personal data.
    fn personal_value(&self, detector: Detector, value: &Json<'_>, place: &Place) -> Option<&'r Found> {
        let may_be = match value {
            Json::String(text) => personal::may_be(detector, text),
            Json::Number(number) => personal::may_be(detector, &number.to_string()),
            _ => false,
        };
        if may_be { self.personal_rule(detector, place) } else { None }
    }

    fn personal_rule(&self, detector: Detector, place: &Place) -> Option<&'r Found> {
        let index = INSIDE.iter().position(|known| *known == detector)?;
        place.strongest(&self.rules.detectors[index])
    }

    /// The parts of an object whose name says that it is personal data: `"phone": {"countryCode": "+49", "number": "30 901820"}`.
    fn personal_parts(&mut self, detector: Detector, object: &mut Object<'_>, place: &Place) {
        for (name, value) in object.iter_mut() {
            let (next, _) = self.step(place, Some(name));
            let found = if personal::is_part(detector, name, value) { self.personal_rule(detector, &next) } else { None };
            if let Some(found) = found {
                self.beside(name, value, found);
            }
        }
    }

    /// `{"field": "phone", "oldValue": …}`, `["dateOfBirth", …]`: the values, as far as they may be that.
    fn personal_pair(&mut self, object: &mut Object<'_>, place: &Place) {
        if self.rules.on & personal::ALL == 0 {
            return;
        }
        let named = object.iter().filter(|(name, _)| pairs::is_name(name)).find_map(|(_, text)| self.personal(text.as_str()?));
        let Some(detector) = named else { return };
        for (name, value) in object.iter_mut().filter(|(name, _)| pairs::is_value(name)) {
            let (next, _) = self.step(place, Some(name));
            if let Some(found) = self.personal_value(detector, value, &next) {
                self.beside(name, value, found);
            }
        }
    }

    /// Raw bodies are kept only where the policy says so.
    fn uncaptured(&self, name: &str) -> Option<Arc<str>> {
        if name.len() < 11 || name.len() > 16 {
            return None;
        }
        match fold_name(name).as_str() {
            "requestbody" | "requestobject" | "rawrequestbody" if !self.rules.capture.request_bodies => {
                Some("capture:request".into())
            }
            "responsebody" | "responseobject" if !self.rules.capture.response_bodies => Some("capture:response".into()),
            _ => None,
        }
    }

    fn whole(&mut self, value: &mut Json<'_>, action: Action, rule: Arc<str>, identifier: bool) {
        let key = self.rules.key.as_ref().or_else(|| self.identity.filter(|_| identifier));
        let done = action::whole(action, value, key);
        let no_key = action == Action::Hash && done == Action::Remove;
        if identifier && matches!(value, Json::Removed) {
            // An event without its id would be another event.
            *value = Json::Redacted(Box::new(Redacted { shown: REPLACED.into(), print: MARKER.into() }));
        }
        self.entries.push(Entry { path: String::new(), rule, action: done, name: false, no_key });
    }

    /// A member that goes whole because of what stands beside it.
    fn beside(&mut self, name: &str, value: &mut Json<'_>, found: &Found) {
        if matches!(value, Json::Removed | Json::Raw(_) | Json::Bool(_)) || is_nothing(value) || is_replaced(value) {
            return;
        }
        // What a detector found in it says less than this does.
        self.whole(value, found.action, found.id.clone(), false);
        if let Some(entry) = self.entries.last_mut() {
            name.clone_into(&mut entry.path);
        }
    }

    /// `{"name": "Authorization", "value": …}` and the like: the value goes.
    fn pair(&mut self, object: &mut Object<'_>, place: &Place, says: u8) {
        let rules = self.rules;
        let Some(found) = place.strongest(&rules.names) else { return };
        let is_pair = says & pairs::VALUE != 0 && pairs::names_secret(object, self.is_of_secrets);
        let is_jwk = says & pairs::KIND != 0 && pairs::is_private_jwk(object);
        let is_snmp = says & pairs::KIND != 0 && pairs::is_snmp(object);
        if !is_jwk && !is_pair && !is_snmp {
            return;
        }
        for (name, value) in object.iter_mut() {
            if is_pair && pairs::is_value(name) || is_jwk && pairs::is_private_part(name) || is_snmp && name == "community" {
                self.beside(name, value, found);
            }
        }
    }

    /// A Kubernetes Secret: each value of `data` and `stringData`.
    fn kube_secret(&mut self, object: &mut Object<'_>, place: &Place) {
        let is_kind = |wanted: &str| object.get("kind").and_then(Json::as_str) == Some(wanted);
        let (is_list, is_secret) = (is_kind("SecretList"), is_kind("Secret"));
        if is_list && let Some(Json::Array(items)) = object.get_mut("items") {
            let known = std::mem::replace(&mut self.is_of_secrets, true);
            for item in items {
                if let Json::Object(item) = item {
                    self.kube_secret(item, place);
                }
            }
            self.is_of_secrets = known;
            return;
        }
        if !self.is_of_secrets && !is_secret {
            return;
        }
        let rules = self.rules;
        let Some(found) = place.strongest(&rules.names) else { return };
        for (part, values) in object.iter_mut().filter(|(name, _)| matches!(*name, "data" | "stringData")) {
            let Json::Object(values) = values else { continue };
            for (name, value) in values.iter_mut() {
                self.beside(&format!("{part}.{name}"), value, found);
            }
        }
    }

    fn value(&mut self, value: &mut Json<'_>, place: &Place, name: &str) {
        match value {
            Json::Object(object) => {
                if let Some(detector) = self.personal(name) {
                    self.personal_parts(detector, object, place);
                }
                self.object(object, place, false);
            }
            Json::Array(items) => self.array(items, place, name),
            Json::String(text) => {
                if let Some(redacted) = self.text(text, place) {
                    *value = redacted;
                }
            }
            Json::Number(number) if number.abs() >= 1e11 && number.fract() == 0.0 => {
                let text = format!("{:.0}", number.abs());
                if let Some(redacted) = self.text(&text, place) {
                    *value = redacted;
                }
            }
            _ => {}
        }
    }

    fn array(&mut self, items: &mut [Json<'_>], place: &Place, name: &str) {
        let is_row = |item: &Json<'_>| matches!(item, Json::Array(row) if (2..=4).contains(&row.len()));
        let pairs = items.iter().any(is_row);
        let personal = self.personal(name);
        let headers = name.to_ascii_lowercase().contains("header");
        self.flat(items, place, headers && items.len().is_multiple_of(2));
        for (index, item) in items.iter_mut().enumerate() {
            let begun = self.entries.len();
            let (next, matched) = self.step(place, None);
            let rule = matched
                .iter()
                .map(|index| &self.rules.paths[*index])
                .filter(|rule| !next.excepted(&rule.except))
                .max_by_key(|rule| rule.action);
            match (rule, &mut *item) {
                (_, Json::Redacted(_) | Json::Removed | Json::Raw(_)) => {}
                (Some(rule), item) => {
                    let (action, id) = (rule.action, rule.id.clone());
                    self.whole(item, action, id, false);
                }
                (None, item) if let Some(found) = personal.and_then(|detector| self.personal_value(detector, item, &next)) => {
                    self.whole(item, found.action, found.id.clone(), false);
                }
                (None, Json::Array(row)) if pairs => {
                    self.row(row, &next);
                    self.array(row, &next, "");
                }
                (None, item) => self.value(item, &next, name),
            }
            for entry in &mut self.entries[begun..] {
                let joint = if entry.path.is_empty() || entry.path.starts_with('[') { "" } else { "." };
                entry.path = format!("[{index}]{joint}{}", entry.path);
            }
        }
    }

    /// `["Authorization", …]`, `["password", old, new]`: what follows goes.
    fn row(&mut self, row: &mut [Json<'_>], place: &Place) {
        let rules = self.rules;
        let [first, rest @ ..] = row else { return };
        if rest.len() > 3 {
            return;
        }
        if let Some(detector) = first.as_str().and_then(|name| self.personal(name)) {
            for (index, value) in rest.iter_mut().enumerate() {
                if let Some(found) = self.personal_value(detector, value, place) {
                    self.beside(&format!("[{}]", index + 1), value, found);
                }
            }
        }
        let Some(found) = place.strongest(&rules.names) else { return };
        if !first.as_str().is_some_and(names::is_secret) {
            return;
        }
        for (index, value) in rest.iter_mut().enumerate() {
            self.beside(&format!("[{}]", index + 1), value, found);
        }
    }

    /// A flat list of names and values (raw headers), or a command line: what follows `--password` goes.
    fn flat(&mut self, items: &mut [Json<'_>], place: &Place, is_headers: bool) {
        let rules = self.rules;
        let Some(found) = place.strongest(&rules.names) else { return };
        for index in 1..items.len() {
            let (before, from) = items.split_at_mut(index);
            let Some(name) = before[index - 1].as_str() else { continue };
            let flag = name.strip_prefix("--").or_else(|| name.strip_prefix('-')).filter(|flag| !flag.contains(['=', ' ']));
            let is_pair = index % 2 == 1 && (is_headers || pairs::looks_random(&from[0]));
            let is_name = is_pair && names::is_secret(name) || flag.is_some_and(names::is_secret);
            let is_flag = |value: &Json<'_>| !is_headers && value.as_str().is_some_and(|value| value.starts_with("--"));
            if is_name && !is_flag(&from[0]) {
                self.beside(&format!("[{index}]"), &mut from[0], found);
            }
        }
        self.command_line(items, place);
    }

    /// A command line as a list of its words: what the words say together.
    fn command_line(&mut self, items: &mut [Json<'_>], place: &Place) {
        let is_option = |item: &Json<'_>| item.as_str().is_some_and(|text| text.len() > 1 && text.starts_with('-'));
        if !(2..=MOST_WORDS).contains(&items.len()) || !items.iter().skip(1).any(is_option) {
            return;
        }
        let words = items.iter().map(|item| item.as_str().map(str::to_owned)).collect::<Option<Vec<String>>>();
        let Some(words) = words else { return };
        let mut starts = Vec::with_capacity(words.len());
        let mut line = String::new();
        for word in &words {
            starts.push(line.len());
            line.push_str(word);
            line.push(' ');
        }
        let spans = self.spans(&line, place);
        for (index, item) in items.iter_mut().enumerate() {
            let end = starts.get(index + 1).copied().unwrap_or(line.len());
            let span = spans.iter().find(|span| span.start < end && span.end > starts[index]);
            // What stands in one word alone is found there, and cut out of it.
            let Some(span) = span.filter(|_| matches!(item, Json::String(_))) else { continue };
            let is_inside = span.start > starts[index] && !is_option(item);
            if is_inside && !self.spans(&words[index], place).is_empty() {
                continue;
            }
            self.whole(item, span.action, span.rule.clone(), false);
            if let Some(entry) = self.entries.last_mut() {
                entry.path = format!("[{index}]");
            }
        }
    }

    // --- text ---

    /// What a text becomes; `None`: it stays.
    fn text(&mut self, text: &str, place: &Place) -> Option<Json<'static>> {
        if text.len() < 3 {
            return None;
        }
        if self.nested < NESTED && matches!(text.trim_start().as_bytes().first(), Some(b'{' | b'[')) && text.len() > 4 {
            let begun = self.entries.len();
            match self.json_inside(text, place) {
                Some(Some(_)) if place.is_identifier => {
                    let rules: Vec<Arc<str>> = self.entries.drain(begun..).map(|entry| entry.rule).collect();
                    return Some(self.identifier(text, rules));
                }
                Some(redacted) => return redacted,
                None => {}
            }
        }
        let spans = self.spans(text, place);
        if spans.is_empty() {
            return None;
        }
        if place.is_identifier {
            return Some(self.identifier(text, spans.into_iter().map(|span| span.rule).collect()));
        }
        let (shown, print) = self.cut(text, &spans);
        Some(Json::Redacted(Box::new(Redacted { shown, print })))
    }

    /// An identifier with a secret in it: equal ones stay equal, and nobody can read them.
    fn identifier(&mut self, text: &str, rules: Vec<Arc<str>>) -> Json<'static> {
        let hashed = self.rules.key.as_ref().or(self.identity).and_then(|key| action::hash(key, text));
        let (action, no_key) = if hashed.is_some() { (Action::Hash, false) } else { (Action::Replace, true) };
        for rule in rules {
            self.entries.push(Entry { path: String::new(), rule, action, name: false, no_key });
        }
        Json::Redacted(Box::new(Redacted { shown: hashed.unwrap_or_else(|| REPLACED.into()), print: MARKER.into() }))
    }

    /// JSON inside a string: redacted as if it stood outside. Outer `None`: it is no JSON; inner: nothing was found.
    #[allow(clippy::option_option)]
    fn json_inside(&mut self, text: &str, place: &Place) -> Option<Option<Json<'static>>> {
        let mut inner = parse(text.trim()).ok().filter(|inner| matches!(inner, Json::Object(_) | Json::Array(_)))?;
        let begun = self.entries.len();
        self.nested += 1;
        self.value(&mut inner, place, "");
        self.nested -= 1;
        if self.entries.len() == begun {
            return Some(None);
        }
        // In the record it is one string, and that is what was changed.
        for entry in &mut self.entries[begun..] {
            entry.path.clear();
            entry.name = false;
        }
        let written = |form: Form| {
            let mut out = Vec::with_capacity(text.len());
            write_json(&mut out, &inner, form);
            String::from_utf8(out).unwrap_or_default()
        };
        Some(Some(Json::Redacted(Box::new(Redacted { shown: written(Form::Shown), print: written(Form::Print) }))))
    }

    /// Parts of a text that go, in order, merged where they overlap.
    fn spans(&mut self, text: &str, place: &Place) -> Vec<Span> {
        let mut hits = std::mem::take(&mut self.hits);
        hits.clear();
        detect::find(text, self.rules.on, &mut hits);
        let mut spans = Vec::new();
        for hit in &hits {
            let index = INSIDE.iter().position(|known| *known == hit.by);
            if let Some(found) = index.and_then(|index| place.strongest(&self.rules.detectors[index])) {
                spans.push(Span { start: hit.start, end: hit.end, action: found.action, rule: found.id.clone() });
            }
        }
        self.hits = hits;
        for rule in self.rules.texts.iter().filter(|rule| !place.excepted(&rule.except)) {
            for found in rule.regex.find_iter(text).filter(|found| !found.is_empty()) {
                spans.push(Span { start: found.start(), end: found.end(), action: rule.action, rule: rule.id.clone() });
            }
        }
        if spans.len() < 2 {
            return spans;
        }
        spans.sort_by_key(|span| (span.start, std::cmp::Reverse(span.end)));
        let mut merged: Vec<Span> = Vec::with_capacity(spans.len());
        for span in spans {
            match merged.last_mut() {
                Some(last) if span.start < last.end => {
                    let is_same = (last.start, last.end) == (span.start, span.end);
                    last.end = last.end.max(span.end);
                    if (last.action, span.action) == (Action::Mask, Action::Mask) && !is_same {
                        // Each shows its last characters, which the other may hide: together they show none.
                        last.action = Action::Replace;
                    }
                    if span.action > last.action {
                        (last.action, last.rule) = (span.action, span.rule);
                    }
                }
                _ => merged.push(span),
            }
        }
        merged
    }

    /// What is shown and what is fingerprinted of a text without its spans.
    fn cut(&mut self, text: &str, spans: &[Span]) -> (String, String) {
        let (mut shown, mut print, mut at) = (String::with_capacity(text.len()), String::with_capacity(text.len()), 0);
        for span in spans {
            let before = &text[at..span.start];
            let (replaced, done) = action::text(span.action, &text[span.start..span.end], self.rules.key.as_ref());
            shown.push_str(before);
            shown.push_str(&replaced.unwrap_or_default());
            print.push_str(before);
            print.push_str(MARKER);
            at = span.end;
            let no_key = span.action == Action::Hash && done == Action::Remove;
            self.entries.push(Entry { path: String::new(), rule: span.rule.clone(), action: done, name: false, no_key });
        }
        shown.push_str(&text[at..]);
        print.push_str(&text[at..]);
        (shown, print)
    }

    /// Names that held secrets get others; those that come out alike are told apart by `~2`. Linear in the members.
    fn rename(&mut self, object: &mut Object<'_>, renamed: Vec<Renamed>) {
        let mut members = std::mem::take(object).into_members();
        let mut taken: HashMap<String, usize> = HashMap::with_capacity(members.len());
        for (name, _) in &members {
            taken.insert(name.to_string(), 1);
        }
        for Renamed { index, length, spans, entries } in renamed {
            let begun = self.entries.len();
            // Never by hash or mask: a name enters the fingerprint as it is shown, and no key may.
            let plain = spans.into_iter().map(|span| Span { action: Action::Replace, ..span }).collect::<Vec<_>>();
            let (shown, _) = self.cut(&members[index].0, &plain);
            let mut name = shown.clone();
            while let Some(count) = taken.get_mut(&shown) {
                *count += 1;
                name = format!("{shown}~{count}");
                if !taken.contains_key(&name) {
                    break;
                }
            }
            taken.insert(name.clone(), 1);
            for entry in &mut self.entries[begun..] {
                (entry.path, entry.name) = (name.clone(), true);
            }
            // What was found below it must not tell the old name either.
            for entry in &mut self.entries[entries] {
                entry.path.replace_range(..length, &name);
            }
            members[index].0 = Cow::Owned(name);
        }
        *object = Object::from_members(members).unwrap_or_default();
    }
}

/// Whether nothing of a value is left to see.
fn is_replaced(value: &Json<'_>) -> bool {
    matches!(value, Json::Redacted(redacted) if redacted.print == MARKER)
}

fn is_nothing(value: &Json<'_>) -> bool {
    matches!(value, Json::Null | Json::Removed) || matches!(value, Json::String(text) if text.is_empty())
}
