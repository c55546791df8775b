//! One bound for the bytes of all bodies and large answers in flight, so that no client can take the container's memory.
//!
//! A body claims its bytes as they arrive, and again as they are decompressed. The claim lives until the answer is written. What finds no room is
//! answered 503 with Retry-After. A quarter of the budget is kept for bodies up to [`SMALL`], so that ordinary events are taken while large
//! bodies stand still. The budget is an eighth of the container's memory limit. At the default of 128 MiB a body of 10 MiB has room,
//! which is the largest that an API server sends.
use std::{
    fs,
    pin::Pin,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::problem::{Problem, Reason};

/// Bytes of a unit.
const UNIT: usize = 1024;
/// A body up to here is small.
const SMALL: usize = 64 << 10;
/// The budget where no limit is set, and the least.
const UNLIMITED: usize = 256 << 20;
const LEAST: usize = 8 << 20;

/// Bytes of claims that ended after which memory is returned to the system.
const WORTH_IT: usize = 4 << 20;

static BUDGET: LazyLock<Budget> = LazyLock::new(|| Budget::of_limit(container_limit()));

/// The budget.
struct Budget {
    room: Arc<Semaphore>,
    /// Units that large bodies leave free.
    reserve: usize,
    /// Bytes that one body can have at most.
    most: usize,
}

/// A part of the budget, given back when it is dropped.
#[derive(Debug, Default)]
pub(crate) struct Claim {
    bytes: usize,
    permit: Option<OwnedSemaphorePermit>,
}

/// The memory limit of this process's container, in bytes (cgroup v2, then v1); `None`: there is none.
fn container_limit() -> Option<u64> {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let path = own.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/").trim_end_matches('/');
    let of_memory = own.lines().find_map(|line| line.split_once(":memory:")).map_or("", |(_, path)| path.trim_end_matches('/'));
    let files = [
        format!("/sys/fs/cgroup{path}/memory.max"),
        "/sys/fs/cgroup/memory.max".to_owned(),
        format!("/sys/fs/cgroup/memory{of_memory}/memory.limit_in_bytes"),
        "/sys/fs/cgroup/memory/memory.limit_in_bytes".to_owned(),
    ];
    let limits = files.iter().filter_map(|file| fs::read_to_string(file).ok()?.trim().parse::<u64>().ok());
    // Version 1 has a number near the largest one where there is no limit.
    limits.filter(|limit| *limit < 1 << 50).min()
}

// === impl Budget ===

impl Budget {
    fn of_limit(limit: Option<u64>) -> Self {
        let bytes = limit.map_or(UNLIMITED, |limit| (limit as usize / 8).clamp(LEAST, UNLIMITED));
        let units = bytes / UNIT;
        Self { room: Arc::new(Semaphore::new(units)), reserve: units / 4, most: bytes / 4 * 3 }
    }
}

/// Bytes that claims gave back since somebody asked.
static RELEASED: AtomicUsize = AtomicUsize::new(0);

/// Returns memory to the system, if much was released since the last call.
pub fn give_back() {
    if RELEASED.load(Ordering::Relaxed) >= WORTH_IT {
        RELEASED.store(0, Ordering::Relaxed);
        steno_memory::give_back();
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // Only what is large comes from where it does not return by itself.
        if self.bytes > SMALL {
            RELEASED.fetch_add(self.bytes, Ordering::Relaxed);
        }
    }
}

// === impl Claim ===

impl Claim {
    /// Claims more.
    ///
    /// # Errors
    /// There is no room just now; or, for a body that no room would ever be enough for, there never is.
    pub(crate) fn grow(&mut self, bytes: usize) -> Result<(), Problem> {
        self.grow_in(&BUDGET, bytes)
    }

    fn grow_in(&mut self, budget: &Budget, bytes: usize) -> Result<(), Problem> {
        let wanted = self.bytes + bytes;
        if wanted > budget.most {
            let detail = format!(
                "The body needs more than {} bytes of memory, which is what the container's memory limit allows; send less at a time, or raise it.",
                budget.most
            );
            return Err(Problem::new(Reason::BodyTooLarge, detail));
        }
        let held = self.permit.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let more = wanted.div_ceil(UNIT).saturating_sub(held);
        self.bytes = wanted;
        if more == 0 {
            return Ok(());
        }
        let spare = if wanted > SMALL { budget.reserve } else { 0 };
        let full = || {
            let detail = "Too many bytes of other requests are in flight for the container's memory limit; send it again.";
            Problem::later(Reason::Overloaded, detail, Duration::from_secs(1))
        };
        if budget.room.available_permits() < more + spare {
            return Err(full());
        }
        let permit = budget.room.clone().try_acquire_many_owned(more as u32).map_err(|_| full())?;
        match &mut self.permit {
            Some(held) => held.merge(permit),
            None => self.permit = Some(permit),
        }
        Ok(())
    }
}

/// The body of an answer, and what it holds of the budget until it is written.
#[derive(Debug, Default)]
pub struct Payload {
    full: Full<Bytes>,
    claim: Option<Claim>,
}

impl Payload {
    /// Holds a claim until the answer is written.
    pub(crate) fn hold(&mut self, claim: Claim) {
        self.claim = Some(claim);
    }
}

impl From<Bytes> for Payload {
    fn from(bytes: Bytes) -> Self {
        Self { full: Full::new(bytes), claim: None }
    }
}

impl Body for Payload {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Pin::new(&mut self.full).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.full.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.full.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_bodies_leave_room_for_small_ones_and_all_of_it_comes_back() {
        let budget = Budget::of_limit(Some(128 << 20));
        let mut large = Vec::new();
        loop {
            let mut claim = Claim::default();
            if claim.grow_in(&budget, 1 << 20).is_err() {
                break;
            }
            large.push(claim);
        }
        assert_eq!(large.len(), 12, "three quarters of 16 MiB");
        let mut small = Claim::default();
        for _ in 0..64 {
            small.grow_in(&budget, 1 << 10).unwrap();
        }
        let problem = small.grow_in(&budget, 1).unwrap_err();
        assert_eq!((problem.reason, problem.reason.status()), (Reason::Overloaded, 503), "it is large now");
        assert!(problem.retry_after.is_some());
        drop((large, small));
        assert_eq!(budget.room.available_permits(), 16 << 10);
        assert_eq!(Claim::default().grow_in(&budget, 13 << 20).unwrap_err().reason, Reason::BodyTooLarge);
    }
}
