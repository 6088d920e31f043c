//! When the process is to stop: what signals ask for, from its first moment to its last.
//!
//! ```text
//!            a wish          a wish, or timeouts.grace is over         a wish, or all has ended
//!   Running ───────▶ Grace ───────────────────────────────────▶ Draining ──────────────────────▶ the end
//! ```
//!
//! Signals within a second of one that was a wish are the same wish: supervisors send two, and Ctrl-C reaches a whole process
//! group.

use std::io;
use std::process;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, Sender, bounded};
use parking_lot::Mutex;

use crate::runtime::signals::{Signal, Signals};

/// Signals that come so soon after one that was a wish repeat it.
const SAME_WISH: Duration = Duration::from_secs(1);

/// What signals ask for, as the main thread hears of it.
pub(super) struct Stop {
    wishes: Receiver<()>,
    stage: Arc<Mutex<Stage>>,
}

/// What a wish would mean now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Nothing has been started: it ends at once.
    Reading,
    /// It is told to begin to stop, as soon as it has started.
    Running,
    /// It is told to begin the drain.
    Grace,
    /// Everything is cut.
    Draining,
}

impl Stop {
    /// From now on signals are taken by a thread of their own. To be called before any other thread runs, so that all leave
    /// them to it; the log runs from here on too.
    ///
    /// # Errors
    /// The system has no thread to give.
    pub(super) fn listen() -> io::Result<Self> {
        let signals = Signals::block();
        super::log::start()?;
        let (wish, wishes) = bounded(1);
        let stage = Arc::new(Mutex::new(Stage::Reading));
        let taker = Taker { wish, stage: Arc::clone(&stage), last: None };
        thread::Builder::new().name("maypole-signals".into()).spawn(move || taker.run(signals))?;
        Ok(Self { wishes, stage })
    }

    /// From now on there is something to be stopped in good order.
    pub(super) fn starting(&self) {
        *self.stage.lock() = Stage::Running;
    }

    /// Waits until it is to stop.
    pub(super) fn wait(&self) {
        // The thread that sends never ends.
        let _ = self.wishes.recv();
    }

    /// Waits until the drain is to begin: for so long, or until it is wished for.
    pub(super) fn wait_for_grace(&self, grace: Duration) {
        if !grace.is_zero() {
            *self.stage.lock() = Stage::Grace;
            let _ = self.wishes.recv_timeout(grace);
        }
        *self.stage.lock() = Stage::Draining;
    }
}

struct Taker {
    wish: Sender<()>,
    stage: Arc<Mutex<Stage>>,
    /// When the last wish came.
    last: Option<Instant>,
}

impl Taker {
    fn run(mut self, signals: Signals) {
        loop {
            let signal = signals.wait();
            match signal {
                Signal::Hup | Signal::Usr1 | Signal::Usr2 => log::info!("{}: nothing to be done", signal.name()),
                Signal::Term | Signal::Int | Signal::Quit if !self.is_new(Instant::now()) => {
                    log::info!("{}: it is stopping already", signal.name());
                }
                Signal::Term | Signal::Int | Signal::Quit => self.hear(signal),
            }
        }
    }

    /// Whether a signal at this moment is a wish of its own.
    fn is_new(&mut self, now: Instant) -> bool {
        let is_new = self.last.is_none_or(|last| now.saturating_duration_since(last) >= SAME_WISH);
        if is_new {
            self.last = Some(now);
        }
        is_new
    }

    fn hear(&self, signal: Signal) {
        // Held over what it decides, so that a wish is for the stage in which it came.
        let stage = self.stage.lock();
        match *stage {
            Stage::Reading => end(0),
            // One that is still waiting to be heard is a wish already: whoever wishes again doesn't want to wait.
            Stage::Running | Stage::Grace if self.wish.try_send(()).is_ok() => {}
            Stage::Running | Stage::Grace | Stage::Draining => {
                drop(stage);
                log::warn!("{}: everything is cut", signal.name());
                end(1);
            }
        }
    }
}

fn end(code: i32) -> ! {
    super::log::flush();
    process::exit(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_within_a_second_of_a_wish_are_the_same_and_later_ones_are_not() {
        let (wish, _wishes) = bounded(1);
        let mut taker = Taker { wish, stage: Arc::new(Mutex::new(Stage::Running)), last: None };
        let begin = Instant::now();
        let at = |ms: u64| begin + Duration::from_millis(ms);
        let seen: Vec<_> = [0, 1, 700, 999, 1000, 1900, 1999, 2000, 9000].map(|ms| taker.is_new(at(ms))).into();
        assert_eq!(seen, [true, false, false, false, true, false, false, true, true]);
    }
}
