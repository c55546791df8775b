//! The disk as the journal sees it, and the real one.
use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt},
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
    /// Keeps a copy of a damaged block in the quarantine. Fails if the quarantine is full.
    fn quarantine(&self, name: &str, bytes: &[u8]) -> io::Result<()>;
    /// Moves a whole file to the quarantine, durably. If the quarantine is full the file stays.
    fn set_aside(&self, name: &str) -> io::Result<()>;
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
    /// Extends the file to a size and reserves space for all of it, so that a later write below that size does not fail
    /// for want of space. A file system that cannot reserve only extends the file.
    fn allocate(&self, size: u64) -> io::Result<()> {
        self.set_size(size)
    }
}

/// Unit in which a device reports an unreadable place, in bytes.
const PAGE: usize = 4096;

/// Whether a read failed because the device no longer has the data: `EIO` (disks), `EILSEQ` (dm-integrity and protection
/// information), `EBADMSG` (f2fs, XFS checksums), `EUCLEAN` (ext4, btrfs), `ENODATA` (a medium error of a block device).
#[must_use]
pub fn is_unreadable(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let codes = [Errno::IO, Errno::ILSEQ, Errno::BADMSG, Errno::UCLEAN, Errno::NODATA];
    error.raw_os_error().is_some_and(|code| codes.iter().any(|known| known.raw_os_error() == code))
}

/// Reads like [`DiskFile::read_at`], but a place that the device cannot read becomes zeros, which no checksum accepts.
/// The second value is how many pages were unreadable.
///
/// # Errors
/// The read failed for another reason.
pub fn read_readable(file: &dyn DiskFile, buffer: &mut [u8], offset: u64) -> io::Result<(usize, usize)> {
    match file.read_at(buffer, offset) {
        Ok(count) => return Ok((count, 0)),
        Err(error) if !is_unreadable(&error) => return Err(error),
        Err(_) => {}
    }
    let size = file.size()?;
    let wanted = buffer.len().min(size.saturating_sub(offset) as usize);
    let (mut at, mut bad) = (0, 0);
    while at < wanted {
        let to_page_end = PAGE - ((offset as usize + at) % PAGE);
        let end = (at + to_page_end).min(wanted);
        match file.read_at(&mut buffer[at..end], offset + at as u64) {
            Ok(_) => {}
            Err(error) if is_unreadable(&error) => {
                buffer[at..end].fill(0);
                bad += 1;
            }
            Err(error) => return Err(error),
        }
        at = end;
    }
    Ok((wanted, bad))
}

/// A directory of the file system, locked for this process.
#[derive(Debug)]
pub struct RealDisk {
    dir: PathBuf,
    handle: File,
    _lock: File,
}

/// A directory that is only read: nothing is locked, created or changed. A block that a running sidecar is writing may be
/// seen in part.
#[derive(Debug)]
pub struct ReadOnly {
    dir: PathBuf,
}

/// `TMPFS_MAGIC` of statfs(2).
const TMPFS: i64 = 0x0102_1994;
/// Limit of files in the quarantine.
const QUARANTINE_FILES: usize = 64;
/// Folder of damaged blocks and files.
const QUARANTINE: &str = "quarantine";

/// Creates or replaces a file of a directory, whole and durably: after a power cut there is the old one or the new one. Mode 0600. The one way in which the
/// sidecar replaces a file.
///
/// # Errors
/// The disk refused; the old file is still there.
pub fn put_file(dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let part = dir.join(format!("{name}.part"));
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part)?;
    io::Write::write_all(&mut file, bytes)?;
    file.sync_all()?;
    fs::rename(part, dir.join(name))?;
    sync_dir(dir)
}

/// The same, by the file's path.
///
/// # Errors
/// The disk refused, or the path names no file; the old file is still there.
pub fn put_file_at(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let name = path.file_name().and_then(std::ffi::OsStr::to_str);
    let name = name.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the path names no file"))?;
    put_file(path.parent().unwrap_or(Path::new("")), name, bytes)
}

/// Removes a file durably: after a power cut it does not come back. A file that does not exist is no error.
///
/// # Errors
/// The disk refused.
pub fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        removed => removed?,
    }
    path.parent().map_or(Ok(()), sync_dir)
}

/// Makes the names in a directory durable.
///
/// # Errors
/// The disk refused.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(if dir.as_os_str().is_empty() { Path::new(".") } else { dir })?.sync_all()
}

/// Creates a directory (mode 0700) with its parents, and makes its own entry durable: a directory whose entry is lost takes
/// everything in it along.
///
/// # Errors
/// The disk refused.
pub fn create_dir(dir: &Path) -> io::Result<()> {
    let missing = dir.ancestors().take_while(|ancestor| !ancestor.as_os_str().is_empty() && !ancestor.exists()).count();
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    // The nearest parent always: an earlier process may have created the directory and been killed before this sync.
    for parent in dir.ancestors().skip(1).take(missing.max(1)) {
        match sync_dir(parent) {
            // A parent that may not be read was not created by us.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => break,
            synced => synced?,
        }
    }
    Ok(())
}

/// Whether a directory was a journal's, and nobody has it now. What cannot be told counts as had.
pub fn is_unlocked(dir: &Path) -> bool {
    // A pipe in its place would wait for a reader.
    let nonblocking = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or_default();
    let lock = match OpenOptions::new().write(true).custom_flags(nonblocking).open(dir.join("lock")) {
        Ok(lock) => lock,
        Err(error) => return error.kind() == io::ErrorKind::NotFound,
    };
    // Had for a moment only: whoever starts just then takes another directory.
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_ok()
}

// === impl RealDisk ===

impl RealDisk {
    /// Opens the directory, makes it where it is missing (mode 0700), and locks it.
    pub fn open(dir: &Path) -> Result<Self> {
        let shown = dir.display().to_string();
        create_dir(dir).map_err(Error::io("create", &shown))?;
        let lock_path = dir.join("lock");
        let lock = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&lock_path);
        let lock = lock.map_err(Error::io("open", lock_path.display().to_string()))?;
        match rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(Error::Locked(shown)),
            // Such as a file system that has no locks.
            Err(error) => return Err(Error::io("lock", &shown)(error.into())),
            Ok(()) => {}
        }
        // Whoever removed the directory had the lock until now: what was locked here is no longer in its place.
        let is_same =
            |there: fs::Metadata| lock.metadata().is_ok_and(|locked| (locked.dev(), locked.ino()) == (there.dev(), there.ino()));
        if !fs::metadata(&lock_path).is_ok_and(is_same) {
            return Err(Error::Locked(shown));
        }
        let handle = File::open(dir).map_err(Error::io("open", &shown))?;
        Ok(Self { dir: dir.to_owned(), handle, _lock: lock })
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The folder of damaged blocks and files, if it may take one more.
    fn quarantine_dir(&self) -> io::Result<PathBuf> {
        let dir = self.dir.join(QUARANTINE);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        if fs::read_dir(&dir)?.count() >= QUARANTINE_FILES {
            return Err(io::Error::other("the quarantine is full"));
        }
        Ok(dir)
    }

    /// Refuses a directory that loses its contents with the node's power.
    pub fn refuse_tmpfs(&self) -> Result<()> {
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
        put_file(&self.quarantine_dir()?, name, bytes)
    }

    fn set_aside(&self, name: &str) -> io::Result<()> {
        let dir = self.quarantine_dir()?;
        let taken = dir.join(name).exists();
        let kept = if taken { dir.join(format!("{name}.{}", uuid::Uuid::new_v4().simple())) } else { dir.join(name) };
        fs::rename(self.dir.join(name), kept)?;
        sync_dir(&dir)?;
        self.handle.sync_all()
    }

    fn aside(&self) -> u64 {
        let folders = ["dead", QUARANTINE, "query"].iter().filter_map(|name| fs::read_dir(self.dir.join(name)).ok());
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

    fn set_aside(&self, _: &str) -> io::Result<()> {
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

    fn allocate(&self, size: u64) -> io::Result<()> {
        use rustix::{fs::FallocateFlags, io::Errno};
        // A file system in memory would take the memory now.
        if rustix::fs::fstatfs(self).is_ok_and(|found| found.f_type == TMPFS) {
            return self.set_len(size);
        }
        match rustix::fs::fallocate(self, FallocateFlags::empty(), 0, size) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {}
            allocated => allocated.map_err(io::Error::from)?,
        }
        self.set_len(size)
    }
}
