//! Asks the injected pods how they stand, beside the reconciles: rendering a ConfigMap never waits for a pod.
//!
//! The schedule is [`Rota`]: each pod every fifteen seconds, silent ones in a lane of their own, policies in turns. A pod of a policy that changed is asked
//! every three seconds until it runs by what is wanted. What was seen last is kept; a reconcile reads it ([`Prober::of`]). Where a sighting is news, the policy
//! is reconciled at once ([`Prober::news`]); figures that only grow wait for the next regular reconcile.
use std::{
    collections::{HashMap, HashSet},
    sync::Mutex,
    time::{Duration, Instant},
};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tokio::sync::{Notify, broadcast};

use crate::{
    fleet::{self, Sighting},
    pods::{Injected, Pods},
    rota::{Of, Rota},
};

/// Between two looks at a pod.
pub const LOOK: Duration = Duration::from_secs(15);
/// The same, of one that is to run by another configuration soon.
const SOON: Duration = Duration::from_secs(3);
/// For so long after a change: a kubelet that is told refreshes within seconds, one that is not within two minutes.
const CHANGING: Duration = Duration::from_mins(3);
/// Pods that are asked at a time, of those that answer.
const ANSWERING: usize = 96;
/// And of those that did not last time.
const SILENT: usize = 32;
/// Pods come and go in crowds: after a change others are waited for.
const CROWD: Duration = Duration::from_millis(200);
/// News that may wait for a slow reader; who misses some sees them with the next regular reconcile.
const NEWS: usize = 1024;

/// What a policy's pods are to run by.
struct Wanted {
    hash: String,
    since: Instant,
}

/// The prober.
pub struct Prober {
    begun: Instant,
    rota: Mutex<Rota>,
    /// By UID.
    seen: Mutex<HashMap<String, Sighting>>,
    wanted: Mutex<HashMap<Of, Wanted>>,
    news: broadcast::Sender<Of>,
    hurried: Notify,
}

/// What of a sighting is worth a reconcile of its own.
fn notable(sighting: &Sighting) -> Sighting {
    Sighting { backlog: 0, bytes: 0, oldest_ms: None, dropped: sighting.dropped.min(1), ..sighting.clone() }
}

// === impl Prober ===

impl Default for Prober {
    fn default() -> Self {
        Self {
            begun: Instant::now(),
            rota: Mutex::new(Rota::new(ANSWERING, SILENT)),
            seen: Mutex::default(),
            wanted: Mutex::default(),
            news: broadcast::channel(NEWS).0,
            hurried: Notify::new(),
        }
    }
}

impl Prober {
    fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Policies of whose pods there is news.
    pub fn news(&self) -> broadcast::Receiver<Of> {
        self.news.subscribe()
    }

    /// There is news of a policy from elsewhere.
    pub fn stir(&self, of: &Of) {
        let _ = self.news.send(of.clone());
    }

    /// What the pods of a policy are to run by.
    pub fn wants(&self, of: &Of, hash: &str) {
        let Ok(mut wanted) = self.wanted.lock() else { return };
        if wanted.get(of).is_some_and(|wanted| wanted.hash == hash) {
            return;
        }
        wanted.insert(of.clone(), Wanted { hash: hash.to_owned(), since: Instant::now() });
        drop(wanted);
        if let Ok(mut rota) = self.rota.lock() {
            rota.hurry(of, self.now() + SOON);
        }
        self.hurried.notify_one();
    }

    /// What was seen of these pods. `None`: this process has just begun, and some were not asked yet.
    pub fn of(&self, pods: &[Injected]) -> Option<Vec<Sighting>> {
        let seen = self.seen.lock().ok()?;
        let is_young = self.now() < 2 * LOOK;
        let mut sightings = Vec::with_capacity(pods.len());
        for pod in pods.iter().filter(|pod| !pod.is_over) {
            let known = fleet::unasked(pod);
            let sighting = match seen.get(&pod.uid) {
                // The kubelet may know better meanwhile.
                Some(sighting) => Sighting { is_ready: pod.is_ready, ..sighting.clone() },
                None if is_asked(pod) && is_young => return None,
                None => Sighting { is_pending: !known.is_mute && !known.is_ready, ..known },
            };
            sightings.push(sighting);
        }
        Some(sightings)
    }

    /// Asks, until it is dropped.
    pub async fn run(&self, pods: &Pods) {
        let mut changes = pods.changes();
        let mut asked = FuturesUnordered::new();
        let mut known: HashMap<String, (Of, Injected)> = HashMap::new();
        loop {
            if changes.has_changed().unwrap_or_default() {
                changes.borrow_and_update();
                known = self.take(pods);
            }
            while let Some(uid) = self.rota.lock().ok().and_then(|mut rota| rota.next(self.now())) {
                let pod = known.get(&uid).cloned();
                asked.push(async move {
                    let Some((of, pod)) = pod else { return (uid, None) };
                    let (Some(address), Some(port)) = (pod.address, pod.port) else { return (uid, None) };
                    (uid, Some((of, fleet::ask(address, port, &pod).await)))
                });
            }
            let wakes = self.rota.lock().ok().and_then(|rota| rota.wakes()).unwrap_or(LOOK);
            tokio::select! {
                Some((uid, sighting)) = asked.next(), if !asked.is_empty() => self.done(uid, sighting, known.len()),
                changed = changes.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    tokio::time::sleep(CROWD).await;
                    changes.mark_changed();
                }
                () = tokio::time::sleep(wakes.saturating_sub(self.now())) => {}
                () = self.hurried.notified() => {}
            }
        }
    }

    /// Who is there now.
    fn take(&self, pods: &Pods) -> HashMap<String, (Of, Injected)> {
        let known: HashMap<String, (Of, Injected)> =
            pods.injected(is_asked).into_iter().map(|(of, pod)| (pod.uid.clone(), (of, pod))).collect();
        if let Ok(mut rota) = self.rota.lock() {
            rota.set(known.iter().map(|(uid, (of, _))| (uid.clone(), of.clone())), self.now());
        }
        if let Ok(mut seen) = self.seen.lock() {
            seen.retain(|uid, _| known.contains_key(uid));
        }
        if let Ok(mut wanted) = self.wanted.lock() {
            // One that is gone and comes back wants anew.
            let there: HashSet<&Of> = known.values().map(|(of, _)| of).collect();
            wanted.retain(|of, wanted| wanted.since.elapsed() < CHANGING || there.contains(of));
        }
        known
    }

    fn done(&self, uid: String, asked: Option<(Of, Sighting)>, pods: usize) {
        let again = asked.as_ref().map_or(LOOK, |(of, sighting)| self.again(of, sighting));
        let answers = asked.as_ref().is_some_and(|(_, sighting)| sighting.answers);
        if let Ok(mut rota) = self.rota.lock() {
            rota.done(&uid, answers, self.now() + again);
        }
        let (Some((of, sighting)), Ok(mut seen)) = (asked, self.seen.lock()) else { return };
        let is_news = seen.get(&uid).is_none_or(|known| notable(known) != notable(&sighting));
        // Those that went meanwhile go with the next list.
        if seen.len() < 2 * pods + 16 {
            seen.insert(uid, sighting);
        }
        if is_news {
            let _ = self.news.send(of);
        }
    }

    fn again(&self, of: &Of, sighting: &Sighting) -> Duration {
        let wanted = self.wanted.lock();
        let is_changing = wanted.is_ok_and(|wanted| {
            let of = wanted.get(of);
            of.is_some_and(|wanted| wanted.hash != sighting.hash && wanted.since.elapsed() < CHANGING)
        });
        if is_changing && sighting.answers { SOON } else { LOOK }
    }
}

/// Whether it can be asked.
fn is_asked(pod: &Injected) -> bool {
    !pod.is_over && pod.address.is_some() && pod.port.is_some()
}
