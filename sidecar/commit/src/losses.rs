//! What a sink misses once records are gone that it was not given: their numbers in the chains, and what those among them that tell of other losses
//! told. So a gap has a name also where the record that named it is gone itself.
use std::{collections::BTreeMap, sync::Arc};

use steno_chain::{Lost, losses_told};
use steno_event::json::{Json, parse};
use steno_journal::{ChainRange, Next, Reader, Shared};

use crate::frames;

/// What a sink misses without the records from one position of the journal to another, and how many records these are. No sink: what any of them misses.
pub fn losses(shared: &Arc<Shared>, from: u64, end: u64, sink: Option<&str>) -> (Vec<Lost>, u64) {
    let mut reader = Reader::new(shared.clone(), from);
    let mut gone: BTreeMap<String, Lost> = BTreeMap::new();
    let mut add = |range: &ChainRange| {
        let known = gone.entry(range.id.clone()).or_insert_with(|| lost_range(range));
        known.first = known.first.min(range.first);
        known.last = known.last.max(range.last);
    };
    let mut told = Vec::new();
    while let Ok(next) = reader.next() {
        match next {
            Next::Block(block) if block.header.first_seq < end => {
                block.header.ranges.iter().for_each(&mut add);
                for frame in frames(&block.payload).filter(|frame| frame.is_note) {
                    if let Ok(Json::Object(note)) =
                        std::str::from_utf8(frame.json).map_err(drop).and_then(|text| parse(text).map_err(drop))
                    {
                        told.extend(losses_told(&note, sink));
                    }
                }
            }
            Next::Lost(damage) if damage.first_seq < end => damage.ranges.iter().for_each(&mut add),
            _ => break,
        }
    }
    told.extend(gone.into_values());
    (joined(told), end.saturating_sub(from))
}

/// A range of a block as a loss.
pub fn lost_range(range: &ChainRange) -> Lost {
    Lost { chain_id: range.id.clone(), first: range.first, last: range.last }
}

/// The same ranges, those that touch or overlap as one.
fn joined(mut ranges: Vec<Lost>) -> Vec<Lost> {
    ranges.sort_by(|a, b| (&a.chain_id, a.first).cmp(&(&b.chain_id, b.first)));
    let mut out: Vec<Lost> = Vec::new();
    for range in ranges {
        match out.last_mut() {
            Some(before) if before.chain_id == range.chain_id && range.first <= before.last.saturating_add(1) => {
                before.last = before.last.max(range.last);
            }
            _ => out.push(range),
        }
    }
    out
}
