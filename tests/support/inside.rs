//! A proxy inside the test's own process, on one real worker and in front of one backend: for what can't be brought about
//! from outside. A process has one set of workers, so one proxy.

use std::net::SocketAddr;
use std::sync::Arc;

use maypole::balance::{self, Backend, Member, Policy, Snapshot, Strategy};
use maypole::config::Config;
use maypole::plan::{Kept, Plan, Room};
use maypole::proxy::Shared;
use maypole::runtime::listen::listen;
use maypole::runtime::world::Service;
use maypole::runtime::{Counters, MayWorld, Options, start};

use crate::support::Origin;

/// A proxy that serves.
pub struct Inside {
    pub shared: Arc<Shared>,
    pub backend: Arc<Backend>,
    pub counters: Arc<[Arc<Counters>]>,
    /// Of its two listeners.
    pub ports: [u16; 2],
}

/// Starts a proxy whose worker is made by `serve`; `limits` are connections and coroutines at most.
pub fn start_inside<P, S>(
    origin: &Origin,
    config: Config,
    limits: (usize, usize),
    serve: impl Fn(MayWorld<P>, Arc<Shared>) -> S + Send + Sync + 'static,
) -> Inside
where
    P: 'static,
    S: Service<MayWorld<P>>,
{
    let (connections_max, coroutines_max) = limits;
    let config = Config { workers: 1, ..config };
    let (kept, _reports) = Kept::new(Room::of(1, connections_max));
    let backend = Arc::new(Backend::new(1, 0, place_of(origin), 1));
    let members = vec![Member::new(Arc::clone(&backend))];
    kept.pool.publish(Snapshot::new(1, members, Arc::new(Policy::of(Strategy::RoundRobin))));
    let shared = Shared::new(Plan::build(&config, &kept), kept);

    let listeners = [(); 2].map(|()| listen(SocketAddr::from(([127, 0, 0, 1], 0)), 1).expect("a port"));
    let ports = listeners.each_ref().map(|listeners| listeners.address.port());
    let serve = {
        let shared = Arc::clone(&shared);
        move |world| serve(world, Arc::clone(&shared))
    };
    let options =
        Options { workers: 1, listeners: listeners.into(), sockets_below: i32::MAX, pipes_max: 0, coroutines_max };
    let (_mailboxes, counters) = start(options, serve).expect("started");
    Inside { shared, backend, counters, ports }
}

fn place_of(origin: &Origin) -> balance::Origin {
    balance::Origin {
        name: "origin".into(),
        url: origin.url(),
        host: "127.0.0.1".into(),
        port: origin.port(),
        base_path: String::new(),
    }
}
