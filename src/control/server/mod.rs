//! A small blocking HTTP/1.1 server on OS threads, for what isn't the data plane: the admin API, the sample backends
//! and those of the demo. One thread a connection, bounded in number; messages by the project's own engine.

mod connection;
mod message;
mod shared;

use std::collections::VecDeque;
use std::io::{self, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::{Condvar, Mutex};
use socket2::{Domain, Socket, Type};

use self::connection::Connection;
pub use self::message::{Answer, Call};
pub use self::shared::{Bounds, Handler};
use self::shared::{Open, Shared};

/// Connections that the system holds for us until they are accepted.
const BACKLOG: i32 = 1024;
/// Handlers are shallow; debug builds and the panic machinery want some shared.
const STACK_BYTES: usize = 256 * 1024;
/// Connections that were turned away and are kept open for a moment, so that their clients can read why.
const TURNED_AWAY_MAX: usize = 64;
const TURNED_AWAY_LINGER: Duration = Duration::from_secs(1);
/// How long accepting rests when the system is out of descriptors or memory.
const ACCEPT_REST: Duration = Duration::from_millis(50);

/// A bound listener that doesn't answer yet.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
}

impl Server {
    /// Takes the address, alone: without `SO_REUSEPORT`, so a port that is taken is an error and not shared. Port 0
    /// lets the system choose one.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        socket.set_reuse_address(true)?; // past connections in TIME_WAIT don't count as taken
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        let listener = TcpListener::from(socket);
        let address = listener.local_addr()?;
        Ok(Self { listener, address })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Begins to answer. Fails if the system has no thread to give.
    pub fn serve(self, handler: impl Handler, bounds: Bounds) -> io::Result<Serving> {
        let shared = Arc::new(Shared {
            listener: self.listener,
            address: self.address,
            handler: Box::new(handler),
            bounds,
            stopping: AtomicBool::new(false),
            connections: Mutex::default(),
            left: Condvar::new(),
        });
        let accepting = Arc::clone(&shared);
        thread::Builder::new().name("maypole-accept".into()).spawn(move || accept(&accepting))?;
        Ok(Serving(shared))
    }
}

/// A server that answers, until it is stopped or dropped.
#[derive(Debug)]
pub struct Serving(Arc<Shared>);

impl Serving {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.0.address
    }

    /// Stops accepting, closes idle connections, and waits for up to `wait` until the requests in progress have been
    /// answered. True if they all were.
    pub fn stop(&self, wait: Duration) -> bool {
        self.0.close();
        let deadline = Instant::now() + wait;
        let mut connections = self.0.connections.lock();
        while !connections.is_empty() {
            if self.0.left.wait_until(&mut connections, deadline).timed_out() {
                return connections.is_empty();
            }
        }
        true
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Takes its connection off the books, however its thread ends.
struct Seat {
    shared: Arc<Shared>,
    key: usize,
    open: Arc<Open>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.shared.connections.lock().remove(self.key);
        self.shared.left.notify_all();
    }
}

fn accept(shared: &Arc<Shared>) {
    let mut turned_away: VecDeque<(TcpStream, Instant)> = VecDeque::new();
    while !shared.is_stopping() {
        match shared.listener.accept() {
            Ok((stream, _)) => {
                if let Err(stream) = seat(shared, stream) {
                    turn_away(stream, &mut turned_away, TURNED_AWAY_MAX.min(shared.bounds.connections));
                }
            }
            Err(_) if shared.is_stopping() => return,
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                log::warn!("can't accept on {}: {error}", shared.address);
                thread::sleep(ACCEPT_REST);
            }
        }
        while turned_away.front().is_some_and(|(_, at)| at.elapsed() >= TURNED_AWAY_LINGER) {
            turned_away.pop_front();
        }
    }
}

/// The connection was gone before it was accepted, or a signal came: nothing is short.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted)
}

/// Gives a connection a thread; gives it back if there is no shared.
fn seat(shared: &Arc<Shared>, stream: TcpStream) -> Result<(), Arc<Open>> {
    let open = Arc::new(Open { stream, idle: AtomicBool::new(true) });
    let mut connections = shared.connections.lock();
    if connections.len() >= shared.bounds.connections {
        return Err(open);
    }
    let key = connections.insert(Arc::clone(&open));
    drop(connections);
    let seat = Seat { shared: Arc::clone(shared), key, open: Arc::clone(&open) };
    let talk = move || Connection::new(&seat.shared, &seat.open).run();
    let spawned = thread::Builder::new().name("maypole-http".into()).stack_size(STACK_BYTES).spawn(talk);
    spawned.map(drop).map_err(|_| open)
}

/// Says 503 without waiting for anything, and keeps the connection for a moment: closing it at once, with its request
/// unread, would reset it and take the answer along (RFC 9112 §9.6).
fn turn_away(open: Arc<Open>, turned_away: &mut VecDeque<(TcpStream, Instant)>, kept_max: usize) {
    let mut bytes = Vec::new();
    Answer::problem(503, "too many connections").close().write(&mut bytes, false, SystemTime::now());
    if let Some(open) = Arc::into_inner(open)
        && open.stream.set_nonblocking(true).is_ok()
    {
        let mut stream = open.stream;
        let _ = stream.write(&bytes);
        let _ = stream.shutdown(Shutdown::Write);
        if turned_away.len() >= kept_max {
            turned_away.pop_front();
        }
        turned_away.push_back((stream, Instant::now()));
    }
}

#[cfg(test)]
mod tests;
