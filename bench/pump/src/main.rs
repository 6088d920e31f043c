//! What moving a body costs, by the way that it is moved: `pump PORT BACKEND copy|splice BYTES`.
//!
//! Every connection to PORT of 127.0.0.1 gets one of its own to BACKEND, and bytes go both ways between them as they
//! come, on one thread: nothing is parsed or timed out. `copy` reads up to BYTES into a buffer and writes them; `splice`
//! moves them through a pipe that holds BYTES and is taken from a pool only while bytes are under way.
//! `bench/large` compares them.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::process::ExitCode;

const EVENTS_MAX: usize = 1024;
const LISTENER: u64 = u64::MAX;

#[derive(Clone, Copy)]
enum Way {
    Copy,
    Splice,
}

/// What has been taken from one side and not yet been given to the other.
enum Pending {
    Nothing,
    Bytes(Vec<u8>),
    Piped(Pipe, usize),
}

struct Pipe {
    reading: OwnedFd,
    writing: OwnedFd,
}

impl Pipe {
    fn open(bytes: usize) -> io::Result<Self> {
        let mut fds = [0; 2];
        // SAFETY: there is room for two descriptors.
        if unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC | libc::O_NONBLOCK) } < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: pipe2 just returned them, and nobody else has them.
        let [reading, writing] = fds.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
        // SAFETY: no pointers. A kernel that refuses leaves the pipe smaller.
        unsafe { libc::fcntl(writing.as_raw_fd(), libc::F_SETPIPE_SZ, bytes) };
        Ok(Self { reading, writing })
    }
}

/// Moves up to `bytes` between a socket and a pipe; 0 is the end of the stream.
fn splice(from: RawFd, to: RawFd, bytes: usize) -> io::Result<usize> {
    let flags = libc::SPLICE_F_MOVE | libc::SPLICE_F_NONBLOCK;
    // SAFETY: null offsets are what sockets and pipes take.
    let n = unsafe { libc::splice(from, std::ptr::null_mut(), to, std::ptr::null_mut(), bytes, flags) };
    usize::try_from(n).map_err(|_| io::Error::last_os_error())
}

struct Pair {
    streams: [TcpStream; 2],
    /// By the side they come from.
    pending: [Pending; 2],
    ended: [bool; 2],
}

struct Pump {
    epoll: RawFd,
    listener: TcpListener,
    backend: u16,
    way: Way,
    buffer: Vec<u8>,
    pipes: Vec<Pipe>,
    pairs: Vec<Option<Pair>>,
}

impl Pump {
    fn new(port: u16, backend: u16, way: Way, bytes: usize) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", port))?;
        listener.set_nonblocking(true)?;
        // SAFETY: no pointers; a failure shows at the first epoll_ctl.
        let epoll = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        let pump = Self { epoll, listener, backend, way, buffer: vec![0; bytes], pipes: Vec::new(), pairs: Vec::new() };
        pump.register(pump.listener.as_raw_fd(), libc::EPOLLIN, LISTENER)?;
        Ok(pump)
    }

    fn register(&self, fd: RawFd, events: i32, key: u64) -> io::Result<()> {
        let mut event = libc::epoll_event { events: events.cast_unsigned(), u64: key };
        // SAFETY: `event` is valid for the length of the call.
        match unsafe { libc::epoll_ctl(self.epoll, libc::EPOLL_CTL_ADD, fd, &raw mut event) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn run(mut self) -> io::Result<()> {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; EVENTS_MAX];
        loop {
            // SAFETY: `events` has room for EVENTS_MAX entries.
            let n = unsafe { libc::epoll_wait(self.epoll, events.as_mut_ptr(), EVENTS_MAX as i32, -1) };
            for event in &events[..usize::try_from(n).unwrap_or(0)] {
                match event.u64 {
                    LISTENER => self.accept()?,
                    key => self.ready(key as usize / 2, key as usize % 2, event.events.cast_signed()),
                }
            }
        }
    }

    fn accept(&mut self) -> io::Result<()> {
        while let Ok((client, _)) = self.listener.accept() {
            let streams = [client, TcpStream::connect(("127.0.0.1", self.backend))?];
            let number = self.pairs.len();
            for (side, stream) in streams.iter().enumerate() {
                stream.set_nodelay(true)?;
                stream.set_nonblocking(true)?;
                let events = libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLET;
                self.register(stream.as_raw_fd(), events, (number * 2 + side) as u64)?;
            }
            self.pairs.push(Some(Pair { streams, pending: [Pending::Nothing, Pending::Nothing], ended: [false; 2] }));
        }
        Ok(())
    }

    fn ready(&mut self, number: usize, side: usize, events: i32) {
        let Some(mut pair) = self.pairs[number].take() else { return };
        let readable = events & !libc::EPOLLOUT != 0;
        let waited_for = !matches!(pair.pending[1 - side], Pending::Nothing);
        let moved = (|| {
            if readable {
                self.step(&mut pair, side)?;
            }
            if events & libc::EPOLLOUT != 0 && waited_for {
                self.step(&mut pair, 1 - side)?;
            }
            Ok::<_, io::Error>(())
        })();
        // The connections close where the pair is dropped.
        if moved.is_ok() && pair.ended != [true; 2] {
            self.pairs[number] = Some(pair);
        }
    }

    /// Moves what comes from `side`, until there is no more or the other side takes no more.
    fn step(&mut self, pair: &mut Pair, side: usize) -> io::Result<()> {
        let (from, to) = (&pair.streams[side], &pair.streams[1 - side]);
        loop {
            pair.pending[side] = self.give(std::mem::replace(&mut pair.pending[side], Pending::Nothing), to)?;
            if !matches!(pair.pending[side], Pending::Nothing) || pair.ended[side] {
                return Ok(());
            }
            let (taken, left) = match self.pass(from, to) {
                Ok(passed) => passed,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            pair.pending[side] = left;
            if taken == 0 {
                pair.ended[side] = true;
                return to.shutdown(Shutdown::Write);
            }
            // After a short read an event tells of what comes next. A pipe counts pages, and may be full of fewer bytes.
            if matches!(self.way, Way::Copy) && taken < self.buffer.len() {
                return Ok(());
            }
        }
    }

    /// Takes what can be had at once and gives what is taken of it: how many bytes were had, and what is left of them.
    fn pass(&mut self, mut from: &TcpStream, mut to: &TcpStream) -> io::Result<(usize, Pending)> {
        match self.way {
            Way::Copy => {
                let taken = from.read(&mut self.buffer)?;
                let given = if taken == 0 { 0 } else { written(to.write(&self.buffer[..taken]))? };
                let left = &self.buffer[given..taken];
                Ok((taken, if left.is_empty() { Pending::Nothing } else { Pending::Bytes(left.to_vec()) }))
            }
            Way::Splice => {
                let bytes = self.buffer.len();
                let pipe = self.pipes.pop().map_or_else(|| Pipe::open(bytes), Ok)?;
                match splice(from.as_raw_fd(), pipe.writing.as_raw_fd(), bytes) {
                    Ok(taken) if taken > 0 => Ok((taken, self.give(Pending::Piped(pipe, taken), to)?)),
                    nothing => {
                        self.pipes.push(pipe);
                        nothing.map(|_| (0, Pending::Nothing))
                    }
                }
            }
        }
    }

    /// Gives what is pending as far as it is taken; what is left of it.
    fn give(&mut self, pending: Pending, mut to: &TcpStream) -> io::Result<Pending> {
        match pending {
            Pending::Nothing => Ok(Pending::Nothing),
            Pending::Bytes(mut bytes) => {
                let given = written(to.write(&bytes))?;
                bytes.drain(..given);
                Ok(if bytes.is_empty() { Pending::Nothing } else { Pending::Bytes(bytes) })
            }
            Pending::Piped(pipe, bytes) => {
                let left = bytes - written(splice(pipe.reading.as_raw_fd(), to.as_raw_fd(), bytes))?;
                if left > 0 {
                    return Ok(Pending::Piped(pipe, left));
                }
                self.pipes.push(pipe);
                Ok(Pending::Nothing)
            }
        }
    }
}

fn written(result: io::Result<usize>) -> io::Result<usize> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
        other => other,
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let parsed = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [port, backend, way, bytes] => {
            port.parse().ok().zip(backend.parse().ok()).zip(bytes.parse().ok()).zip(match way {
                "copy" => Some(Way::Copy),
                "splice" => Some(Way::Splice),
                _ => None,
            })
        }
        _ => None,
    };
    let Some((((port, backend), bytes), way)) = parsed else {
        eprintln!("usage: pump PORT BACKEND copy|splice BYTES");
        return ExitCode::from(2);
    };
    match Pump::new(port, backend, way, bytes).and_then(Pump::run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pump: {error}");
            ExitCode::FAILURE
        }
    }
}
