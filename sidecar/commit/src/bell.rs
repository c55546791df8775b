//! When the loop is woken.
//!
//! Waking a thread for every event costs more than the event. A runtime that promises to ring when it has nothing else to do
//! ([`Bell::ring_if_waiting`], from its park hook) may therefore submit quietly: what its tasks submit in one go is one block. A lone event
//! is followed by the park at once, so nobody waits for company that does not come; and enough of them ring without waiting for the park.
use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::Thread,
};

/// Pieces of work that ring by themselves, so that disk and processor work at the same time.
const ENOUGH: usize = 6;

/// Wakes the loop's thread.
#[derive(Debug, Clone, Default)]
pub struct Bell(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    rung: AtomicBool,
    waiting: AtomicUsize,
    quiet: AtomicBool,
    thread: OnceLock<Thread>,
}

// === impl Bell ===

impl Bell {
    /// A bell for a runtime that promises to call [`Self::ring_if_waiting`] before it sleeps.
    pub fn quiet() -> Self {
        let bell = Self::default();
        bell.0.quiet.store(true, Ordering::Relaxed);
        bell
    }

    /// Wakes the loop now.
    pub fn ring(&self) {
        if !self.0.rung.swap(true, Ordering::SeqCst)
            && let Some(thread) = self.0.thread.get()
        {
            thread.unpark();
        }
    }

    /// Wakes the loop if something was submitted quietly.
    pub fn ring_if_waiting(&self) {
        if self.0.waiting.load(Ordering::SeqCst) > 0 {
            self.ring();
        }
    }

    /// Something is in the queue.
    pub(crate) fn submitted(&self) {
        let waiting = self.0.waiting.fetch_add(1, Ordering::SeqCst) + 1;
        if waiting >= ENOUGH || !self.0.quiet.load(Ordering::Relaxed) {
            self.ring();
        }
    }

    /// Sleeps until it is rung; what is in the queue afterwards is not counted as waiting any more.
    pub(crate) fn wait(&self) {
        let _ = self.0.thread.set(std::thread::current());
        while !self.0.rung.swap(false, Ordering::SeqCst) {
            std::thread::park();
        }
        self.0.waiting.store(0, Ordering::SeqCst);
    }
}

/// Rings once the last sender is gone. Stands after the sender in its owner, so that it is dropped after it.
#[derive(Debug)]
pub(crate) struct RingAtEnd(pub(crate) Bell);

impl Drop for RingAtEnd {
    fn drop(&mut self) {
        self.0.ring();
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, thread, time::Duration};

    use super::*;

    /// A bell that never rings fails the test, and does not hold it up.
    const SOON: Duration = Duration::from_secs(10);

    /// A thread that waits for the bell, and tells each time it was woken.
    fn waiter(bell: &Bell) -> mpsc::Receiver<()> {
        let (told, woken) = mpsc::channel();
        let bell = bell.clone();
        thread::spawn(move || {
            loop {
                bell.wait();
                if told.send(()).is_err() {
                    return;
                }
            }
        });
        woken
    }

    #[test]
    fn a_quiet_bell_rings_for_enough_or_when_its_runtime_has_nothing_else_to_do() {
        let bell = Bell::quiet();
        let woken = waiter(&bell);
        bell.submitted();
        assert!(!bell.0.rung.load(Ordering::SeqCst), "one is not enough");
        bell.ring_if_waiting();
        woken.recv_timeout(SOON).unwrap();
        for _ in 0..ENOUGH {
            bell.submitted();
        }
        woken.recv_timeout(SOON).unwrap();
        // Every submission is followed by a wake-up that begins after it, however the two threads meet.
        for _ in 0..2_000 {
            while woken.try_recv().is_ok() {}
            bell.submitted();
            bell.ring_if_waiting();
            woken.recv_timeout(SOON).unwrap();
        }
    }

    #[test]
    fn a_bell_that_is_not_quiet_rings_for_each() {
        let bell = Bell::default();
        let woken = waiter(&bell);
        bell.submitted();
        woken.recv_timeout(SOON).unwrap();
    }
}
