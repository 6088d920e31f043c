//! Host names to addresses, off the workers: one thread keeps the time, a few resolve. What a name last resolved to stays
//! in its backend until it resolves to something else.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{io, thread};

use crossbeam::channel::{self, Receiver, Sender, bounded, never, select, unbounded};

use super::thread_pool::ThreadPool;
use crate::balance::Backend;

/// From one resolution's start to the next one's.
const INTERVAL: Duration = Duration::from_secs(30);
/// The same after a failure.
const INTERVAL_FAILED: Duration = Duration::from_secs(5);
/// Reports that a backend is unreachable have its name resolved at once, but not more often than this.
const INTERVAL_MIN: Duration = Duration::from_secs(1);
/// Resolutions that run at once: a name server that hangs must not hold up the names that others answer.
const RESOLVERS_MAX: usize = 8;
/// `getaddrinfo` wants more stack than one would think.
const RESOLVER_STACK_BYTES: usize = 256 * 1024;

/// How a host and port become addresses; blocks.
pub(super) type Lookup = Arc<dyn Fn(&str, u16) -> io::Result<Vec<SocketAddr>> + Send + Sync>;

/// The resolver's thread, from outside. Dropping it ends the thread.
#[derive(Debug)]
pub(super) struct Resolver {
    commands: Sender<Command>,
}

#[derive(Debug)]
enum Command {
    /// Resolve once, and answer.
    Resolve(String, u16, Sender<Vec<SocketAddr>>),
    /// Keep a backend's addresses fresh.
    Watch(Arc<Backend>),
    /// Resolve a backend's name at once.
    Refresh(u64),
    Forget(u64),
    Stop,
}

impl Resolver {
    /// Starts the thread. `moved` gets the id of each backend whose addresses have changed. Fails if the system has no
    /// thread to give.
    pub(super) fn start(lookup: Lookup, moved: Sender<u64>) -> io::Result<Self> {
        let (commands, orders) = unbounded();
        let (finish, finished) = unbounded();
        let thread = Thread {
            lookup,
            moved,
            threads: ThreadPool::new("maypole-names", RESOLVERS_MAX, RESOLVER_STACK_BYTES),
            watched: HashMap::new(),
            due: BTreeSet::new(),
            finish,
            finished,
        };
        thread::Builder::new().name("maypole-names".into()).spawn(move || thread.run(&orders))?;
        Ok(Self { commands })
    }

    /// The system's resolver.
    pub(super) fn system() -> Lookup {
        Arc::new(|host, port| Ok((host, port).to_socket_addrs()?.collect()))
    }

    /// What the names resolve to within `wait`, all together, in order; empty for those that have no address or take
    /// longer. Address literals are answered at once.
    pub(super) fn resolve(&self, names: &[(&str, u16)], wait: Duration) -> Vec<Vec<SocketAddr>> {
        let deadline = Instant::now() + wait;
        let asked: Vec<_> = names.iter().map(|(host, port)| self.ask(host, *port)).collect();
        asked.iter().map(|answer| answer.recv_deadline(deadline).unwrap_or_default()).collect()
    }

    /// Keeps the addresses of a backend fresh. One without any is resolved at once.
    pub(super) fn watch(&self, backend: Arc<Backend>) {
        if backend.host.parse::<IpAddr>().is_err() {
            self.order(Command::Watch(backend));
        }
    }

    /// Stops keeping a backend's addresses fresh.
    pub(super) fn forget(&self, id: u64) {
        self.order(Command::Forget(id));
    }

    /// A way to have a backend's name resolved at once, for another thread.
    pub(super) fn refresher(&self) -> impl Fn(u64) + Send + Sync + use<> {
        let commands = self.commands.clone();
        move |id| drop(commands.send(Command::Refresh(id)))
    }

    /// Ends the thread.
    pub(super) fn stop(&self) {
        self.order(Command::Stop);
    }

    fn ask(&self, host: &str, port: u16) -> Receiver<Vec<SocketAddr>> {
        let (answer, answered) = bounded(1);
        match host.parse() {
            Ok(ip) => drop(answer.send(vec![SocketAddr::new(ip, port)])),
            Err(_) => self.order(Command::Resolve(host.to_owned(), port, answer)),
        }
        answered
    }

    fn order(&self, command: Command) {
        // Fails once the thread has been stopped, which is no matter.
        let _ = self.commands.send(command);
    }
}

struct Thread {
    lookup: Lookup,
    moved: Sender<u64>,
    threads: ThreadPool,
    watched: HashMap<u64, Watched>,
    due: BTreeSet<(Instant, u64)>,
    finish: Sender<Finished>,
    finished: Receiver<Finished>,
}

struct Watched {
    backend: Arc<Backend>,
    /// When the last resolution started.
    started: Option<Instant>,
    /// When the next one should; None while one runs.
    due: Option<Instant>,
    /// It was asked for while one ran, which may have been answered before.
    again: bool,
    failing: bool,
}

struct Finished {
    id: u64,
    result: io::Result<Vec<SocketAddr>>,
}

impl Thread {
    fn run(mut self, orders: &Receiver<Command>) {
        loop {
            self.start_due(Instant::now());
            let alarm = self.due.first().map_or_else(never, |(due, _)| channel::at(*due));
            select! {
                recv(orders) -> order => match order {
                    Ok(Command::Stop) | Err(_) => return,
                    Ok(order) => self.obey(order),
                },
                recv(self.finished) -> finished => if let Ok(finished) = finished {
                    self.take_in(finished);
                },
                recv(alarm) -> _ => {}
            }
        }
    }

    fn obey(&mut self, order: Command) {
        let now = Instant::now();
        match order {
            Command::Resolve(host, port, answer) => {
                let lookup = Arc::clone(&self.lookup);
                // Without a thread the answer's sender is dropped, which the caller takes for a name without an address.
                let _ = self.threads.submit(move || {
                    let addresses = look_up(&lookup, &host, port);
                    let _ = answer.send(addresses.unwrap_or_default());
                });
            }
            Command::Watch(backend) => {
                let known = !backend.addresses.is_empty();
                let due = if known { now + INTERVAL } else { now };
                self.due.insert((due, backend.id));
                let started = known.then_some(now);
                self.watched
                    .insert(backend.id, Watched { backend, started, due: Some(due), again: false, failing: false });
            }
            Command::Refresh(id) => self.refresh(id, now),
            Command::Forget(id) => {
                if let Some(Watched { due: Some(due), .. }) = self.watched.remove(&id) {
                    self.due.remove(&(due, id));
                }
            }
            Command::Stop => {}
        }
    }

    fn refresh(&mut self, id: u64, now: Instant) {
        let Some(watched) = self.watched.get_mut(&id) else { return };
        let Some(due) = watched.due else {
            watched.again = true;
            return;
        };
        let allowed = watched.started.map_or(now, |started| now.max(started + INTERVAL_MIN));
        if allowed < due {
            self.due.remove(&(due, id));
            self.due.insert((allowed, id));
            watched.due = Some(allowed);
        }
    }

    fn start_due(&mut self, now: Instant) {
        while let Some(&(due, id)) = self.due.first() {
            if due > now {
                break;
            }
            self.due.pop_first();
            let Some(watched) = self.watched.get_mut(&id) else { continue };
            watched.started = Some(now);
            watched.due = None;
            let (lookup, finish) = (Arc::clone(&self.lookup), self.finish.clone());
            let backend = Arc::clone(&watched.backend);
            let submitted = self.threads.submit(move || {
                let result = look_up(&lookup, &backend.host, backend.port);
                let _ = finish.send(Finished { id, result });
            });
            if let Err(error) = submitted {
                self.take_in(Finished { id, result: Err(error) });
            }
        }
    }

    fn take_in(&mut self, Finished { id, result }: Finished) {
        let Some(watched) = self.watched.get_mut(&id) else { return };
        let name = &watched.backend.name;
        match result {
            Ok(addresses) => {
                if watched.failing {
                    log::info!("backend {name}: its host name resolves again");
                }
                watched.failing = false;
                if store(&watched.backend, addresses) {
                    let _ = self.moved.send(id);
                }
            }
            Err(error) => {
                if !watched.failing {
                    let kept = watched.backend.addresses.list().len();
                    log::warn!("backend {name}: can't resolve its host name, keeping {kept} addresses: {error}");
                }
                watched.failing = true;
            }
        }
        let gap = match (std::mem::take(&mut watched.again), watched.failing) {
            (true, _) => INTERVAL_MIN,
            (false, true) => INTERVAL_FAILED,
            (false, false) => INTERVAL,
        };
        let now = Instant::now();
        let due = now.max(watched.started.unwrap_or(now) + gap);
        watched.due = Some(due);
        self.due.insert((due, id));
    }
}

/// Resolves; no address is an error too.
fn look_up(lookup: &Lookup, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let addresses = lookup(host, port)?;
    if addresses.is_empty() { Err(io::Error::other("it has no address")) } else { Ok(addresses) }
}

/// Stores new addresses; true if they are others than before.
fn store(backend: &Backend, addresses: Vec<SocketAddr>) -> bool {
    let first = backend.addresses.is_empty();
    let changed = backend.addresses.set(addresses);
    if changed && !first {
        log::info!("backend {}: its host name now resolves to {:?}", backend.name, backend.addresses.list());
    }
    changed
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::*;
    use crate::balance::Origin;

    const SOON: Duration = Duration::from_secs(10);

    fn backend(id: u64, host: &str) -> Arc<Backend> {
        let origin = Origin {
            name: format!("{host}:80"),
            url: format!("http://{host}"),
            host: host.into(),
            port: 80,
            base_path: String::new(),
        };
        Arc::new(Backend::new(id, 0, origin, 1))
    }

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn literals_are_answered_without_a_look_up_and_a_name_that_hangs_only_delays_itself() {
        let (hang, gate) = unbounded::<()>();
        let lookup: Lookup = Arc::new(move |host, port| match host {
            "hangs" => gate.recv().map(|()| Vec::new()).map_err(io::Error::other),
            "good" => Ok(vec![SocketAddr::new("10.0.0.1".parse().unwrap(), port)]),
            other => panic!("looked {other} up"),
        });
        let resolver = Resolver::start(lookup, unbounded().0).unwrap();
        let asked = [("hangs", 1), ("good", 2), ("::1", 3), ("127.0.0.1", 4)];
        let found = resolver.resolve(&asked[1..], SOON);
        let want = [addresses(&["10.0.0.1:2"]), addresses(&["[::1]:3"]), addresses(&["127.0.0.1:4"])];
        assert_eq!(found, want);
        let found = resolver.resolve(&asked[..1], Duration::from_millis(20));
        assert_eq!(found, [addresses(&[])]);
        drop(hang);
    }

    #[test]
    fn a_name_that_comes_to_resolve_is_stored_and_announced_and_a_failure_keeps_it() {
        let answers = Arc::new(Mutex::new(vec![
            Err(io::Error::other("no such name")),
            Ok(addresses(&["10.0.0.2:80", "10.0.0.1:80"])),
            Ok(addresses(&["10.0.0.1:80", "10.0.0.2:80"])),
        ]));
        let (asked, asks) = unbounded();
        let lookup: Lookup = Arc::new(move |_, _| {
            let answer = answers.lock().pop().unwrap_or_else(|| Err(io::Error::other("gone")));
            asked.send(()).unwrap();
            answer
        });
        let (moved, followed) = unbounded();
        let resolver = Resolver::start(lookup, moved).unwrap();
        let backend = backend(5, "name.example");
        resolver.watch(Arc::clone(&backend));
        asks.recv_timeout(SOON).unwrap();
        assert_eq!(followed.recv_timeout(SOON), Ok(5));
        let stored = addresses(&["10.0.0.1:80", "10.0.0.2:80"]);
        assert_eq!(backend.addresses.list(), stored);
        let refresh = resolver.refresher();
        for _ in 0..2 {
            // Asked again, since one that comes while the last resolution has yet to be taken in is of no effect.
            let begin = Instant::now();
            while asks.recv_timeout(Duration::from_millis(50)).is_err() {
                refresh(5);
                assert!(begin.elapsed() < SOON);
            }
            assert_eq!(backend.addresses.list(), stored, "neither another order nor a failure changes them");
        }
        assert!(followed.is_empty());
    }

    #[test]
    fn a_report_that_comes_while_a_name_is_being_resolved_has_it_resolved_again() {
        let (asked, asks) = unbounded();
        let (answer, answers) = unbounded::<()>();
        let lookup: Lookup = Arc::new(move |_, _| {
            asked.send(()).unwrap();
            let _ = answers.recv();
            Ok(addresses(&["10.0.0.1:80"]))
        });
        let resolver = Resolver::start(lookup, unbounded().0).unwrap();
        resolver.watch(backend(1, "name.example"));
        asks.recv_timeout(SOON).unwrap();
        resolver.refresher()(1);
        // Commands are carried out in order: once this one's name is asked for, so has been the report.
        resolver.watch(backend(2, "other.example"));
        asks.recv_timeout(SOON).unwrap();
        drop(answer);
        asks.recv_timeout(SOON).expect("it is asked for again before its interval is over");
    }

    #[test]
    fn reports_do_not_make_resolutions_more_frequent_than_the_least_gap() {
        let (asked, asks) = unbounded();
        let lookup: Lookup = Arc::new(move |_, _| {
            asked.send(Instant::now()).unwrap();
            Ok(addresses(&["10.0.0.1:80"]))
        });
        let resolver = Resolver::start(lookup, unbounded().0).unwrap();
        resolver.watch(backend(1, "name.example"));
        let first = asks.recv_timeout(SOON).unwrap();
        let refresh = resolver.refresher();
        (0..1000).for_each(|_| refresh(1));
        let second = asks.recv_timeout(SOON).unwrap();
        assert!(second.duration_since(first) >= INTERVAL_MIN * 9 / 10);
        assert!(asks.is_empty());
    }
}
