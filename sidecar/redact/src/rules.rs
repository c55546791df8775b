//! A policy's redaction, compiled.
use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use regex::Regex;
use sha2::{Digest, Sha256};
use steno_crds::{Capture, Detector, MemberPath, REGEX_SIZE_LIMIT, Redaction, RedactionAction as Action, Segment};
use steno_event::json::{Json, Object};

use crate::{
    HashKey, Report,
    detect::{INSIDE, Set, bit, personal},
    plain::PlainNames,
    report::report,
    walk::Walk,
};

/// Changes whenever the builtin rules find or do something else, so that fingerprints of two versions are not compared blindly.
const BUILTIN_VERSION: u32 = 3;

/// Why rules do not compile. The policy's validation refuses all of these first.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A path that is none.
    #[error("redaction.rules[{0}]: {1}")]
    Path(usize, String),
    /// A regex that does not compile.
    #[error("redaction.rules[{0}].regex does not compile: {1}")]
    Regex(usize, String),
}

/// A rule on a path.
pub(crate) struct PathRule {
    pub(crate) path: Vec<Segment>,
    pub(crate) action: Action,
    pub(crate) id: Arc<str>,
    pub(crate) except: Vec<usize>,
}

/// A rule on text.
pub(crate) struct TextRule {
    pub(crate) regex: Regex,
    pub(crate) action: Action,
    pub(crate) id: Arc<str>,
    pub(crate) except: Vec<usize>,
}

/// What happens to what a detector finds.
#[derive(Clone)]
pub(crate) struct Found {
    pub(crate) action: Action,
    pub(crate) id: Arc<str>,
    pub(crate) except: Vec<usize>,
}

/// Compiled redaction.
pub struct Redactor {
    pub(crate) names: Vec<Found>,
    /// By place in [`INSIDE`]; each may have several rules, of which those that make no exception for a place count there.
    pub(crate) detectors: Vec<Vec<Found>>,
    pub(crate) on: Set,
    pub(crate) paths: Vec<PathRule>,
    pub(crate) texts: Vec<TextRule>,
    /// All paths of rules and exceptions; rules first.
    pub(crate) patterns: Vec<Vec<Segment>>,
    pub(crate) capture: Capture,
    pub(crate) key: Option<HashKey>,
    pub(crate) plain: Mutex<PlainNames>,
    generation: u32,
}

impl std::fmt::Debug for Redactor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Redactor(generation {:08x})", self.generation)
    }
}

/// A regex by its own text, so that who reads a record knows the rule.
fn regex_id(text: &str) -> String {
    const MOST: usize = 48;
    let short: String = text.chars().take(MOST).collect();
    if short.len() < text.len() { format!("regex:{short}…") } else { format!("regex:{short}") }
}

fn detector_id(detector: Detector) -> &'static str {
    match detector {
        Detector::SecretName => "name:secret",
        Detector::Pan => "detector:pan",
        Detector::Jwt => "detector:jwt",
        Detector::Pem => "detector:pem",
        Detector::CloudKey => "detector:cloud-key",
        Detector::Bearer => "detector:bearer",
        Detector::UrlCredentials => "detector:url-credentials",
        Detector::Kv => "detector:kv",
        Detector::Ssn => "detector:ssn",
        Detector::Iban => "detector:iban",
        Detector::Email => "detector:email",
        Detector::Ip => "detector:ip",
        Detector::Phone => "detector:phone",
        Detector::DateOfBirth => "detector:date-of-birth",
        Detector::NationalId => "detector:national-id",
    }
}

// === impl Redactor ===

impl Redactor {
    /// Compiles a policy's redaction.
    pub fn compile(redaction: &Redaction, capture: &Capture, key: Option<HashKey>) -> Result<Self, Error> {
        let builtin = |detector: Detector| match detector {
            _ if !redaction.builtin => None,
            _ if !detector.is_builtin() => None,
            Detector::Pan => Some(Action::Mask),
            _ => Some(Action::Replace),
        };
        // Rules for a builtin detector take its place, and are no weaker.
        let mut found: HashMap<Detector, Vec<Found>> = HashMap::new();
        let mut made = Self {
            names: Vec::new(),
            detectors: Vec::new(),
            on: 0,
            paths: Vec::new(),
            texts: Vec::new(),
            patterns: Vec::new(),
            capture: capture.clone(),
            key,
            plain: Mutex::default(),
            generation: generation(redaction, capture),
        };
        for (index, rule) in redaction.rules.iter().enumerate() {
            let parse = |text: &String| text.parse::<MemberPath>().map(|path| path.0).map_err(|error| Error::Path(index, error));
            let mut except = Vec::new();
            for path in &rule.except {
                except.push(made.patterns.len());
                made.patterns.push(parse(path)?);
            }
            if let Some(path) = &rule.path {
                made.paths.push(PathRule { path: parse(path)?, action: rule.action, id: format!("path:{path}").into(), except });
            } else if let Some(text) = &rule.regex {
                let regex = regex::RegexBuilder::new(text).size_limit(REGEX_SIZE_LIMIT).build();
                let regex = regex.map_err(|error| Error::Regex(index, error.to_string()))?;
                made.texts.push(TextRule { regex, action: rule.action, id: regex_id(text).into(), except });
            } else if let Some(detector) = rule.detector {
                let action = builtin(detector).map_or(rule.action, |known| known.max(rule.action));
                found.entry(detector).or_default().push(Found { action, id: detector_id(detector).into(), except });
            }
        }
        let mut rules_of = |detector: Detector| {
            let own = found.remove(&detector).unwrap_or_default();
            let of_builtin = builtin(detector).filter(|_| own.is_empty());
            let of_builtin = of_builtin.map(|action| Found { action, id: detector_id(detector).into(), except: Vec::new() });
            own.into_iter().chain(of_builtin).collect::<Vec<Found>>()
        };
        made.names = rules_of(Detector::SecretName);
        for detector in INSIDE {
            let rules = rules_of(detector);
            if !rules.is_empty() {
                made.on |= bit(detector);
            }
            made.detectors.push(rules);
        }
        personal::prepare(made.on);
        Ok(made)
    }

    /// A stable number of the rules: not of the key, whose rotation changes no fingerprint.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// Redacts in place, and says what was done. `identity` hashes identifiers where the policy has no key, so that what was distinct stays distinct;
    /// without both, they are replaced.
    pub fn apply(&self, members: &mut Object<'_>, identity: Option<&HashKey>) -> Report {
        // Where another thread has it, this one does without.
        let mut walk = Walk::new(self, self.plain.try_lock(), identity);
        walk.event(members);
        report(walk.entries)
    }

    /// Redacts a text by itself, as it would be redacted in an event's message; `None`: nothing is found in it.
    pub fn apply_to_text(&self, text: &str, identity: Option<&HashKey>) -> Option<String> {
        let mut looked = Object::of([("message", Json::String(text.to_owned().into()))]);
        let report = self.apply(&mut looked, identity);
        // Whatever is not whole any more is no text to show.
        report.redactions.map(|_| looked.get("message").and_then(Json::as_str).unwrap_or_default().to_owned())
    }
}

fn generation(redaction: &Redaction, capture: &Capture) -> u32 {
    let mut hash = Sha256::new();
    hash.update(BUILTIN_VERSION.to_le_bytes());
    hash.update([u8::from(redaction.builtin), u8::from(capture.request_bodies), u8::from(capture.response_bodies)]);
    for rule in &redaction.rules {
        hash.update(format!("{rule:?}\n"));
    }
    let digest = hash.finalize();
    u32::from_le_bytes([digest[0], digest[1], digest[2], digest[3]])
}
