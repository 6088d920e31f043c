//! Workers get fair shares of few long connections, whichever listener the kernel chose for them.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use maypole::runtime::listen::listen;
use maypole::runtime::world::{Arrival, Service, Wake, World};
use maypole::runtime::{MayWorld, Options, start};

const WORKERS: usize = 2;
/// The kernel alone deals eight connections out evenly in one round of four.
const ROUNDS: usize = 6;
/// How long connections live at least, to count as long.
const LIFETIME: Duration = Duration::from_millis(150);
/// How long anything here may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Keeps each connection until its client closes it.
struct Keep(MayWorld<()>);

impl Service<MayWorld<()>> for Keep {
    fn accepted(&self, stream: <MayWorld<()> as World>::Stream, _arrival: Arrival) {
        self.0.park(stream, (), self.0.now() + PATIENCE);
    }

    fn resumed(&self, _stream: <MayWorld<()> as World>::Stream, _parked: (), _wake: Wake) {}

    fn tick(&self) {}
}

/// One test, since the workers belong to the process.
#[test]
fn every_worker_has_its_share_of_few_long_connections() {
    let listeners = listen("127.0.0.1:0".parse().unwrap(), WORKERS).unwrap();
    let address = listeners.address;
    let (_mailboxes, counters) = start(
        Options {
            workers: WORKERS,
            listeners: vec![listeners],
            sockets_below: i32::MAX,
            pipes_max: 0,
            coroutines_max: 1000,
        },
        Keep,
    )
    .unwrap();
    // One that is on its way from a worker to another is counted by neither, so what was seen a moment ago proves nothing.
    let wait_until = |what: &str, holds: &dyn Fn(&[u64]) -> bool| {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let open: Vec<u64> = counters.iter().map(|each| each.open()).collect();
            if holds(&open) {
                break;
            }
            assert!(Instant::now() < deadline, "{what} should be open: {open:?}");
            std::thread::yield_now();
        }
    };
    let wait_for = |total: u64| wait_until(&format!("{total}"), &|open| open.iter().sum::<u64>() == total);

    for _ in 0..ROUNDS {
        let began = Instant::now();
        let mut clients = Vec::new();
        for total in 1..=8 {
            clients.push(TcpStream::connect(address).unwrap());
            wait_for(total);
        }
        wait_until("4 on each", &|open| open == [4, 4]);
        std::thread::sleep(LIFETIME.saturating_sub(began.elapsed()));
        drop(clients);
        wait_for(0);
    }

    // All at once, so that many are on their way to another worker at the same time.
    let clients: Vec<_> = (0..400).map(|_| TcpStream::connect(address).unwrap()).collect();
    wait_until("400 in fair shares", &|open| {
        let (fewest, most) = (open.iter().min().unwrap(), open.iter().max().unwrap());
        open.iter().sum::<u64>() == 400 && *most <= fewest + fewest / 8 + 2
    });
    drop(clients);
    wait_for(0);
}
