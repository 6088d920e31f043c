//! Signals, taken by one thread that waits for them. They are blocked everywhere else, since an interrupted
//! `epoll_wait` is an error to `may`.

use std::mem::MaybeUninit;

/// The signals that ask the process to stop.
#[derive(Clone, Copy)]
pub struct StopSignals(libc::sigset_t);

impl StopSignals {
    /// Blocks SIGTERM and SIGINT in the calling thread and in every thread it starts from now on. To be called before
    /// any other thread runs.
    pub fn block() -> Self {
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: sigemptyset initialises `set` before anything reads it; the other calls take valid pointers to it,
        // and no old mask is asked for.
        let set = unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            libc::sigaddset(set.as_mut_ptr(), libc::SIGTERM);
            libc::sigaddset(set.as_mut_ptr(), libc::SIGINT);
            let set = set.assume_init();
            libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
            set
        };
        Self(set)
    }

    /// Waits for the next of them.
    pub fn wait(self) {
        let mut signal = 0;
        // SAFETY: both pointers are valid for the call, and the set holds only signals that are blocked here.
        while unsafe { libc::sigwait(&raw const self.0, &raw mut signal) } != 0 {}
    }
}
