//! Active health checks: one thread schedules and decides, a bounded crew of probers asks. What workers report goes
//! through the same thread, so that every change of health or of a circuit breaker is decided in one place and one after
//! the other.

mod judge;
mod probe;
mod schedule;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use std::{io, thread};

use crossbeam::channel::{self, Receiver, Sender, never, select, unbounded};
use parking_lot::Mutex;

pub use self::judge::Health;
use self::judge::Rules;
use self::probe::{Finding, Probe};
use self::schedule::{PROBERS_MAX, Probed, Schedule, Verdict, spread};
use super::crew::Crew;
use super::random::Random;
use crate::balance::{Backend, Report, Turn};
use crate::config::HealthCheck;

/// `ureq` needs about 20 KiB in release builds; debug builds are hungrier.
const PROBER_STACK_BYTES: usize = 256 * 1024;
/// When a probe is tried again for which this machine lacked something.
const PUT_OFF: Duration = Duration::from_secs(1);
/// Lateness that is worth a line in the log (at most one a minute).
const LATE_WARNED: Duration = Duration::from_secs(1);
const WARN_GAP: Duration = Duration::from_secs(60);
/// Lateness is remembered for this long, at least.
const RECENT: Duration = Duration::from_secs(60);

/// Where the health thread's findings go.
pub(super) trait Audience: Send + Sync + 'static {
    /// A probe has ended, and may have changed the backend's health. It is called once a probe, in order.
    fn probed(&self, id: u64, probe: LastProbe, changed: Option<Health>);

    /// The backend refused a connection of a worker's, and is down for it.
    fn refused(&self, id: u64);

    /// A worker found none of the backend's addresses reachable.
    fn unreachable(&self, id: u64);

    /// A worker has turned the backend's circuit breaker; when [`Self::elapse`] is due next. `chance` is from 0 to 1.
    fn turned(&self, backend: &Backend, turn: Turn, chance: f64) -> Option<Instant>;

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
    Stop,
}

impl Checker {
    /// Starts the thread. `recovered` brings the ids of backends whose names have come to resolve: they are probed at
    /// once. Fails if the system has no thread to give.
    pub(super) fn start(
        check: &HealthCheck,
        reports: Receiver<Report>,
        recovered: Receiver<u64>,
        audience: Arc<dyn Audience>,
        random: Random,
    ) -> io::Result<Self> {
        let (commands, orders) = unbounded();
        let (finish, finished) = unbounded();
        let lateness = Arc::default();
        let thread = Thread {
            schedule: Schedule::new(Rules::from(check), check.timeout),
            interval: check.interval,
            probe: Arc::new(Probe::new(check)),
            crew: Crew::new("maypole-probe", PROBERS_MAX, PROBER_STACK_BYTES),
            backends: HashMap::new(),
            circuits_due: None,
            audience,
            finish,
            finished,
            lateness: Clerk::new(Arc::clone(&lateness), Instant::now()),
            random,
        };
        thread::Builder::new().name("maypole-health".into()).spawn(move || thread.run(&orders, reports, recovered))?;
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

    /// Ends the thread.
    pub(super) fn stop(&self) {
        self.order(Command::Stop);
    }

    /// How late probes have been.
    pub(super) fn lateness(&self) -> Lateness {
        *self.lateness.lock()
    }

    fn order(&self, command: Command) {
        // Nobody is there to hear it once the thread has been stopped.
        let _ = self.commands.send(command);
    }
}

struct Thread {
    schedule: Schedule,
    interval: Duration,
    probe: Arc<Probe>,
    crew: Crew,
    backends: HashMap<u64, Arc<Backend>>,
    /// When circuit breakers need a look.
    circuits_due: Option<Instant>,
    audience: Arc<dyn Audience>,
    finish: Sender<Finished>,
    finished: Receiver<Finished>,
    lateness: Clerk,
    random: Random,
}

struct Finished {
    id: u64,
    probed: Probed,
    reason: String,
    of_shortage: bool,
}

impl Thread {
    fn run(mut self, orders: &Receiver<Command>, mut reports: Receiver<Report>, mut recovered: Receiver<u64>) {
        loop {
            self.start_due();
            if self.circuits_due.is_some_and(|due| due <= Instant::now()) {
                self.circuits_due = self.audience.elapse();
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
                recv(recovered) -> id => match id {
                    Ok(id) => self.schedule.probe_now(id, Instant::now()),
                    Err(_) => recovered = never(), // no name is resolved any more
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
                    self.add(backend, now + spread(index, count, self.interval), now);
                }
            }
            Command::Add(backend) => self.add(backend, now, now),
            Command::Remove(id) => {
                self.schedule.remove(id);
                self.backends.remove(&id);
            }
            Command::Stop => {}
        }
    }

    fn add(&mut self, backend: Arc<Backend>, first: Instant, now: Instant) {
        self.schedule.add(backend.id, first, now);
        self.backends.insert(backend.id, backend);
    }

    fn hear(&mut self, report: &Report) {
        match report {
            Report::Refused(backend) => {
                if self.schedule.refuse(backend.id, Instant::now()) {
                    self.audience.refused(backend.id);
                }
            }
            Report::Unreachable(backend) => self.audience.unreachable(backend.id),
            Report::Turned(backend, turn) => {
                self.circuits_due = self.audience.turned(backend, *turn, self.random.fraction());
            }
        }
    }

    fn start_due(&mut self) {
        let now = Instant::now();
        while let Some(id) = self.schedule.start(now) {
            let Some(backend) = self.backends.get(&id).map(Arc::clone) else { continue };
            let (probe, finish) = (Arc::clone(&self.probe), self.finish.clone());
            let submitted = self.crew.submit(move || {
                let started = Instant::now();
                let Finding { passed, reason, of_shortage } = probe.run(&backend);
                let probed = Probed { started, ended: Instant::now(), passed };
                let _ = finish.send(Finished { id, probed, reason, of_shortage });
            });
            if let Err(error) = submitted {
                log::warn!("no thread for health checks, will try again in a second: {error}");
                self.schedule.put_off(id, now + PUT_OFF);
            }
        }
    }

    fn take_in(&mut self, finished: Finished) {
        let Finished { id, probed, reason, of_shortage } = finished;
        let verdict = if of_shortage && self.schedule.is_up(id) {
            // Taking healthy backends out would turn a shortage here into an outage. One that was never reached is
            // judged: where no local address fits its own, that is how it stays.
            self.schedule.put_off(id, Instant::now() + PUT_OFF);
            Some(Verdict { changed: None, late: Duration::ZERO })
        } else {
            self.schedule.finish(id, probed, self.random.fraction())
        };
        let Some(verdict) = verdict else { return };
        self.lateness.note(verdict.late, Instant::now());
        let probe = LastProbe {
            at: SystemTime::now(),
            passed: probed.passed,
            reason,
            took: probed.ended.saturating_duration_since(probed.started),
            late: verdict.late,
        };
        self.audience.probed(id, probe, verdict.changed);
    }
}

/// Keeps book of lateness, in two halves of [`RECENT`] each.
#[derive(Debug)]
struct Clerk {
    book: Arc<Mutex<Lateness>>,
    half_began: Instant,
    halves: [Duration; 2],
    warned: Option<Instant>,
}

impl Clerk {
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
