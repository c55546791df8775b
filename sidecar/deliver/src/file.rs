//! Files of JSON Lines.
//!
//! `audit.jsonl` is written to; when it is large or old enough it becomes `audit-<time>.jsonl`, and the oldest of those go. A batch counts once it is
//! synced. A line that a crash tore is cut off at the next start: it was never confirmed, and comes again.
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use steno_event::format_millis;

use crate::{Backend, Record, Refusal};

/// The file that is written to.
const CURRENT: &str = "audit.jsonl";

/// When files end, and how many stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rotation {
    /// At so many bytes.
    pub bytes: u64,
    /// At this age.
    pub age: Duration,
    /// Ended ones that stay.
    pub backups: usize,
}

/// The files of a directory.
#[derive(Debug)]
pub struct Files {
    dir: PathBuf,
    rotation: Rotation,
    file: File,
    length: u64,
    began: SystemTime,
    /// The time in the name of the file that ended last, milliseconds since 1970: each has a later one, so that names sort as the files do.
    ended_ms: u64,
    /// What failed may have left a torn line that could not be cut off.
    is_torn: bool,
}

// === impl Files ===

impl Files {
    /// Opens a directory; makes it where it is missing.
    pub fn open(dir: &Path, rotation: Rotation) -> Result<Self, String> {
        let fault = |error: io::Error| format!("{} cannot be written: {error}", dir.display());
        fs::create_dir_all(dir).map_err(fault)?;
        let (file, length, began) = open(dir).map_err(fault)?;
        let entries = fs::read_dir(dir).map_err(fault)?.filter_map(Result::ok);
        let ended_ms = entries.filter_map(|entry| ended_at(&entry.file_name().to_string_lossy())).max().unwrap_or_default();
        Ok(Self { dir: dir.to_owned(), rotation, file, length, began, ended_ms, is_torn: false })
    }

    fn append(&mut self, batch: &[Record]) -> io::Result<()> {
        if self.is_torn {
            self.file.set_len(self.length)?;
            self.is_torn = false;
        }
        let size = batch.iter().map(|record| record.json.len() + 1).sum();
        let mut lines = Vec::with_capacity(size);
        for record in batch {
            lines.extend_from_slice(&record.json);
            lines.push(b'\n');
        }
        self.is_torn = true;
        self.file.seek(SeekFrom::Start(self.length))?;
        self.file.write_all(&lines)?;
        self.file.sync_data()?;
        self.is_torn = false;
        self.length += lines.len() as u64;
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        let is_old = self.began.elapsed().is_ok_and(|age| age >= self.rotation.age);
        if self.length == 0 || (self.length < self.rotation.bytes && !is_old) {
            return Ok(());
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
        let name = |ms: u64| self.dir.join(format!("audit-{}.jsonl", format_millis(ms).replace([':', '-'], "")));
        let mut ended_ms = now.max(self.ended_ms + 1);
        while name(ended_ms).exists() {
            ended_ms += 1;
        }
        let (current, ended) = (self.dir.join(CURRENT), name(ended_ms));
        fs::rename(&current, &ended)?;
        self.ended_ms = ended_ms;
        (self.file, self.length, self.began) = match open(&self.dir) {
            Ok(opened) => opened,
            Err(error) => {
                // It is still the file that is written to.
                let _ = fs::rename(&ended, &current);
                return Err(error);
            }
        };
        self.prune()
    }

    fn prune(&self) -> io::Result<()> {
        let mut ended: Vec<PathBuf> = fs::read_dir(&self.dir)?.filter_map(|entry| Some(entry.ok()?.path())).collect();
        let is_ended = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with("audit-") && path.extension().is_some_and(|extension| extension == "jsonl")
        };
        ended.retain(is_ended);
        ended.sort();
        let over = ended.len().saturating_sub(self.rotation.backups);
        ended.iter().take(over).try_for_each(fs::remove_file)
    }
}

/// The time in the name of a file that ended, milliseconds since 1970.
fn ended_at(name: &str) -> Option<u64> {
    let stamp = name.strip_prefix("audit-")?.strip_suffix(".jsonl")?;
    let (day, time) = stamp.split_once('T')?;
    let piece = |text: &str, from: usize, to: usize| text.get(from..to).map(str::to_owned);
    let day = format!("{}-{}-{}", piece(day, 0, 4)?, piece(day, 4, 6)?, piece(day, 6, 8)?);
    let time = format!("{}:{}:{}", piece(time, 0, 2)?, piece(time, 2, 4)?, time.get(4..)?);
    let at: jiff::Timestamp = format!("{day}T{time}").parse().ok()?;
    u64::try_from(at.as_millisecond()).ok()
}

fn open(dir: &Path) -> io::Result<(File, u64, SystemTime)> {
    let path = dir.join(CURRENT);
    let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o640).open(&path)?;
    File::open(dir)?.sync_all()?;
    let metadata = file.metadata()?;
    let length = whole_lines(&mut file, metadata.len())?;
    if length < metadata.len() {
        file.set_len(length)?;
        file.sync_data()?;
    }
    let began = metadata.created().or_else(|_| metadata.modified()).unwrap_or_else(|_| SystemTime::now());
    Ok((file, length, if length == 0 { SystemTime::now() } else { began }))
}

/// Where the last whole line ends.
fn whole_lines(file: &mut File, length: u64) -> io::Result<u64> {
    let mut end = length;
    let mut piece = vec![0; 64 << 10];
    while end > 0 {
        let start = end.saturating_sub(piece.len() as u64);
        let bytes = &mut piece[..(end - start) as usize];
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(bytes)?;
        if let Some(at) = bytes.iter().rposition(|byte| *byte == b'\n') {
            return Ok(start + at as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}

impl Backend for Files {
    fn write(&mut self, batch: &[Record]) -> Result<(), Refusal> {
        let fault = |dir: &Path, error: &io::Error| Refusal::Later(format!("{} cannot be written: {error}", dir.display()));
        self.append(batch).map_err(|error| fault(&self.dir, &error))?;
        // What is written is written; a rotation that fails is tried at the next batch.
        if let Err(error) = self.rotate() {
            tracing::warn!(dir = %self.dir.display(), %error, "a file could not be ended");
        }
        Ok(())
    }

    fn probe(&mut self) -> Result<(), String> {
        self.file.sync_data().map_err(|error| format!("{} cannot be written: {error}", self.dir.display()))
    }

    fn idle(&mut self) {
        if let Err(error) = self.rotate() {
            tracing::warn!(dir = %self.dir.display(), %error, "a file could not be ended");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROTATION: Rotation = Rotation { bytes: 1000, age: Duration::from_hours(1), backups: 2 };

    fn record(seq: u64) -> Record {
        let json = format!("{{\"n\":{seq},\"fill\":\"{}\"}}", "x".repeat(80)).into_bytes();
        Record { seq, json, event_id: String::new(), kind: String::new(), received_ms: 0, filled: 0, key: None }
    }

    fn numbers(dir: &Path) -> Vec<u64> {
        let mut files: Vec<PathBuf> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
        // `audit-…` sorts before `audit.`.
        files.sort();
        let text: String = files.iter().map(|file| fs::read_to_string(file).unwrap()).collect();
        let number = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["n"].as_u64().unwrap();
        text.lines().map(number).collect()
    }

    #[test]
    fn files_end_when_they_are_large_the_oldest_go_and_lines_are_whole_and_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let mut files = Files::open(dir.path(), ROTATION).unwrap();
        for seq in (0..100).step_by(5) {
            files.write(&[0, 1, 2, 3, 4].map(|more| record(seq + more))).unwrap();
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3, "the current one and two backups");
        let left = numbers(dir.path());
        assert_eq!(left.last(), Some(&99));
        assert!(left.windows(2).all(|pair| pair[1] == pair[0] + 1), "{left:?}");
    }

    #[test]
    fn names_go_on_behind_the_latest_one_whatever_the_clock_says() {
        let dir = tempfile::tempdir().unwrap();
        // The clock was ahead, and was set right while nothing ran.
        for name in ["audit-20990301T103000.000Z.jsonl", "audit-20990301T103000.001Z.jsonl", "audit-notes.jsonl"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        let mut files = Files::open(dir.path(), Rotation { backups: 3, ..ROTATION }).unwrap();
        for seq in 0..15 {
            files.write(&[record(seq)]).unwrap();
        }
        let mut names: Vec<String> =
            fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        assert!(names.contains(&"audit-20990301T103000.002Z.jsonl".to_owned()), "{names:?}");
        assert_eq!(numbers_of(&names, dir.path()).last(), Some(&14), "what ended last is kept: {names:?}");
    }

    fn numbers_of(names: &[String], dir: &Path) -> Vec<u64> {
        let text: String = names.iter().map(|name| fs::read_to_string(dir.join(name)).unwrap()).collect();
        text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["n"].as_u64().unwrap()).collect()
    }

    #[test]
    fn a_torn_line_is_cut_off_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let rotation = Rotation { bytes: 1 << 20, ..ROTATION };
        Files::open(dir.path(), rotation).unwrap().write(&[record(0), record(1)]).unwrap();
        let path = dir.path().join(CURRENT);
        let whole = fs::read(&path).unwrap();
        for cut in [1, 50, 89] {
            fs::write(&path, [&whole[..], &record(2).json[..cut]].concat()).unwrap();
            Files::open(dir.path(), rotation).unwrap().write(&[record(2)]).unwrap();
            assert_eq!(numbers(dir.path()), [0, 1, 2]);
            fs::write(&path, &whole).unwrap();
        }
        // A line longer than what is looked at in one piece.
        fs::write(&path, [&whole[..], &vec![b'x'; 200 << 10]].concat()).unwrap();
        Files::open(dir.path(), rotation).unwrap();
        assert_eq!(fs::read(&path).unwrap(), whole);
    }

    #[test]
    fn an_old_file_ends_while_nothing_comes() {
        let dir = tempfile::tempdir().unwrap();
        let mut files = Files::open(dir.path(), Rotation { age: Duration::ZERO, ..ROTATION }).unwrap();
        files.idle();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "an empty one does not");
        files.append(&[record(0)]).unwrap();
        files.idle();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
        assert_eq!(fs::metadata(dir.path().join(CURRENT)).unwrap().len(), 0);
    }
}
