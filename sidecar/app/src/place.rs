//! Where the journal is, when there is a choice: a folder of a shared volume, or the pod's own directory where the volume cannot be used.
//!
//! A volume that several sidecars share (pods of a Deployment, and a pod and its successor while both run) has a folder for each: `slot-0`,
//! `slot-1` and on. A folder is locked by who uses it. One that starts takes a free folder that was not drained when its last user ended, so that what
//! a pod left is delivered by its successor; else any free one, else a new one. What nobody takes up so is adopted by a sidecar that runs, see
//! [`crate::adoption`].
use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use steno_crds::Retain;
use steno_journal::{Error, RealDisk};

use crate::args::{RunArgs, Startup};

/// The file that says that all was delivered when the last user of a folder ended.
const DRAINED: &str = "drained";
/// The file that says that the journal in a folder could not be opened when somebody would have begun there, such as for want of its key.
const SEALED: &str = "sealed";
/// The file by which a sidecar asks for its own directory, which another one has adopted.
const WANTED: &str = "wanted";
/// For so long a sidecar waits for its own directory: as long as the kubelet waits for it to start.
const PATIENCE: Duration = Duration::from_secs(50);
/// Between two tries to have it.
const AGAIN: Duration = Duration::from_millis(250);
/// The file of the last good configuration.
pub const LAST: &str = "config.last";
/// Folders that are tried; more pods than that do not share a volume.
const SLOTS: usize = 4096;

/// Where the journal may be, best first.
#[derive(Debug)]
pub struct Place {
    /// The directory, locked.
    pub disk: RealDisk,
    /// Why it is not the one that was asked for.
    pub fell_back: Option<String>,
    /// What is used where the journal cannot be opened there.
    pub fallback: Option<PathBuf>,
    /// Whether it is on a volume that a later pod finds again: one that sidecars share.
    pub on_claim: bool,
    /// Where a journal begins if the one that is there cannot be opened, such as for want of its key; `None`: the sidecar does not start then.
    pub afresh: Option<Afresh>,
}

/// Where a journal begins beside one that cannot be opened, such as for want of its key: a directory with folders `slot-N`. The other one stays as it is, and
/// is delivered once it can be (see [`crate::adoption`]).
#[derive(Debug, Clone)]
pub struct Afresh(PathBuf);

/// The folder, within the directory of a journal whose key is missing, of those that began beside it.
pub const BESIDE: &str = "beside";

impl Place {
    /// A directory of one's own, and no other.
    pub fn only(dir: &Path) -> anyhow::Result<Self> {
        Ok(Self { disk: open_one(dir)?, fell_back: None, fallback: None, on_claim: false, afresh: None })
    }
}

impl Afresh {
    /// A directory for the journal, locked.
    pub fn open(&self) -> anyhow::Result<RealDisk> {
        open_slot(&self.0)
    }
}

/// The place that the settings ask for, or the one to fall back to. One that was fallen back to, and holds events still, goes first: they would be lost
/// with the pod.
pub fn choose(args: &RunArgs) -> anyhow::Result<Place> {
    let fallback = args.fallback_dir.as_deref().filter(|_| args.startup == Startup::Open);
    if let Some(left) = fallback.filter(|dir| dir.join("lock").exists() && !is_drained(dir)) {
        let fell_back = Some("it was not when the sidecar began, and events are still here".to_owned());
        return Ok(Place { disk: open_one(left)?, fell_back, fallback: None, on_claim: false, afresh: None });
    }
    let root = if args.shared { args.dir.clone() } else { args.dir.join(BESIDE) };
    let afresh = (args.startup == Startup::Open).then_some(Afresh(root));
    let asked = match (args.shared, args.adopt) {
        (true, _) => open_slot(&args.dir),
        (false, true) => open_wanted(&args.dir),
        (false, false) => open_one(&args.dir),
    };
    match (asked, fallback) {
        (Err(fault), Some(fallback)) => fall_back(fallback, &fault),
        (asked, _) => {
            Ok(Place { disk: asked?, fell_back: None, fallback: fallback.map(Path::to_owned), on_claim: args.shared, afresh })
        }
    }
}

/// The place to fall back to, because of a fault.
pub fn fall_back(dir: &Path, fault: &anyhow::Error) -> anyhow::Result<Place> {
    let fault = format!("{fault:#}");
    tracing::error!(fault, fallback = %dir.display(), "the journal is on the pod's own directory, and goes with it");
    Ok(Place { disk: open_one(dir)?, fell_back: Some(fault), fallback: None, on_claim: false, afresh: None })
}

/// A directory of one's own.
fn open_one(dir: &Path) -> anyhow::Result<RealDisk> {
    RealDisk::open(dir).context("the journal's directory cannot be used")
}

/// A directory of one's own that another sidecar may have adopted: that lets go of it.
fn open_wanted(dir: &Path) -> anyhow::Result<RealDisk> {
    let until = Instant::now() + PATIENCE;
    loop {
        match RealDisk::open(dir) {
            Err(Error::Locked(_)) if Instant::now() < until => {
                // Read by whoever has adopted it.
                let _ = steno_journal::put_file(dir, WANTED, b"");
                std::thread::sleep(AGAIN);
            }
            opened => {
                let _ = steno_journal::remove_file(&dir.join(WANTED));
                return opened.context("the journal's directory cannot be used");
            }
        }
    }
}

/// Whether a directory's own sidecar has come back for it, and not given up since.
pub fn is_wanted(dir: &Path) -> bool {
    let asked = fs::metadata(dir.join(WANTED)).and_then(|found| found.modified());
    asked.is_ok_and(|asked| asked.elapsed().is_ok_and(|since| since < 2 * PATIENCE))
}

/// The journal was opened: from now on the directory holds events. Durable before the first one: after a power cut a successor must not pass it over.
pub fn began(dir: &Path) -> anyhow::Result<()> {
    for mark in [DRAINED, SEALED] {
        steno_journal::remove_file(&dir.join(mark)).context("the journal's directory cannot be written")?;
    }
    Ok(())
}

/// Whether there is a journal in a folder: its state, or a segment where the state was lost.
pub fn holds_a_journal(dir: &Path) -> bool {
    let is_of_journal = |name: &str| name == "state" || name.starts_with("seg-");
    let names = fs::read_dir(dir).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.file_name()));
    names.into_iter().any(|name| name.to_str().is_some_and(is_of_journal))
}

/// Notes that a journal cannot be opened: sidecars that start pass it over.
pub fn note_sealed(dir: &Path) {
    if let Err(error) = steno_journal::put_file(dir, SEALED, b"") {
        tracing::warn!(%error, "each sidecar that starts will look here first although the journal cannot be opened");
    }
}

/// Whether nothing was left in a directory when its last user ended.
pub fn is_drained(dir: &Path) -> bool {
    dir.join(DRAINED).exists()
}

/// Notes that nothing is left in a directory.
pub fn note_drained(dir: &Path) {
    let written = steno_journal::put_file(dir, DRAINED, b"");
    if let Err(error) = written {
        tracing::warn!(%error, "a successor will look here first although nothing is left");
    }
}

/// Removes a directory that nobody will use again, and that is locked here. Only one that was drained, with nothing to retain and no dead letters. It goes by another name first: whoever would start in it meanwhile finds it locked, or gone, and never loses it.
pub fn remove_drained(lock: &RealDisk, retain: &Retain) {
    let dir = lock.dir();
    // The files of a sink are there to stay.
    if *retain != Retain::default() || !is_drained(dir) || letters(dir) > 0 || dir.join("files").exists() {
        return;
    }
    let gone = dir.with_file_name(format!(".gone-{}", uuid::Uuid::new_v4().simple()));
    if let Err(error) = fs::rename(dir, &gone).and_then(|()| fs::remove_dir_all(&gone)) {
        tracing::warn!(%error, dir = %dir.display(), "the drained directory of the journal cannot be removed");
    }
}

/// Dead letters that are kept in a directory.
pub fn letters(dir: &Path) -> usize {
    fs::read_dir(dir.join("dead")).into_iter().flatten().count()
}

/// The folders there are, those that were left undrained first, without those that could not be opened.
fn slots(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut slots = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| format!("{} cannot be read", dir.display()))? {
        let path = entry?.path();
        let number = path.file_name().and_then(|name| name.to_str()?.strip_prefix("slot-")?.parse::<usize>().ok());
        if let Some(number) = number.filter(|_| !path.join(SEALED).exists()) {
            slots.push((is_drained(&path), number, path));
        }
    }
    slots.sort();
    Ok(slots.into_iter().map(|(_, _, path)| path).collect())
}

fn open_slot(dir: &Path) -> anyhow::Result<RealDisk> {
    steno_journal::create_dir(dir).with_context(|| format!("{} cannot be made", dir.display()))?;
    lock_first(dir, slots(dir)?.into_iter().chain(unknown_slots(dir)))
}

/// Folders that are not there yet.
fn unknown_slots(dir: &Path) -> impl Iterator<Item = PathBuf> {
    (0..SLOTS).map(|number| dir.join(format!("slot-{number}"))).filter(|slot| fs::symlink_metadata(slot).is_err())
}

/// The first folder that nobody has.
fn lock_first(dir: &Path, slots: impl Iterator<Item = PathBuf>) -> anyhow::Result<RealDisk> {
    for slot in slots {
        match RealDisk::open(&slot) {
            Ok(disk) => return Ok(disk),
            Err(Error::Locked(_)) => {}
            // One that is there and cannot be used is in nobody's way. One that cannot be made says that the volume cannot be used.
            Err(error) if fs::symlink_metadata(&slot).is_ok() => {
                tracing::error!(%error, slot = %slot.display(), "the folder cannot be used, and is passed over");
            }
            Err(error) => return Err(error).context("the journal's directory cannot be used"),
        }
    }
    anyhow::bail!("all {SLOTS} folders of {} are in use", dir.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(disk: &RealDisk) -> String {
        disk.dir().file_name().unwrap().to_string_lossy().into_owned()
    }

    #[test]
    fn sidecars_that_share_a_volume_never_share_a_folder_and_a_successor_takes_up_what_was_left() {
        let volume = tempfile::tempdir().unwrap();
        let (first, second) = (open_slot(volume.path()).unwrap(), open_slot(volume.path()).unwrap());
        assert_eq!((name(&first), name(&second)), ("slot-0".into(), "slot-1".into()));
        // The first ends with nothing left, the second with events.
        note_drained(first.dir());
        drop((first, second));
        let successor = open_slot(volume.path()).unwrap();
        assert_eq!(name(&successor), "slot-1");
        let again = open_slot(volume.path()).unwrap();
        assert_eq!(name(&again), "slot-0");
        // It holds events from now on, whoever was there before.
        began(again.dir()).unwrap();
        assert!(!volume.path().join("slot-0").join(DRAINED).exists());
        // One whose key is missing is passed over, drained or not, until somebody can open it.
        note_sealed(successor.dir());
        drop((again, successor));
        assert_eq!(name(&open_slot(volume.path()).unwrap()), "slot-0");
        let other = open_slot(volume.path()).unwrap();
        note_sealed(other.dir());
        note_drained(other.dir());
        drop(other);
        assert_eq!(name(&open_slot(volume.path()).unwrap()), "slot-2");
    }

    #[test]
    fn a_drained_directory_goes_only_if_nothing_in_it_is_needed() {
        let volume = tempfile::tempdir().unwrap();
        let dir = volume.path().join("slot-0");
        let disk = RealDisk::open(&dir).unwrap();
        remove_drained(&disk, &Retain::default());
        assert!(dir.exists(), "it is not drained");
        note_drained(&dir);
        fs::create_dir(dir.join("dead")).unwrap();
        fs::write(dir.join("dead/7.json"), b"{}").unwrap();
        remove_drained(&disk, &Retain::default());
        assert!(dir.exists(), "there is a dead letter");
        fs::remove_file(dir.join("dead/7.json")).unwrap();
        remove_drained(&disk, &Retain::default());
        assert_eq!(fs::read_dir(volume.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_volume_that_cannot_be_used_does_not_hold_the_pod_up() {
        use clap::Parser as _;
        #[derive(clap::Parser)]
        struct Only {
            #[command(flatten)]
            args: RunArgs,
        }
        let dir = tempfile::tempdir().unwrap();
        // A file where the volume should be: nobody can write there, root neither.
        let (volume, own) = (dir.path().join("volume"), dir.path().join("own"));
        fs::write(&volume, b"").unwrap();
        let args = |more: &[&str]| {
            let words = ["sidecar", "--dir", volume.to_str().unwrap(), "--fallback-dir", own.to_str().unwrap()];
            Only::parse_from(words.iter().chain(more)).args
        };
        for more in [&["--startup", "open"][..], &["--startup", "open", "--shared"]] {
            let place = choose(&args(more)).unwrap();
            assert!(place.disk.dir() == own && place.fell_back.is_some(), "{place:?}");
        }
        // The volume is mended and the container restarts: events that are on the pod's own directory are not left behind.
        fs::remove_file(&volume).unwrap();
        let open = args(&["--startup", "open"]);
        assert_eq!(choose(&open).unwrap().disk.dir(), own);
        note_drained(&own);
        assert_eq!(choose(&open).unwrap().disk.dir(), volume);
        fs::remove_dir_all(&volume).unwrap();
        fs::write(&volume, b"").unwrap();
        assert!(choose(&args(&["--startup", "closed"])).is_err(), "who asked for certainty does not get a weaker promise");
    }
}
