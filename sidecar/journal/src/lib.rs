//! The one on-disk structure: write-ahead log, spool and local store. It knows blocks, positions and bytes, not events.
//!
//! # Rules
//! - One writer ([`Journal`]) appends blocks and syncs them; readers ([`Reader`]) see only what is synced.
//! - A record's sequence number is its place in the journal. No number is ever used for two records that anybody saw.
//! - What was synced is found again, or its loss has a name ([`Damage`]): a range of sequence numbers, and of each chain.
//! - A failed write or sync never touches the same pages again: the journal goes on in a fresh segment, whose header says
//!   from which sequence number on older blocks do not count.
//! - Space is reused only after the position that frees it is durable, so that a crash never finds new bytes under an old position.
//! - All access to the disk goes through [`Disk`]; tests put a disk there that loses power and fails.
//!
//! # Files
//! | name | what |
//! |---|---|
//! | `lock` | held exclusively while a process uses the directory |
//! | `state` | two slots of 512 bytes, at 0 and 4096, written in turn |
//! | `seg-<generation, 16 hex>.log` | a segment in use |
//! | `spare-<n>.log` | a segment file waiting to be used again |
//! | `quarantine/<generation>-<offset>.blk` | a damaged block, as it was found |
//! | `idx-*`, `dead/`, `query/`, `config.last` | belong to other rooms; they count towards the bound |
//!
//! # Segment (all integers little-endian)
//! A run of blocks after a header of 4096 bytes, of which the first 512 are used:
//! ```text
//!   0  8  magic "STENOSEG"            64 32  key for ids and fingerprints
//!   8  2  version (1)                 96 16  salt (for encryption; random for each use of the file)
//!  10  2  flags (0)                  112 16  key id (zero: not encrypted; else the key at 64 is masked)
//!  12  4  header length (4096)       128  8  created, milliseconds since 1970
//!  16 16  journal UUID               136  8  segment size in bytes
//!  32  8  generation                 144  8  oldest generation in use at creation
//!  40  8  first sequence number      508  4  CRC32C of bytes 0..508
//!  48 16  reserved
//! ```
//! The header stands a second time at 2048. The first block of a segment is a snapshot: no records, all chain heads. A file is used again with the next generation; blocks of
//! an earlier use never validate, because checksums are seeded with the journal's UUID and the generation.
//!
//! # Block (one commit), aligned to 8 bytes
//! ```text
//!   0  4  magic "SBLK"                40  4  payload length before compression
//!   4  2  version (1)                 44  4  CRC32C of the payload
//!   6  2  flags: 1 snapshot,          48  8  wall clock, milliseconds since 1970
//!         2 zstd, 4 AES-256-GCM       56  8  journal clock, milliseconds that the journal was in use
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
//!   0  8  magic "STENOSTA"            40  8  oldest generation in use
//!   8  2  version (1)                 48  2  number of positions
//!  16  8  slot generation             56  …  positions: u64 hash of the sink's name, u64 next sequence number to deliver
//!  24 16  journal UUID               456 16  key id (zero: not encrypted)
//!                                    472 32  key for ids and fingerprints, masked where there is a key id
//!                                    508  4  CRC32C of bytes 0..508
//! ```
//!
//! # Recovery, in words
//! 1. The newer valid state slot counts. Segments older than its oldest generation are spares: their deletion was recorded
//!    before it was done.
//! 2. Only the newest segment is read at start. Blocks are taken while they validate and continue the sequence.
//! 3. Behind the last good block: a valid later block of the same generation means damage in between; a place that names this
//!    generation or the next sequence number but does not validate is a damaged block, whose claimed range is lost by name (it may never
//!    have been acknowledged; saying so is safe); anything else is the end.
//! 4. Older segments are checked when they are read. What cannot be read ends at the next valid block or segment, and the
//!    gap in the sequence is the loss.
//! 5. New sequence numbers start above the tail, above every claimed range and above every position in the state.

mod disk;
pub mod envelope;
mod error;
mod format;
mod journal;
mod reader;
mod recover;
pub mod repair;
mod state;

#[cfg(any(test, feature = "sim"))]
pub mod sim;
#[cfg(test)]
mod tests;

pub use disk::{Disk, DiskFile, ReadOnly, RealDisk, put_file};
pub use envelope::{Envelope, Key, Keys};
pub use error::{Error, Result};
pub use format::{Block, BlockHeader, ChainRange, FLAG_SNAPSHOT};
pub use journal::{Class, Journal, NewBlock, Options, SegmentInfo, Shared, Usage};
pub use reader::{Next, Reader, Spot};
pub use recover::{Damage, Opened};
pub use state::sink_id;

#[cfg(not(target_pointer_width = "64"))]
compile_error!("Steno's journal needs a 64-bit target");
