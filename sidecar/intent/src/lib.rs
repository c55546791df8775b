//! Write intents: the write-ahead log of an application's own writes.
//!
//! An application says what it is about to write ([`Private`]), is told once that is on disk, writes, and says how it went. After a crash it asks
//! for the intents that are still open, in the order in which they came, and does each write again, or finds that it was done.
//!
//! # Rules
//! - The journal is the only truth. [`Ledger`] is what a reader of it knows, and is brought up to date from it; nothing is entered anywhere else. So a
//!   restart, and a request that was cut off half-way, need no care of their own.
//! - A payload is kept as it came, byte for byte, in an encrypted journal of its own, and given back to the pod only. What goes to the topic is made from
//!   [`Stored::public`], which was made when the intent came, without the payload, under the policy's redaction.
//! - An intent has one ending: its record has an identity of its own, so that the commit loop lets one in, and tells a second one that it is equal or not.
//! - An intent's records come in this order: `opened`, any number of `carried`, `closed`. Carrying excludes ending: a carried record never comes behind
//!   the ending, or a later start could take it for open.
//!
//! # How payloads go
//! Segments are freed from the oldest on, up to the oldest record that is still needed ([`Ledger::pin`]). When a payload has been of no use for
//! a while ([`Ledger::chores`]), its segment is ended, what is still open up to there is written again (`carried`, same number, same time), and the segment goes,
//! and its file with it. Records that the topic does not have yet hold their segments, too.
//!
//! # A record in the journal
//! The record of a frame (`steno-commit`) is JSON:
//! ```text
//! {"step":"opened","intentId":…,"private":{"operation","dtoType","entityId","payload","replayKey"},"public":{…}}
//! {"step":"carried","intentId":…,"number":<sequence number of the opened record>,"private":{…},"public":{…}}
//! {"step":"closed","intentId":…,"state":"resolved"|"expired","outcome":…,"eventId":…,"public":{…}}
//! ```
//! The frame's time is when the intent came, also of a carried one; of a closed one, when it ended.

mod ledger;
mod public;
mod stored;

pub use ledger::{Chores, Ending, Entry, Ledger, Records, State};
pub use public::{Made, closed, opened};
pub use stored::{Private, ReplayKey, Step, Stored, public_of};
