//! Records that the destination refuses for good and no topic takes: one file each, in `dead/`.
use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

/// A dead letter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// Sequence number in the journal.
    pub seq: u64,
    /// Why it was refused.
    pub reason: String,
    /// When, milliseconds since 1970.
    pub at_ms: u64,
    /// Where it should have gone.
    pub destination: String,
    /// The record, as text, exactly as it would have been sent.
    pub record: String,
}

/// The folder.
#[derive(Debug, Clone)]
pub struct DeadFolder {
    dir: PathBuf,
}

impl DeadFolder {
    /// The folder of a journal's directory.
    pub fn of(journal: &Path) -> Self {
        Self { dir: journal.join("dead") }
    }

    /// Keeps a letter, durably.
    pub fn put(&self, letter: &DeadLetter) -> io::Result<()> {
        fs::create_dir_all(&self.dir)?;
        let (name, part) = (self.dir.join(format!("{:020}.json", letter.seq)), self.dir.join(format!("{:020}.part", letter.seq)));
        let mut file = fs::File::create(&part)?;
        file.write_all(&serde_json::to_vec(letter)?)?;
        file.sync_all()?;
        fs::rename(part, name)?;
        fs::File::open(&self.dir)?.sync_all()
    }

    /// All letters, oldest first; files that are none are passed over.
    pub fn list(&self) -> io::Result<Vec<DeadLetter>> {
        let entries = match fs::read_dir(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut paths: Vec<PathBuf> = entries.filter_map(Result::ok).map(|entry| entry.path()).collect();
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
        paths.sort();
        Ok(paths.iter().filter_map(|path| serde_json::from_slice(&fs::read(path).ok()?).ok()).collect())
    }

    /// Bytes of all letters.
    pub fn bytes(&self) -> u64 {
        let entries = fs::read_dir(&self.dir).into_iter().flatten().filter_map(Result::ok);
        entries.filter_map(|entry| entry.metadata().ok()).map(|found| found.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_are_listed_in_order_and_exactly_as_kept() {
        let dir = tempfile::tempdir().unwrap();
        let folder = DeadFolder::of(dir.path());
        assert!(folder.list().unwrap().is_empty());
        let letter = |seq| DeadLetter {
            seq,
            reason: "too large".into(),
            at_ms: 1,
            destination: "t".into(),
            record: "{\"a\":\"ü\\n\"}".into(),
        };
        for seq in [11, 2, 300] {
            folder.put(&letter(seq)).unwrap();
        }
        assert_eq!(folder.list().unwrap(), [letter(2), letter(11), letter(300)]);
        assert!(folder.bytes() > 100);
    }
}
