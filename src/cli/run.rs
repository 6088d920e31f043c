//! Runs the proxy: starts its parts in the order in which they lean on each other, waits for a signal, and drains.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use super::stop::Stop;
use crate::balance::Fleet;
use crate::config::Config;
use crate::control::ControlPlane;
use crate::control::admin::AdminServer;
use crate::control::own::OwnListeners;
use crate::control::server::Serving;
use crate::observe::Counts;
use crate::proxy::{Proxy, Shared};
use crate::runtime::descriptors::Shares;
use crate::runtime::listen::{Listeners, listen};
use crate::runtime::{self, Counter, Counters, Mailboxes, Options, descriptors};

/// The admin API's part of the control plane's descriptors, for its connections; as many may be on their way out.
const ADMIN_PARTS: usize = 4;
/// With a table of hardly any descriptors an operator still wants to be heard.
const ADMIN_CONNECTIONS_MIN: usize = 4;
/// How long a draining proxy waits for a worker to pass its mailbox; one that takes longer is stuck.
const BARRIER_PATIENCE: Duration = Duration::from_secs(5);
/// How often a draining proxy looks whether all connections have ended.
const DRAIN_LOOK: Duration = Duration::from_millis(5);

/// Where a running proxy listens.
pub(super) struct Running {
    pub(super) proxy: Vec<SocketAddr>,
    pub(super) admin: SocketAddr,
}

impl Running {
    fn own(&self) -> OwnListeners {
        let proxy = self.proxy.iter().map(|&address| (address, "port"));
        OwnListeners(proxy.chain([(self.admin, "admin_port")]).collect())
    }
}

/// Runs the proxy of the configuration that `load` reads, until a signal ends it. Exit codes: 0 drained; 1 failed, or cut
/// by a later signal; 2 an address can't be listened on; any that `load` gives.
pub(super) fn run(load: impl FnOnce() -> Result<Config, ExitCode>) -> ExitCode {
    serve(
        || Ok((load()?, ())),
        |running, ()| {
            let proxy: Vec<String> = running.proxy.iter().map(ToString::to_string).collect();
            log::info!("listening on {}, admin API on {}", proxy.join(" and "), running.admin);
        },
    )
}

/// The same, and calls `ready` once connections are accepted, with what `load` gave beside the configuration.
pub(super) fn serve<T>(
    load: impl FnOnce() -> Result<(Config, T), ExitCode>,
    ready: impl FnOnce(&Running, T),
) -> ExitCode {
    // Before any thread is started, and before anything that takes time.
    let stop = match Stop::listen() {
        Ok(stop) => stop,
        Err(error) => {
            super::tell(&format!("can't start: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let (config, beside) = match load() {
        Ok(loaded) => loaded,
        Err(ended) => return ended,
    };
    stop.starting();
    let (listeners, admin) = match bind(&config) {
        Ok(bound) => bound,
        Err(taken) => return super::bad_usage(&taken),
    };
    match start(config, listeners, admin) {
        Ok((parts, running)) => {
            ready(&running, beside);
            stop.wait();
            parts.give_notice();
            stop.wait_for_grace(parts.shared.config.timeouts.grace);
            parts.drain()
        }
        Err(error) => {
            log::error!("can't start: {error}");
            ExitCode::FAILURE
        }
    }
}

fn bind(config: &Config) -> Result<(Vec<Listeners>, AdminServer), String> {
    let refused = |address: SocketAddr, error| format!("can't listen on {address}: {error}");
    let admin = SocketAddr::new(config.admin_bind, config.admin_port);
    let admin = AdminServer::bind(admin).map_err(|error| refused(admin, error))?;
    let listeners = config.bind.iter().map(|&ip| {
        let address = SocketAddr::new(ip, config.port);
        listen(address, config.workers).map_err(|error| refused(address, error))
    });
    Ok((listeners.collect::<Result<_, _>>()?, admin))
}

/// What runs.
struct Parts {
    shared: Arc<Shared>,
    mailboxes: Mailboxes,
    control: Arc<ControlPlane>,
    /// Ends the admin API when it is dropped.
    _admin: Serving,
}

fn start(config: Config, listeners: Vec<Listeners>, admin: AdminServer) -> std::io::Result<(Parts, Running)> {
    let workers = config.workers;
    let running = Running { proxy: listeners.iter().map(|each| each.address).collect(), admin: admin.address() };
    let (fleet, reports) = Fleet::with_queue((&config).into(), (&config).into());
    let fleet = Arc::new(fleet);
    let mailboxes = Arc::new(OnceLock::<Mailboxes>::new());
    let control = {
        let mailboxes = Arc::clone(&mailboxes);
        let barrier = move |patience| mailboxes.get().map_or(0, |mailboxes| mailboxes.barrier(patience));
        Arc::new(ControlPlane::start(&config, Arc::clone(&fleet), reports, workers, Box::new(barrier))?)
    };
    let room = Shares::of(descriptors::raise_limit()?, workers, listeners.len());
    let coroutines_max = runtime::coroutines_max();
    let connections_max = match config.limits.connections {
        // Each may have a request in progress at the same time. Where more are configured, some have to wait for a coroutine.
        0 => room.clients_max.min(coroutines_max),
        configured => configured.min(room.clients_max),
    };
    let shared = Shared::new(config, fleet, connections_max);
    let started = {
        let shared = Arc::clone(&shared);
        let (sockets_below, pipes_max) = (room.sockets_below, room.pipes_max);
        runtime::start(Options { workers, listeners, sockets_below, pipes_max, coroutines_max }, move |world| {
            Proxy::new(world, Arc::clone(&shared))
        })?
    };
    let (started, counters) = started;
    let mailboxes = mailboxes.get_or_init(|| started).clone();
    control.listens_on(running.own());
    control.set_serving();
    let counts = {
        let shared = Arc::clone(&shared);
        move || counts(&shared, &counters)
    };
    let admin_connections_max = (room.reserve / ADMIN_PARTS).max(ADMIN_CONNECTIONS_MIN);
    let admin = admin.serve(Arc::clone(&control), Box::new(counts), admin_connections_max)?;
    Ok((Parts { shared, mailboxes, control, _admin: admin }, running))
}

/// Adds up what the proxy and its workers have counted.
fn counts(shared: &Shared, workers: &[Arc<Counters>]) -> Counts {
    let sum = |count: fn(&Counters) -> &Counter| workers.iter().map(|worker| count(worker).value()).sum();
    Counts {
        connections_open: shared.connections(),
        accepted: sum(|worker| &worker.accepted),
        accept_errors: sum(|worker| &worker.accept_errors),
        failures: shared.failures.all(),
        queue: (shared.fleet.queue.waiting(), shared.fleet.queue.queued()),
        retries: shared.retries.totals(),
        panics: sum(|worker| &worker.panics),
    }
}

impl Parts {
    /// Says that it will stop, to balancers that ask, and goes on serving.
    fn give_notice(&self) {
        self.control.set_draining();
        let grace = self.shared.config.timeouts.grace;
        if !grace.is_zero() {
            log::info!("not ready any more, and serving for another {grace:?} (timeouts.grace)");
        }
    }

    /// Stops accepting, lets what is in flight finish, and ends.
    fn drain(&self) -> ExitCode {
        let deadline = Instant::now() + self.shared.config.timeouts.drain;
        log::info!("draining: {} connections are open", self.shared.connections());
        self.shared.drain();
        self.mailboxes.stop_accepting();
        // The first has the workers told, the second has them done: what was queued at the listeners is accepted then.
        for _ in 0..2 {
            self.mailboxes.barrier(deadline.saturating_duration_since(Instant::now()).min(BARRIER_PATIENCE));
        }
        while self.shared.connections() > 0 && Instant::now() < deadline {
            thread::sleep(DRAIN_LOOK);
        }
        match self.shared.connections() {
            0 => log::info!("drained"),
            left => log::warn!("{left} connections were cut: timeouts.drain is over"),
        }
        self.control.stop();
        ExitCode::SUCCESS
    }
}
