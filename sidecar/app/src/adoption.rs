//! What another sidecar left on a shared volume, delivered by one that runs.
//!
//! A rolling update starts the new pod before it stops the old one: the new one takes a folder of its own, and nobody opens the old one's again. A
//! deployment that shrinks leaves folders, too. So each sidecar on such a volume looks at the folders beside its own every few seconds:
//!
//! 1. A folder counts as *left* if it holds a journal, is not marked as drained and nobody has locked it.
//! 2. One that was left for a minute is adopted: a sidecar that restarts in its pod gets its own folder back, with the event ids that it remembers.
//! 3. A second service in this process opens the journal and delivers what is there by the configuration that counts. It takes no events. Its chains get
//!    the records that every start and stop leaves. Then the folder is marked as drained, and is free for a sidecar that starts.
//! 4. One folder at a time: a journal costs memory. A folder that cannot be opened, or that holds nothing but open write intents, is left alone for some
//!    minutes, so that the others get their turn.
//! 5. A journal that cannot be opened (an encryption key that was replaced in place) is such a folder, too: with `startup: Open` the sidecar begins a
//!    fresh journal beside it, in another slot or in the folder `beside`, and the other one is delivered once its key is there.
//! 6. A folder of another policy is nobody's business here: `config.last` in it says whose it is.
//! 7. If the configuration changes, this sidecar stops, or the folder's own sidecar comes back and asks for it (the file `wanted`), the second service
//!    stops; the folder stays as it is until somebody takes it up.
//!
//! How many folders are left is told in the stats and the metrics, and by the operator.
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use steno_commit::Bell;
use steno_crds::{Parsed, parse};
use steno_deliver::kafka::Secrets;
use steno_journal::{RealDisk, is_unlocked};
use tokio::sync::watch;

use crate::{
    identity::Identity,
    intake::Intake,
    place::{self, Place},
    service::{Left, Service},
};

/// Between two looks at the folders.
const LOOK: Duration = Duration::from_secs(5);
/// Between two looks at how the delivery of an adopted folder goes.
const WATCH: Duration = Duration::from_millis(500);
/// How long a folder is left alone that cannot be drained just now.
const LATER: Duration = Duration::from_mins(5);
/// How long a folder is kept that holds nothing but open write intents, if no other one waits. Overdue ones are ended after five minutes.
const FOR_INTENTS: Duration = Duration::from_mins(6);

/// How things stand with the folders beside one's own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Adoption {
    /// Folders that hold events and that nobody has, but for the adopted one.
    pub left: usize,
    /// The folder that is being delivered.
    pub folder: Option<String>,
    /// Records of it that are still to be delivered.
    pub undelivered: u64,
    /// What stands in the way.
    pub fault: Option<String>,
    /// Dead letters in folders that nobody has.
    pub letters: usize,
    /// Records of adopted folders that were lost to damage, since the start.
    pub lost: u64,
}

/// Since when folders have been left, and which are to be left alone. Pure.
#[derive(Debug, Default)]
struct Candidates {
    known: HashMap<PathBuf, Candidate>,
}

#[derive(Debug)]
struct Candidate {
    since: Instant,
    not_before: Option<Instant>,
    /// All that is in it was delivered; what is left are open write intents.
    is_delivered: bool,
    /// Why it could not be delivered.
    fault: Option<String>,
}

/// Where journals may be that are none of this sidecar's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// In the directory that it was given only: one that it left itself because the key was missing.
    Own,
    /// In the folders of that directory, which sidecars of its policy share.
    Slots,
    /// In the directories beside it, which may be of other policies.
    Siblings,
}

/// Adopts.
pub struct Adopter {
    /// What requests of this sidecar share.
    pub intake: Arc<Intake>,
    /// Who we are.
    pub identity: Identity,
    /// Where Secrets are.
    pub secrets: Secrets,
    /// This sidecar's own folder.
    pub own: PathBuf,
    /// The directory that it was given.
    pub dir: PathBuf,
    /// Where else journals may be.
    pub reach: Reach,
    /// For how long a folder must have been left.
    pub after: Duration,
    /// Whether a folder goes when it is drained: no later sidecar looks for it.
    pub remove: bool,
}

// === impl Adoption ===

impl Adoption {
    /// What is not as it should be.
    pub fn issue(&self) -> Option<String> {
        let events = if self.undelivered > 0 {
            format!(" ({} records of {})", self.undelivered, self.folder.as_deref().unwrap_or_default())
        } else {
            String::new()
        };
        match (&self.fault, self.left) {
            (Some(fault), _) => Some(format!("what another sidecar left on the volume is not delivered{events}: {fault}")),
            (None, 0) if self.letters > 0 => Some(format!(
                "{} dead letters are in folders of the volume that no sidecar has; a pod that starts takes one of them up",
                self.letters
            )),
            (None, 0) if self.lost > 0 => {
                Some(format!("{} records of folders that were taken up were lost to damage; the chains name them", self.lost))
            }
            (None, 0) => None,
            (None, left) => Some(format!(
                "{left} folders of the volume hold events of sidecars that are gone; they are delivered one after the other{events}"
            )),
        }
    }
}

// === impl Candidates ===

impl Candidates {
    /// Which of the folders that are left now is to be adopted: the one that has been left longest, if that is long enough.
    fn ripe(&mut self, left: &[PathBuf], now: Instant, after: Duration) -> Option<PathBuf> {
        self.known.retain(|folder, _| left.contains(folder));
        for folder in left {
            self.known.entry(folder.clone()).or_insert(Candidate {
                since: now,
                not_before: None,
                is_delivered: false,
                fault: None,
            });
        }
        let is_due = |of: &Candidate| now - of.since >= after && of.not_before.is_none_or(|from| now >= from);
        let due = self.known.iter().filter(|(_, of)| is_due(of));
        due.min_by_key(|(folder, of)| (of.not_before, of.since, *folder)).map(|(folder, _)| folder.clone())
    }

    /// The configuration changed: what stood in the way may not any more.
    fn retry(&mut self) {
        self.known.values_mut().for_each(|of| of.not_before = None);
    }

    /// Leaves a folder alone for some minutes.
    fn later(&mut self, folder: &Path, is_delivered: bool, fault: Option<String>, now: Instant) {
        if let Some(of) = self.known.get_mut(folder) {
            *of = Candidate { since: of.since, not_before: Some(now + LATER), is_delivered, fault };
        }
    }

    /// What stands in the way of one of them.
    fn fault(&self) -> Option<String> {
        self.known.values().find_map(|of| of.fault.clone())
    }

    /// Folders with events that are not delivered.
    fn waiting(&self) -> usize {
        self.known.values().filter(|of| !of.is_delivered).count()
    }
}

// === impl Adopter ===

impl Adopter {
    /// Looks around until the sidecar stops.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        let mut candidates = Candidates::default();
        let mut by = self.intake.compiled.load_full();
        loop {
            if pause(LOOK.min(self.after), &mut stop).await {
                return;
            }
            let now = self.intake.compiled.load_full();
            if !Arc::ptr_eq(&by, &now) {
                by = now;
                candidates.retry();
            }
            let (left, letters) = self.left().await;
            let ripe = candidates.ripe(&left, Instant::now(), self.after);
            self.tell(|adoption| {
                (adoption.left, adoption.fault, adoption.letters) = (candidates.waiting(), candidates.fault(), letters);
            });
            let Some(folder) = ripe else { continue };
            self.tell(|adoption| adoption.folder = Some(name(&folder)));
            let for_intents = if candidates.waiting() > 1 { Duration::ZERO } else { FOR_INTENTS };
            let done = self.adopt(&folder, for_intents, &mut stop).await;
            let fault = done.as_ref().err().map(|error| format!("the folder {} cannot be delivered: {error:#}", name(&folder)));
            if let Some(fault) = &fault {
                tracing::error!(fault, "what another sidecar left stays where it is; it is tried again in 5 min");
            }
            candidates.later(&folder, done.is_ok_and(|left| left.undelivered == 0), fault, Instant::now());
            let (left, letters) = self.left().await;
            candidates.ripe(&left, Instant::now(), self.after);
            let (left, fault) = (candidates.waiting(), candidates.fault());
            self.tell(|adoption| *adoption = Adoption { left, fault, letters, lost: adoption.lost, ..Adoption::default() });
        }
    }

    /// Changes what is told, and the gauges with it.
    fn tell(&self, change: impl FnOnce(&mut Adoption)) {
        let mut adoption = self.intake.adoption.lock();
        change(&mut adoption);
        let metrics = &self.intake.metrics.adoption;
        metrics.left.set(adoption.left as i64);
        metrics.undelivered.set(i64::try_from(adoption.undelivered).unwrap_or(i64::MAX));
    }

    /// Folders that are left, and dead letters in those that nobody has.
    async fn left(&self) -> (Vec<PathBuf>, usize) {
        let (own, dir, reach, compiled) = (self.own.clone(), self.dir.clone(), self.reach, self.intake.compiled.load_full());
        let policy = compiled.config.policy.clone();
        let listed = tokio::task::spawn_blocking(move || {
            let of = |folder: &Path| parse(&std::fs::read_to_string(folder.join(place::LAST)).ok()?).ok();
            // Where none can be read, such as of a later version, the directory is this policy's if it is one that sidecars share.
            let is_ours =
                |folder: &Path| of(folder).map_or(reach != Reach::Siblings, |Parsed { config, .. }| config.policy == policy);
            let (drained, left): (Vec<_>, Vec<_>) = free(&own, &dir, reach)
                .into_iter()
                .filter(|folder| is_ours(folder))
                .partition(|folder| place::is_drained(folder));
            (left, drained.iter().map(|folder| place::letters(folder)).sum())
        });
        listed.await.unwrap_or_default()
    }

    /// Delivers what is in a folder. What is left in it.
    async fn adopt(&self, folder: &Path, for_intents: Duration, stop: &mut watch::Receiver<bool>) -> anyhow::Result<Left> {
        // Somebody may be faster, and has it locked then: the folder is no longer among those that are left, and the fault with it.
        let disk = RealDisk::open(folder).context("its directory cannot be used")?;
        let compiled = self.intake.compiled.load_full();
        tracing::info!(folder = name(folder), "another sidecar left events here; they are delivered");
        let place = Place { disk, fell_back: None, fallback: None, on_claim: true, afresh: None };
        let identity = Identity { adopts: Some(name(folder)), ..self.identity.clone() };
        let (by, secrets) = (compiled.clone(), self.secrets.clone());
        let started = tokio::task::spawn_blocking(move || Service::start(by, &identity, &secrets, place, true, Bell::default()));
        let service = started.await.context("its journal could not be opened")??;
        service.intents().await;
        let (counts, begun) = (service.counts(), Instant::now());
        let mut looked = Instant::now();
        loop {
            if looked.elapsed() >= LOOK {
                looked = Instant::now();
                let (others, letters) = self.left().await;
                self.tell(|adoption| (adoption.left, adoption.letters) = (others.len(), letters));
            }
            let Left { undelivered, open_intents, .. } = counts();
            let fault = service.intake.outlets.issue();
            self.tell(|adoption| {
                (adoption.undelivered, adoption.fault) = (undelivered, fault.map(|issue| format!("{}: {issue}", name(folder))));
            });
            let is_stopping = pause(WATCH, stop).await;
            let is_done = undelivered == 0 && (open_intents == 0 || begun.elapsed() > for_intents);
            let is_other = !Arc::ptr_eq(&compiled, &self.intake.compiled.load_full());
            // Whoever owns it has come back.
            if is_stopping || is_done || is_other || place::is_wanted(folder) {
                break;
            }
        }
        let lost = service.intake.metrics.commit.lost.get();
        self.tell(|adoption| adoption.lost += lost);
        let lock = service.lock();
        let left = service.stop().await;
        tracing::info!(
            folder = name(folder),
            undelivered = left.undelivered,
            openIntents = left.open_intents,
            "let go of the folder"
        );
        if left.undelivered == 0 && left.open_intents == 0 {
            self.intake.metrics.adoption.drained.inc();
            if self.remove {
                place::remove_drained(&lock, &compiled.config.spec.spool.retain);
            }
        }
        Ok(left)
    }
}

/// Waits; whether the sidecar stops.
async fn pause(pause: Duration, stop: &mut watch::Receiver<bool>) -> bool {
    tokio::time::timeout(pause, stop.wait_for(|stops| *stops)).await.is_ok()
}

/// The name of a folder.
fn name(folder: &Path) -> String {
    folder.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Folders within reach that hold a journal and that nobody has locked: those that are not drained, and those with dead letters.
fn free(own: &Path, dir: &Path, reach: Reach) -> Vec<PathBuf> {
    let folders = match reach {
        Reach::Own => vec![dir.to_owned()],
        Reach::Slots => within(dir),
        Reach::Siblings => dir.parent().map(within).unwrap_or_default(),
    };
    let folders = folders.into_iter().flat_map(|folder| within(&folder.join(place::BESIDE)).into_iter().chain([folder]));
    let is_free = |folder: &PathBuf| folder != own && holds_anything(folder) && !place::is_wanted(folder) && is_unlocked(folder);
    let mut free: Vec<PathBuf> = folders.filter(is_free).collect();
    free.sort();
    free
}

/// Whether there is anything in a folder that somebody should have.
fn holds_anything(folder: &Path) -> bool {
    if place::is_drained(folder) { place::letters(folder) > 0 } else { place::holds_a_journal(folder) }
}

fn within(dir: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(dir).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_adopted_once_it_was_left_for_long_enough_and_one_that_cannot_be_does_not_hold_the_others_up() {
        let (now, after) = (Instant::now(), Duration::from_mins(1));
        let at = |seconds| now + Duration::from_secs(seconds);
        let [one, two] = ["slot-1", "slot-2"].map(PathBuf::from);
        let mut candidates = Candidates::default();
        assert_eq!(candidates.ripe(std::slice::from_ref(&one), at(0), after), None);
        assert_eq!(candidates.ripe(&[], at(30), after), None, "its own sidecar came back");
        assert_eq!(candidates.ripe(&[one.clone(), two.clone()], at(50), after), None);
        assert_eq!(candidates.ripe(&[one.clone(), two.clone()], at(80), after), None, "it was left anew at 50");
        let both = [one.clone(), two.clone()];
        assert_eq!(candidates.ripe(&both, at(110), after), Some(one.clone()));
        candidates.later(&one, false, Some("no key".into()), at(110));
        assert_eq!((candidates.ripe(&both, at(111), after), candidates.waiting()), (Some(two.clone()), 2));
        candidates.later(&two, true, None, at(112));
        assert_eq!(
            (candidates.ripe(&both, at(115), after), candidates.waiting()),
            (None, 1),
            "open intents are no stranded events"
        );
        assert_eq!(candidates.fault().as_deref(), Some("no key"));
        assert_eq!(candidates.ripe(&both, at(115) + LATER, after), Some(one));
        candidates.ripe(&[two], at(116) + LATER, after);
        assert_eq!(candidates.fault(), None, "somebody has taken it up");
    }

    #[test]
    fn only_journals_that_nobody_has_and_that_are_not_drained_are_left() {
        let volume = tempfile::tempdir().unwrap();
        let folder = |name: &str| volume.path().join(name);
        let held = ["own", "busy", "drained", "left"].map(|name| {
            let disk = RealDisk::open(&folder(name)).unwrap();
            std::fs::write(folder(name).join("state"), b"").unwrap();
            disk
        });
        std::fs::create_dir(folder("other")).unwrap();
        let left = |own: &Path, dir: &Path, reach| {
            free(own, dir, reach).into_iter().filter(|folder| !place::is_drained(folder)).collect::<Vec<_>>()
        };
        let beside = || left(&folder("own"), &folder("own"), Reach::Siblings);
        assert!(beside().is_empty(), "all of them are locked");
        place::note_drained(&folder("drained"));
        let [_own, _busy, drained, gone] = held;
        drop((drained, gone));
        assert_eq!(beside(), [folder("left")]);
        assert_eq!(left(&folder("own"), volume.path(), Reach::Slots), [folder("left")]);
        // One that began anew because a key was missing, and was ended; the other one is in use again.
        let anew = folder("own").join(place::BESIDE).join("slot-0");
        drop(RealDisk::open(&anew).unwrap());
        std::fs::write(anew.join("state"), b"").unwrap();
        assert_eq!(left(&folder("own"), &folder("own"), Reach::Own), [anew]);
    }
}
