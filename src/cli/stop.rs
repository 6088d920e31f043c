//! When the process is to stop: what signals ask for, from its first moment to its last.
//!
//! ```text
//!           a request         a request, or timeouts.grace is over         a request, or all has ended
//!   Running ─────────▶ Grace ─────────────────────────────────────▶ Draining ──────────────────────▶ the end
//! ```
//!
//! A request is a signal that asks to stop. Those within a second of one repeat it: supervisors send two, and Ctrl-C reaches
//! a whole process group.

use std::io;
use std::process;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, Sender, bounded};
use parking_lot::Mutex;

use crate::runtime::signals::{Signal, Signals};

/// Signals that come so soon after a request repeat it.
const SAME_REQUEST: Duration = Duration::from_secs(1);

/// What signals ask for, as the main thread hears of it.
pub(super) struct Stop {
    requests: Receiver<()>,
    stage: Arc<Mutex<Stage>>,
    on_hangup: Arc<OnceLock<OnHangup>>,
    on_end: Arc<OnceLock<OnEnd>>,
}

/// What SIGHUP asks for; it may not wait. False: there was nothing to be done.
type OnHangup = Box<dyn Fn() -> bool + Send + Sync>;
/// What is done before a signal ends the process at once: nothing is dropped then.
type OnEnd = Box<dyn Fn() + Send + Sync>;

/// What a request would mean now.
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
        let (request, requests) = bounded(1);
        let stage = Arc::new(Mutex::new(Stage::Reading));
        let (on_hangup, on_end) = (Arc::new(OnceLock::new()), Arc::new(OnceLock::new()));
        let taker = Taker {
            request,
            stage: Arc::clone(&stage),
            on_hangup: Arc::clone(&on_hangup),
            on_end: Arc::clone(&on_end),
            last: None,
        };
        thread::Builder::new().name("maypole-signals".into()).spawn(move || taker.run(signals))?;
        Ok(Self { requests, stage, on_hangup, on_end })
    }

    /// From now on SIGHUP asks for this.
    pub(super) fn on_hangup(&self, hangup: impl Fn() -> bool + Send + Sync + 'static) {
        let _ = self.on_hangup.set(Box::new(hangup));
    }

    /// From now on a signal that ends the process at once has this done before.
    pub(super) fn on_end(&self, end: impl Fn() + Send + Sync + 'static) {
        let _ = self.on_end.set(Box::new(end));
    }

    /// From now on there is something to be stopped in good order.
    pub(super) fn starting(&self) {
        *self.stage.lock() = Stage::Running;
    }

    /// Waits until it is to stop.
    pub(super) fn wait(&self) {
        // The thread that sends never ends.
        let _ = self.requests.recv();
    }

    /// Waits until the drain is to begin: for so long, or until it is requested.
    pub(super) fn wait_for_grace(&self, grace: Duration) {
        if !grace.is_zero() {
            *self.stage.lock() = Stage::Grace;
            let _ = self.requests.recv_timeout(grace);
        }
        *self.stage.lock() = Stage::Draining;
    }
}

struct Taker {
    request: Sender<()>,
    stage: Arc<Mutex<Stage>>,
    on_hangup: Arc<OnceLock<OnHangup>>,
    on_end: Arc<OnceLock<OnEnd>>,
    /// When the last request came.
    last: Option<Instant>,
}

impl Taker {
    fn run(mut self, signals: Signals) {
        loop {
            let signal = signals.wait();
            match signal {
                Signal::Hup if self.on_hangup.get().is_some_and(|hangup| hangup()) => {
                    log::info!("{}: the files of certificates are looked at", signal.name());
                }
                Signal::Hup | Signal::Usr1 | Signal::Usr2 => log::info!("{}: nothing to be done", signal.name()),
                Signal::Term | Signal::Int | Signal::Quit if !self.is_new(Instant::now()) => {
                    log::info!("{}: it is stopping already", signal.name());
                }
                Signal::Term | Signal::Int | Signal::Quit => self.hear(signal),
            }
        }
    }

    /// Whether a signal at this moment is a request of its own.
    fn is_new(&mut self, now: Instant) -> bool {
        let is_new = self.last.is_none_or(|last| now.saturating_duration_since(last) >= SAME_REQUEST);
        if is_new {
            self.last = Some(now);
        }
        is_new
    }

    fn hear(&self, signal: Signal) {
        // Held over what it decides, so that a request is for the stage in which it came.
        let stage = self.stage.lock();
        match *stage {
            Stage::Reading => self.end(0),
            // The first one waits to be heard already: an operator that asks again doesn't want to wait.
            Stage::Running | Stage::Grace if self.request.try_send(()).is_ok() => {}
            Stage::Running | Stage::Grace | Stage::Draining => {
                drop(stage);
                log::warn!("{}: everything is cut", signal.name());
                self.end(1);
            }
        }
    }

    fn end(&self, code: i32) -> ! {
        if let Some(end) = self.on_end.get() {
            end();
        }
        super::log::flush();
        process::exit(code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_within_a_second_of_a_request_repeat_it_and_later_ones_do_not() {
        let (request, _requests) = bounded(1);
        let stage = Arc::new(Mutex::new(Stage::Running));
        let mut taker = Taker { request, stage, on_hangup: Arc::default(), on_end: Arc::default(), last: None };
        let begin = Instant::now();
        let at = |ms: u64| begin + Duration::from_millis(ms);
        let seen: Vec<_> = [0, 1, 700, 999, 1000, 1900, 1999, 2000, 9000].map(|ms| taker.is_new(at(ms))).into();
        assert_eq!(seen, [true, false, false, false, true, false, false, true, true]);
    }
}
