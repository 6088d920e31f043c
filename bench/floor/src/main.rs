//! The benchmark's floor: the system calls that a request costs any proxy over sockets, and next to nothing else.
//!
//! `floor PORT BACKEND BACKEND` listens on 127.0.0.1. What one read brings from a client goes to a backend in one
//! write, with the fields added that a proxy adds; what one read brings back goes to the client. So a request costs two
//! reads, two writes and its share of an `epoll_wait`: no proxy that gives each request a connection of its own can have
//! less. It parses nothing, times nothing out and takes every message to come in one piece, which holds for the small
//! messages of the benchmark only. What `bench/compare --also floor` shows for it is the kernel's part, and what a proxy
//! has above it is its own.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, RawFd};
use std::process::ExitCode;

/// What a proxy adds to a request.
const ADDED: &[u8] = b"X-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: 127.0.0.1\r\n\
X-Request-Id: 0123456789abcdef0123456789abcdef\r\nVia: 1.1 floor\r\n\r\n";
const BUFFER_BYTES: usize = 16 * 1024;
const EVENTS_MAX: usize = 1024;
const LISTENER: u64 = u64::MAX;

/// A connection; the one it is joined to for the request under way is named by its descriptor.
enum Connection {
    Client(TcpStream),
    Upstream { stream: TcpStream, backend: usize, client: Option<RawFd> },
}

struct Floor {
    epoll: RawFd,
    listener: TcpListener,
    backends: Vec<u16>,
    /// By descriptor.
    connections: Vec<Option<Connection>>,
    /// Idle connections to each backend.
    idle: Vec<Vec<RawFd>>,
    turn: usize,
}

impl Floor {
    fn new(port: u16, backends: Vec<u16>) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", port))?;
        listener.set_nonblocking(true)?;
        // SAFETY: no pointers; a failure shows at the first epoll_ctl.
        let epoll = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        let idle = backends.iter().map(|_| Vec::new()).collect();
        let floor = Self { epoll, listener, backends, connections: Vec::new(), idle, turn: 0 };
        floor.register(floor.listener.as_raw_fd(), libc::EPOLLIN.cast_unsigned(), LISTENER)?;
        Ok(floor)
    }

    fn register(&self, fd: RawFd, events: u32, key: u64) -> io::Result<()> {
        let mut event = libc::epoll_event { events, u64: key };
        // SAFETY: `event` is valid for the length of the call.
        match unsafe { libc::epoll_ctl(self.epoll, libc::EPOLL_CTL_ADD, fd, &raw mut event) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn run(mut self) -> io::Result<()> {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; EVENTS_MAX];
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            // SAFETY: `events` has room for EVENTS_MAX entries.
            let n = unsafe { libc::epoll_wait(self.epoll, events.as_mut_ptr(), EVENTS_MAX as i32, -1) };
            for event in &events[..usize::try_from(n).unwrap_or(0)] {
                match event.u64 {
                    LISTENER => self.accept()?,
                    key => self.ready(key as RawFd, &mut buffer)?,
                }
            }
        }
    }

    fn accept(&mut self) -> io::Result<()> {
        while let Ok((stream, _)) = self.listener.accept() {
            self.adopt(&stream)?;
            let fd = stream.as_raw_fd() as usize;
            self.connections[fd] = Some(Connection::Client(stream));
        }
        Ok(())
    }

    fn adopt(&mut self, stream: &TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let fd = stream.as_raw_fd();
        if self.connections.len() <= fd as usize {
            self.connections.resize_with(fd as usize + 1, || None);
        }
        self.register(fd, (libc::EPOLLIN | libc::EPOLLRDHUP | libc::EPOLLET).cast_unsigned(), fd as u64)
    }

    fn ready(&mut self, fd: RawFd, buffer: &mut [u8]) -> io::Result<()> {
        let Some(connection) = &mut self.connections[fd as usize] else { return Ok(()) };
        let stream = match connection {
            Connection::Client(stream) | Connection::Upstream { stream, .. } => stream,
        };
        let room = buffer.len() - ADDED.len();
        let n = match stream.read(&mut buffer[..room]) {
            Ok(0) => return self.close(fd),
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(_) => return self.close(fd),
        };
        match connection {
            Connection::Upstream { backend, client, .. } => {
                let (backend, client) = (*backend, client.take());
                self.idle[backend].push(fd);
                let client = client.and_then(|client| self.connections[client as usize].as_mut());
                // A client that left meanwhile is closed by its own event.
                if let Some(Connection::Client(stream)) = client {
                    let _ = stream.write_all(&buffer[..n]);
                }
                Ok(())
            }
            Connection::Client(_) => {
                // The fields go where the head's empty line was.
                let end = n.saturating_sub(2);
                buffer[end..end + ADDED.len()].copy_from_slice(ADDED);
                let upstream = self.upstream()?;
                if let Some(Connection::Upstream { stream, client, .. }) = &mut self.connections[upstream as usize] {
                    *client = Some(fd);
                    stream.write_all(&buffer[..end + ADDED.len()])?;
                }
                Ok(())
            }
        }
    }

    /// An idle connection to the backend whose turn it is, or a new one.
    fn upstream(&mut self) -> io::Result<RawFd> {
        let backend = self.turn;
        self.turn = (backend + 1) % self.backends.len();
        if let Some(fd) = self.idle[backend].pop() {
            return Ok(fd);
        }
        let stream = TcpStream::connect(("127.0.0.1", self.backends[backend]))?;
        self.adopt(&stream)?;
        let fd = stream.as_raw_fd();
        self.connections[fd as usize] = Some(Connection::Upstream { stream, backend, client: None });
        Ok(fd)
    }

    fn close(&mut self, fd: RawFd) -> io::Result<()> {
        self.idle.iter_mut().for_each(|idle| idle.retain(|&other| other != fd));
        self.connections[fd as usize] = None;
        Ok(())
    }
}

fn main() -> ExitCode {
    let ports: Option<Vec<u16>> = std::env::args().skip(1).map(|port| port.parse().ok()).collect();
    let Some((&port, backends)) = ports.as_deref().and_then(<[u16]>::split_first).filter(|(_, rest)| !rest.is_empty())
    else {
        eprintln!("usage: floor PORT BACKEND...");
        return ExitCode::from(2);
    };
    match Floor::new(port, backends.to_vec()).and_then(Floor::run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("floor: {error}");
            ExitCode::FAILURE
        }
    }
}
