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
