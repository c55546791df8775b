//! Files of JSON Lines.
//!
//! `audit.jsonl` is written to; when it is large or old enough it becomes `audit-<time>.jsonl`, and the oldest of those go. A batch counts once it is
//! synced in the file that has this name: somebody else may move, remove or truncate it (`logrotate`, `rm`) at any time, and then the batch is
//! written once more. A line that a crash tore is cut off at the next start: it was never confirmed, and comes again.
//!
//! Others may write to the directory. A symbolic link, a file with a second name and one of another owner are never written to.
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use steno_event::format_millis;

use crate::{Backend, Record, Refusal};

/// The file that is written to.
const CURRENT: &str = "audit.jsonl";

/// Tries of a batch while somebody else moves the file.
const MAX_TRIES: u32 = 3;

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

    /// Writes a batch to the file that has the name now, and syncs it.
    fn append(&mut self, batch: &[Record]) -> io::Result<()> {
        let size = batch.iter().map(|record| record.json.len() + 1).sum();
        let mut lines = Vec::with_capacity(size);
        for record in batch {
            lines.extend_from_slice(&record.json);
            lines.push(b'\n');
        }
        for _ in 0..MAX_TRIES {
            self.follow()?;
            if self.is_torn {
                self.file.set_len(self.length)?;
            }
            self.is_torn = true;
            self.file.write_all(&lines)?;
            self.file.sync_data()?;
            self.is_torn = false;
            self.length += lines.len() as u64;
            if self.is_in_place()? {
                return Ok(());
            }
            // Moved, removed or truncated while it was written: what was written may be nowhere.
        }
        Err(io::Error::other(format!("{CURRENT} was moved or truncated during {MAX_TRIES} tries")))
    }

    /// Whether the file that is written to has the name, and no other one.
    fn has_name(&self) -> io::Result<bool> {
        let found = match fs::symlink_metadata(self.dir.join(CURRENT)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            found => found?,
        };
        let own = self.file.metadata()?;
        Ok((found.dev(), found.ino()) == (own.dev(), own.ino()) && own.nlink() == 1)
    }

    /// Whether it also holds all that was written.
    fn is_in_place(&self) -> io::Result<bool> {
        Ok(self.has_name()? && self.file.metadata()?.len() >= self.length)
    }

    /// Opens the file again if another one has the name, or none; goes on at its end if it was truncated.
    fn follow(&mut self) -> io::Result<()> {
        if self.is_in_place()? {
            return Ok(());
        }
        if self.has_name()? {
            let length = self.file.metadata()?.len();
            self.length = whole_lines(&mut self.file, length)?;
            self.file.set_len(self.length)?;
        } else {
            (self.file, self.length, self.began) = open(&self.dir)?;
        }
        self.is_torn = false;
        tracing::info!(dir = %self.dir.display(), "{CURRENT} was moved, removed or truncated by somebody else; it is followed");
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        self.follow()?;
        let is_old = self.began.elapsed().is_ok_and(|age| age >= self.rotation.age);
        if self.length == 0 || (self.length < self.rotation.bytes && !is_old) {
            return Ok(());
        }
        let now = now_ms();
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
        // Only names that this sink gives: others' files are not its own.
        let is_ended = |path: &PathBuf| ended_at(&path.file_name().unwrap_or_default().to_string_lossy()).is_some();
        ended.retain(is_ended);
        ended.sort();
        let over = ended.len().saturating_sub(self.rotation.backups);
        // One that cannot be removed does not keep the others.
        let mut done = Ok(());
        for path in ended.iter().take(over) {
            if let Err(error) = fs::remove_file(path) {
                done = Err(io::Error::other(format!("{} cannot be removed: {error}", path.display())));
            }
        }
        done
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

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

fn open(dir: &Path) -> io::Result<(File, u64, SystemTime)> {
    fs::create_dir_all(dir)?;
    let path = dir.join(CURRENT);
    if fs::symlink_metadata(&path).is_ok_and(|found| found.is_file() && found.nlink() > 1) {
        // Somebody gave it a second name, as backups do. What is in it stays there under both names.
        let aside = dir.join(format!("audit-linked-{}.jsonl", format_millis(now_ms()).replace([':', '-'], "")));
        tracing::warn!(dir = %dir.display(), aside = %aside.display(), "{CURRENT} has a second name (a hard link); it is moved aside");
        fs::rename(&path, aside)?;
    }
    let mut options = OpenOptions::new();
    options.read(true).append(true).create(true).mode(0o640);
    // A pipe under this name would be waited for, for ever.
    options.custom_flags((rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK).bits() as i32);
    // Whoever ships the file may be of the pod's group, whatever the process's mask says.
    let is_new = fs::symlink_metadata(&path).is_err();
    let mut file = options.open(&path).map_err(|error| {
        let is_link = fs::symlink_metadata(&path).is_ok_and(|found| found.is_symlink());
        if is_link { io::Error::other(format!("{CURRENT} is a symbolic link, which is not followed; remove it")) } else { error }
    })?;
    if is_new {
        file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o640))?;
    }
    File::open(dir)?.sync_all()?;
    let metadata = file.metadata()?;
    check_file(&metadata, fs::metadata(dir)?.uid())?;
    // Two writers would cut off each other's lines.
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| io::Error::other(format!("another process writes to {CURRENT}; give each pod a directory of its own")))?;
    let length = whole_lines(&mut file, metadata.len())?;
    if length < metadata.len() {
        file.set_len(length)?;
        file.sync_data()?;
    }
    let began = metadata.created().or_else(|_| metadata.modified()).unwrap_or_else(|_| SystemTime::now());
    Ok((file, length, if length == 0 { SystemTime::now() } else { began }))
}

/// A file that may be written to: a regular one, with one name, of this user or of who has the directory.
fn check_file(found: &fs::Metadata, owner_of_dir: u32) -> io::Result<()> {
    let own = rustix::process::geteuid().as_raw();
    let fault = if !found.is_file() {
        "is not a regular file"
    } else if found.uid() != own && found.uid() != owner_of_dir {
        "belongs to another user"
    } else {
        return Ok(());
    };
    Err(io::Error::other(format!("{CURRENT} {fault}, and is not written to; move it away")))
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
        self.follow()
            .and_then(|()| self.file.sync_data())
            .map_err(|error| format!("{} cannot be written: {error}", self.dir.display()))
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
    fn a_file_that_somebody_moves_removes_or_truncates_is_opened_again_and_each_batch_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(CURRENT);
        let rotation = Rotation { bytes: 1 << 20, ..ROTATION };
        let mut files = Files::open(dir.path(), rotation).unwrap();
        files.write(&[record(0)]).unwrap();
        fs::remove_file(&path).unwrap();
        files.write(&[record(1)]).unwrap();
        assert_eq!(numbers(dir.path()), [1]);
        // logrotate with `create`.
        fs::rename(&path, dir.path().join("moved")).unwrap();
        fs::write(&path, "").unwrap();
        files.write(&[record(2)]).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 1);
        // logrotate with `copytruncate`.
        File::options().write(true).open(&path).unwrap().set_len(0).unwrap();
        files.write(&[record(3)]).unwrap();
        let text = fs::read(&path).unwrap();
        assert!(text.starts_with(b"{\"n\":3,") && !text.contains(&0), "no hole of zeros, and the record");
        fs::remove_file(&path).unwrap();
        files.idle();
        files.write(&[record(4)]).unwrap();
        assert!(fs::read_to_string(&path).unwrap().starts_with("{\"n\":4,"), "rotation goes on");
    }

    #[test]
    fn what_is_not_a_file_of_our_own_is_never_written_to() {
        let dir = tempfile::tempdir().unwrap();
        let (files, secret) = (dir.path().join("files"), dir.path().join("state"));
        fs::create_dir(&files).unwrap();
        fs::write(&secret, "precious without a line end").unwrap();
        let refused = |named: &str| {
            let error = Files::open(&files, ROTATION).unwrap_err();
            assert!(error.contains(named), "{error}");
            assert_eq!(fs::read_to_string(&secret).unwrap(), "precious without a line end");
            fs::remove_file(files.join(CURRENT)).unwrap();
        };
        std::os::unix::fs::symlink(&secret, files.join(CURRENT)).unwrap();
        refused("symbolic link");
        // A second name is moved aside, and the file is as it was.
        fs::hard_link(&secret, files.join(CURRENT)).unwrap();
        Files::open(&files, ROTATION).unwrap().write(&[record(0)]).unwrap();
        assert_eq!(fs::read_to_string(&secret).unwrap(), "precious without a line end");
        // One that comes while it runs.
        let mut running = Files::open(&files, ROTATION).unwrap();
        fs::remove_file(files.join(CURRENT)).unwrap();
        std::os::unix::fs::symlink(&secret, files.join(CURRENT)).unwrap();
        assert!(matches!(running.write(&[record(1)]), Err(Refusal::Later(_))));
        assert_eq!(fs::read_to_string(&secret).unwrap(), "precious without a line end");
    }

    #[test]
    fn a_second_writer_is_refused_and_files_of_others_stay() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["audit-notes.jsonl", "audit-20261128.jsonl"] {
            fs::write(dir.path().join(name), "{}\n").unwrap();
        }
        let mut files = Files::open(dir.path(), ROTATION).unwrap();
        assert!(Files::open(dir.path(), ROTATION).unwrap_err().contains("another process"));
        (0..100).for_each(|seq| files.write(&[record(seq)]).unwrap());
        assert!(dir.path().join("audit-notes.jsonl").exists() && dir.path().join("audit-20261128.jsonl").exists());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 5, "the current one, two backups, and two of others");
        // The whole directory goes.
        fs::remove_dir_all(dir.path()).unwrap();
        files.write(&[record(100)]).unwrap();
        assert!(dir.path().join(CURRENT).exists());
    }

    #[test]
    fn one_thing_that_cannot_be_removed_does_not_stop_the_pruning() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("audit-20000101T000000.000Z.jsonl/in")).unwrap();
        let mut files = Files::open(dir.path(), ROTATION).unwrap();
        for seq in 0..100 {
            files.write(&[record(seq)]).unwrap();
        }
        assert!(fs::read_dir(dir.path()).unwrap().count() <= 4, "the current one, two backups, and what cannot be removed");
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
