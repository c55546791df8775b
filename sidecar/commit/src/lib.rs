//! The one loop: idempotency decision, chain, append, sync, answer.
//!
//! # Rules
//! - One thread owns [`Committer`], and with it the journal, the index of event ids and the heads of the chains. Nobody else decides.
//! - A turn takes all that waits, decides over the whole of it, writes one block (more if it is large), syncs, enters the decisions in
//!   the index, and answers. There is no timer: the batch is what arrived meanwhile
//!   ([`Bell`]: who submits may ring once for all that it submits in one go).
//! - Equal and unequal events inside one block attach to their first, and share its failure: nobody is told "duplicate" of
//!   something that is not on disk.
//! - A failed block leaves no trace: sequence numbers, chain heads and index are as before.
//! - Sinks, queries and duplicate answers see only what is synced, in every mode.
//!
//! # A record in a block ([`Frame`])
//! ```text
//!   0  4  length of what follows        44  1  members the sidecar filled in (bits)
//!   4  1  kind: 0 event, 1 note         45  3  zero
//!   5  1  flags: 1 critical             48  8  received, milliseconds since 1970
//!   6  2  zero                          56  8  where the text of `action` stands: u32 start, u32 length
//!   8 16  identity (zero: note)         64  8  the same of `eventId`
//!  24 16  fingerprint                   72  4  where `integrity` begins (zero: there is none)
//!  40  4  generation of redaction rules 76  …  the record, canonical JSON
//! ```
//!
//! # Index of event ids
//! What a retry is told from: identity, fingerprint, sequence number, generation of the redaction rules, time. The newest entries are in
//! a preallocated table; older ones inside the window in sorted files with filters ([`index`]), which are written while
//! the segment they cover is still there, and rebuilt from it otherwise. Times are the journal's own clock, which counts only while
//! the sidecar runs, so that no jump of the wall clock empties the window.

mod bell;
mod chains;
mod clock;
mod committer;
mod config;
mod conflicts;
mod frame;
mod gone;
mod id_writer;
pub mod index;
mod losses;
mod metrics;
mod work;

#[cfg(test)]
mod tests;

pub use bell::Bell;
pub use clock::{Clock, SystemClock};
pub use committer::{Committer, Observer, Started};
pub use config::{CommitConfig, Reserve, WhenFull};
pub use frame::{Frame, Held, frames};
pub use losses::{losses, lost_range};
pub use metrics::{Metrics, Progress};
pub use work::{Answer, Batch, Critical, Failure, Handle, Inbox, Item, Work};
