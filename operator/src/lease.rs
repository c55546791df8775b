//! Leader election by a Lease (`coordination.k8s.io/v1`): of several replicas one reconciles.
//!
//! # Rules
//! - Who holds the lease renews it at a sixth of its time. Another takes it once it has seen no change of it for its whole time, by a clock of its
//!   own: clocks of nodes may differ.
//! - Who could not renew for two thirds of the time stops its work, before anybody else may begin.
//! - Who stops in an orderly way gives the lease back, so that the next one begins at once.
//! - Work is idempotent (server-side apply), so a short overlap, of a process that was frozen, does no harm.
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};
use tokio::sync::watch;

/// Longest time between two tries to have the lease: one that was given back is taken soon.
const TURN: Duration = Duration::from_secs(2);

/// What an election goes by.
pub struct Election {
    leases: Api<Lease>,
    name: String,
    me: String,
    lasts: Duration,
    /// What was seen of somebody else's lease, and since when.
    seen: Option<(String, Instant)>,
}

/// What to do about a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Decision {
    /// It is ours, or free, or was not renewed: write it.
    Take,
    /// Somebody else holds it.
    Wait,
}

/// `holder` as the lease has it; `unchanged`: for how long it has been seen just so; `promised`: how long it lasts, as its holder wrote.
fn decide(holder: Option<&str>, me: &str, unchanged: Duration, promised: Duration) -> Decision {
    match holder {
        None | Some("") => Decision::Take,
        Some(holder) if holder == me => Decision::Take,
        Some(_) if unchanged > promised => Decision::Take,
        Some(_) => Decision::Wait,
    }
}

async fn told(stop: &mut watch::Receiver<bool>) {
    // What it gives is a guard, which nothing may wait under.
    drop(stop.wait_for(|stop| *stop).await);
}

// === impl Election ===

impl Election {
    /// For the lease `name` in a namespace; `me` is nobody else's name.
    pub fn new(client: &Client, namespace: &str, name: &str, me: String, lasts: Duration) -> Self {
        Self { leases: Api::namespaced(client.clone(), namespace), name: name.into(), me, lasts, seen: None }
    }

    /// Does the work whenever, and as long as, the lease is held, until told to stop or until the work ends.
    pub async fn lead<F: Future<Output = ()>>(mut self, mut stop: watch::Receiver<bool>, work: impl Fn() -> F) {
        loop {
            let turn = (self.lasts / 6).min(TURN);
            tokio::select! {
                () = told(&mut stop) => return,
                took = self.take_in_time(self.lasts / 3) => match took {
                    Ok(true) => {}
                    Ok(false) => { tokio::time::sleep(turn).await; continue }
                    Err(error) => {
                        tracing::warn!(error = format!("{error:#}"), "the lease cannot be had");
                        tokio::time::sleep(turn).await;
                        continue;
                    }
                },
            }
            tracing::info!(lease = self.name, me = self.me, "leading");
            tokio::select! {
                () = told(&mut stop) => {}
                () = work() => {}
                () = self.hold() => {
                    tracing::warn!("the lease could not be renewed; the work stops here, and somebody else goes on");
                    continue;
                }
            }
            if tokio::time::timeout(self.lasts / 3, self.give_back()).await.is_err() {
                tracing::warn!("the lease could not be given back in time; it runs out by itself");
            }
            return;
        }
    }

    /// Tries to have the lease; whether it is ours now.
    async fn take(&mut self) -> kube::Result<bool> {
        let Some(mut lease) = self.leases.get_opt(&self.name).await? else {
            let metadata = ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() };
            let lease = Lease { metadata, spec: Some(self.spec(&LeaseSpec::default())) };
            return Ok(self.leases.create(&PostParams::default(), &lease).await.is_ok());
        };
        let spec = lease.spec.take().unwrap_or_default();
        let version = lease.metadata.resource_version.clone().unwrap_or_default();
        let since = match &self.seen {
            Some((seen, since)) if *seen == version => *since,
            _ => Instant::now(),
        };
        self.seen = Some((version, since));
        let promised = Duration::from_secs(spec.lease_duration_seconds.unwrap_or_default().unsigned_abs().into());
        if decide(spec.holder_identity.as_deref(), &self.me, since.elapsed(), promised) == Decision::Wait {
            return Ok(false);
        }
        lease.spec = Some(self.spec(&spec));
        // It carries the version that was read: of two that try one is refused.
        match self.leases.replace(&self.name, &PostParams::default(), &lease).await {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn spec(&self, before: &LeaseSpec) -> LeaseSpec {
        let is_ours = before.holder_identity.as_ref() == Some(&self.me);
        let now = Some(MicroTime(Timestamp::now()));
        LeaseSpec {
            holder_identity: Some(self.me.clone()),
            lease_duration_seconds: i32::try_from(self.lasts.as_secs()).ok(),
            renew_time: now.clone(),
            acquire_time: if is_ours { before.acquire_time.clone() } else { now },
            lease_transitions: Some(before.lease_transitions.unwrap_or_default() + i32::from(!is_ours)),
            ..LeaseSpec::default()
        }
    }

    /// Renews; ends when that has failed for too long, or the lease is somebody else's.
    async fn hold(&mut self) {
        // When the last try that went well began: others count from a moment after that.
        let mut renewed = Instant::now();
        loop {
            tokio::time::sleep(self.lasts / 6).await;
            let Some(rest) = (self.lasts * 2 / 3).checked_sub(renewed.elapsed()).filter(|rest| !rest.is_zero()) else { return };
            let begun = Instant::now();
            match self.take_in_time(rest).await {
                Ok(true) => renewed = begun,
                Ok(false) => return,
                Err(error) => tracing::warn!(error = format!("{error:#}"), "the lease cannot be renewed"),
            }
        }
    }

    /// The same as [`Self::take`], and a fault where nobody answers: the API server's machine may be gone without a word.
    async fn take_in_time(&mut self, time: Duration) -> anyhow::Result<bool> {
        Ok(tokio::time::timeout(time, self.take()).await??)
    }

    async fn give_back(&self) {
        let Ok(Some(mut lease)) = self.leases.get_opt(&self.name).await else { return };
        let Some(spec) = lease.spec.as_mut().filter(|spec| spec.holder_identity.as_ref() == Some(&self.me)) else { return };
        (spec.holder_identity, spec.lease_duration_seconds) = (Some(String::new()), Some(1));
        match self.leases.replace(&self.name, &PostParams::default(), &lease).await {
            Ok(_) => tracing::info!(lease = self.name, "given back"),
            Err(error) => tracing::warn!(%error, "the lease could not be given back; it runs out by itself"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_taken_only_when_nobody_holds_it() {
        let promised = Duration::from_secs(15);
        let after = |seconds| Duration::from_secs(seconds);
        for (holder, unchanged, expected) in [
            (None, 0, Decision::Take),
            (Some(""), 0, Decision::Take),
            (Some("me"), 0, Decision::Take),
            (Some("other"), 0, Decision::Wait),
            (Some("other"), 15, Decision::Wait),
            (Some("other"), 16, Decision::Take),
        ] {
            assert_eq!(decide(holder, "me", after(unchanged), promised), expected, "{holder:?} unchanged for {unchanged}s");
        }
    }
}
