//! Promises of the journal, by theme.
mod basic;
mod damage;
mod envelope;
mod model;

use std::{collections::BTreeMap, sync::Arc};

use crate::{sim::SimDisk, *};

pub(crate) const SEGMENT: u64 = 64 << 10;

pub(crate) fn options() -> Options {
    Options { max_bytes: 16 * SEGMENT, segment_bytes: SEGMENT, control_segments: 1, retain_ms: 0, retain_bytes: 0, recycle: true }
}

pub(crate) fn open(disk: &SimDisk) -> Opened {
    open_with(disk, &Envelope::default())
}

pub(crate) fn open_with(disk: &SimDisk, envelope: &Envelope) -> Opened {
    Journal::open(Arc::new(disk.clone()), options(), envelope.clone()).unwrap()
}

/// Everything in clear, or compressed and encrypted.
pub(crate) fn envelope(sealed: bool) -> Envelope {
    let key = Key::read(&[7; 32]).unwrap();
    if sealed { Envelope { keys: Arc::new(Keys::new(Some(key), Vec::new())), compress: true } } else { Envelope::default() }
}

/// Records of a block: one byte a record is enough to tell them apart with their number.
pub(crate) fn payload(first: u64, count: u32, size: usize, salt: u8) -> Vec<u8> {
    (first..first + u64::from(count)).flat_map(|seq| vec![(seq as u8) ^ salt; size]).collect()
}

pub(crate) fn append(journal: &mut Journal, count: u32, size: usize, salt: u8) -> Result<(u64, Vec<u8>)> {
    let first = journal.next_seq();
    let bytes = payload(first, count, size, salt);
    let ranges = vec![ChainRange { id: "c".into(), epoch: 1, first, last: first + u64::from(count) - 1, hash: [salt; 32] }];
    let class = Class::Normal;
    journal.append(&NewBlock {
        class,
        count,
        ranges,
        ends: false,
        wall_ms: 1000 + first,
        journal_ms: first,
        payload: &[&bytes],
    })?;
    Ok((first, bytes))
}

pub(crate) fn commit(journal: &mut Journal, count: u32, size: usize, salt: u8) -> Result<(u64, Vec<u8>)> {
    let appended = append(journal, count, size, salt)?;
    journal.sync()?;
    Ok(appended)
}

/// Blocks by first sequence number: how many records, and their bytes.
pub(crate) type Blocks = BTreeMap<u64, (u32, Vec<u8>)>;

/// All blocks from `from` on, and what was lost.
pub(crate) fn read(journal: &Journal, from: u64) -> (Blocks, Vec<Damage>) {
    let mut reader = Reader::new(journal.shared(), from);
    let (mut blocks, mut lost) = (BTreeMap::new(), Vec::new());
    loop {
        match reader.next().unwrap() {
            Next::Block(block) => {
                let there = blocks.insert(block.header.first_seq, (block.header.count, block.payload));
                assert!(there.is_none(), "a block came twice");
            }
            Next::Lost(damage) => lost.push(damage),
            Next::CaughtUp => return (blocks, lost),
        }
    }
}
