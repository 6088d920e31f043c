//! Runs the proxy: starts the parts, waits for a signal, and drains.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use crate::balance::{Backend, Fleet, Origin, Snapshot, Strategy};
use crate::config::{self, Config};
use crate::proxy::{Proxy, Shared};
use crate::runtime::listen::{Listeners, listen};
use crate::runtime::signals::StopSignals;
use crate::runtime::{self, Options, descriptors};

/// Where a running proxy listens.
pub struct Running {
    pub proxy: Vec<SocketAddr>,
    pub admin: SocketAddr,
}

pub(super) fn run(config: Config) -> ExitCode {
    serve(config, |_| ())
}

pub(super) fn serve(config: Config, ready: impl FnOnce(&Running)) -> ExitCode {
    let signals = StopSignals::block();
    let _ = env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info,may=warn")).try_init();
    let descriptors = descriptors::raise_limit().unwrap_or(1024);
    let workers = config.workers;
    let mut listeners = Vec::new();
    for address in &config.bind {
        let address = SocketAddr::new(*address, config.port);
        match listen(address, workers) {
            Ok(l) => listeners.push(l),
            Err(error) => return super::bad_usage(&format!("can't listen on {address}: {error}")),
        }
    }
    let (fleet, _reports) = Fleet::new(Strategy::RoundRobin);
    let fleet = Arc::new(fleet);
    let backends: Vec<Arc<Backend>> = config
        .backends
        .iter()
        .enumerate()
        .map(|(n, b)| {
            Arc::new(Backend::new(
                n as u64,
                n,
                Origin {
                    name: b.name.clone(),
                    url: b.url.written.clone(),
                    host: b.url.host.clone(),
                    port: b.url.port,
                    base_path: b.url.base_path.clone(),
                },
                workers,
            ))
        })
        .collect();
    fleet.snapshot.store(Arc::new(Snapshot {
        version: 1,
        eligible: backends.clone(),
        backends,
        strategy: Strategy::RoundRobin,
    }));
    let drain = config.timeouts.drain;
    let max = descriptors as usize - 512;
    let shared = Shared::new(config, Arc::clone(&fleet), max);
    let proxies = Arc::clone(&shared);
    let addresses = listeners.iter().map(|l| l.address).collect();
    let (mailboxes, counters) =
        match runtime::start(Options { workers, listeners }, move |world| Proxy::new(world, Arc::clone(&proxies))) {
            Ok(x) => x,
            Err(e) => return super::bad_usage(&format!("{e}")),
        };
    ready(&Running { proxy: addresses, admin: "127.0.0.1:1".parse().unwrap() });
    signals.wait();
    shared.drain();
    mailboxes.stop_accepting();
    mailboxes.barrier(Duration::from_secs(1));
    mailboxes.barrier(Duration::from_secs(1));
    let until = Instant::now() + drain;
    while shared.connections() > 0 && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(5));
    }
    ExitCode::SUCCESS
}
