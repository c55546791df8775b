//! Gives freed memory back to the system.
//!
//! The C library keeps what was freed in the middle of its heaps, one heap for several threads each. After a burst of large bodies that is most of a
//! container's limit, and the container counts it. Other allocators that return it by themselves were tried: with mimalloc the sidecar
//! was ended at its limit of 128 MiB under the load of `e2e/tests/memory.rs`, where this one needs 85 MiB.

/// Returns free pages of all heaps. Takes a few milliseconds at most; call it after large allocations were freed.
pub fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: malloc_trim(3) takes the heaps' own locks, may be called at any time from any thread, and touches no memory that is in use.
    #[allow(unsafe_code)]
    unsafe {
        libc::malloc_trim(0);
    }
}
