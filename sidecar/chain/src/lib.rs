//! The hash chain: what makes a gap, an edit or a fork show.
//!
//! # Format
//! Every record carries `integrity{alg, chainId, epoch, hash, prevHash, seq}`. `hash` is the SHA-256, in hex, over the RFC 8785 form of
//! the record with `integrity.hash` left out; all else, what the sidecar filled in included, is under it. `prevHash` is the hash
//! of the record before in the chain, 64 zeros where an epoch begins. `seq` counts from 0 and never repeats in a chain.
//! `docs/reference/integrity.md` has a worked example.
//!
//! # Chains
//! One a writer: `<pod UID>/<journal UUID>`; with scope `Tenant` one a tenant too: `<pod UID>/<journal UUID>/<tenant>`. A chain goes on
//! over restarts. After damage a new epoch begins, whose first record says why.
//!
//! # Rules
//! - Pure: no I/O and no clock.
//! - [`ChainState`] is a value: whoever fails to write a record keeps the state from before.
//! - Only the sidecar makes kinds other than `Event` ([`Note`]), so that no client can imitate an explanation.

mod note;
mod seal;
mod verify;

pub use note::{Kind, Lost, Note, NoteContext};
pub use seal::{ChainState, Sealed, seal};
pub use verify::{Finding, Verdict, Verifier, losses_told};
