//! What each stage of an event costs the processor, without network and disk.
use std::{hint::black_box, time::Instant};

use steno_chain::{ChainState, seal};
use steno_crds::{Capture, Redaction};
use steno_event::{
    Draft, Fill, IdKey, Received, encode, fingerprint, identity,
    json::{canonical, parse},
};
use steno_redact::Redactor;

fn fill() -> Fill {
    Fill {
        tenant: "shop".into(),
        tenant_enforced: false,
        service: "checkout".into(),
        category: "user-action".into(),
        outcome: "unknown".into(),
        severity: "info",
        require: Vec::new(),
        writer: r#"{"configHash":"0123456789abcdef","namespace":"shop","pod":"checkout-7d9c-x2x","version":"0.1.0"}"#.into(),
    }
}

/// Records as the sidecar sends them, each with its own id and hashes.
pub fn records(count: usize) -> anyhow::Result<Vec<Vec<u8>>> {
    let ((text, at), fill, received) = (crate::load::event(), fill(), Received::at(1_772_357_400_000));
    let mut chain = ChainState::begin("5b6c7c3a-6c0e-4d7a-9a53-0b6d0f8a9b1c/0f0e0d0c".into());
    (0..count)
        .map(|index| {
            let mut text = text.clone();
            text.replace_range(at..at + 12, &format!("{index:012}"));
            let mut draft = Draft::from_json(parse(&text)?)?;
            draft.complete(&fill, &received);
            let halves = encode(&draft.members);
            let mut out = Vec::with_capacity(1400);
            seal(&mut chain, &halves.bytes[..halves.split], &halves.bytes[halves.split..], &mut out);
            Ok(out)
        })
        .collect()
}

/// Microseconds of each stage, a median over many rounds.
pub fn run() -> anyhow::Result<Vec<(&'static str, f64)>> {
    const ROUNDS: usize = 40;
    const EVENTS: usize = 500;
    const NAMES: [&str; 8] =
        ["parse", "normalise", "identity", "redact", "fingerprint", "complete", "encode (canonical)", "chain (SHA-256)"];
    let (text, _) = crate::load::event();
    let redactor = Redactor::compile(&Redaction::default(), &Capture::default(), None)?;
    let fill = fill();
    let received = Received::at(1_772_357_400_000);
    let (key, mut scratch, mut out) = (IdKey([7; 32]), Vec::new(), Vec::new());
    let mut chain = ChainState::begin("5b6c7c3a-6c0e-4d7a-9a53-0b6d0f8a9b1c/0f0e0d0c".into());
    let mut times = vec![Vec::with_capacity(ROUNDS); NAMES.len()];
    for _ in 0..ROUNDS {
        let mut spent = [0u128; NAMES.len()];
        for _ in 0..EVENTS {
            let mut at = Instant::now();
            let mut lap = |stage: usize| {
                let now = Instant::now();
                spent[stage] += (now - at).as_nanos();
                at = now;
            };
            let tree = parse(black_box(&text))?;
            lap(0);
            let mut draft = Draft::from_json(tree)?;
            draft.check_required(&fill)?;
            lap(1);
            black_box(identity(&key, draft.tenant(&fill)?, draft.text("eventId").unwrap_or_default()));
            lap(2);
            black_box(redactor.apply(&mut draft.members, None));
            lap(3);
            black_box(fingerprint(&key, &draft.members, &mut scratch));
            lap(4);
            draft.complete(&fill, &received);
            lap(5);
            let halves = encode(&draft.members);
            lap(6);
            out.clear();
            seal(&mut chain, &halves.bytes[..halves.split], &halves.bytes[halves.split..], &mut out);
            lap(7);
            black_box(&out);
        }
        for (stage, spent) in spent.into_iter().enumerate() {
            times[stage].push(spent as f64 / 1000.0 / EVENTS as f64);
        }
    }
    // So that nothing above is work on an event that was refused.
    anyhow::ensure!(canonical(&parse(&text)?).len() > 600, "the event is not what it was");
    Ok(NAMES
        .into_iter()
        .zip(times)
        .map(|(name, mut times)| {
            times.sort_by(f64::total_cmp);
            (name, times[times.len() / 2])
        })
        .collect())
}
