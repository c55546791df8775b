//! The index of the local journal, while the policy lets the pod look back.
use std::{
    path::{Path, PathBuf},
    sync::{Arc, Weak},
    time::Duration,
};

use parking_lot::Mutex;
use steno_event::IdKey;
use steno_journal::Shared;
use steno_query::{Catalog, Error, ROWS};
use tokio::{sync::Semaphore, task::JoinError};

use crate::policy::QueryAccess;

/// Opens the index when it is wanted, and lets go of it when it is not.
pub struct Look {
    shared: Arc<Shared>,
    key: IdKey,
    uuid: [u8; 16],
    journal: PathBuf,
    catalog: Mutex<Option<Arc<Catalog>>>,
}

/// How often the index follows the journal while nobody asks, so that the first question has little to read.
const FOLLOW: Duration = Duration::from_secs(2);

/// Does what reads the disk that events are written to on a thread that nobody else waits for, so many at a time. The turn is the work's, not the
/// request's: a client that hangs up does not start another one beside it.
pub async fn apart<T: Send + 'static>(
    turns: &'static Semaphore,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, JoinError> {
    let turn = turns.acquire().await;
    tokio::task::spawn_blocking(move || {
        let _turn = turn;
        work()
    })
    .await
}

// === impl Look ===

impl Look {
    /// Over the journal of a directory.
    pub fn new(shared: Arc<Shared>, key: IdKey, uuid: [u8; 16], journal: &Path) -> Self {
        Self { shared, key, uuid, journal: journal.to_owned(), catalog: Mutex::new(None) }
    }

    /// Keeps an index, or none, as a configuration says.
    pub fn follow(&self, access: &QueryAccess) {
        if matches!(access, QueryAccess::Nobody(_)) {
            drop(self.catalog.lock().take());
            // Nobody may read it, so nobody needs it.
            match std::fs::remove_dir_all(self.journal.join("query")) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    tracing::warn!(%error, "the index of queries stays");
                }
                _ => {}
            }
        } else if let Err(error) = self.catalog() {
            tracing::warn!(%error, "there is no index of queries yet; a query tries again");
        }
    }

    /// The index. It reads the disk.
    pub fn catalog(&self) -> Result<Arc<Catalog>, Error> {
        let mut catalog = self.catalog.lock();
        if let Some(catalog) = &*catalog {
            return Ok(catalog.clone());
        }
        let opened = Arc::new(Catalog::open(self.shared.clone(), self.key, self.uuid, &self.journal, ROWS)?);
        *catalog = Some(opened.clone());
        let follower = Arc::downgrade(&opened);
        let spawned = std::thread::Builder::new().name("steno-index".into()).spawn(move || keep_up(&follower));
        if let Err(error) = spawned {
            tracing::warn!(%error, "no thread follows the journal; queries read more themselves");
        }
        Ok(opened)
    }
}

fn keep_up(catalog: &Weak<Catalog>) {
    while let Some(catalog) = catalog.upgrade() {
        if let Err(error) = catalog.catch_up() {
            tracing::warn!(%error, "the index of queries does not follow the journal");
        }
        drop(catalog);
        std::thread::sleep(FOLLOW);
    }
}
