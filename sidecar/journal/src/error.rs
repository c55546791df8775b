//! What can go wrong with a journal.
use std::io;

/// Result of this room.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, on what, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The disk refused.
    #[error("{action} {file}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        file: String,
        /// What the system said.
        source: io::Error,
    },
    /// No room within `spool.maxBytes`.
    #[error("the journal is full ({used} of {bound} bytes); it empties as events are delivered, or raise spool.maxBytes")]
    Full {
        /// Bytes in use.
        used: u64,
        /// The bound.
        bound: u64,
    },
    /// A block that cannot fit into a segment.
    #[error("a block of {bytes} bytes does not fit into a segment of {segment}")]
    TooLarge {
        /// The block.
        bytes: usize,
        /// The segment.
        segment: u64,
    },
    /// More than a field of the format can hold.
    #[error("{count} {what}: the format holds {limit} at most")]
    TooMany {
        /// What is counted.
        what: &'static str,
        /// How many there are.
        count: usize,
        /// How many there may be.
        limit: usize,
    },
    /// Another process uses the directory.
    #[error("{0} is in use by another process; stop it or choose another directory")]
    Locked(String),
    /// The directory was written by a newer version.
    #[error("{file} has format version {found}, newer than {known}; nothing was touched: start the newer Steno")]
    Newer {
        /// The file.
        file: String,
        /// Its version.
        found: u16,
        /// The newest version known here.
        known: u16,
    },
    /// A file was encrypted with a key that is not there.
    #[error(
        "{file} was encrypted with the key {id}, which is not among those of spool.encryption; nothing was touched: give that key, too"
    )]
    NoKey {
        /// The file.
        file: String,
        /// The key's id, shortened.
        id: String,
    },
    /// The directory keeps nothing over a restart.
    #[error("{0} is a tmpfs, which loses everything with the node's power; use a disk, or `ack: Written`")]
    Tmpfs(String),
}

impl Error {
    pub(crate) fn io(action: &'static str, file: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let file = file.into();
        move |source| Self::Io { action, file, source }
    }

    /// Whether there is no room, on the disk or within the bound.
    pub fn is_full(&self) -> bool {
        match self {
            Self::Full { .. } => true,
            Self::Io { source, .. } => matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded),
            _ => false,
        }
    }
}
