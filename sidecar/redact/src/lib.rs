//! Compiled redaction and payload limits.
//!
//! # Rules
//! - Pure: no I/O, no clock. Compiled once a configuration; cost linear in the payload.
//! - Order of work: redact, then truncate, then bound. What is cut away was redacted first.
//! - The strongest action that matches a value wins (`Remove > Replace > Hash > Mask`), so that a rule never loosens another.
//! - A redacted node remembers what is shown and what the fingerprint sees ([`steno_event::json::Redacted`]): a fixed marker in place of
//!   each secret, so that neither a secret nor a rotated key enters the fingerprint.
//! - What is done is listed by path, rule and action, never by value; beyond 64 entries it folds to counts by rule.
//! - In identifier members (`steno_event::names::IDENTIFIERS`) a hit becomes a hash of the whole value, so that equal ids stay equal and others
//!   different; by the journal's own key where the policy has none.
//!
//! # Where things are
//! [`names`] which member names are secret; `pairs` values whose name stands beside them; [`detect`] what is found inside text; `rules` how a policy compiles; `walk` the one pass over the
//! tree; `action` what replaces a value; `fit` cutting what is too large. `tests/corpus` holds labelled cases; `make test` prints recall and
//! precision.

mod action;
mod detect;
mod fit;
mod names;
mod pairs;
mod paths;
mod plain;
mod report;
mod rules;
mod walk;

pub use action::HashKey;
pub use fit::{Fit, fit, metadata_only};
pub use paths::without_effect;
pub use report::Report;
pub use rules::{Error, Redactor};
