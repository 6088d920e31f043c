//! Active health checks: one thread schedules and decides, a bounded pool of threads sends the probes. What workers report goes
//! through the same thread, so that every change of health or of a circuit breaker is decided in one place and one after
//! the other.

mod answer;
mod probe;
mod rise_fall;
mod schedule;
mod targets;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use std::{io, thread};

use crossbeam::channel::{self, Receiver, Sender, never, select, unbounded};
use parking_lot::Mutex;

use self::probe::{Probe, ProbeResult};
pub use self::rise_fall::Health;
use self::rise_fall::Rules;
use self::schedule::{Outcome, PROBERS_MAX, Probed, Schedule, spread};
use self::targets::{Renewed, Targets};
use super::random::Random;
use super::thread_pool::ThreadPool;
use crate::balance::{Backend, Report, Transition};
use crate::config::HealthCheck;
use crate::http1::HeadLimits;
use crate::transport::client::BackendTls;

/// `ureq` needs about 20 KiB in release builds; debug builds are hungrier.
const PROBER_STACK_BYTES: usize = 256 * 1024;
/// Lateness that is worth a line in the log (at most one a minute).
const LATE_WARNED: Duration = Duration::from_secs(1);
const WARN_GAP: Duration = Duration::from_secs(60);
/// Lateness is remembered for this long, at least.
const RECENT: Duration = Duration::from_secs(60);

/// How long the last backend may refuse connections before it is probed for it.
const LAST_RESORT_TIME: Duration = Duration::from_secs(1);

/// Where the health thread's findings go.
pub(super) trait Observer: Send + Sync + 'static {
    /// A probe has ended that speaks for the backend, and may have changed its health. Called in order.
    fn probed(&self, id: u64, probe: LastProbe, changed: Option<Health>);

    /// A probe of one of the backend's addresses has ended; the health of that one now.
    fn address_probed(&self, id: u64, address: SocketAddr, health: Health, probe: &LastProbe);

    /// The backend refused a connection of a worker's, and is down for it.
    fn refused(&self, id: u64);

    /// Whether no other backend would get traffic if this one got none.
    fn is_last_resort(&self, id: u64) -> bool;

    /// None of the backend's addresses can be reached, or it has gone down: its name may lead elsewhere by now.
    fn unreachable(&self, id: u64);

    /// A worker has turned the backend's circuit breaker; when [`Self::elapse`] is due next. `chance` is from 0 to 1.
    fn turned(&self, backend: &Backend, transition: Transition, chance: f64) -> Option<Instant>;

    /// Time has passed for circuit breakers; when it is due next.
    fn elapse(&self) -> Option<Instant>;
}

/// What a backend's last probe came to.
#[derive(Clone, Debug)]
pub struct LastProbe {
    /// When it ended.
    pub at: SystemTime,
    /// Whether it speaks for the backend.
    pub passed: bool,
    /// Why, in words for an operator.
    pub reason: String,
    /// From its start to its end.
    pub took: Duration,
    /// How long after its time it started.
    pub late: Duration,
}

/// How late probes start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lateness {
    /// The greatest since the start.
    pub max: Duration,
    /// The greatest of the last one to two minutes.
    pub recent_max: Duration,
}

/// The health thread, from outside. Dropping it ends the thread.
#[derive(Debug)]
pub(super) struct Checker {
    commands: Sender<Command>,
    lateness: Arc<Mutex<Lateness>>,
}

#[derive(Debug)]
enum Command {
    /// At start: first probes are spread.
    AddAll(Vec<Arc<Backend>>),
    /// At run time: probed at once.
    Add(Arc<Backend>),
    Remove(u64),
    GoBy(Settings),
    Stop,
}

/// What a configuration says of health checks, made ready for use. Swapped whole.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    rules: Rules,
    probe: Arc<Probe>,
}

impl Settings {
    /// `limits` are those of answers' heads; `tls` is what requests go by.
    pub(super) fn new(check: &HealthCheck, limits: HeadLimits, tls: Option<&Arc<BackendTls>>) -> Self {
        Self { rules: Rules::from(check), probe: Arc::new(Probe::new(check, limits, tls.cloned())) }
    }
}

impl Checker {
    /// Starts the thread, which goes by `settings` until it is told of other ones. `moved` brings the ids of backends whose addresses have
    /// changed: the new ones are probed at once. Fails if the system has no thread to give.
    pub(super) fn start(
        settings: Settings,
        reports: Receiver<Report>,
        moved: Receiver<u64>,
        observer: Arc<dyn Observer>,
        random: Random,
    ) -> io::Result<Self> {
        let (commands, orders) = unbounded();
        let (finish, finished) = unbounded();
        let lateness = Arc::default();
        let thread = Thread {
            settings,
            schedule: Schedule::default(),
            probers: ThreadPool::new("maypole-probe", PROBERS_MAX, PROBER_STACK_BYTES),
            targets: Targets::default(),
            circuits_due: None,
            observer,
            finish,
            finished,
            lateness: LatenessWindow::new(Arc::clone(&lateness), Instant::now()),
            random,
        };
        thread::Builder::new().name("maypole-health".into()).spawn(move || thread.run(&orders, reports, moved))?;
        Ok(Self { commands, lateness })
    }

    /// Has a whole set probed, first probes spread over the interval.
    pub(super) fn add_all(&self, backends: Vec<Arc<Backend>>) {
        self.order(Command::AddAll(backends));
    }

    /// Has one more backend probed, for the first time at once.
    pub(super) fn add(&self, backend: Arc<Backend>) {
        self.order(Command::Add(backend));
    }

    /// Stops probing a backend.
    pub(super) fn remove(&self, id: u64) {
        self.order(Command::Remove(id));
    }

    /// Has it go by other settings, each backend's next probe coming within their interval. Probes that run end by those that
    /// they began with. What is known of backends stays.
    pub(super) fn go_by(&self, settings: Settings) {
        self.order(Command::GoBy(settings));
    }

    /// Ends the thread.
    pub(super) fn stop(&self) {
        self.order(Command::Stop);
    }

    /// How late probes have been.
    pub(super) fn lateness(&self) -> Lateness {
        *self.lateness.lock()
    }

    fn order(&self, command: Command) {
        // Fails once the thread has been stopped, which is no matter.
        let _ = self.commands.send(command);
    }
}

struct Thread {
    settings: Settings,
    schedule: Schedule,
    probers: ThreadPool,
    targets: Targets,
    /// When circuit breakers need a look.
    circuits_due: Option<Instant>,
    observer: Arc<dyn Observer>,
    finish: Sender<Finished>,
    finished: Receiver<Finished>,
    lateness: LatenessWindow,
    random: Random,
}

struct Finished {
    id: u64,
    probed: Probed,
    reason: String,
    of_shortage: bool,
}

impl Thread {
    fn run(mut self, orders: &Receiver<Command>, mut reports: Receiver<Report>, mut moved: Receiver<u64>) {
        loop {
            self.start_due();
            if self.circuits_due.is_some_and(|due| due <= Instant::now()) {
                self.circuits_due = self.observer.elapse();
            }
            let due = self.schedule.next_due().into_iter().chain(self.circuits_due).min();
            let alarm = due.map_or_else(never, channel::at);
            select! {
                recv(orders) -> order => match order {
                    Ok(Command::Stop) | Err(_) => return,
                    Ok(order) => self.obey(order),
                },
                recv(self.finished) -> finished => if let Ok(finished) = finished {
                    self.take_in(finished);
                },
                recv(reports) -> report => match report {
                    Ok(report) => self.hear(&report),
                    Err(_) => reports = never(), // the workers have gone
                },
                recv(moved) -> id => match id {
                    Ok(id) => self.follow(id, Instant::now()),
                    Err(_) => moved = never(), // no name is resolved any more
                },
                recv(alarm) -> _ => {}
            }
        }
    }

    fn obey(&mut self, order: Command) {
        let now = Instant::now();
        match order {
            Command::AddAll(backends) => {
                let count = backends.len();
                for (index, backend) in backends.into_iter().enumerate() {
                    self.add(backend, now + spread(index, count, self.settings.rules.interval), now);
                }
            }
            Command::Add(backend) => self.add(backend, now, now),
            Command::Remove(id) => {
                for target in self.targets.remove(id) {
                    self.schedule.remove(target);
                }
            }
            Command::GoBy(settings) => {
                self.schedule.probe_all_within(settings.rules.interval, now);
                self.settings = settings;
            }
            Command::Stop => {}
        }
    }

    fn add(&mut self, backend: Arc<Backend>, first: Instant, now: Instant) {
        for target in self.targets.add(backend) {
            self.schedule.add(target, first, now);
        }
    }

    /// Takes in that a backend's addresses have changed.
    fn follow(&mut self, id: u64, now: Instant) {
        let Renewed { gone, new, kept } = self.targets.renew(id);
        for target in gone {
            self.schedule.remove(target);
        }
        for target in new {
            self.schedule.add(target, now, now);
        }
        // The backend may be down now without those that have gone.
        for target in kept {
            self.schedule.probe_now(target, now);
        }
    }

    fn hear(&mut self, report: &Report) {
        match report {
            Report::Refused(backend) if self.observer.is_last_resort(backend.id) => self.spare(backend),
            Report::Refused(backend) => {
                let now = Instant::now();
                for target in self.targets.of(backend.id) {
                    self.schedule.refuse(target, now);
                }
                if self.targets.refuse(backend.id) {
                    self.observer.refused(backend.id);
                    self.observer.unreachable(backend.id);
                }
            }
            Report::Missed(backend) => {
                let now = Instant::now();
                for target in self.targets.of(backend.id) {
                    self.schedule.probe_now(target, now);
                }
            }
            Report::Untrusted(backend) => {
                // Not at once: each of many requests may say so.
                let at = Instant::now() + self.settings.rules.fast_interval;
                for target in self.targets.of(backend.id) {
                    self.schedule.probe_by(target, at);
                }
            }
            Report::Unreachable(backend) => self.observer.unreachable(backend.id),
            Report::Turned(backend, transition) => {
                self.circuits_due = self.observer.turned(backend, *transition, self.random.fraction());
            }
        }
    }

    /// The last one stays in whatever it refuses: requests wait for it, in case that it is being restarted. Whether it is up
    /// is for its probes to say, the next of which comes once that time is over.
    fn spare(&mut self, backend: &Backend) {
        let at = Instant::now() + LAST_RESORT_TIME;
        let mut sooner = false;
        for target in self.targets.of(backend.id) {
            sooner |= self.schedule.probe_by(target, at);
        }
        if sooner {
            log::info!(
                "backend {} refuses connections, and stays in as the last one: requests wait for it",
                backend.name
            );
        }
        self.observer.unreachable(backend.id);
    }

    fn start_due(&mut self) {
        let now = Instant::now();
        while let Some(id) = self.schedule.start(now) {
            let Some((backend, address, _)) = self.targets.find(id) else { continue };
            let backend = Arc::clone(backend);
            let (probe, finish) = (Arc::clone(&self.settings.probe), self.finish.clone());
            let submitted = self.probers.submit(move || {
                let started = Instant::now();
                let ProbeResult { passed, reason, of_shortage } = probe.run(&backend, address);
                let probed = Probed { started, ended: Instant::now(), passed };
                let _ = finish.send(Finished { id, probed, reason, of_shortage });
            });
            if let Err(error) = submitted {
                log::warn!("no thread for health checks, will try again in a second: {error}");
                self.schedule.put_off(id, now);
            }
        }
    }

    fn take_in(&mut self, finished: Finished) {
        let Finished { id, probed, reason, of_shortage } = finished;
        let outcome = if of_shortage && self.schedule.is_up(id) {
            // Taking healthy backends out would turn a shortage here into an outage. One that was never reached is
            // judged: where no local address fits its own, that is how it stays.
            self.schedule.put_off(id, Instant::now());
            Some(Outcome { changed: None, late: Duration::ZERO })
        } else {
            self.schedule.finish(id, probed, &self.settings.rules, self.random.fraction())
        };
        let Some(outcome) = outcome else { return };
        self.lateness.note(outcome.late, Instant::now());
        let probe = LastProbe {
            at: SystemTime::now(),
            passed: probed.passed,
            reason,
            took: probed.ended.saturating_duration_since(probed.started),
            late: outcome.late,
        };
        if let Some(health) = outcome.changed {
            self.targets.turn(id, health);
        }
        let Some(effect) = self.targets.weigh(id, probe.passed) else { return };
        let Some((backend, address, health)) = self.targets.find(id) else { return };
        if let Some(address) = address {
            if outcome.changed.is_some() && !effect.speaks {
                log::info!("backend {}: its address {address} is passed over: {}", backend.name, probe.reason);
            }
            self.observer.address_probed(backend.id, address, health, &probe);
        }
        if effect.speaks {
            self.observer.probed(backend.id, probe, effect.changed);
        }
        if effect.changed == Some(Health::Down) {
            self.observer.unreachable(backend.id);
        }
    }
}

/// Keeps book of lateness, in two halves of [`RECENT`] each.
#[derive(Debug)]
struct LatenessWindow {
    book: Arc<Mutex<Lateness>>,
    half_began: Instant,
    halves: [Duration; 2],
    warned: Option<Instant>,
}

impl LatenessWindow {
    fn new(book: Arc<Mutex<Lateness>>, now: Instant) -> Self {
        Self { book, half_began: now, halves: [Duration::ZERO; 2], warned: None }
    }

    fn note(&mut self, late: Duration, now: Instant) {
        if now.saturating_duration_since(self.half_began) >= RECENT {
            self.halves = [Duration::ZERO, self.halves[0]];
            self.half_began = now;
        }
        self.halves[0] = self.halves[0].max(late);
        let mut book = self.book.lock();
        book.max = book.max.max(late);
        book.recent_max = self.halves[0].max(self.halves[1]);
        drop(book);
        let quiet = self.warned.is_none_or(|at| now.saturating_duration_since(at) >= WARN_GAP);
        if late >= LATE_WARNED && quiet {
            self.warned = Some(now);
            log::warn!("health checks run late: one started {late:.1?} after its time");
        }
    }
}

#[cfg(test)]
mod tests;
