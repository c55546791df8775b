//! Has the kubelets of pods that run by another configuration refresh their volumes: any change of a pod's metadata does.
//!
//! Beside the reconciles, and at a pace, so that a large fleet does not fall upon the API server and Kafka at once. Policies take turns: a change of one with
//! thousands of pods holds no other up.
use std::{
    collections::{BTreeMap, VecDeque},
    sync::Mutex,
};

use futures_util::{StreamExt as _, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
    core::PartialObjectMeta,
};
use serde_json::json;
use tokio::{sync::Notify, time::Interval};

use crate::{
    inject::PREFIX,
    rota::{self, Of},
};

/// Pods that are told at a time.
const AT_A_TIME: usize = 8;

/// The pods of a policy that are to be told.
struct Stale {
    hash: String,
    pods: VecDeque<String>,
}

/// Who is told next. Pure.
#[derive(Default)]
struct Queue {
    policies: BTreeMap<Of, Stale>,
    last: Option<Of>,
}

/// The nudges.
pub struct Nudges {
    queue: Mutex<Queue>,
    more: Notify,
    pace: tokio::sync::Mutex<Interval>,
}

// === impl Queue ===

impl Queue {
    /// These pods of a policy are to be told of this configuration, and no others of an earlier one.
    fn offer(&mut self, of: &Of, hash: &str, pods: Vec<String>) {
        if pods.is_empty() {
            self.policies.remove(of);
            return;
        }
        self.policies.insert(of.clone(), Stale { hash: hash.to_owned(), pods: pods.into() });
    }

    fn next(&mut self) -> Option<(Of, String, String)> {
        let of = rota::turn(&self.policies, self.last.as_ref(), |_| true)?;
        let stale = self.policies.get_mut(&of)?;
        let next = stale.pods.pop_front().map(|pod| (of.clone(), pod, stale.hash.clone()));
        if stale.pods.is_empty() {
            self.policies.remove(&of);
        }
        self.last = Some(of);
        next
    }
}

// === impl Nudges ===

impl Nudges {
    /// At this pace.
    pub fn new(pace: Interval) -> Self {
        Self { queue: Mutex::default(), more: Notify::new(), pace: tokio::sync::Mutex::new(pace) }
    }

    /// These pods of a policy run by another configuration than this one.
    pub fn offer(&self, of: &Of, hash: &str, pods: Vec<String>) {
        let is_any = !pods.is_empty();
        if let Ok(mut queue) = self.queue.lock() {
            queue.offer(of, hash, pods);
        }
        if is_any {
            self.more.notify_waiters();
        }
    }

    /// Tells, until it is dropped.
    pub async fn run(&self, client: &Client) {
        stream::iter(0..AT_A_TIME).for_each_concurrent(None, |_| self.tell(client)).await;
    }

    async fn tell(&self, client: &Client) {
        loop {
            let mut more = std::pin::pin!(self.more.notified());
            more.as_mut().enable();
            let Some((of, pod, hash)) = self.queue.lock().ok().and_then(|mut queue| queue.next()) else {
                more.await;
                continue;
            };
            self.pace.lock().await.tick().await;
            let pods: Api<PartialObjectMeta<Pod>> = Api::namespaced(client.clone(), &of.0);
            let patch = json!({"metadata": {"annotations": {format!("{PREFIX}config-hash"): hash}}});
            match pods.patch(&pod, &PatchParams::default(), &Patch::Merge(&patch)).await {
                Ok(_) => {}
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(error) => {
                    let namespace = &of.0;
                    tracing::warn!(%error, %namespace, pod, "the pod could not be told of its new configuration; it sees it by itself, later");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &str) -> Of {
        ("shop".into(), name.into())
    }

    #[test]
    fn policies_take_turns_and_a_newer_configuration_replaces_an_older_one() {
        let mut queue = Queue::default();
        let names = |count: usize| (0..count).map(|pod| format!("pod-{pod}")).collect::<Vec<_>>();
        queue.offer(&of("large"), "h1", names(1000));
        queue.offer(&of("small"), "h1", names(1));
        let told: Vec<Of> = (0..3).map(|_| queue.next().unwrap().0).collect();
        assert!(told.contains(&of("small")), "{told:?}");
        queue.offer(&of("large"), "h2", names(2));
        let left: Vec<(String, String)> = std::iter::from_fn(|| queue.next()).map(|(_, pod, hash)| (pod, hash)).collect();
        assert_eq!(left, [("pod-0".to_owned(), "h2".to_owned()), ("pod-1".to_owned(), "h2".to_owned())]);
        queue.offer(&of("large"), "h3", names(1));
        queue.offer(&of("large"), "h3", Vec::new());
        assert!(queue.next().is_none(), "all were told by somebody else");
    }
}
