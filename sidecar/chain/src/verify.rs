//! Checking records that came out at the other end.
//!
//! Records may come in any order and more than once. Memory grows with the number of records (about 150 bytes each).
use std::{
    collections::{BTreeMap, HashMap},
    fmt,
};

use sha2::{Digest, Sha256};
use steno_event::json::{Json, Object, canonical, parse};

use crate::Lost;

/// Something that a chain shows.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Finding {
    /// A record is not JSON, or has no chain.
    Unreadable(String),
    /// A record's hash is not its own.
    Edit {
        /// The chain.
        chain: String,
        /// The record.
        seq: u64,
    },
    /// Two records have one sequence number.
    Fork {
        /// The chain.
        chain: String,
        /// The number.
        seq: u64,
    },
    /// A record does not follow from the one before.
    Broken {
        /// The chain.
        chain: String,
        /// The record.
        seq: u64,
    },
    /// Records are missing; both numbers included.
    Gap {
        /// The chain.
        chain: String,
        /// First missing.
        first: u64,
        /// Last missing.
        last: u64,
        /// Whether a record of the sidecar says so.
        explained: bool,
    },
    /// The chain does not begin with its `Genesis` record.
    NoGenesis {
        /// The chain.
        chain: String,
        /// Whether a record of the sidecar names it as lost.
        explained: bool,
    },
}

/// The result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Chains seen.
    pub chains: usize,
    /// Distinct records seen.
    pub records: u64,
    /// Records that came again, the same.
    pub redelivered: u64,
    /// What was found, in order.
    pub findings: Vec<Finding>,
}

struct Link {
    hash: String,
    prev: String,
    epoch: u64,
    genesis: bool,
}

/// Takes records of one sink and says what their chains show.
pub struct Verifier {
    /// The sink that they came from.
    sink: String,
    chains: HashMap<String, BTreeMap<u64, Link>>,
    lost: HashMap<String, Vec<(u64, u64)>>,
    findings: Vec<Finding>,
    redelivered: u64,
}

impl Default for Verifier {
    fn default() -> Self {
        Self::of("kafka")
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(why) => write!(f, "a record cannot be read: {why}"),
            Self::Edit { chain, seq } => write!(f, "{chain}: record {seq} was edited"),
            Self::Fork { chain, seq } => write!(f, "{chain}: two records have number {seq}"),
            Self::Broken { chain, seq } => write!(f, "{chain}: record {seq} does not follow from the one before"),
            Self::Gap { chain, first, last, explained } => {
                write!(
                    f,
                    "{chain}: {first} to {last} are missing, {}",
                    if *explained { "as a record says" } else { "unexplained" }
                )
            }
            Self::NoGenesis { chain, explained } => {
                write!(f, "{chain}: does not begin with its genesis record{}", if *explained { ", as a record says" } else { "" })
            }
        }
    }
}

// === impl Verdict ===

impl Verdict {
    /// Whether nothing is wrong: what records of the sidecar explain aside, no findings.
    pub fn is_clean(&self) -> bool {
        let is_explained = |finding: &Finding| {
            matches!(finding, Finding::Gap { explained: true, .. } | Finding::NoGenesis { explained: true, .. })
        };
        self.findings.iter().all(is_explained)
    }
}

// === impl Verifier ===

impl Verifier {
    /// For the records of a sink.
    pub fn of(sink: &str) -> Self {
        Self { sink: sink.into(), chains: HashMap::new(), lost: HashMap::new(), findings: Vec::new(), redelivered: 0 }
    }

    /// Takes one record's text.
    pub fn add(&mut self, text: &str) {
        if let Err(why) = self.take(text) {
            self.findings.push(Finding::Unreadable(why));
        }
    }

    fn take(&mut self, text: &str) -> Result<(), String> {
        let Json::Object(mut record) = parse(text).map_err(|fault| fault.to_string())? else {
            return Err("it is no object".into());
        };
        let lost = losses_told(&record, Some(&self.sink));
        let genesis = record.get("kind").and_then(Json::as_str) == Some("Genesis");
        let Some(Json::Object(integrity)) = record.get_mut("integrity") else { return Err("it has no integrity member".into()) };
        let Some(Json::String(hash)) = integrity.remove("hash") else { return Err("it has no hash".into()) };
        let text_of = |name: &str| integrity.get(name).and_then(Json::as_str).map(str::to_owned);
        let number_of = |name: &str| match integrity.get(name) {
            Some(Json::Number(number)) => Some(*number as u64),
            _ => None,
        };
        let parts = (text_of("chainId"), text_of("prevHash"), number_of("epoch"), number_of("seq"));
        let (Some(chain), Some(prev), Some(epoch), Some(seq)) = parts else {
            return Err("its integrity member is incomplete".into());
        };
        let hash = hash.into_owned();
        // A sink's own redaction changed it; the hash is that of the original, and only the chain's links can be checked. Kafka has originals only.
        let derived = self.sink != "kafka"
            && matches!(record.get("integrity"), Some(Json::Object(integrity)) if matches!(integrity.get("derived"), Some(Json::Bool(true))));
        let own = Sha256::digest(canonical(&Json::Object(record)));
        if !derived && own.iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}")) != hash {
            self.findings.push(Finding::Edit { chain, seq });
            return Ok(());
        }
        for Lost { chain_id, first, last } in lost {
            self.lost.entry(chain_id).or_default().push((first, last));
        }
        let links = self.chains.entry(chain.clone()).or_default();
        match links.get(&seq) {
            Some(known) if known.hash == hash => self.redelivered += 1,
            Some(_) => self.findings.push(Finding::Fork { chain, seq }),
            None => drop(links.insert(seq, Link { hash, prev, epoch, genesis })),
        }
        Ok(())
    }

    /// What the records show.
    pub fn finish(mut self) -> Verdict {
        let mut records = 0;
        for (chain, links) in &self.chains {
            records += links.len() as u64;
            let lost = self.lost.get(chain).map_or(&[][..], Vec::as_slice);
            let mut before: Option<(u64, &Link)> = None;
            for (seq, link) in links {
                let follows = match before {
                    None => {
                        if !link.genesis {
                            let explained = *seq > 0 && lost.iter().any(|(first, _)| *first == 0);
                            self.findings.push(Finding::NoGenesis { chain: chain.clone(), explained });
                        }
                        *seq == 0 || gap(&mut self.findings, chain, lost, 0, *seq - 1)
                    }
                    Some((last, _)) if last + 1 < *seq => gap(&mut self.findings, chain, lost, last + 1, *seq - 1),
                    Some((_, before)) if before.epoch != link.epoch => link.prev.bytes().all(|byte| byte == b'0'),
                    Some((_, before)) => before.hash == link.prev,
                };
                if !follows {
                    self.findings.push(Finding::Broken { chain: chain.clone(), seq: *seq });
                }
                before = Some((*seq, link));
            }
        }
        self.findings.sort();
        self.findings.dedup();
        Verdict { chains: self.chains.len(), records, redelivered: self.redelivered, findings: self.findings }
    }
}

/// The losses that a record of the sidecar's own tells of, where they concern a sink: what one was not given, another has. No sink: all that it tells of.
pub fn losses_told(record: &Object<'_>, sink: Option<&str>) -> Vec<Lost> {
    let of_sink = record.get("metadata").and_then(Json::as_object).and_then(|details| details.get("sink")).and_then(Json::as_str);
    let is_elsewhere = of_sink.zip(sink).is_some_and(|(of, sink)| of != sink);
    let Some(Json::Array(ranges)) = record.get("lost") else { return Vec::new() };
    if is_elsewhere || record.get("kind").and_then(Json::as_str) == Some("Event") {
        return Vec::new();
    }
    let range = |range: &Json<'_>| {
        let range = range.as_object()?;
        let number = |name: &str| match range.get(name) {
            Some(Json::Number(number)) => Some(*number as u64),
            _ => None,
        };
        Some(Lost { chain_id: range.get("chainId")?.as_str()?.to_owned(), first: number("first")?, last: number("last")? })
    };
    ranges.iter().filter_map(range).collect()
}

/// Notes a gap, part by part as far as it is explained; always "follows", because the gap is the finding.
fn gap(findings: &mut Vec<Finding>, chain: &str, lost: &[(u64, u64)], first: u64, last: u64) -> bool {
    let mut at = first;
    while at <= last {
        let cover = lost.iter().filter(|(from, to)| (*from..=*to).contains(&at)).map(|(_, to)| *to).max();
        let (end, explained) = match cover {
            Some(to) => (to.min(last), true),
            None => (lost.iter().filter(|(from, _)| *from > at).map(|(from, _)| from - 1).min().unwrap_or(last).min(last), false),
        };
        findings.push(Finding::Gap { chain: chain.to_owned(), first: at, last: end, explained });
        at = end + 1;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ChainState, Kind, Note, NoteContext, seal};

    fn context() -> NoteContext {
        NoteContext { tenant: "t".into(), service: "s".into(), writer: "{}".into() }
    }

    fn write(state: &mut ChainState, note: &Note) -> String {
        let halves = note.encode(&context(), "id", "2026-03-01T10:00:00.000Z");
        let mut out = Vec::new();
        seal(state, &halves.bytes[..halves.split], &halves.bytes[halves.split..], &mut out);
        String::from_utf8(out).unwrap()
    }

    fn chain(count: usize) -> Vec<String> {
        let mut state = ChainState::begin("c".into());
        let kinds = std::iter::once(Kind::Genesis).chain(std::iter::repeat(Kind::Config));
        kinds.take(count).map(|kind| write(&mut state, &Note::new(kind, "m"))).collect()
    }

    fn verify<'a>(records: impl IntoIterator<Item = &'a String>) -> Verdict {
        let mut verifier = Verifier::default();
        records.into_iter().for_each(|record| verifier.add(record));
        verifier.finish()
    }

    #[test]
    fn an_intact_chain_is_clean_in_any_order_and_with_redelivery() {
        let records = chain(10);
        let verdict = verify(records.iter().rev().chain(&records[3..5]));
        assert_eq!((verdict.records, verdict.redelivered, verdict.is_clean()), (10, 2, true), "{verdict:?}");
    }

    #[test]
    fn edit_fork_gap_and_missing_genesis_are_told_apart() {
        let records = chain(6);
        let edited = records[2].replace("\"message\":\"m\"", "\"message\":\"x\"");
        assert!(verify([&records[0], &records[1], &edited]).findings.contains(&Finding::Edit { chain: "c".into(), seq: 2 }));
        let mut other = ChainState::begin("c".into());
        let fork = write(&mut other, &Note::new(Kind::Genesis, "another"));
        assert!(verify(records.iter().chain([&fork])).findings.contains(&Finding::Fork { chain: "c".into(), seq: 0 }));
        let gap = |first, last| Finding::Gap { chain: "c".into(), first, last, explained: false };
        assert_eq!(verify([&records[0], &records[3]]).findings, [gap(1, 2)]);
        assert_eq!(verify(&records[1..]).findings, [gap(0, 0), Finding::NoGenesis { chain: "c".into(), explained: false }]);
    }

    #[test]
    fn a_gap_that_a_record_names_is_explained_and_only_that() {
        let mut state = ChainState::begin("c".into());
        let genesis = write(&mut state, &Note::new(Kind::Genesis, "m"));
        state = state.new_epoch(5);
        let lost = vec![Lost { chain_id: "c".into(), first: 2, last: 4 }];
        let recovered = write(&mut state, &Note::new(Kind::Recovered, "m").lost(lost));
        let verdict = verify([&genesis, &recovered]);
        let gap = |first, last, explained| Finding::Gap { chain: "c".into(), first, last, explained };
        assert_eq!(verdict.findings, [gap(1, 1, false), gap(2, 4, true)]);
        assert!(!verdict.is_clean());
    }

    #[test]
    fn a_genesis_that_a_record_names_as_lost_is_explained_too() {
        let mut state = ChainState::begin("c".into());
        let mut records: Vec<String> =
            [Kind::Genesis, Kind::Config, Kind::Config].map(|kind| write(&mut state, &Note::new(kind, "m"))).into();
        let lost = vec![Lost { chain_id: "c".into(), first: 0, last: 1 }];
        records.push(write(&mut state, &Note::new(Kind::Drop, "m").lost(lost)));
        let verdict = verify(&records[2..]);
        let chain = || "c".to_owned();
        let told = [
            Finding::Gap { chain: chain(), first: 0, last: 1, explained: true },
            Finding::NoGenesis { chain: chain(), explained: true },
        ];
        assert_eq!(verdict.findings, told);
        assert!(verdict.is_clean());
        // A record that was edited explains nothing.
        let edited = records[3].replace("\"message\":\"m\"", "\"message\":\"x\"");
        let verdict = verify([&records[2], &edited]);
        assert!(verdict.findings.contains(&Finding::NoGenesis { chain: chain(), explained: false }), "{verdict:?}");
        assert!(!verify(&records[1..3]).is_clean(), "without the record that says so nothing is explained");
    }

    #[test]
    fn the_worked_example_of_the_reference_page_is_true() {
        let page = include_str!("../../../docs/reference/integrity.md");
        let records: Vec<&str> = page.lines().filter(|line| line.starts_with("{\"action\"")).collect();
        let sealed = {
            let Json::Object(members) = parse(EXAMPLE).unwrap() else { unreachable!() };
            let halves = steno_event::encode(&members);
            let mut state =
                ChainState { id: "pod-1/0b5e9f3c-5d43-4c4e-9d1f-2f1f6a0c7d11".into(), epoch: 1, next: 7, prev: [0xab; 32] };
            let mut out = Vec::new();
            seal(&mut state, &halves.bytes[..halves.split], &halves.bytes[halves.split..], &mut out);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(records, [sealed.as_str()]);
        let mut verifier = Verifier::default();
        verifier.add(records[0]);
        assert!(
            !verifier.finish().findings.iter().any(|finding| matches!(finding, Finding::Edit { .. } | Finding::Unreadable(_)))
        );
    }

    /// An event with numbers and text that are written in more than one way.
    const EXAMPLE: &str = r#"{"action":"order.update","actor":{"id":"jörg","type":"user"},"after":{"rate":1e-7,"total":120.50,"€":"\u20ac"},
        "eventId":"e-1","kind":"Event","occurredAt":"2026-03-01T09:30:00Z","tenantId":"shop"}"#;
}
