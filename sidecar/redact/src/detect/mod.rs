//! What is found inside text: spans of secrets, each by a detector.
//!
//! One pass over the bytes decides which detectors can match at all, and finds the tokens of providers; most text has none of what the others need. The
//! same is done for what the text means: with look-alikes folded, with percent-encoding decoded ([`view`]), and for what base64 in it
//! contains ([`container`]).
use std::sync::OnceLock;

use aho_corasick::{Anchored, MatchKind, automaton::Automaton as _, dfa::DFA};
use steno_crds::Detector;

mod container;
mod credentials;
mod kv;
mod labels;
mod national;
mod numbers;
pub(crate) mod personal;
mod providers;
mod tokens;
mod view;

pub(crate) use self::view::fold_name;
use self::{
    kv::{BLOCKS, COMMANDS, SIGNS, SPACED},
    view::View,
};

/// Counts what is done, in bytes looked at, for the test that it grows no faster than what comes.
#[cfg(test)]
pub(crate) mod work {
    use std::cell::Cell;

    thread_local! {
        static DONE: Cell<u64> = const { Cell::new(0) };
    }

    pub(crate) fn add(bytes: usize) {
        DONE.set(DONE.get() + bytes as u64);
    }

    pub(crate) fn take() -> u64 {
        DONE.replace(0)
    }
}

/// Counts work in tests.
macro_rules! worked {
    ($bytes:expr) => {
        #[cfg(test)]
        crate::detect::work::add($bytes);
    };
}
pub(crate) use worked;

/// A secret's place in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hit {
    pub(crate) start: usize,
    pub(crate) end: usize,
    pub(crate) by: Detector,
}

/// All detectors that look inside text.
pub(crate) const INSIDE: [Detector; 14] = [
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
    Detector::Phone,
    Detector::DateOfBirth,
    Detector::NationalId,
];

/// Which detectors are on, by bit of [`bit`].
pub(crate) type Set = u16;

/// A detector's bit.
pub(crate) const fn bit(detector: Detector) -> Set {
    1 << detector as u32
}

/// Anchors of detectors that look at the whole text, in lower case. Those of providers' tokens stand behind them in one automaton.
const ANCHORS: &[(&str, Detector)] = &[
    ("eyj", Detector::Jwt),
    ("eya", Detector::Jwt),
    ("ew0", Detector::Jwt),
    ("ewo", Detector::Jwt),
    ("private key", Detector::Pem),
    ("bearer", Detector::Bearer),
    ("basic", Detector::Bearer),
    ("//", Detector::UrlCredentials),
];

/// Anchors of [`kv`], and which of its parts they are for.
const KV_ANCHORS: &[(&str, u8)] = &[
    ("pass", SIGNS | SPACED),
    ("pwd", SIGNS | SPACED),
    ("secret", SIGNS | SPACED),
    ("key", SIGNS | SPACED),
    ("token", SIGNS | SPACED),
    ("auth", SIGNS | SPACED),
    ("cookie", SIGNS),
    ("cred", SIGNS),
    ("cvv", SIGNS),
    ("cvc", SIGNS),
    ("cvn", SIGNS),
    ("csc", SIGNS),
    ("otp", SIGNS | COMMANDS),
    ("pin", SIGNS | COMMANDS),
    ("ssn", SIGNS),
    ("social", SIGNS),
    ("sess", SIGNS),
    ("dsn", SIGNS),
    ("conn", SIGNS),
    ("phrase", SIGNS),
    ("mnemonic", SIGNS),
    ("code", SIGNS | COMMANDS),
    ("card", SIGNS),
    ("communit", SIGNS | SPACED),
    ("snmp", COMMANDS | SPACED),
    ("identified", SPACED),
    ("docker", SIGNS | COMMANDS),
    ("sqlplus", COMMANDS),
    ("sqlcl", COMMANDS),
    ("expdp", COMMANDS),
    ("impdp", COMMANDS),
    ("sqlldr", COMMANDS),
    ("jdbc:", COMMANDS),
    (")))/", COMMANDS),
    ("--user", COMMANDS),
    (" -u", COMMANDS),
    (" -p", COMMANDS),
    (" -a ", COMMANDS),
    (" -w ", COMMANDS),
    ("net use", COMMANDS),
    ("openssl", COMMANDS),
    ("smbclient", COMMANDS),
    ("smbget", COMMANDS),
    ("rpcclient", COMMANDS),
    ("ssh-keygen", COMMANDS),
    ("storepass", COMMANDS),
    ("keypass", COMMANDS),
    ("lftp", COMMANDS),
    ("--cert", COMMANDS),
    (" -e ", COMMANDS),
    ("xfreerdp", COMMANDS),
    ("kinit", COMMANDS),
    ("wpa_passphrase", COMMANDS),
    ("doctl", COMMANDS),
    ("username ", SPACED),
    ("securestring", COMMANDS),
    ("rabbitmqctl", COMMANDS),
    ("htpasswd", COMMANDS),
    ("echo ", COMMANDS),
    ("vault ", COMMANDS),
    ("2fa", COMMANDS),
    ("mfa", COMMANDS),
    ("one-time", COMMANDS),
    ("one time", COMMANDS),
    ("rootpw", SPACED),
    ("setuser", SPACED),
    ("pgp_sym", SPACED),
    ("machine ", SPACED),
    ("variable", SPACED),
    ("insert ", SPACED),
    ("putty", BLOCKS),
    ("form-data", BLOCKS),
    ("kind: secret", BLOCKS),
    ("contras", SIGNS),
    ("senha", SIGNS),
    ("salasana", SIGNS),
    ("sandi", SIGNS),
    ("unseal", SPACED),
    ("recovery", SPACED),
    ("wort", SIGNS),
    ("woord", SIGNS),
    ("senord", SIGNS),
    ("parol", SIGNS),
    ("sifre", SIGNS),
    ("haslo", SIGNS),
    ("heslo", SIGNS),
    ("lozinka", SIGNS),
    ("geheim", SIGNS),
    ("jwt", SIGNS),
    ("instrumentation", SIGNS),
    ("sid", SIGNS),
    ("sp_addlogin", SPACED),
    ("createuser", SPACED),
    ("from-literal", SPACED),
    ("connect ", SPACED),
    ("psk", SIGNS | COMMANDS),
    ("pw", SIGNS),
    ("tcp(", COMMANDS),
    ("unix(", COMMANDS),
    ("password is", COMMANDS),
    ("password was", COMMANDS),
    ("token is", COMMANDS),
    ("key is", COMMANDS),
    ("signature", SIGNS),
    ("-user ", COMMANDS),
];

fn anchors() -> Option<&'static DFA> {
    static ANCHORS_BUILT: OnceLock<Option<DFA>> = OnceLock::new();
    ANCHORS_BUILT
        .get_or_init(|| {
            let names = ANCHORS.iter().map(|(text, _)| *text);
            let names = names.chain(KV_ANCHORS.iter().map(|(text, _)| *text)).chain(providers::ROWS.iter().map(|row| row.anchor));
            DFA::builder().ascii_case_insensitive(true).match_kind(MatchKind::Standard).build(names).ok()
        })
        .as_ref()
}

const DIGIT: u8 = 1;
const EQUALS: u8 = 2;
const COLON: u8 = 4;
/// Of a text in which there may be another: percent-encoding, escapes, entities, a command line in parameters.
const NESTING: u8 = 8;
const AT: u8 = 16;
const DOT: u8 = 32;
const ENCODED: u8 = 64;
/// What may stand between the digits of one number.
const BETWEEN: u8 = 128;

/// What each byte says.
const CLASSES: [u8; 256] = {
    let mut classes = [0; 256];
    let mut byte = b'0';
    while byte <= b'z' {
        if byte.is_ascii_alphanumeric() {
            classes[byte as usize] = ENCODED;
        }
        if byte.is_ascii_digit() {
            classes[byte as usize] |= DIGIT;
        }
        byte += 1;
    }
    classes[b'+' as usize] = ENCODED | BETWEEN;
    classes[b'/' as usize] = ENCODED | BETWEEN;
    classes[b'-' as usize] = ENCODED | BETWEEN;
    classes[b'_' as usize] = ENCODED | BETWEEN;
    classes[b' ' as usize] = BETWEEN;
    classes[b'\n' as usize] = BETWEEN;
    classes[b'\t' as usize] = BETWEEN;
    classes[b'=' as usize] = EQUALS;
    classes[b':' as usize] = COLON;
    classes[b'?' as usize] = NESTING;
    classes[b'&' as usize] = NESTING;
    classes[b'%' as usize] = NESTING;
    classes[b'\\' as usize] = NESTING;
    classes[b'@' as usize] = AT;
    classes[b'.' as usize] = DOT | BETWEEN;
    classes
};

/// What a first look at a text finds.
struct Look {
    /// Which detectors may match.
    set: Set,
    /// Tokens of providers.
    tokens: Vec<(usize, usize)>,
    /// The longest run of characters of base64.
    longest: usize,
    has_dot: bool,
    /// There may be percent-encoding, or a command line in parameters.
    is_encoded: bool,
    /// Which parts of [`kv`] may find something.
    hints: u8,
}

/// Looks at a text once: one table look-up a byte for what it is, one for where it leads.
fn look(text: &str, wants_tokens: bool) -> Look {
    let (mut digits, mut classes, mut set, mut hints): (usize, u8, Set, u8) = (0, 0, 0, 0);
    let mut tokens = Vec::new();
    let (mut run, mut longest) = (0usize, 0usize);
    // Digits that may be of one number, as a card's are: letters and colons end it.
    let (mut number, mut longest_number) = (0usize, 0usize);
    let start = anchors().and_then(|dfa| dfa.start_state(Anchored::No).ok().map(|start| (dfa, start)));
    if let Some((dfa, mut state)) = start {
        for (at, byte) in text.bytes().enumerate() {
            let class = CLASSES[usize::from(byte)];
            digits += usize::from(class & DIGIT);
            classes |= class;
            run = if class & ENCODED == 0 { 0 } else { run + 1 };
            longest = longest.max(run);
            number = if class & (DIGIT | BETWEEN) == 0 { 0 } else { number + usize::from(class & DIGIT) };
            longest_number = longest_number.max(number);
            state = dfa.next_state(Anchored::No, state, byte);
            if dfa.is_special(state) && dfa.is_match(state) {
                for index in 0..dfa.match_len(state) {
                    let pattern = dfa.match_pattern(state, index).as_usize();
                    if let Some((_, detector)) = ANCHORS.get(pattern) {
                        set |= bit(*detector);
                    } else if let Some((_, parts)) = KV_ANCHORS.get(pattern - ANCHORS.len()) {
                        set |= bit(Detector::Kv);
                        hints |= parts;
                    } else if wants_tokens {
                        let row = pattern - ANCHORS.len() - KV_ANCHORS.len();
                        let begin = at + 1 - providers::ROWS[row].anchor.len();
                        tokens.extend(providers::verify(text, row, begin));
                    }
                }
            }
        }
    } else {
        digits = text.len();
        (classes, set, longest, longest_number, hints) = (u8::MAX, Set::MAX, text.len(), text.len(), u8::MAX);
    }
    let has = |class: u8| classes & class != 0;
    // Words of other scripts have no anchors.
    if (has(EQUALS) || has(COLON)) && !text.is_ascii() {
        set |= bit(Detector::Kv);
        hints |= SIGNS;
    }
    let (equals, colon, at) = (has(EQUALS), has(COLON), has(AT));
    // `user:password@` needs both; a parameter needs a `=`.
    if !(equals || at) {
        set &= !bit(Detector::UrlCredentials);
    }
    if longest_number >= 12 {
        set |= bit(Detector::Pan);
    }
    if longest_number >= 9 {
        set |= bit(Detector::Ssn);
    }
    if digits >= 8 && text.len() >= 15 {
        set |= bit(Detector::Iban);
    }
    if equals {
        set |= bit(Detector::UrlCredentials);
    }
    if at {
        set |= bit(Detector::Email);
    }
    if (has(DOT) && digits >= 4) || colon {
        set |= bit(Detector::Ip);
    }
    if digits >= 4 {
        set |= bit(Detector::DateOfBirth);
    }
    if digits >= 6 {
        set |= personal::ALL;
    }
    Look { set, hints, tokens, longest, has_dot: has(DOT) && digits > 0, is_encoded: has(NESTING) }
}

/// Secrets in a text, by the detectors that are on; spans may overlap.
pub(crate) fn find(text: &str, on: Set, hits: &mut Vec<Hit>) {
    let is_encoded = find_at(text, on, 0, hits);
    let views = [View::folded(text), if is_encoded { View::decoded(text) } else { None }];
    for view in views.into_iter().flatten() {
        let begun = hits.len();
        find_at(&view.text, on, 0, hits);
        // Encoded twice, or what is decoded is not ASCII.
        let again = View::decoded(&view.text).or_else(|| View::folded(&view.text).filter(|again| again.text != view.text));
        if let Some(again) = again {
            let from = hits.len();
            find_at(&again.text, on, 0, hits);
            for hit in &mut hits[from..] {
                (hit.start, hit.end) = again.original(hit.start, hit.end);
            }
        }
        for hit in &mut hits[begun..] {
            (hit.start, hit.end) = view.original(hit.start, hit.end);
        }
    }
    hits.retain(|hit| hit.start < hit.end);
}

/// Levels of encoding that are looked through: base64 and hexadecimal.
const DEPTH: usize = 2;

/// Gives back whether there may be something encoded in the text.
fn find_at(text: &str, on: Set, depth: usize, hits: &mut Vec<Hit>) -> bool {
    let wants_tokens = on & bit(Detector::CloudKey) != 0;
    worked!(text.len());
    let Look { set, hints, tokens, longest, has_dot, is_encoded } = look(text, wants_tokens);
    hits.extend(tokens.into_iter().map(|(start, end)| Hit { start, end, by: Detector::CloudKey }));
    if wants_tokens && longest >= 16 && (has_dot || longest >= 86) {
        let mut add = |start: usize, end: usize| hits.push(Hit { start, end, by: Detector::CloudKey });
        // Each of these has 16 characters in a row.
        if has_dot {
            providers::dotted(text, &mut add);
        }
        if longest >= 86 {
            providers::bare(text, &mut add);
        }
    }
    if longest >= container::LEAST && depth < DEPTH {
        container::look_inside(text, on, depth, hits);
    }
    let set = set & on;
    if set == 0 {
        return is_encoded;
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
            Detector::Bearer => credentials::bearer(text, &mut add),
            Detector::UrlCredentials => credentials::url(text, &mut add),
            Detector::Kv => kv::kv(text, hints, &mut add),
            Detector::Email => credentials::email(text, &mut add),
            Detector::Ip => numbers::ip(text, &mut add),
            Detector::Phone => personal::phone(text, &mut add),
            Detector::DateOfBirth => personal::birth(text, &mut add),
            Detector::NationalId => personal::national(text, &mut add),
            Detector::CloudKey | Detector::SecretName => {}
        }
    }
    is_encoded
}

/// What stands before a place: so many bytes at most, from a character on.
fn before(text: &str, at: usize, most: usize) -> &str {
    &text[text.ceil_char_boundary(at.saturating_sub(most))..at]
}

/// A regex that is part of this crate; it compiles, as its tests show.
macro_rules! pattern {
    ($name:ident, $text:expr) => {
        fn $name() -> Option<&'static regex::Regex> {
            static BUILT: std::sync::OnceLock<Option<regex::Regex>> = std::sync::OnceLock::new();
            BUILT
                .get_or_init(|| {
                    let built = regex::Regex::new($text);
                    debug_assert!(built.is_ok(), "{built:?}");
                    built.ok()
                })
                .as_ref()
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What repeated makes a scan that is not careful slow.
    const FRAGMENTS: &[&str] = &[
        "password: ",
        "auth=\"",
        "\"auth\":{",
        "a:\r",
        "token='",
        "--password ",
        "<password>",
        "key: |\n",
        "%41",
        "é",
        "pass=",
        "://a:",
        "ghp_",
        "::server:",
        "eyJ",
        "1 ",
        "4111",
        "[\"password\"]=> ",
        "Password for bob: ",
        "identified by ",
        "name=password value=",
        "<input name=\"password\" ",
        "AAAA",
        "set password for a",
        "insert into a(password) values(",
        "\\\"",
    ];

    fn work_of(text: &str) -> u64 {
        work::take();
        let mut hits = Vec::new();
        find(text, Set::MAX, &mut hits);
        work::take()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn the_work_grows_with_the_text_and_no_faster(
            parts in prop::collection::vec(prop::sample::select(FRAGMENTS), 1..4),
            between in "[a-z :=\"'{}\\n-]{0,3}",
        ) {
            let unit = parts.join(&between);
            let (short, long) = (work_of(&unit.repeat(200)), work_of(&unit.repeat(1600)));
            prop_assert!(long <= short.max(1000) * 12, "{unit:?}: {short} for 200 of it, {long} for eight times as many");
        }
    }
}
