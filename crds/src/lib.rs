//! The one configuration language of Steno.
//!
//! An [`AuditPolicy`] is what a user writes and what `kubectl apply`, `steno-sidecar dev` and `steno-sidecar check` take.
//! [`render()`] turns it into a [`SidecarConfig`]: the same specification with every default filled in, a hash, and the
//! names of the policy. The operator and the command line call the same function, so that what was checked on a laptop is
//! what runs in a pod.
//!
//! A [`ClusterAuditPolicySpec`] is what the platform asks of many policies; [`merge()`] has the rules, and [`render_under()`] is
//! `render` under them.
//!
//! Rules of this room:
//! - types are pure (serde, schemars); nothing here reads a file, a clock or the network;
//! - every default and bound stands once, in [`bounds`]; types, validation, schema and the reference page are made from it;
//! - secrets are only ever references ([`SecretRef`]); a rendered configuration carries none;
//! - a fault names the field by its path and says how to mend it ([`Fault`]);
//! - unknown fields are reported, not fatal, so that an older sidecar runs a newer configuration; below `redaction` they
//!   are refused, because a rule that is silently ignored is a leak.

mod advice;
pub mod bounds;
mod cluster;
mod fault;
mod intents;
mod listeners;
mod merge;
#[cfg(feature = "kube")]
mod object;
mod path;
mod policy;
mod quantity;
mod render;
mod schema;
mod settings;
mod sinks;
mod validate;
mod volume;

pub use advice::{Advice, Risk, advice};
pub use cluster::*;
pub use fault::Fault;
pub use intents::Intents;
pub use listeners::{InputFormat, ListenerSpec, ListenerTls};
pub use merge::{Covering, Merged, merge, render_under};
#[cfg(feature = "kube")]
pub use object::{AuditPolicyStatus, ClusterAuditPolicyStatus, Condition, Fleet, crd_yaml, crds};
pub use path::{MemberPath, Segment, fold_name};
pub use policy::*;
pub use quantity::{ByteSize, Span};
pub use render::{Parsed, PolicyRef, SidecarConfig, parse, parse_policy, render, spool_only};
pub use schema::{cluster_policy_schema, policy_schema, reference_markdown};
pub use settings::{KAFKA_ALLOWED, MESSAGE_TIMEOUT_MS, QUEUE_KBYTES, RECONNECT_MAX_MS, RECORD_OVERHEAD, Setting};
pub use sinks::{
    FanOut, FileSink, HttpCompression, HttpSink, MaxLag, PostgresSink, SinkRedaction, SinkSpec, SinkType, TargetSession,
};
pub use validate::REGEX_SIZE_LIMIT;
pub use volume::{ClaimVolume, EphemeralVolume, HostPathVolume, Volume, VolumeType};

/// The group and version of Steno's objects.
pub const API_VERSION: &str = "audit.steno.dev/v1alpha1";
