//! Any damage to a journal's files: it opens or says why not, and every block that is read is one that was written.
#![no_main]
use std::{collections::BTreeMap, sync::Arc};

use libfuzzer_sys::fuzz_target;
use steno_journal::{ChainRange, Class, Envelope, Journal, Key, Keys, NewBlock, Next, Options, Reader, sim::SimDisk};

const OPTIONS: Options = Options { max_bytes: 16 << 16, segment_bytes: 1 << 16, control_segments: 1, retain_ms: 0, retain_bytes: 0, recycle: true };

fn envelope(sealed: bool) -> Envelope {
    if !sealed {
        return Envelope::default();
    }
    let key = Key::read(&[7; 32]).expect("a key");
    Envelope { keys: Arc::new(Keys::new(Some(key), Vec::new())), compress: true }
}

fuzz_target!(|data: &[u8]| {
    let Some((first, rest)) = data.split_first() else { return };
    let envelope = envelope(first & 1 == 1);
    let disk = SimDisk::new(u64::from(*first));
    let mut opened = Journal::open(Arc::new(disk.clone()), OPTIONS, envelope.clone()).expect("a new journal opens");
    let mut written = BTreeMap::new();
    for number in 0..12u64 {
        let payload = vec![number as u8 ^ first; 3000 + number as usize * 700];
        let (from, count) = (opened.journal.next_seq(), 1 + number as u32 % 3);
        let ranges = vec![ChainRange { id: "c".into(), epoch: 1, first: from, last: from + u64::from(count) - 1, hash: [9; 32] }];
        let (class, payload_of) = (Class::Normal, [&payload[..]]);
        let (wall_ms, journal_ms) = (1000 + number, number);
        let block = NewBlock { class, count, ranges, ends: false, wall_ms, journal_ms, payload: &payload_of };
        opened.journal.append(&block).expect("it is appended");
        opened.journal.sync().expect("it is synced");
        written.insert(from, (count, payload));
    }
    drop(opened);
    let files = disk.files();
    for hit in rest.chunks_exact(5) {
        let (name, size) = &files[hit[0] as usize % files.len()];
        let at = u32::from_le_bytes([hit[1], hit[2], hit[3], 0]) as usize % (*size).max(1);
        disk.flip(name, at, hit[4]);
    }
    let Ok(again) = Journal::open(Arc::new(disk), OPTIONS, envelope) else { return };
    let mut reader = Reader::new(again.journal.shared(), 0);
    let mut before = None;
    while let Ok(next) = reader.next() {
        match next {
            Next::CaughtUp => break,
            Next::Lost(damage) => assert!(damage.first_seq <= damage.next_seq),
            Next::Block(block) => {
                assert!(before < Some(block.header.first_seq), "blocks come in order, each once");
                before = Some(block.header.first_seq);
                let (count, payload) = written.get(&block.header.first_seq).expect("a block that nobody wrote");
                assert!(*count == block.header.count && *payload == block.payload, "a block is other than it was written");
            }
        }
    }
});
