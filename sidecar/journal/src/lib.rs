//! The one on-disk structure: write-ahead log, spool and local store. It knows blocks, positions and bytes, not events.
//!
//! # Rules
//! - One writer ([`Journal`]) appends blocks and syncs them; readers ([`Reader`]) see only what is synced.
//! - A record's sequence number is its place in the journal. No number is ever used for two records that anybody saw.
//! - What was synced is found again, or its loss is named ([`Damage`]): a range of sequence numbers, and of each chain.
//! - What a start finds is made durable before it is used. A process that dies between write and sync leaves blocks in memory only.
//! - A failed write or sync never touches the same pages again: the journal goes on in a fresh segment, whose header says
//!   from which sequence number on older blocks do not count.
//! - The end of the log is known from outside of it: the state knows the newest segment before it is used, and how far the log
//!   reached. A segment that is missing, or shorter than its header says, is a loss and not the end.
//! - A file is what its contents say. Two files whose names were swapped are renamed; a segment of another journal, or in clear where the
//!   journal was encrypted, is damage.
//! - Space is reused only after the position that frees it is durable, so that a crash never finds new bytes under an old position.
//! - One owner of each bound: [`Journal::payload_room`] says how large a block may be, and a block up to that size fits. Heads of
//!   chains take at most an eighth of a segment ([`Journal::has_head_room`]).
//! - A place that the device cannot read is damage like any other ([`is_unreadable`]).
//! - All access to the disk goes through [`Disk`]; tests put a disk there that loses power, fails and is tampered with.
//!
//! # Files
//! | name | what |
//! |---|---|
//! | `lock` | held exclusively while a process uses the directory |
//! | `state` | two slots of 512 bytes, at 0 and 4096, written in turn |
//! | `seg-<generation, 16 hex>.log` | a segment in use |
//! | `spare-<n>.log` | a segment file waiting to be used again; `spare-r<n>.log` has never been used, and reserves space for a disk that is full |
//! | `quarantine/<generation>-<offset>.blk` | a damaged block, as it was found |
//! | `quarantine/seg-….log` | a file that is named like a segment and cannot be used |
//! | `idx-*`, `gone`, `dead/`, `query/`, `config.last` | belong to other rooms; they count towards the bound |
//!
//! # Segment (all integers little-endian)
//! A run of blocks after two copies of a header, at 0 and at 4096, of which 512 bytes are used. The file has its full size from
//! the beginning.
//! ```text
//!   0  8  magic "STENOSEG"            64 32  key for ids and fingerprints
//!   8  2  version (2)                 96 16  salt (for encryption; random for each use of the file)
//!  10  2  flags (0)                  112 16  key id (zero: not encrypted; else the key at 64 is masked)
//!  12  4  where blocks begin (8192)  128  8  created, milliseconds since 1970
//!  16 16  journal UUID               136  8  segment size in bytes
//!  32  8  generation                 144  8  oldest generation in use at creation
//!  40  8  first sequence number      152  8  first sequence number of the segment before
//!  48  8  generation of the segment  160  8  sequence number from which on blocks of the
//!         before (zero: none)                segment before do not count
//!  56  8  chain floor, as in the     508  4  CRC32C of bytes 0..508
//!         state
//! ```
//! The first block of a segment is a snapshot: no records, all chain heads. A file is used again with the next generation; blocks of
//! an earlier use never validate, because checksums are seeded with the journal's UUID and the generation.
//!
//! Version 1 is read and not written: its copies stand at 0 and 2048, its blocks begin at 4096, its file grows, and it does not know the
//! segment before.
//!
//! # Block (one commit), aligned to 8 bytes
//! ```text
//!   0  4  magic "SBLK"                40  4  payload length before compression
//!   4  2  version (1)                 44  4  CRC32C of the payload
//!   6  2  flags: 1 snapshot,          48  8  wall clock, milliseconds since 1970
//!         2 zstd, 4 AES-256-GCM,      56  8  journal clock, milliseconds that the journal was in use
//!   8  8  generation                  64  2  number of chain ranges
//!  16  8  first sequence number       66  2  reserved
//!  24  4  number of records           68  …  ranges: u16 length of id, id, u64 epoch, u64 first, u64 last, 32 bytes last hash
//!  28  4  ordinal in the segment       …  4  CRC32C of the header up to here
//!  32  4  header length                …  …  payload, then zeros up to a multiple of 8
//!  36  4  payload length as stored
//! ```
//! Encryption and compression: [`envelope`]. Both checksums are CRC32C (Castagnoli), that of the payload over what is stored, continued from `crc32c(uuid ‖ generation)`.
//!
//! # State slot
//! ```text
//!   0  8  magic "STENOSTA"           376  8  generation of the newest segment (zero: not known)
//!   8  2  version (2)                384  8  its size in bytes
//!  16  8  slot generation            392  8  its first sequence number
//!  24 16  journal UUID               400  8  the log reached this sequence number, or further
//!  40  8  oldest generation in use   408  8  chain floor: chains that begin begin with this number
//!  48  2  number of positions        416  8  segments from this generation on are encrypted (zero: no such rule)
//!  56  …  positions: u64 hash of     424  8  1: the key for ids was on this disk in clear
//!         the sink's name, u64       456 16  key id (zero: not encrypted)
//!         next sequence number to    472 32  key for ids and fingerprints, masked if there is a key id
//!         deliver; at most 20        508  4  CRC32C of bytes 0..508
//! ```
//! Version 1 has up to 24 positions and nothing from 376 to 456.
//!
//! # Recovery, in words
//! 1. The newer valid state slot counts. It says which journal this is. Segments older than its oldest generation are spares: their
//!    deletion was recorded before it was done.
//! 2. Segments are recognised by their headers. What is named like one and cannot be used goes to the quarantine.
//! 3. Only the newest segment is read at start. Blocks are taken while they validate and continue the sequence.
//! 4. Behind the last good block: a valid later block of the same generation means damage in between; a place that names this
//!    generation or the next sequence number but does not validate is a damaged block, whose claimed range is lost by name (it may never
//!    have been acknowledged; saying so is safe); an unreadable place, or the end of a file that was cut, may hide any number of blocks;
//!    anything else is the end.
//! 5. What the state, the sinks' positions and the files of event ids know beyond the end is lost. If a whole segment is missing, or the
//!    end is hidden, as many records are named as the bytes could have held: numbers are cheap, silence is not. Chains that nobody knows
//!    may have been in it: chains that begin later begin above (chain floor).
//! 6. Older segments are checked when they are read, but for holes: a segment that its successor knows and that is missing. What cannot
//!    be read ends at the next valid block or segment, and the gap in the sequence is the loss.
//! 7. Names are synced; the newest segment is written again in its place and synced; the state is written and synced. Only then is
//!    anything used. A plain sync would not do: after a failed sync of the process before, pages may be clean and on no disk.
//! 8. New sequence numbers start above the tail, above every claimed range and above every position in the state.

mod damage;
mod disk;
pub mod envelope;
mod error;
mod format;
mod journal;
mod reader;
mod recovery;
pub mod repair;
mod segment;
mod shared;
mod state;
mod window;

#[cfg(any(test, feature = "sim"))]
pub mod sim;
#[cfg(test)]
mod tests;

pub use damage::{Damage, Extent};
pub use disk::{
    Disk, DiskFile, ReadOnly, RealDisk, create_dir, is_unlocked, is_unreadable, put_file, put_file_at, read_readable,
    remove_file, sync_dir,
};
pub use envelope::{Envelope, Key, Keys};
pub use error::{Error, Result};
pub use format::{Block, BlockHeader, ChainRange, FLAG_ENDED, FLAG_SNAPSHOT};
pub use journal::{Class, Journal, NewBlock, Options, SegmentInfo, Usage};
pub use reader::{Next, Reader, Spot};
pub use recovery::{Opened, Reached};
pub use shared::Shared;
pub use state::sink_id;

#[cfg(not(target_pointer_width = "64"))]
compile_error!("Steno's journal needs a 64-bit target");
