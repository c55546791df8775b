//! What is found inside text: spans of secrets, each by a detector.
//!
//! A cheap look at the bytes decides which detectors can match at all; most text has none of what they need.
use std::sync::OnceLock;

use aho_corasick::{Anchored, MatchKind, automaton::Automaton as _, dfa::DFA};
use steno_crds::Detector;

mod credentials;
mod numbers;
mod tokens;

/// A secret's place in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hit {
    pub(crate) start: usize,
    pub(crate) end: usize,
    pub(crate) by: Detector,
}

/// All detectors that look inside text.
pub(crate) const INSIDE: [Detector; 11] = [
    Detector::Pan,
    Detector::Jwt,
    Detector::Pem,
    Detector::CloudKey,
    Detector::Bearer,
    Detector::UrlCredentials,
    Detector::Kv,
    Detector::Ssn,
    Detector::Iban,
    Detector::Email,
    Detector::Ip,
];

/// Which detectors are on, by bit of [`bit`].
pub(crate) type Set = u16;

/// A detector's bit.
pub(crate) const fn bit(detector: Detector) -> Set {
    1 << detector as u32
}

const ANCHORS: [(&str, Detector); 35] = [
    ("eyj", Detector::Jwt),
    ("private key-----", Detector::Pem),
    ("akia", Detector::CloudKey),
    ("asia", Detector::CloudKey),
    ("agpa", Detector::CloudKey),
    ("aida", Detector::CloudKey),
    ("aroa", Detector::CloudKey),
    ("anpa", Detector::CloudKey),
    ("anva", Detector::CloudKey),
    ("abia", Detector::CloudKey),
    ("acca", Detector::CloudKey),
    ("aiza", Detector::CloudKey),
    ("ghp_", Detector::CloudKey),
    ("gho_", Detector::CloudKey),
    ("ghu_", Detector::CloudKey),
    ("ghs_", Detector::CloudKey),
    ("ghr_", Detector::CloudKey),
    ("github_pat_", Detector::CloudKey),
    ("xox", Detector::CloudKey),
    ("k_live_", Detector::CloudKey),
    ("k_test_", Detector::CloudKey),
    ("glpat-", Detector::CloudKey),
    ("npm_", Detector::CloudKey),
    ("pypi-", Detector::CloudKey),
    ("sk-", Detector::CloudKey),
    ("accountkey=", Detector::CloudKey),
    ("bearer", Detector::Bearer),
    ("basic", Detector::Bearer),
    ("://", Detector::UrlCredentials),
    ("pass", Detector::Kv),
    ("pwd", Detector::Kv),
    ("secret", Detector::Kv),
    ("key", Detector::Kv),
    ("_token", Detector::Kv),
    ("-token", Detector::Kv),
];

fn anchors() -> Option<&'static DFA> {
    static ANCHORS_BUILT: OnceLock<Option<DFA>> = OnceLock::new();
    ANCHORS_BUILT
        .get_or_init(|| {
            let names = ANCHORS.iter().map(|(text, _)| *text);
            DFA::builder().ascii_case_insensitive(true).match_kind(MatchKind::Standard).build(names).ok()
        })
        .as_ref()
}

const DIGIT: u8 = 1;
const EQUALS: u8 = 2;
const COLON: u8 = 4;
const QUERY: u8 = 8;
const AT: u8 = 16;
const DOT: u8 = 32;

/// What each byte says.
const CLASSES: [u8; 256] = {
    let mut classes = [0; 256];
    let mut digit = b'0';
    while digit <= b'9' {
        classes[digit as usize] = DIGIT;
        digit += 1;
    }
    classes[b'=' as usize] = EQUALS;
    classes[b':' as usize] = COLON;
    classes[b'?' as usize] = QUERY;
    classes[b'&' as usize] = QUERY;
    classes[b'@' as usize] = AT;
    classes[b'.' as usize] = DOT;
    classes
};

/// Which detectors may match in a text. One table look-up a byte for what it is, one for where it leads.
fn candidates(text: &str) -> Set {
    let (mut digits, mut classes, mut set): (usize, u8, Set) = (0, 0, 0);
    let start = anchors().and_then(|dfa| dfa.start_state(Anchored::No).ok().map(|start| (dfa, start)));
    if let Some((dfa, mut state)) = start {
        for byte in text.bytes() {
            let class = CLASSES[usize::from(byte)];
            digits += usize::from(class & DIGIT);
            classes |= class;
            state = dfa.next_state(Anchored::No, state, byte);
            if dfa.is_special(state) && dfa.is_match(state) {
                for index in 0..dfa.match_len(state) {
                    set |= bit(ANCHORS[dfa.match_pattern(state, index).as_usize()].1);
                }
            }
        }
    } else {
        digits = text.len();
        (classes, set) = (u8::MAX, Set::MAX);
    }
    let has = |class: u8| classes & class != 0;
    let (equals, colon, at) = (has(EQUALS), has(COLON), has(AT));
    if !equals && !colon {
        set &= !bit(Detector::Kv);
    }
    // `user:password@` needs both; a parameter needs a `=`.
    if !(equals || colon && at) {
        set &= !bit(Detector::UrlCredentials);
    }
    if digits >= 12 {
        set |= bit(Detector::Pan);
    }
    if digits >= 9 {
        set |= bit(Detector::Ssn);
    }
    if digits >= 8 && text.len() >= 15 {
        set |= bit(Detector::Iban);
    }
    if has(QUERY) && equals {
        set |= bit(Detector::UrlCredentials);
    }
    if at {
        set |= bit(Detector::Email);
    }
    if (has(DOT) && digits >= 4) || colon {
        set |= bit(Detector::Ip);
    }
    set
}

/// Secrets in a text, by the detectors that are on; spans may overlap.
pub(crate) fn find(text: &str, on: Set, hits: &mut Vec<Hit>) {
    let set = candidates(text) & on;
    if set == 0 {
        return;
    }
    for detector in INSIDE {
        if set & bit(detector) == 0 {
            continue;
        }
        let mut add = |start: usize, end: usize| hits.push(Hit { start, end, by: detector });
        match detector {
            Detector::Pan => numbers::pan(text, &mut add),
            Detector::Ssn => numbers::ssn(text, &mut add),
            Detector::Iban => numbers::iban(text, &mut add),
            Detector::Jwt => tokens::jwt(text, &mut add),
            Detector::Pem => tokens::pem(text, &mut add),
            Detector::CloudKey => tokens::cloud_key(text, &mut add),
            Detector::Bearer => credentials::bearer(text, &mut add),
            Detector::UrlCredentials => credentials::url(text, &mut add),
            Detector::Kv => credentials::kv(text, &mut add),
            Detector::Email => credentials::email(text, &mut add),
            Detector::Ip => numbers::ip(text, &mut add),
            Detector::SecretName => {}
        }
    }
}

/// A regex that is part of this crate; it compiles, as its tests show.
macro_rules! pattern {
    ($name:ident, $text:expr) => {
        fn $name() -> Option<&'static regex::Regex> {
            static BUILT: std::sync::OnceLock<Option<regex::Regex>> = std::sync::OnceLock::new();
            BUILT.get_or_init(|| regex::Regex::new($text).ok()).as_ref()
        }
    };
}
pub(crate) use pattern;

/// What a detector finds, for the tests of all of them.
#[cfg(test)]
fn found(detect: fn(&str, &mut dyn FnMut(usize, usize)), text: &str) -> Vec<&str> {
    let mut spans = Vec::new();
    detect(text, &mut |start, end| spans.push(&text[start..end]));
    spans
}
