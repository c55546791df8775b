//! Dead letters: records that a destination refuses and no topic takes; one file each, in `dead/`.
//!
//! `<seq>.json` is a letter of Kafka, `<seq>-<sink>.json` one of another sink. A letter that somebody asked to deliver again is called `….again` instead
//! of `….json`, until its sink has it; then it is removed. If the sink refuses it again it gets its old name back.
use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use steno_journal::{Keys, put_file, remove_file, sync_dir};

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

/// Which letters are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// All.
    All,
    /// Those with these sequence numbers.
    Seqs(Vec<u64>),
}

const KEPT: &str = "json";
const AGAIN: &str = "again";

/// The folder. Clones share what they know of it.
#[derive(Debug, Clone)]
pub struct DeadFolder {
    dir: PathBuf,
    known: Arc<Mutex<Known>>,
}

#[derive(Debug, Default)]
struct Known {
    /// Letters, and their bytes; `None`: not counted yet.
    size: Option<(u64, u64)>,
    /// When the folder was last changed, as of the last look.
    changed: Option<SystemTime>,
}

/// Sequence number and sink in a letter's name.
fn named(path: &Path) -> Option<(u64, &str)> {
    let stem = path.file_stem()?.to_str()?;
    let (seq, sink) = stem.split_once('-').unwrap_or((stem, "kafka"));
    Some((seq.parse().ok()?, sink))
}

// === impl DeadFolder ===

impl DeadFolder {
    /// The folder of a journal's directory.
    pub fn of(journal: &Path) -> Self {
        Self { dir: journal.join("dead"), known: Arc::default() }
    }

    fn name(letter: &DeadLetter, extension: &str) -> String {
        let of_sink = if letter.sink == "kafka" { String::new() } else { format!("-{}", letter.sink) };
        format!("{:020}{of_sink}.{extension}", letter.seq)
    }

    /// Keeps a letter, durably.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn put(&self, letter: &DeadLetter, keys: &Keys) -> io::Result<()> {
        fs::create_dir_all(&self.dir)?;
        if let Some(parent) = self.dir.parent() {
            sync_dir(parent)?;
        }
        let sealed = keys.seal_file(&serde_json::to_vec(letter)?).map_err(io::Error::other)?;
        let name = Self::name(letter, KEPT);
        let is_new = !self.dir.join(&name).exists();
        put_file(&self.dir, &name, &sealed)?;
        let more = if is_new { (1, sealed.len() as i64) } else { (0, 0) };
        self.changed_by(more.0, more.1);
        Ok(())
    }

    /// All letters, oldest first, and whether each is to be delivered again; files that are none are skipped, one whose key is missing is an error.
    ///
    /// # Errors
    /// A letter cannot be read.
    pub fn list(&self, keys: &Keys) -> io::Result<Vec<(DeadLetter, bool)>> {
        let mut letters = Vec::new();
        for path in self.paths()? {
            let is_requeued = path.extension().is_some_and(|extension| extension == AGAIN);
            letters.extend(Self::read(&path, keys)?.map(|letter| (letter, is_requeued)));
        }
        Ok(letters)
    }

    fn paths(&self) -> io::Result<Vec<PathBuf>> {
        let entries = match fs::read_dir(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut paths: Vec<PathBuf> = entries.filter_map(Result::ok).map(|entry| entry.path()).collect();
        paths.retain(|path| path.extension().is_some_and(|extension| extension == KEPT || extension == AGAIN));
        paths.sort();
        Ok(paths)
    }

    fn read(path: &Path, keys: &Keys) -> io::Result<Option<DeadLetter>> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let text = keys.open_file(&name, fs::read(path)?).map_err(io::Error::other)?;
        Ok(serde_json::from_slice::<DeadLetter>(&text).ok())
    }

    /// Asks for letters to be delivered again, durably. How many are asked for now.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn requeue(&self, which: &Which, sink: Option<&str>) -> io::Result<usize> {
        let mut count = 0;
        for path in self.paths()? {
            let Some((seq, of)) = named(&path) else { continue };
            let is_meant = match which {
                Which::All => true,
                Which::Seqs(seqs) => seqs.contains(&seq),
            };
            if is_meant && sink.is_none_or(|sink| sink == of) {
                fs::rename(&path, path.with_extension(AGAIN))?;
                count += 1;
            }
        }
        if count > 0 {
            sync_dir(&self.dir)?;
        }
        Ok(count)
    }

    /// The letters of a sink that are to be delivered again, oldest first.
    pub(crate) fn requeued(&self, sink: &str, keys: &Keys) -> io::Result<Vec<DeadLetter>> {
        let mut paths = self.paths()?;
        paths.retain(|path| path.extension().is_some_and(|extension| extension == AGAIN));
        let mut letters = Vec::new();
        for path in paths {
            letters.extend(Self::read(&path, keys)?.filter(|letter| letter.sink == sink));
        }
        Ok(letters)
    }

    /// Removes a letter that was delivered.
    pub(crate) fn remove(&self, letter: &DeadLetter) -> io::Result<()> {
        let path = self.dir.join(Self::name(letter, AGAIN));
        let bytes = fs::metadata(&path)?.len();
        remove_file(&path)?;
        self.changed_by(-1, -(bytes as i64));
        Ok(())
    }

    /// Keeps a letter that was refused again.
    pub(crate) fn keep(&self, letter: &DeadLetter) -> io::Result<()> {
        fs::rename(self.dir.join(Self::name(letter, AGAIN)), self.dir.join(Self::name(letter, KEPT)))?;
        sync_dir(&self.dir)
    }

    /// When files last came to the folder or went; `None`: it is not there.
    pub(crate) fn modified(&self) -> Option<SystemTime> {
        fs::metadata(&self.dir).and_then(|found| found.modified()).ok()
    }

    /// How many letters of a sink there are. Reads the folder's names.
    pub fn count(&self, sink: &str) -> u64 {
        let paths = self.paths().unwrap_or_default();
        paths.iter().filter(|path| named(path).is_some_and(|(_, of)| of == sink)).count() as u64
    }

    /// Bytes of all letters.
    pub fn bytes(&self) -> u64 {
        self.size().1
    }

    /// Notes a change of our own, so that nothing needs to be counted again.
    fn changed_by(&self, letters: i64, bytes: i64) {
        let mut known = self.known.lock();
        if let Some((count, size)) = &mut known.size {
            (*count, *size) = (count.saturating_add_signed(letters), size.saturating_add_signed(bytes));
            known.changed = self.modified();
        }
    }

    /// Counted if somebody else changed the folder.
    fn size(&self) -> (u64, u64) {
        let mut known = self.known.lock();
        let changed = self.modified();
        if let Some(size) = known.size.filter(|_| known.changed == changed) {
            return size;
        }
        let paths = self.paths().unwrap_or_default();
        let bytes = paths.iter().filter_map(|path| path.metadata().ok()).map(|found| found.len()).sum();
        let size = (paths.len() as u64, bytes);
        (known.size, known.changed) = (Some(size), changed);
        size
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter(seq: u64) -> DeadLetter {
        DeadLetter {
            seq,
            reason: "too large".into(),
            at_ms: 1,
            sink: if seq == 300 { "archive".into() } else { "kafka".into() },
            destination: "t".into(),
            record: "{\"a\":\"ü\\n\"}".into(),
        }
    }

    #[test]
    fn letters_are_listed_in_order_and_exactly_as_kept() {
        let dir = tempfile::tempdir().unwrap();
        let folder = DeadFolder::of(dir.path());
        let clear = Keys::default();
        assert!(folder.list(&clear).unwrap().is_empty());
        for seq in [11, 2, 300] {
            folder.put(&letter(seq), &clear).unwrap();
        }
        assert_eq!(folder.list(&clear).unwrap(), [(letter(2), false), (letter(11), false), (letter(300), false)]);
        let sealed = Keys::new(Some(steno_journal::Key::read(&[1; 32]).unwrap()), Vec::new());
        folder.put(&letter(400), &sealed).unwrap();
        assert_eq!(folder.list(&sealed).unwrap().last(), Some(&(letter(400), false)));
        assert!(folder.list(&clear).unwrap_err().to_string().contains("key"), "a letter that cannot be read is an error");
    }

    #[test]
    fn the_size_is_right_whoever_changes_the_folder() {
        let dir = tempfile::tempdir().unwrap();
        let (folder, keys) = (DeadFolder::of(dir.path()), Keys::default());
        let counted = || DeadFolder::of(dir.path()).size();
        assert_eq!(folder.size(), (0, 0));
        for seq in 0..5 {
            folder.put(&letter(seq), &keys).unwrap();
        }
        folder.put(&letter(3), &keys).unwrap();
        assert_eq!((folder.size(), folder.count("kafka")), (counted(), 5));
        folder.requeue(&Which::Seqs(vec![1, 4]), None).unwrap();
        folder.remove(&letter(1)).unwrap();
        assert_eq!((folder.size(), folder.count("kafka")), (counted(), 4));
        // An administrator.
        fs::remove_file(dir.path().join("dead/00000000000000000003.json")).unwrap();
        assert_eq!((folder.size(), folder.count("kafka")), (counted(), 3));
    }

    #[test]
    fn only_letters_of_the_sink_that_were_asked_for_are_sent_again() {
        let dir = tempfile::tempdir().unwrap();
        let (folder, keys) = (DeadFolder::of(dir.path()), Keys::default());
        for seq in [1, 2, 300] {
            folder.put(&letter(seq), &keys).unwrap();
        }
        assert!(folder.requeued("kafka", &keys).unwrap().is_empty());
        assert_eq!(folder.requeue(&Which::Seqs(vec![2, 7]), None).unwrap(), 1);
        assert_eq!(folder.requeued("kafka", &keys).unwrap(), [letter(2)]);
        assert_eq!(folder.requeue(&Which::All, Some("archive")).unwrap(), 1);
        assert_eq!(folder.requeued("archive", &keys).unwrap(), [letter(300)]);
        folder.keep(&letter(2)).unwrap();
        assert!(folder.requeued("kafka", &keys).unwrap().is_empty());
    }
}
