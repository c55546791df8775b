//! Sequence numbers of records that are gone for good: lost to damage, or dropped undelivered.
//!
//! An event among them may be sent again, so the index of event ids must not call it a duplicate, whatever file of ids still has it.
//! And a loss that the chains name is not named again at each start, for as long as it lies in what is undelivered.
//!
//! # File `gone` (little-endian), written whole and renamed into place
//! ```text
//!   0  8  magic "STENOGON"     26  4  number of ranges whose ids are free
//!   8  2  version (1)          30  4  number of ranges that the chains name
//!  10 16  journal UUID         34  …  ranges, those first: u64 first, u64 first one behind
//!                               …  4  CRC32C of all before
//! ```
use steno_journal::{Disk, Error, Result};

const FILE: &str = "gone";
const TEMPORARY: &str = "tmp-gone";
const MAGIC: &[u8; 8] = b"STENOGON";
const VERSION: u16 = 1;
/// Bytes before the ranges.
const FIXED: usize = 34;
/// Limit of ranges of a kind. Beyond it the closest two become one, with what lies between them.
const MAX_RANGES: usize = 4096;

/// Ranges of sequence numbers, sorted and apart.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Ranges(Vec<(u64, u64)>);

/// What is gone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Gone {
    /// Records whose ids are free.
    pub(crate) ids: Ranges,
    /// Lost records that the chains name.
    pub(crate) told: Ranges,
}

fn io(action: &'static str) -> impl FnOnce(std::io::Error) -> Error {
    move |source| Error::Io { action, file: FILE.into(), source }
}

// === impl Ranges ===

impl Ranges {
    /// Whether a record is among them.
    pub(crate) fn contains(&self, seq: u64) -> bool {
        let index = self.0.partition_point(|(_, next)| *next <= seq);
        self.0.get(index).is_some_and(|(first, _)| *first <= seq)
    }

    /// Whether all records of a range are.
    pub(crate) fn contains_all(&self, first: u64, next: u64) -> bool {
        self.0.iter().any(|(from, to)| *from <= first && next <= *to)
    }

    /// The ranges.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, u64)> {
        self.0.iter().copied()
    }

    /// Adds a range. Whether anything changed.
    pub(crate) fn add(&mut self, first: u64, next: u64) -> bool {
        if first >= next || self.contains_all(first, next) {
            return false;
        }
        self.0.push((first, next));
        self.0.sort_unstable();
        let mut joined: Vec<(u64, u64)> = Vec::with_capacity(self.0.len());
        for (first, next) in self.0.drain(..) {
            match joined.last_mut() {
                Some(before) if first <= before.1 => before.1 = before.1.max(next),
                _ => joined.push((first, next)),
            }
        }
        while joined.len() > MAX_RANGES {
            let gap = |pair: &[(u64, u64)]| pair[1].0 - pair[0].1;
            let closest = joined.windows(2).enumerate().min_by_key(|(_, pair)| gap(pair)).map_or(0, |(index, _)| index);
            let (_, next) = joined.remove(closest + 1);
            joined[closest].1 = next;
        }
        self.0 = joined;
        true
    }

    /// Forgets what lies below a number.
    pub(crate) fn prune(&mut self, below: u64) {
        self.0.retain(|(_, next)| *next > below);
    }

    fn encode(&self, out: &mut Vec<u8>) {
        for (first, next) in &self.0 {
            out.extend_from_slice(&first.to_le_bytes());
            out.extend_from_slice(&next.to_le_bytes());
        }
    }

    fn decode(bytes: &[u8]) -> Self {
        let number = |bytes: &[u8]| bytes.try_into().map_or(0, u64::from_le_bytes);
        Self(bytes.chunks_exact(16).map(|pair| (number(&pair[..8]), number(&pair[8..]))).collect())
    }
}

// === impl Gone ===

impl Gone {
    /// Reads the file; without a valid one nothing is gone.
    pub(crate) fn load(disk: &dyn Disk, uuid: &[u8; 16]) -> Self {
        let Ok(file) = disk.open(FILE, false) else { return Self::default() };
        let size = file.size().unwrap_or(0).min((FIXED + 2 * MAX_RANGES * 16 + 4) as u64);
        let mut bytes = vec![0; size as usize];
        let read = file.read_at(&mut bytes, 0).unwrap_or(0);
        bytes.truncate(read);
        Self::decode(&bytes, uuid).unwrap_or_else(|| {
            tracing::error!(file = FILE, "the list of lost records is damaged; retries of lost events may be called duplicates");
            Self::default()
        })
    }

    fn decode(bytes: &[u8], uuid: &[u8; 16]) -> Option<Self> {
        let (body, crc) = bytes.split_at_checked(bytes.len().checked_sub(4)?)?;
        let is_ours = body.starts_with(MAGIC) && body.get(8..10)? == VERSION.to_le_bytes() && body.get(10..26)? == uuid;
        if !is_ours || crc != crc32c::crc32c(body).to_le_bytes() {
            return None;
        }
        let count = |at: usize| Some(u32::from_le_bytes(body.get(at..at + 4)?.try_into().ok()?) as usize);
        let (ids, told) = body.get(FIXED..)?.split_at_checked(count(26)? * 16)?;
        (told.len() == count(30)? * 16).then(|| Self { ids: Ranges::decode(ids), told: Ranges::decode(told) })
    }

    /// Makes the list durable.
    pub(crate) fn save(&self, disk: &dyn Disk, uuid: &[u8; 16]) -> Result<()> {
        let mut bytes = Vec::with_capacity(FIXED + (self.ids.0.len() + self.told.0.len()) * 16 + 4);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(uuid);
        bytes.extend_from_slice(&(self.ids.0.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&(self.told.0.len() as u32).to_le_bytes());
        self.ids.encode(&mut bytes);
        self.told.encode(&mut bytes);
        let crc = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        let file = disk.open(TEMPORARY, true).map_err(io("open"))?;
        file.set_size(0).map_err(io("cut"))?;
        file.write_at(&bytes, 0).map_err(io("write"))?;
        file.sync().map_err(io("sync"))?;
        disk.rename(TEMPORARY, FILE).map_err(io("rename"))?;
        disk.sync_dir().map_err(io("sync"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_join_and_come_back_from_their_file() {
        let mut gone = Gone::default();
        let ids = &mut gone.ids;
        assert!(ids.add(10, 20) && ids.add(30, 40) && !ids.add(12, 20));
        assert!(ids.add(20, 30), "they touch");
        assert_eq!(ids.0, [(10, 40)]);
        assert!(ids.contains(10) && ids.contains(39) && !ids.contains(9) && !ids.contains(40));
        assert!(gone.told.add(3, 4));
        let disk = steno_journal::sim::SimDisk::new(1);
        gone.save(&disk, &[7; 16]).unwrap();
        disk.cut();
        disk.reboot();
        assert_eq!(Gone::load(&disk, &[7; 16]), gone);
        assert_eq!(Gone::load(&disk, &[8; 16]), Gone::default(), "another journal's");
        for index in 0..2 * MAX_RANGES as u64 {
            gone.ids.add(1000 + index * 3, 1001 + index * 3);
        }
        assert!(gone.ids.0.len() <= MAX_RANGES && gone.ids.contains(1000));
    }
}
