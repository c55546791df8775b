//! Detectors: where in a text a secret stands, by its shape.
//!
//! Each works on bytes, in time linear in the text, and reports ranges that begin and end beside ASCII or at an end of the text, so
//! that they are ranges of characters.
use steno_crds::Detector;

mod credentials;
mod ids;
mod kv;
mod pan;
mod token;
mod url;

pub(crate) use pan::is_card_number;
use token::Tokens;

/// All detectors, by their number.
pub(crate) const ALL: [Detector; 12] = [
    Detector::SecretName,
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

/// Nothing shorter is a secret that a detector knows: `pwd=a`.
const SHORTEST: usize = 5;
/// The shortest token with a known prefix: `xoxb-` and ten characters.
const SHORTEST_TOKEN: usize = 15;

/// A range of bytes that something found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hit {
    pub(crate) start: usize,
    pub(crate) end: usize,
    pub(crate) by: By,
}

/// What found it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    /// A detector.
    Detector(Detector),
    /// The regex of this rule.
    Regex(usize),
}

/// A set of detectors.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Wanted(u16);

/// Detectors, ready for use.
pub(crate) struct Detectors {
    tokens: Tokens,
}

/// What bytes a text is made of.
struct Facts {
    digits: usize,
    dashes: usize,
    seen: u8,
}

const DIGIT: u8 = 1;
const DASH: u8 = 2;
const ASSIGN: u8 = 4;
const SPACE: u8 = 8;
const AT: u8 = 16;
const DOT: u8 = 32;
const COLON: u8 = 64;

const CLASS: [u8; 256] = {
    let mut table = [0u8; 256];
    let mut digit = b'0';
    while digit <= b'9' {
        table[digit as usize] = DIGIT;
        digit += 1;
    }
    table[b'-' as usize] = DASH;
    table[b'=' as usize] = ASSIGN;
    table[b':' as usize] = ASSIGN | COLON;
    table[b' ' as usize] = SPACE;
    table[b'@' as usize] = AT;
    table[b'.' as usize] = DOT;
    table
};

// === impl Wanted ===

impl Wanted {
    pub(crate) fn add(&mut self, detector: Detector) {
        self.0 |= 1 << (detector as u16);
    }

    pub(crate) fn has(self, detector: Detector) -> bool {
        self.0 & (1 << (detector as u16)) != 0
    }

    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }
}

// === impl Facts ===

impl Facts {
    fn of(bytes: &[u8]) -> Self {
        let mut facts = Self { digits: 0, dashes: 0, seen: 0 };
        for byte in bytes {
            let class = CLASS[usize::from(*byte)];
            facts.seen |= class;
            facts.digits += usize::from(class & DIGIT);
            facts.dashes += usize::from((class & DASH) >> 1);
        }
        facts
    }

    fn has(&self, class: u8) -> bool {
        self.seen & class != 0
    }
}

// === impl Detectors ===

impl Detectors {
    pub(crate) fn new() -> Result<Self, aho_corasick::BuildError> {
        Ok(Self { tokens: Tokens::new()? })
    }

    /// Appends what the wanted detectors find. Ranges of one detector do not overlap; those of several may.
    pub(crate) fn find(&self, text: &str, wanted: Wanted, out: &mut Vec<Hit>) {
        let bytes = text.as_bytes();
        if bytes.len() < SHORTEST || wanted.is_empty() {
            return;
        }
        let facts = Facts::of(bytes);
        if facts.has(ASSIGN) {
            credentials::assignments(bytes, wanted, out);
        }
        if facts.has(SPACE) && wanted.has(Detector::Bearer) {
            credentials::schemes(bytes, out);
        }
        if bytes.len() >= SHORTEST_TOKEN {
            self.tokens.find(bytes, wanted, out);
        }
        if facts.digits >= pan::LEAST_DIGITS && wanted.has(Detector::Pan) {
            pan::find(bytes, out);
        }
        if facts.digits >= 9 && facts.dashes >= 2 && wanted.has(Detector::Ssn) {
            ids::ssn(bytes, out);
        }
        if facts.digits >= 2 && bytes.len() >= ids::SHORTEST_IBAN && wanted.has(Detector::Iban) {
            ids::iban(bytes, out);
        }
        if facts.has(AT) && wanted.has(Detector::Email) {
            ids::email(bytes, out);
        }
        if facts.has(DIGIT) && facts.has(DOT | COLON) && wanted.has(Detector::Ip) {
            ids::ip(text, out);
        }
    }
}

fn push(out: &mut Vec<Hit>, detector: Detector, start: usize, end: usize) {
    out.push(Hit { start, end, by: By::Detector(detector) });
}

/// Where the run of such bytes that begins at `from` ends.
fn run(bytes: &[u8], from: usize, takes: impl Fn(u8) -> bool) -> usize {
    from + bytes[from..].iter().take_while(|byte| takes(**byte)).count()
}

/// Whether the byte before `at` is an ASCII letter or digit.
fn follows_word(bytes: &[u8], at: usize) -> bool {
    at > 0 && bytes[at - 1].is_ascii_alphanumeric()
}

/// Whether the byte at `at` is an ASCII letter or digit.
fn is_word(bytes: &[u8], at: usize) -> bool {
    bytes.get(at).is_some_and(u8::is_ascii_alphanumeric)
}

/// A byte of base64url.
fn is_base64url(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The texts that a detector finds.
    pub(super) fn found(detector: Detector, text: &str) -> Vec<&str> {
        let mut wanted = Wanted::default();
        wanted.add(detector);
        let mut out = Vec::new();
        Detectors::new().unwrap().find(text, wanted, &mut out);
        assert!(out.iter().all(|hit| hit.by == By::Detector(detector)));
        out.iter().map(|hit| &text[hit.start..hit.end]).collect()
    }

    #[test]
    fn detectors_are_numbered_in_their_order() {
        for (number, detector) in ALL.into_iter().enumerate() {
            assert_eq!(detector as usize, number);
        }
    }

    #[test]
    fn hostile_text_takes_no_more_than_linear_time() {
        let detectors = Detectors::new().unwrap();
        let mut wanted = Wanted::default();
        ALL.into_iter().for_each(|detector| wanted.add(detector));
        let pieces = [
            "eyJ", "eyJ.", "a://b:c", "a://", "password=[", "password='", "password=\\\"", "password=", "-AIza", "_github_pat_",
            "-xoxb-", "-----BEGIN PRIVATE KEY-----", "-----BEGIN ", "bearer ", "4111 ", "411-", "DE44 ", "a@", "1.1.1.1", "::1", "&token=",
            "\\\\\":", "AccountKey=", "123-45-",
        ];
        let started = std::time::Instant::now();
        for piece in pieces {
            detectors.find(&piece.repeat((1 << 18) / piece.len()), wanted, &mut Vec::new());
        }
        // A quadratic detector needs minutes for one of these.
        assert!(started.elapsed().as_secs() < 30, "{:?}", started.elapsed());
    }

    proptest::proptest! {
        #[test]
        fn ranges_are_ranges_of_characters(text in "([a-zA-Z0-9=:@/?&#.,;'\" äß💥-]|password|://|eyJ|Bearer ){0,60}") {
            let mut wanted = Wanted::default();
            ALL.into_iter().for_each(|detector| wanted.add(detector));
            let mut out = Vec::new();
            Detectors::new().unwrap().find(&text, wanted, &mut out);
            for hit in out {
                proptest::prop_assert!(hit.start < hit.end && text.get(hit.start..hit.end).is_some());
            }
        }
    }
}
