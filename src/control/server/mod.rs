//! A small blocking HTTP/1.1 server on OS threads, for what isn't the data plane: the admin API, the sample backends
//! and those of the demo. One thread a connection, bounded in number; messages by the project's own engine.

mod connection;
mod message;

use std::collections::VecDeque;
use std::io::{self, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::{Condvar, Mutex};
use slab::Slab;
use socket2::{Domain, SockRef, Socket, Type};

use self::connection::Connection;
pub use self::message::{Answer, Call};

/// Connections that the system holds for us until they are accepted.
const BACKLOG: i32 = 1024;
/// Handlers are shallow; debug builds and the panic machinery want some room.
const STACK_BYTES: usize = 256 * 1024;
/// Connections that were turned away and are kept open for a moment, so that their clients can read why.
const TURNED_AWAY_MAX: usize = 64;
const TURNED_AWAY_LINGER: Duration = Duration::from_secs(1);
/// How long accepting rests when the system is out of descriptors or memory.
const ACCEPT_REST: Duration = Duration::from_millis(50);

/// The bounds that a server keeps.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Connections at once; one more gets 503 and is closed.
    pub connections: usize,
    /// For a request's head, from its first byte (the first one's from the connection's start).
    pub head: Duration,
    /// For a request's body.
    pub body: Duration,
    /// Between two requests.
    pub idle: Duration,
    /// For an answer to be taken by the client.
    pub write: Duration,
    /// A request's body; a larger one gets 413.
    pub body_bytes: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            connections: 512,
            head: Duration::from_secs(10),
            body: Duration::from_secs(30),
            idle: Duration::from_secs(60),
            write: Duration::from_secs(30),
            body_bytes: 1024 * 1024,
        }
    }
}

/// What answers requests, on the thread of the connection that they came by. A panic in it becomes a 500.
pub trait Handler: Send + Sync + 'static {
    /// Answers one request.
    fn answer(&self, call: &Call) -> Answer;
}

impl<F: Fn(&Call) -> Answer + Send + Sync + 'static> Handler for F {
    fn answer(&self, call: &Call) -> Answer {
        self(call)
    }
}

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
        let room = Arc::new(Room {
            listener: self.listener,
            address: self.address,
            handler: Box::new(handler),
            bounds,
            stopping: AtomicBool::new(false),
            connections: Mutex::default(),
            left: Condvar::new(),
        });
        let accepting = Arc::clone(&room);
        thread::Builder::new().name("maypole-accept".into()).spawn(move || accept(&accepting))?;
        Ok(Serving(room))
    }
}

/// A server that answers, until it is stopped or dropped.
#[derive(Debug)]
pub struct Serving(Arc<Room>);

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

/// What the threads of one server share.
struct Room {
    listener: TcpListener,
    address: SocketAddr,
    handler: Box<dyn Handler>,
    bounds: Bounds,
    stopping: AtomicBool,
    connections: Mutex<Slab<Arc<Open>>>,
    /// Signalled when a connection has gone.
    left: Condvar,
}

/// A connection, as seen from outside its thread.
#[derive(Debug)]
struct Open {
    stream: TcpStream,
    /// No byte of a request has come since the last answer.
    idle: AtomicBool,
}

impl Room {
    fn close(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        // On Linux this wakes the thread that accepts.
        let _ = SockRef::from(&self.listener).shutdown(Shutdown::Both);
        for (_, open) in &*self.connections.lock() {
            if open.idle.load(Ordering::SeqCst) {
                let _ = open.stream.shutdown(Shutdown::Both);
            }
        }
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }
}

impl std::fmt::Debug for Room {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Room").field("address", &self.address).field("bounds", &self.bounds).finish_non_exhaustive()
    }
}

/// Takes its connection off the books, however its thread ends.
struct Seat {
    room: Arc<Room>,
    key: usize,
    open: Arc<Open>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.room.connections.lock().remove(self.key);
        self.room.left.notify_all();
    }
}

fn accept(room: &Arc<Room>) {
    let mut turned_away: VecDeque<(TcpStream, Instant)> = VecDeque::new();
    while !room.is_stopping() {
        match room.listener.accept() {
            Ok((stream, _)) => {
                if let Err(stream) = seat(room, stream) {
                    turn_away(stream, &mut turned_away, TURNED_AWAY_MAX.min(room.bounds.connections));
                }
            }
            Err(_) if room.is_stopping() => return,
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                log::warn!("can't accept on {}: {error}", room.address);
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

/// Gives a connection a thread; gives it back if there is no room.
fn seat(room: &Arc<Room>, stream: TcpStream) -> Result<(), Arc<Open>> {
    let open = Arc::new(Open { stream, idle: AtomicBool::new(true) });
    let mut connections = room.connections.lock();
    if connections.len() >= room.bounds.connections {
        return Err(open);
    }
    let key = connections.insert(Arc::clone(&open));
    drop(connections);
    let seat = Seat { room: Arc::clone(room), key, open: Arc::clone(&open) };
    let talk = move || Connection::new(&seat.room, &seat.open).run();
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
