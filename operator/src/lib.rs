//! The control plane: from AuditPolicy objects to configured sidecars in annotated pods.
//!
//! # Rooms
//! - [`inject`]: pure. A pod, the policies of its namespace and the operator's settings go in; a JSON Patch or a reason comes out. No clock,
//!   no network, no cluster: what it does to a pod is shown by golden files.
//! - [`admission`]: pure. Admission reviews in, answers out.
//! - [`view`]: policies, the platform's policies and namespaces, as watches tell; [`scope`]: of which namespaces.
//! - [`webhook`], [`certs`]: the listeners and their certificates.
//! - [`lease`]: which of several processes reconciles.
//! - [`reconcile`], [`status`]: ConfigMap and status of a policy.
//! - [`pods`], [`fleet`], [`prober`], [`rota`], [`nudges`]: which pods there are, how they stand, and who is told of a change; beside the reconciles.
//! - [`watchdog`], [`losses`], [`tell`]: pods that ask and were missed, events that went with pods; Events.
//!
//! # Two roles
//! `webhook` answers admissions: every replica does, from its own view. `reconcile` does all else, in the one process that holds the Lease. A cluster
//! runs them as two Deployments, so that the one that API servers wait for is small, and may do little.
//!
//! # Rules
//! - Nothing that Steno does stops somebody else's pod: a pod that does not ask is never touched, and a pod that asks and cannot be served
//!   starts without the sidecar, with the reason told.
//! - A patch only adds, at places that it names. The pod is never read into types and written again, so that fields which this version does not
//!   know survive.
//! - Secrets are never read here. Pods mount them; sidecars tell which are missing.

pub mod admission;
pub mod args;
pub mod certs;
pub mod fleet;
pub mod inject;
pub mod lease;
pub mod losses;
pub mod metrics;
pub mod nudges;
pub mod pods;
pub mod prober;
pub mod reconcile;
pub mod rota;
pub mod run;
pub mod scope;
pub mod seal;
pub mod status;
pub mod tell;
pub mod view;
pub mod watchdog;
pub mod webhook;
