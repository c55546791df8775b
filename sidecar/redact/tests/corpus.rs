//! The labelled corpus: every secret goes, every near miss stays. Prints recall and precision.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use std::{fs, path::Path};

use serde::Deserialize;
use steno_crds::{Capture, Redaction};
use steno_event::{
    Draft,
    json::{Form, Json, parse, write_json},
};
use steno_redact::Redactor;

/// An event of a kind that real applications emit.
#[derive(Deserialize)]
struct Application<'a> {
    name: String,
    /// `claimed`: the documentation says it is found. `bar`: users of scanners expect it. `beyond`: no scanner finds it. `keep`: must stay.
    /// `debatable`: opinions differ.
    tier: String,
    #[serde(borrow)]
    event: &'a serde_json::value::RawValue,
    secret: Vec<String>,
    keep: Vec<String>,
}

#[derive(Deserialize)]
struct Case<'a> {
    name: String,
    #[serde(borrow)]
    event: &'a serde_json::value::RawValue,
    secret: Vec<String>,
    keep: Vec<String>,
    rule: Option<String>,
}

/// Labels that the rules are known to take although they are harmless, with the reason.
const FALSE_POSITIVES: &[(&str, &str)] = &[];

/// All strings and names of a value as readers see it, those inside JSON strings too.
fn texts(value: &Json<'_>, out: &mut Vec<String>) {
    match value {
        Json::Object(object) => {
            for (name, value) in object.iter().filter(|(_, value)| !matches!(value, Json::Removed)) {
                out.push(name.to_string());
                texts(value, out);
            }
        }
        Json::Array(items) => items.iter().for_each(|item| texts(item, out)),
        Json::String(_) | Json::Redacted(_) => {
            let text = value.as_str().unwrap_or_default();
            out.push(text.to_owned());
            if let Ok(inner @ (Json::Object(_) | Json::Array(_))) = parse(text.trim()) {
                texts(&inner, out);
            }
        }
        other => {
            let mut text = Vec::new();
            write_json(&mut text, other, Form::Shown);
            out.push(String::from_utf8(text).unwrap());
        }
    }
}

#[test]
fn every_labelled_secret_goes_and_every_near_miss_stays() {
    let redactor = Redactor::compile(&Redaction::default(), &Capture::default(), None).unwrap();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "jsonl"));
    files.sort();
    let (mut cases, mut secrets, mut missed, mut keeps, mut taken, mut wrong_rule) =
        (0, 0, Vec::new(), 0, Vec::new(), Vec::new());
    for file in files {
        let lines = fs::read_to_string(&file).unwrap();
        for line in lines.lines().filter(|line| !line.trim().is_empty()) {
            let case: Case<'_> = serde_json::from_str(line).unwrap_or_else(|error| panic!("{}: {error}: {line}", file.display()));
            cases += 1;
            // Numbers beyond 2^53 are refused before redaction; nothing can leak from there.
            let Ok(tree) = parse(case.event.get()) else { continue };
            let mut members = match (Draft::from_json(tree.clone()), tree) {
                (Ok(draft), _) => draft.members,
                (Err(_), Json::Object(object)) => object,
                _ => panic!("{}: not an object", case.name),
            };
            let report = redactor.apply(&mut members, None);
            let mut seen = Vec::new();
            texts(&Json::Object(members), &mut seen);
            if let Some(redactions) = &report.redactions {
                texts(redactions, &mut seen);
            }
            for secret in &case.secret {
                secrets += 1;
                if seen.iter().any(|text| text.contains(secret.as_str())) {
                    missed.push(format!("{}: {secret:?} survives", case.name));
                }
            }
            for keep in &case.keep {
                keeps += 1;
                let known = FALSE_POSITIVES.iter().any(|(name, _)| *name == case.name);
                if !known && !seen.iter().any(|text| text.contains(keep.as_str())) {
                    taken.push(format!("{}: {keep:?} is gone", case.name));
                }
            }
            if let Some(rule) = &case.rule
                && !report.counts.iter().any(|(fired, _)| **fired == **rule)
            {
                wrong_rule.push(format!("{}: {rule} did not act, but {:?}", case.name, report.counts));
            }
        }
    }
    let percent = |part: usize, of: usize| 100.0 * part as f64 / of.max(1) as f64;
    let found = secrets - missed.len();
    eprintln!(
        "redaction corpus: {cases} cases, {secrets} secrets, recall {:.2} %, precision {:.2} % ({} false positives of {keeps} labels)",
        percent(found, secrets),
        percent(found, found + taken.len()),
        taken.len()
    );
    for line in missed.iter().chain(&taken).chain(&wrong_rule) {
        eprintln!("  {line}");
    }
    assert!(cases >= 300 && missed.is_empty() && taken.is_empty() && wrong_rule.is_empty());
}

#[derive(Debug, Default)]
struct Tier {
    cases: usize,
    leaked: Vec<String>,
    altered: Vec<String>,
}

/// What became of the cases of a file, by tier. Prints it.
fn tiers(file: &str) -> std::collections::BTreeMap<String, Tier> {
    let policy = include_str!("../../../examples/quickstart/auditpolicy.yaml");
    let policy: serde_json::Value = serde_yaml::from_str(policy).unwrap();
    let redaction: Redaction = serde_json::from_value(policy["spec"]["redaction"].clone()).unwrap();
    let redactor = Redactor::compile(&redaction, &Capture::default(), None).unwrap();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/applications").join(file);
    let lines = fs::read_to_string(path).unwrap();
    let mut tiers: std::collections::BTreeMap<String, Tier> = std::collections::BTreeMap::new();
    for line in lines.lines() {
        let case: Application<'_> = serde_json::from_str(line).unwrap();
        let Ok(tree) = parse(case.event.get()) else { continue };
        let Ok(draft) = Draft::from_json(tree) else { continue };
        let mut members = draft.members;
        let report = redactor.apply(&mut members, None);
        let mut seen = Vec::new();
        texts(&Json::Object(members), &mut seen);
        if let Some(redactions) = &report.redactions {
            texts(redactions, &mut seen);
        }
        let tier = tiers.entry(case.tier.clone()).or_default();
        tier.cases += 1;
        if case.secret.iter().any(|secret| seen.iter().any(|text| text.contains(secret.as_str()))) {
            tier.leaked.push(case.name.clone());
        }
        if !case.keep.iter().all(|keep| seen.iter().any(|text| text.contains(keep.as_str()))) {
            tier.altered.push(case.name);
        }
    }
    for (name, tier) in &tiers {
        let (leaked, altered) = (tier.leaked.len(), tier.altered.len());
        eprintln!("redaction corpus, {file}, {name}: {} cases, {leaked} leaked, {altered} altered", tier.cases);
        for case in tier.leaked.iter().chain(&tier.altered) {
            eprintln!("  {case}");
        }
    }
    tiers
}

/// Whether a part is at most so many in a hundred.
fn at_most(percent: usize, part: &[String], tier: &Tier) -> bool {
    part.len() * 100 <= tier.cases * percent
}

#[test]
fn events_of_applications_keep_what_they_may_and_no_secret() {
    let tiers = tiers("cases.jsonl");
    assert!(tiers["claimed"].leaked.is_empty());
    assert!(at_most(2, &tiers["bar"].leaked, &tiers["bar"]));
    assert!(at_most(2, &tiers["keep"].altered, &tiers["keep"]));
    assert!(tiers["claimed"].altered.is_empty() && tiers["bar"].altered.is_empty(), "more was cut out than the secret");
}

/// Cases of others, who tried to get past it: by the rules of scanners, the tests of others, and what tools print. The same bar holds for them.
#[test]
fn what_strangers_tried_meets_the_same_bar() {
    let tiers = tiers("strangers.jsonl");
    assert!(tiers["claimed"].leaked.is_empty());
    assert!(at_most(2, &tiers["bar"].leaked, &tiers["bar"]));
    assert!(tiers["keep"].altered.is_empty());
}
