//! The local journal, searched: which records have these members, newest or oldest first, a page at a time.
//!
//! # Rules
//! - Only what is synced is found, and all of it: a search first reads what came since the last one.
//! - The journal is the truth. An index only says where to look; each record is compared with the question itself before it is shown. An index that is
//!   missing or damaged is made again.
//! - Memory does not grow with the journal: what is kept there is the last, unfinished piece of the index (at most a little over [`ROWS`] rows of 64 bytes)
//!   and a few hundred bytes for each finished one.
//! - A page is bounded in records and in bytes. Its cursor names a sequence number: what is written meanwhile neither shifts nor repeats anything.
//!
//! # How
//! A record has a row; [`ROWS`] rows make a piece, which is a file of columns: for each member that can be asked for, 32 bits of a hash, keyed with the journal's own
//! key. A search reads only the columns that it asks for: 64 KiB a member for 16,384 records, 4 MiB for a million.
//!
//! # Files (`query/<first sequence, 16 hex>.col`, little-endian)
//! ```text
//!   0  8  magic "STENOCOL"       40  4  rows
//!   8  2  version (1)            44  4  blocks
//!  10  6  reserved               48  8  earliest occurredAt, milliseconds since 1970
//!  16 16  journal UUID           56  8  latest
//!  32  8  first sequence         64  8  end of sequences
//!                               508  4  CRC32C of bytes 0..508
//! 512  …  columns, each with 4 bytes CRC32C behind it: one of u32 for each of [`MEMBERS`]; sequence numbers less the first, u32;
//!         occurredAt, i64; then the blocks: u64 generation, u64 offset, u64 first sequence
//! ```

mod catalog;
mod columns;
mod piece;
mod question;

pub use catalog::{Catalog, Found, Page};
pub use columns::MEMBERS;
pub use question::{BadQuestion, MOST_RECORDS, Order, Question};

/// Rows of a finished piece of the index; a little more where a block crosses the bound.
pub const ROWS: usize = 16_384;

/// Why a search failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The question.
    #[error(transparent)]
    Question(#[from] BadQuestion),
    /// The journal.
    #[error(transparent)]
    Journal(#[from] steno_journal::Error),
    /// A file of the index.
    #[error("the index of queries: {0}")]
    Index(#[from] std::io::Error),
}
