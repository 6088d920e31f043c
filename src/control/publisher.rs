//! Publishing what was seen of backends: the thread that makes one snapshot of many changes. A table of some thousand
//! backends takes longer to make than it takes them all to fail.

use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{io, thread};

use crossbeam::channel::{Receiver, Sender, bounded};

use super::registry::Registry;

/// From one snapshot to the next, at least: changes that come meanwhile go into one. Where making one takes longer than
/// this, as long as it took, so that it takes half a core at most.
const GAP_MIN: Duration = Duration::from_millis(10);

/// The channel by which the thread is told: a second message says no more than the first.
pub(super) fn channel() -> (Sender<()>, Receiver<()>) {
    bounded(1)
}

/// The thread; it ends when this is stopped or dropped.
#[derive(Debug)]
pub(super) struct Publisher {
    stop: Sender<()>,
}

impl Publisher {
    /// Begins to publish the registry's changes, of which `changes` tells: the first at once.
    ///
    /// # Errors
    /// When the system has no thread to give.
    pub(super) fn start(registry: Arc<Registry>, changes: Receiver<()>) -> io::Result<Self> {
        let (stop, stopped) = bounded(1);
        let work = move || {
            loop {
                crossbeam::channel::select! {
                    recv(changes) -> change => if change.is_err() { return },
                    recv(stopped) -> _ => return,
                }
                let began = Instant::now();
                registry.publish();
                if stopped.recv_timeout(began.elapsed().max(GAP_MIN)).is_ok() {
                    return;
                }
            }
        };
        thread::Builder::new().name("maypole-publish".into()).spawn(work)?;
        Ok(Self { stop })
    }

    pub(super) fn stop(&self) {
        let _ = self.stop.try_send(());
    }
}
