//! Signals, taken by one thread that waits for them. They are blocked everywhere else, since an interrupted
//! `epoll_wait` is an error to `may`.

use std::mem::MaybeUninit;

/// A signal that would end the process if it weren't taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM: supervisors send it to stop a process.
    Term,
    /// SIGINT: Ctrl-C.
    Int,
    /// SIGQUIT: Ctrl-\, and with some supervisors to stop without haste.
    Quit,
    /// SIGHUP: to read the configuration anew, by custom, or a terminal that goes away.
    Hup,
    /// SIGUSR1: to open logs anew, by custom.
    Usr1,
    /// SIGUSR2: to replace the binary, by custom.
    Usr2,
}

/// All that are taken.
const TAKEN: [Signal; 6] = [Signal::Term, Signal::Int, Signal::Quit, Signal::Hup, Signal::Usr1, Signal::Usr2];

impl Signal {
    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Term => "SIGTERM",
            Self::Int => "SIGINT",
            Self::Quit => "SIGQUIT",
            Self::Hup => "SIGHUP",
            Self::Usr1 => "SIGUSR1",
            Self::Usr2 => "SIGUSR2",
        }
    }

    fn number(self) -> libc::c_int {
        match self {
            Self::Term => libc::SIGTERM,
            Self::Int => libc::SIGINT,
            Self::Quit => libc::SIGQUIT,
            Self::Hup => libc::SIGHUP,
            Self::Usr1 => libc::SIGUSR1,
            Self::Usr2 => libc::SIGUSR2,
        }
    }
}

/// The signals, blocked.
#[derive(Clone, Copy)]
pub struct Signals(libc::sigset_t);

impl Signals {
    /// Blocks them in the calling thread and in every thread it starts from now on. To be called before any other thread
    /// runs.
    pub fn block() -> Self {
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: sigemptyset initialises `set` before anything reads it; the other calls take valid pointers to it,
        // and no old mask is asked for.
        let set = unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            for signal in TAKEN {
                libc::sigaddset(set.as_mut_ptr(), signal.number());
            }
            let set = set.assume_init();
            libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
            set
        };
        Self(set)
    }

    /// Waits for the next of them. One that comes several times until it is taken counts as one.
    pub fn wait(self) -> Signal {
        loop {
            let mut number = 0;
            // SAFETY: both pointers are valid for the call, and the set holds only signals that are blocked here.
            let failed = unsafe { libc::sigwait(&raw const self.0, &raw mut number) } != 0;
            let signal = TAKEN.into_iter().find(|signal| signal.number() == number && !failed);
            if let Some(signal) = signal {
                return signal;
            }
        }
    }
}
