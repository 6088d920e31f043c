//! 4,000 backends that a worker has an idle connection to each are removed at once: what its sweep takes, piece by piece, of
//! which others have a turn in between. `bench/sweeps` counts a piece's instructions; this says how many pieces there are.
//!
//! Connections are made up here, so that what the kernel takes to close one isn't in it.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use maypole::balance::{Backend, Origin};
use maypole::runtime::world::{Instant, Need, PeerState, Pipe, Stream, Wake, Watch, World};
use maypole::upstream::IdleConnections;

const BACKENDS: u16 = 4_000;
const WORKERS: usize = 2;
const KEEP_ALIVE: Duration = Duration::from_secs(60);

#[derive(Clone)]
struct Nowhere;

struct Connection;

struct NoPipe;

impl Pipe for NoPipe {
    fn len(&self) -> usize {
        0
    }

    fn pour(&mut self, _into: &mut [u8]) -> usize {
        0
    }
}

impl Stream for Connection {
    type Pipe = NoPipe;

    fn try_read(&self, _into: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }

    fn try_write(&self, _from: &[IoSlice<'_>]) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }

    fn is_readable(&self) -> bool {
        false
    }

    fn is_writable(&self) -> bool {
        true
    }

    fn peer_state(&self) -> PeerState {
        PeerState::Open
    }

    fn is_quiet(&self, _thorough: bool) -> bool {
        true
    }

    fn take_connect_error(&self) -> io::Result<()> {
        Ok(())
    }

    fn pipe(&self, _body_bytes: u64) -> Option<NoPipe> {
        None
    }

    fn try_fill(&self, _pipe: &mut NoPipe, _bytes_max: usize) -> io::Result<usize> {
        Ok(0)
    }

    fn try_drain(&self, _pipe: &mut NoPipe) -> io::Result<usize> {
        Ok(0)
    }

    fn shutdown_write(&self) {}

    fn reset_on_close(&self) {}
}

impl World for Nowhere {
    type Stream = Connection;
    type Parked = ();

    fn now(&self) -> Instant {
        Instant(1)
    }

    fn unix_seconds(&self) -> u64 {
        0
    }

    fn random(&self) -> u64 {
        0
    }

    fn worker(&self) -> usize {
        0
    }

    fn connect(&self, _address: SocketAddr) -> io::Result<Connection> {
        Ok(Connection)
    }

    fn wait(&self, _on: &Connection, _also: Option<(&Connection, Watch)>, _deadline: Instant) -> Wake {
        Wake::Event
    }

    fn yield_now(&self, _on: &Connection) {}

    fn take_turns(&self, _on: &Connection) {}

    fn waker(&self, _on: &Connection) -> Waker {
        Waker::noop().clone()
    }

    fn park(&self, _stream: Connection, _parked: (), _deadline: Instant) {}

    fn park_for(&self, _need: Need, _stream: Connection, _parked: (), _deadline: Instant) {}

    fn tie(&self, _stream: &Connection, _also: &Connection) -> bool {
        false
    }

    fn resume_parked(&self) {}
}

fn backend(number: u16) -> Arc<Backend> {
    let origin = Origin {
        name: format!("backend-{number}"),
        url: format!("http://127.0.0.1:{number}"),
        host: "127.0.0.1".into(),
        port: number + 1,
        base_path: String::new(),
    };
    Arc::new(Backend::new(number.into(), number.into(), origin, WORKERS))
}

/// Its instructions are those that are counted.
#[inline(never)]
fn piece(idle: &IdleConnections<Nowhere>) -> bool {
    idle.sweep(KEEP_ALIVE)
}

fn main() {
    let retires = std::env::args().nth(1).as_deref() == Some("retired");
    let idle = IdleConnections::new(Nowhere);
    let backends: Vec<_> = (0..BACKENDS).map(backend).collect();
    for backend in &backends {
        idle.try_out(backend, &Connection, Instant::NEVER).expect("a connection");
    }
    assert_eq!(idle.idle(), usize::from(BACKENDS));
    if retires {
        backends.iter().for_each(|backend| backend.retire());
        // Nobody else has them any more: the sweep frees them.
        drop(backends);
    }
    let mut pieces = 1;
    while piece(&idle) {
        pieces += 1;
    }
    assert_eq!(idle.idle(), if retires { 0 } else { usize::from(BACKENDS) });
    println!("{pieces}");
}
