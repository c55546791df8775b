//! The disk as the journal sees it, and the real one.
use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{Error, Result};

/// A directory of files.
pub trait Disk: Send + Sync + 'static {
    /// Names and sizes of the files.
    fn list(&self) -> io::Result<Vec<(String, u64)>>;
    /// Opens a file for reading and writing; makes it where `create` is set and it is missing.
    fn open(&self, name: &str, create: bool) -> io::Result<Arc<dyn DiskFile>>;
    /// Renames a file; one of the new name is replaced.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes names durable.
    fn sync_dir(&self) -> io::Result<()>;
    /// Puts a damaged block aside, as far as possible.
    fn quarantine(&self, name: &str, bytes: &[u8]) -> io::Result<()>;
    /// Bytes in folders beside the segments: dead letters, the quarantine and the indexes of queries.
    fn aside(&self) -> u64 {
        0
    }
}

/// One file.
pub trait DiskFile: Send + Sync {
    /// Reads at an offset; fewer bytes at the end of the file.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all bytes at an offset.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Makes contents and size durable.
    fn sync(&self) -> io::Result<()>;
    /// Size in bytes.
    fn size(&self) -> io::Result<u64>;
    /// Cuts or extends the file to a size.
    fn set_size(&self, size: u64) -> io::Result<()>;
}

/// A directory of the file system, locked for this process.
#[derive(Debug)]
pub struct RealDisk {
    dir: PathBuf,
    handle: File,
    _lock: File,
}

/// A directory that is only looked at: nothing is locked, made or changed, whatever is asked. What a running sidecar writes meanwhile may be seen half.
#[derive(Debug)]
pub struct ReadOnly {
    dir: PathBuf,
}

/// Most damaged blocks that are kept aside.
const QUARANTINE_FILES: usize = 64;

/// Puts a file in a directory, or another in its place, whole and durably: after a power cut there is the old one or the new one.
pub fn put_file(dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let part = dir.join(name).with_extension("part");
    let mut file = File::create(&part)?;
    io::Write::write_all(&mut file, bytes)?;
    file.sync_all()?;
    fs::rename(part, dir.join(name))?;
    File::open(dir)?.sync_all()
}

// === impl RealDisk ===

impl RealDisk {
    /// Opens the directory, makes it where it is missing (mode 0700), and locks it.
    pub fn open(dir: &Path) -> Result<Self> {
        let shown = dir.display().to_string();
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(Error::io("create", &shown))?;
        let lock_path = dir.join("lock");
        let lock = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&lock_path);
        let lock = lock.map_err(Error::io("open", lock_path.display().to_string()))?;
        match rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(Error::Locked(shown)),
            // Such as a file system that has no locks.
            Err(error) => return Err(Error::io("lock", &shown)(error.into())),
            Ok(()) => {}
        }
        let handle = File::open(dir).map_err(Error::io("open", &shown))?;
        Ok(Self { dir: dir.to_owned(), handle, _lock: lock })
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Refuses a directory that loses its contents with the node's power.
    pub fn refuse_tmpfs(&self) -> Result<()> {
        /// `TMPFS_MAGIC` of statfs(2).
        const TMPFS: i64 = 0x0102_1994;
        let shown = self.dir.display().to_string();
        let found = rustix::fs::statfs(&self.dir).map_err(|error| Error::io("statfs", &shown)(error.into()))?;
        if found.f_type == TMPFS { Err(Error::Tmpfs(shown)) } else { Ok(()) }
    }
}

impl Disk for RealDisk {
    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        files_of(&self.dir)
    }

    fn open(&self, name: &str, create: bool) -> io::Result<Arc<dyn DiskFile>> {
        let file =
            OpenOptions::new().read(true).write(true).create(create).truncate(false).mode(0o600).open(self.dir.join(name))?;
        Ok(Arc::new(file))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.dir.join(from), self.dir.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.dir.join(name))
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.handle.sync_all()
    }

    fn quarantine(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let dir = self.dir.join("quarantine");
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        if fs::read_dir(&dir)?.count() >= QUARANTINE_FILES {
            return Err(io::Error::other("the quarantine is full"));
        }
        fs::write(dir.join(name), bytes)
    }

    fn aside(&self) -> u64 {
        let folders = ["dead", "quarantine", "query"].iter().filter_map(|name| fs::read_dir(self.dir.join(name)).ok());
        folders.flatten().filter_map(|entry| Some(entry.ok()?.metadata().ok()?.len())).sum()
    }
}

// === impl ReadOnly ===

impl ReadOnly {
    /// Looks at a directory.
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }
}

impl Disk for ReadOnly {
    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        files_of(&self.dir)
    }

    fn open(&self, name: &str, _: bool) -> io::Result<Arc<dyn DiskFile>> {
        // Without the right to write: a call that tries fails.
        Ok(Arc::new(File::open(self.dir.join(name))?))
    }

    fn rename(&self, _: &str, _: &str) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn remove(&self, _: &str) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn sync_dir(&self) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn quarantine(&self, _: &str, _: &[u8]) -> io::Result<()> {
        // What a start would put aside stays where it is.
        Ok(())
    }
}

fn files_of(dir: &Path) -> io::Result<Vec<(String, u64)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let found = entry.metadata()?;
        if found.is_file() {
            files.push((entry.file_name().to_string_lossy().into_owned(), found.len()));
        }
    }
    Ok(files)
}

impl DiskFile for File {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < buffer.len() {
            match FileExt::read_at(self, &mut buffer[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn set_size(&self, size: u64) -> io::Result<()> {
        self.set_len(size)
    }
}
