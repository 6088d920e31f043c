//! Runs the proxy: starts its parts in the order in which they lean on each other, waits for a signal, and drains.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use super::output::{bad_usage, tell};
use super::stop::Stop;
use super::tls::{self, Front};
use crate::config::Config;
use crate::control::ControlPlane;
use crate::control::acme::Keeping;
use crate::control::admin::AdminServer;
use crate::control::own::OwnListeners;
use crate::control::server::Serving;
use crate::observe::{Counts, HandshakeCounts};
use crate::plan::{Kept, Plan, Room};
use crate::proxy::{Proxy, Shared};
use crate::runtime::descriptors::Shares;
use crate::runtime::listen::{Listeners, listen};
use crate::runtime::{self, Counter, Counters, Mailboxes, Options, descriptors};
use crate::transport::LayeredService;

/// The field that says where TLS is.
const TLS_PORT: &str = "tls.port";
/// The admin API's part of the control plane's descriptors, for its connections; as many may be on their way out.
const ADMIN_PARTS: usize = 4;
/// With a table of hardly any descriptors an operator still wants to be heard.
const ADMIN_CONNECTIONS_MIN: usize = 4;
/// How long a draining proxy waits for a worker to pass its mailbox; one that takes longer is stuck.
const BARRIER_WAIT_MAX: Duration = Duration::from_secs(5);
/// How often a draining proxy looks whether all connections have ended.
const DRAIN_POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Where a running proxy listens.
pub(super) struct Running {
    /// In clear and by TLS, in the order of the workers' listeners.
    pub(super) proxy: Vec<Place>,
    pub(super) admin: SocketAddr,
}

/// Where clients connect.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) address: SocketAddr,
    /// The field that says so.
    field: &'static str,
    tls: bool,
}

impl Running {
    /// Where clients connect by TLS, first of all.
    pub(super) fn by_tls(&self) -> Option<SocketAddr> {
        self.proxy.iter().find(|place| place.tls).map(|place| place.address)
    }

    fn own(&self) -> OwnListeners {
        let proxy = self.proxy.iter().map(|place| (place.address, place.field));
        OwnListeners(proxy.chain([(self.admin, "admin_port")]).collect())
    }
}

#[cfg(test)]
impl Place {
    pub(super) fn in_clear(address: SocketAddr) -> Self {
        Self { address, field: "port", tls: false }
    }

    pub(super) fn by_tls(address: SocketAddr) -> Self {
        Self { address, field: TLS_PORT, tls: true }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.address, if self.tls { " (TLS)" } else { "" })
    }
}

/// Runs the proxy of the configuration that `load` reads, until a signal ends it. Exit codes: 0 drained; 1 failed, or cut
/// by a later signal; 2 an address can't be listened on; any that `load` gives.
pub(super) fn run(load: impl FnOnce() -> Result<Config, ExitCode>) -> ExitCode {
    serve(
        |_| Ok((load()?, ())),
        |running, ()| {
            let proxy: Vec<String> = running.proxy.iter().map(ToString::to_string).collect();
            log::info!("listening on {}, admin API on {}", proxy.join(" and "), running.admin);
        },
    )
}

/// The same, and calls `ready` once connections are accepted, with what `load` gave beside the configuration.
pub(super) fn serve<T>(
    load: impl FnOnce(&Stop) -> Result<(Config, T), ExitCode>,
    ready: impl FnOnce(&Running, T),
) -> ExitCode {
    // Before any thread is started, and before anything that takes time.
    let stop = match Stop::listen() {
        Ok(stop) => stop,
        Err(error) => {
            tell(&format!("can't start: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let (mut config, beside) = match load(&stop) {
        Ok(loaded) => loaded,
        Err(ended) => return ended,
    };
    stop.starting();
    let front = match config.tls.as_ref().map(Front::open).transpose() {
        Ok(front) => front,
        Err(wrong) => return bad_usage(&wrong),
    };
    let bound = match bind(&mut config) {
        Ok(bound) => bound,
        Err(taken) => return bad_usage(&taken),
    };
    match start(&config, bound, front) {
        Ok((parts, running)) => {
            let control = Arc::clone(&parts.control);
            stop.on_hangup(move || control.look_at_certificates());
            ready(&running, beside);
            stop.wait();
            parts.give_notice();
            stop.wait_for_grace(parts.shared.plan().connections.grace);
            parts.drain()
        }
        Err(error) => {
            log::error!("can't start: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What is listened on.
struct Bound {
    listeners: Vec<Listeners>,
    /// Beside each of them.
    places: Vec<Place>,
    admin: AdminServer,
}

fn bind(config: &mut Config) -> Result<Bound, String> {
    let refused = |address: SocketAddr, error| format!("can't listen on {address}: {error}");
    let admin = SocketAddr::new(config.admin_bind, config.admin_port);
    let admin = AdminServer::bind(admin).map_err(|error| refused(admin, error))?;
    let (mut listeners, mut places) = (Vec::new(), places(config));
    for place in &mut places {
        let bound = listen(place.address, config.workers).map_err(|error| refused(place.address, error))?;
        place.address = bound.address;
        listeners.push(bound);
    }
    // Clients are told where TLS is; where the system chose the port, it isn't known before.
    if let Some(port) = config.tls.as_mut().and_then(|tls| tls.port.as_mut()) {
        let of_tls = places.iter().find(|place| place.field == TLS_PORT);
        *port = of_tls.map_or(*port, |place| place.address.port());
    }
    Ok(Bound { listeners, places, admin })
}

fn places(config: &Config) -> Vec<Place> {
    let at = |bind: &[IpAddr], port: u16, field, tls| {
        let place = |ip: &IpAddr| Place { address: SocketAddr::new(*ip, port), field, tls };
        bind.iter().map(place).collect::<Vec<_>>()
    };
    let mut places = at(&config.bind, config.port, "port", false);
    if let Some((bind, port)) = config.tls.as_ref().and_then(|tls| Some((&tls.bind, tls.port?))) {
        places.extend(at(bind, port, TLS_PORT, true));
    }
    for beside in &config.listeners {
        places.extend(at(&beside.bind, beside.port, "listeners", beside.tls));
    }
    places
}

/// What runs.
struct Parts {
    shared: Arc<Shared>,
    mailboxes: Mailboxes,
    control: Arc<ControlPlane>,
    /// Ends the admin API when it is dropped.
    _admin: Serving,
    /// Ends that certificates are got when it is dropped.
    _acme: Option<Keeping>,
}

fn start(config: &Config, bound: Bound, front: Option<Front>) -> std::io::Result<(Parts, Running)> {
    let workers = config.workers;
    let Bound { listeners, places, admin } = bound;
    let by_tls = places.iter().enumerate().filter(|(_, place)| place.tls).map(|(nth, _)| nth).collect();
    let running = Running { proxy: places, admin: admin.address() };
    let descriptors = Shares::of(descriptors::raise_limit()?, workers, listeners.len());
    let rules = front.as_ref().map(|front| front.rules(by_tls, workers, descriptors.clients_max));
    let handshakes = rules.as_ref().map(|rules| Arc::clone(&rules.counts));
    let handshakes_max = rules.as_ref().map_or(0, |rules| rules.handshakes_max * workers);
    let descriptors = Shares { clients_max: (descriptors.clients_max - handshakes_max).max(1), ..descriptors };
    let coroutines_max = runtime::coroutines_max();
    // Each may have a request in progress at the same time. Where more are configured, some have to wait for a coroutine.
    let connections = descriptors.clients_max.min(coroutines_max);
    let Shares { clients_max: connections_max, turned_away_max, .. } = descriptors;
    let (mut kept, reports) = Kept::new(Room { workers, connections, connections_max, turned_away_max });
    if let Some(front) = &front {
        kept.challenges = Arc::clone(&front.challenges);
    }
    let plan = Plan::build(config, &kept);
    let mailboxes = Arc::new(OnceLock::<Mailboxes>::new());
    let control = {
        let mailboxes = Arc::clone(&mailboxes);
        let barrier = move |wait_max| mailboxes.get().map_or(0, |mailboxes| mailboxes.barrier(wait_max));
        Arc::new(ControlPlane::start(config, &plan.route, reports, workers, Box::new(barrier))?)
    };
    let shared = Shared::new(plan, kept);
    let started = {
        let (shared, backends) = (Arc::clone(&shared), control.backend_tls());
        let (sockets_below, pipes_max) = (descriptors.sockets_below, descriptors.pipes_max);
        runtime::start(Options { workers, listeners, sockets_below, pipes_max, coroutines_max }, move |world| {
            let layered = LayeredService::over(world, |world| Proxy::new(world, Arc::clone(&shared)));
            let layered = layered.with_backends(Arc::clone(&backends));
            if let Some(rules) = &rules { layered.with_tls(rules.clone()) } else { layered }
        })?
    };
    let (started, counters) = started;
    let acme = tls::watch(front, config, &control)?;
    let mailboxes = mailboxes.get_or_init(|| started).clone();
    control.listens_on(running.own());
    if config.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some() && !tls.redirect_http) {
        let asks_nobody = |place: &&Place| !place.tls && !place.address.ip().to_canonical().is_loopback();
        for place in running.proxy.iter().filter(asks_nobody) {
            let advice = "\"tls.redirect_http\" sends them to TLS";
            log::warn!(
                "{place} is in clear, so that clients need no certificate there, whatever \"tls.client_ca\" says: {advice}"
            );
        }
    }
    control.set_serving();
    let counts = {
        let shared = Arc::clone(&shared);
        move || counts(&shared, &counters, handshakes.as_deref())
    };
    let admin_connections_max = (descriptors.reserve / ADMIN_PARTS).max(ADMIN_CONNECTIONS_MIN);
    let admin = admin.serve(Arc::clone(&control), Box::new(counts), admin_connections_max)?;
    Ok((Parts { shared, mailboxes, control, _admin: admin, _acme: acme }, running))
}

/// Adds up what the proxy and its workers have counted.
fn counts(shared: &Shared, workers: &[Arc<Counters>], handshakes: Option<&HandshakeCounts>) -> Counts {
    let sum = |count: fn(&Counters) -> &Counter| workers.iter().map(|worker| count(worker).value()).sum();
    let pool = &shared.kept.pool;
    Counts {
        connections_open: shared.connections(),
        accepted: sum(|worker| &worker.accepted),
        accept_errors: sum(|worker| &worker.accept_errors),
        failures: shared.failures.all(),
        queue: (pool.line.waiting(), pool.line.queued()),
        retries: pool.retry_cells.totals(),
        handshakes: handshakes.map(HandshakeCounts::totals),
        panics: sum(|worker| &worker.panics),
    }
}

impl Parts {
    /// From now on `/readyz` answers that it isn't ready, so that a balancer in front of it sends no more; it goes on serving.
    fn give_notice(&self) {
        self.control.set_draining();
        let grace = self.shared.plan().connections.grace;
        if !grace.is_zero() {
            log::info!("not ready any more, and serving for another {grace:?} (timeouts.grace)");
        }
    }

    /// Stops accepting, lets what is in flight finish, and ends.
    fn drain(&self) -> ExitCode {
        let deadline = Instant::now() + self.shared.plan().connections.drain;
        log::info!("draining: {} connections are open", self.shared.connections());
        self.shared.drain();
        self.mailboxes.stop_accepting();
        // The first has the workers told, the second has them done: what was queued at the listeners is accepted then.
        for _ in 0..2 {
            self.mailboxes.barrier(deadline.saturating_duration_since(Instant::now()).min(BARRIER_WAIT_MAX));
        }
        while self.shared.connections() > 0 && Instant::now() < deadline {
            thread::sleep(DRAIN_POLL_INTERVAL);
        }
        match self.shared.connections() {
            0 => log::info!("drained"),
            left => log::warn!("{left} connections were cut: timeouts.drain is over"),
        }
        self.control.stop();
        ExitCode::SUCCESS
    }
}
