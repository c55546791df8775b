//! What never leaves the pod in clear, and how large a record may be.
//!
//! This room is pure: no I/O, no clock. It takes the tree of a [`steno_event::Draft`] and changes it in place.
//!
//! # Rules
//! - **Names**: a value below a secret name (`password`, `Authorization`, `db_password`, …) goes whole, whatever its type.
//!   `null` and what is empty stay: there is nothing to hide.
//! - **Detectors** find secrets by their shape, anywhere in a text and in member names: cards, tokens, keys, credentials, …
//! - **Paths** and **regexes** come from the policy. `except[]` keeps a rule from a place and all below it; on a detector's rule it
//!   keeps the builtin use of that detector away, too.
//! - **Capture**: raw request and response bodies are removed unless the policy keeps them.
//! - The strongest action that claims a value wins: `Remove > Replace > Hash > Mask`. No rule loosens another.
//! - In an identifier member a hit becomes a hash of the whole value, so that equal ids stay equal.
//!
//! # Order of work
//! 1. [`Redactor::compile`], once a configuration.
//! 2. [`Redactor::apply`] on the draft, before it is fingerprinted. One pass over the tree, linear in the payload: a scan of byte
//!    classes decides which detectors can match at all, and most strings need no more than that. A redacted node remembers what
//!    is shown and what is fingerprinted, so that neither a secret nor a hash key enters the fingerprint.
//! 3. The caller fingerprints, completes the draft, and only then inserts [`Report::redactions`].
//! 4. [`fit`] cuts the completed record to the largest size allowed, and says what it cut.
//!
//! Where redaction fails ([`Report::failed`], or a panic that the caller caught), [`metadata_only`] keeps what is surely harmless:
//! privacy fails closed.

mod action;
mod detect;
mod failed;
mod fit;
mod measure;
mod names;
mod paths;
mod report;
mod rules;
mod text;
mod trail;
mod walk;

pub use failed::metadata_only;
pub use fit::{Fit, fit};
pub use report::Report;
pub use rules::{BUILTIN_VERSION, Error, HashKey, Redactor};
