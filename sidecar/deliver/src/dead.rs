//! Records that the destination refuses for good and no topic takes: one file each, in `dead/`.
use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use steno_journal::{Keys, put_file};

/// A dead letter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// Sequence number in the journal.
    pub seq: u64,
    /// Why it was refused.
    pub reason: String,
    /// When, milliseconds since 1970.
    pub at_ms: u64,
    /// The sink that refused it.
    #[serde(default = "kafka")]
    pub sink: String,
    /// Where it should have gone.
    pub destination: String,
    /// The record, as text, as intake left it: before what the sink's own redaction takes out.
    pub record: String,
}

fn kafka() -> String {
    "kafka".into()
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
    pub fn put(&self, letter: &DeadLetter, keys: &Keys) -> io::Result<()> {
        fs::create_dir_all(&self.dir)?;
        let of_sink = if letter.sink == "kafka" { String::new() } else { format!("-{}", letter.sink) };
        let sealed = keys.seal_file(&serde_json::to_vec(letter)?).map_err(io::Error::other)?;
        put_file(&self.dir, &format!("{:020}{of_sink}.json", letter.seq), &sealed)
    }

    /// All letters, oldest first; files that are none are passed over, one whose key is missing is a fault.
    pub fn list(&self, keys: &Keys) -> io::Result<Vec<DeadLetter>> {
        let entries = match fs::read_dir(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut paths: Vec<PathBuf> = entries.filter_map(Result::ok).map(|entry| entry.path()).collect();
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
        paths.sort();
        let mut letters = Vec::new();
        for path in paths {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let text = keys.open_file(&name, fs::read(&path)?).map_err(io::Error::other)?;
            letters.extend(serde_json::from_slice::<DeadLetter>(&text));
        }
        Ok(letters)
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
        let clear = Keys::default();
        assert!(folder.list(&clear).unwrap().is_empty());
        let letter = |seq| DeadLetter {
            seq,
            reason: "too large".into(),
            at_ms: 1,
            sink: "kafka".into(),
            destination: "t".into(),
            record: "{\"a\":\"ü\\n\"}".into(),
        };
        for seq in [11, 2, 300] {
            folder.put(&letter(seq), &clear).unwrap();
        }
        assert_eq!(folder.list(&clear).unwrap(), [letter(2), letter(11), letter(300)]);
        let sealed = Keys::new(Some(steno_journal::Key::read(&[1; 32]).unwrap()), Vec::new());
        folder.put(&letter(400), &sealed).unwrap();
        assert_eq!(folder.list(&sealed).unwrap().last(), Some(&letter(400)));
        assert!(folder.list(&clear).unwrap_err().to_string().contains("key"), "a letter that cannot be read is told");
        assert!(folder.bytes() > 100);
    }
}
