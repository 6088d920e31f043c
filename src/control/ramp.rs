//! Slow starts: the thread that takes them from step to step. Why there is one, and how else it could be done:
//! `docs/decisions/011-slow-start.md`.

use std::sync::Arc;
use std::time::Duration;
use std::{io, thread};

use crossbeam::channel::{RecvTimeoutError, Sender, bounded};

use super::entry::RAMP_STEP_PERCENT;
use super::registry::Registry;

/// The thread; it ends when this is stopped or dropped.
#[derive(Debug)]
pub(super) struct Ramp {
    stop: Sender<()>,
}

impl Ramp {
    /// Begins to step every ramp of the registry, so that each is through after `slow_start`.
    ///
    /// # Errors
    /// When the system has no thread to give.
    pub(super) fn start(registry: Arc<Registry>, slow_start: Duration) -> io::Result<Self> {
        let (stop, stopped) = bounded(1);
        let pause = slow_start * RAMP_STEP_PERCENT / 100;
        let work = move || {
            while stopped.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
                registry.step_ramps();
                registry.tell();
            }
        };
        thread::Builder::new().name("slow-start".into()).spawn(work)?;
        Ok(Self { stop })
    }

    pub(super) fn stop(&self) {
        let _ = self.stop.try_send(());
    }
}
