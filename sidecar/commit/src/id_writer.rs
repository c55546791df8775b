//! The thread that writes and merges files of event ids, away from the loop.
use std::sync::{Arc, mpsc};

use steno_journal::Disk;

use crate::index::{self, Entry, Sealed};

/// Files of ids of one size that are merged into one.
const MERGE: usize = 8;

pub(crate) enum Job {
    Write { first: u64, end: u64, entries: Vec<Entry> },
    Merge(Vec<Arc<Sealed>>),
}

pub(crate) enum Done {
    /// `Err`: it failed, and its entries are in memory only; whether because the disk is full.
    Written(Result<Arc<Sealed>, bool>),
    Merged(Option<(Arc<Sealed>, Vec<Arc<Sealed>>)>),
}

pub(crate) struct Sealer {
    /// `None`: it is ending.
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<std::thread::JoinHandle<()>>,
    done: mpsc::Receiver<Done>,
    pub(crate) writing: bool,
    merging: bool,
    /// How many files there were when they could not be merged: it is not tried again before there are more, or fewer.
    pub(crate) failed: Option<usize>,
}

/// What a look at the files of ids waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    /// For nothing.
    No,
    /// For a file that is being written. Merging, which frees nothing, goes on.
    Written,
    /// For all.
    All,
}

impl Sealer {
    pub(crate) fn new(disk: Arc<dyn Disk>, uuid: [u8; 16]) -> Self {
        let (jobs, todo) = mpsc::channel::<Job>();
        let (finished, done) = mpsc::channel();
        let work = move || {
            let warn = |error: &steno_journal::Error| tracing::warn!(%error, "a file of event ids could not be written; it is tried again later");
            for job in todo {
                let result = match job {
                    Job::Write { first, end, entries } => {
                        let written = index::write(&disk, uuid, first, end, &entries).inspect_err(warn);
                        Done::Written(written.map(Arc::new).map_err(|error| error.is_full()))
                    }
                    Job::Merge(files) => {
                        Done::Merged(index::merge(&disk, uuid, &files).inspect_err(warn).ok().map(|file| (Arc::new(file), files)))
                    }
                };
                if finished.send(result).is_err() {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("steno-ids".into()).spawn(work);
        let thread = thread.inspect_err(|error| tracing::error!(%error, "no thread for files of event ids")).ok();
        Self { jobs: Some(jobs), thread, done, writing: false, merging: false, failed: None }
    }

    fn send(&self, job: Job) -> bool {
        self.jobs.as_ref().is_some_and(|jobs| jobs.send(job).is_ok())
    }

    pub(crate) fn write(&mut self, first: u64, end: u64, entries: Vec<Entry>) {
        self.writing = self.send(Job::Write { first, end, entries });
    }

    /// Merges neighbouring files of like size, once there are enough of them.
    pub(crate) fn merge(&mut self, files: &[Arc<Sealed>]) {
        if self.merging || files.len() < MERGE || self.failed == Some(files.len()) {
            return;
        }
        let run = files.windows(MERGE).rev().find(|run| {
            let (small, large) = (run.iter().map(|file| file.count).min(), run.iter().map(|file| file.count).max());
            small.zip(large).is_some_and(|(small, large)| large <= small.max(1) * 4)
        });
        if let Some(run) = run {
            self.merging = self.send(Job::Merge(run.to_vec()));
        }
    }

    /// What was done since.
    pub(crate) fn collect(&mut self, wait: Wait) -> Vec<Done> {
        let mut all = Vec::new();
        while self.writing || self.merging {
            let waits = wait == Wait::All || (wait == Wait::Written && self.writing);
            let next = if waits { self.done.recv().ok() } else { self.done.try_recv().ok() };
            let Some(next) = next else { break };
            match next {
                Done::Written(_) => self.writing = false,
                Done::Merged(_) => self.merging = false,
            }
            all.push(next);
        }
        all
    }
}

/// Nothing is written to the directory any more once the loop is gone.
impl Drop for Sealer {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
