//! Sequence numbers of records that are gone for good: lost to damage, or dropped undelivered. An event among them may be sent again, so
//! the index of event ids must not call it a duplicate, whatever file of ids still has it.
//!
//! # File `gone` (little-endian), written whole and renamed into place
//! ```text
//!   0  8  magic "STENOGON"     26  4  number of ranges
//!   8  2  version (1)          30  …  ranges: u64 first, u64 first one behind
//!  10 16  journal UUID          …  4  CRC32C of all before
//! ```
use steno_journal::{Disk, Error, Result};

const FILE: &str = "gone";
const TEMPORARY: &str = "tmp-gone";
const MAGIC: &[u8; 8] = b"STENOGON";
const VERSION: u16 = 1;
/// Bytes before the ranges.
const FIXED: usize = 30;
/// Limit of ranges. Beyond it the closest two become one, with what lies between them: an event that is sent again is then taken again.
const MAX_RANGES: usize = 4096;

/// Ranges of sequence numbers, sorted and apart.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Gone {
    ranges: Vec<(u64, u64)>,
}

fn io(action: &'static str) -> impl FnOnce(std::io::Error) -> Error {
    move |source| Error::Io { action, file: FILE.into(), source }
}

// === impl Gone ===

impl Gone {
    /// Whether a record is gone.
    pub(crate) fn contains(&self, seq: u64) -> bool {
        let index = self.ranges.partition_point(|(_, next)| *next <= seq);
        self.ranges.get(index).is_some_and(|(first, _)| *first <= seq)
    }

    /// Whether all records of a range are gone.
    pub(crate) fn contains_all(&self, first: u64, next: u64) -> bool {
        self.ranges.iter().any(|(from, to)| *from <= first && next <= *to)
    }

    /// Adds a range. Whether anything changed.
    pub(crate) fn add(&mut self, first: u64, next: u64) -> bool {
        if first >= next || self.contains_all(first, next) {
            return false;
        }
        self.ranges.push((first, next));
        self.ranges.sort_unstable();
        let mut joined: Vec<(u64, u64)> = Vec::with_capacity(self.ranges.len());
        for (first, next) in self.ranges.drain(..) {
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
        self.ranges = joined;
        true
    }

    /// Forgets what lies below a number: no file of ids has it.
    pub(crate) fn prune(&mut self, below: u64) {
        self.ranges.retain(|(_, next)| *next > below);
    }

    /// Reads the file; without a valid one there are none.
    pub(crate) fn load(disk: &dyn Disk, uuid: &[u8; 16]) -> Self {
        let Ok(file) = disk.open(FILE, false) else { return Self::default() };
        let size = file.size().unwrap_or(0).min((FIXED + MAX_RANGES * 16 + 4) as u64);
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
        let count = u32::from_le_bytes(body.get(26..30)?.try_into().ok()?) as usize;
        let number = |at: usize| Some(u64::from_le_bytes(body.get(at..at + 8)?.try_into().ok()?));
        let ranges = (0..count).map(|index| Some((number(FIXED + index * 16)?, number(FIXED + index * 16 + 8)?)));
        Some(Self { ranges: ranges.collect::<Option<_>>()? })
    }

    /// Makes the list durable.
    pub(crate) fn save(&self, disk: &dyn Disk, uuid: &[u8; 16]) -> Result<()> {
        let mut bytes = Vec::with_capacity(FIXED + self.ranges.len() * 16 + 4);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(uuid);
        bytes.extend_from_slice(&(self.ranges.len() as u32).to_le_bytes());
        for (first, next) in &self.ranges {
            bytes.extend_from_slice(&first.to_le_bytes());
            bytes.extend_from_slice(&next.to_le_bytes());
        }
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
        assert!(gone.add(10, 20) && gone.add(30, 40) && !gone.add(12, 20));
        assert!(gone.add(20, 30), "they touch");
        assert_eq!(gone.ranges, [(10, 40)]);
        assert!(gone.contains(10) && gone.contains(39) && !gone.contains(9) && !gone.contains(40));
        let disk = steno_journal::sim::SimDisk::new(1);
        gone.save(&disk, &[7; 16]).unwrap();
        disk.cut();
        disk.reboot();
        assert_eq!(Gone::load(&disk, &[7; 16]), gone);
        assert_eq!(Gone::load(&disk, &[8; 16]), Gone::default(), "another journal's");
        for index in 0..2 * MAX_RANGES as u64 {
            gone.add(1000 + index * 3, 1001 + index * 3);
        }
        assert!(gone.ranges.len() <= MAX_RANGES && gone.contains(1000));
    }
}
