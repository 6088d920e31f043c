//! A homed TCP stream: non-blocking reads and writes with remembered readiness.

use std::cell::Cell;
use std::io::{self, IoSlice, Write};
use std::net::{Shutdown, TcpStream as StdStream};
use std::os::fd::{AsRawFd, RawFd};

use may::io::AsIoData;
use may::net::TcpStream;

use super::pipe::KernelPipe;
use super::socket;
use super::world::{PeerState, Stream};

/// Bits of readiness, those of epoll: each of these lets a read (a write) go on.
const READ: u32 = libc::EPOLLIN as u32 | libc::EPOLLRDHUP as u32 | GONE;
const WRITE: u32 = libc::EPOLLOUT as u32 | GONE;
const GONE: u32 = libc::EPOLLHUP as u32 | libc::EPOLLERR as u32;
/// The end is in sight: a short read doesn't mean that nothing follows.
const ENDING: u32 = libc::EPOLLRDHUP as u32 | GONE;

/// Figures that `SO_MEMINFO` brings, and which of them are asked for here.
const SOCKET_MEMORY: usize = libc::SK_MEMINFO_DROPS as usize + 1;
const SEND_BUFFER: usize = libc::SK_MEMINFO_SNDBUF as usize;
const SEND_QUEUE: usize = libc::SK_MEMINFO_WMEM_QUEUED as usize;

/// What a stream asks of its worker.
pub trait Owner: 'static {
    /// Drops what is kept of the stream with this key; its descriptor is about to be closed.
    fn forget(&self, key: usize);

    /// The events that the parking lot has told of, once.
    fn take_lot_events(&self, key: usize) -> u32;

    /// See [`Stream::pipe`].
    fn pipe(&self, body_bytes: u64) -> Option<KernelPipe>;
}

/// A stream of a `may` worker. Never leaves the worker's thread.
pub struct MayStream<O: Owner> {
    pub(super) worker: O,
    pub(super) key: usize,
    /// None only while it is being parked.
    pub(super) io: Option<TcpStream>,
    /// Events seen and not yet found stale.
    pub(super) ready: Cell<u32>,
}

impl<O: Owner> MayStream<O> {
    #[inline]
    pub(super) fn io(&self) -> &TcpStream {
        self.io.as_ref().expect("a stream that isn't parked has its socket")
    }

    fn socket(&self) -> &StdStream {
        self.io().inner()
    }

    pub(super) fn fd(&self) -> RawFd {
        self.socket().as_raw_fd()
    }

    /// Takes over the events that came while no coroutine waited. True when there were any.
    #[inline]
    pub(super) fn pull(&self) -> bool {
        let events = self.io().as_io_data().reset() as u32 | self.worker.take_lot_events(self.key);
        self.ready.set(self.ready.get() | events);
        events != 0
    }
}

impl<O: Owner> Drop for MayStream<O> {
    fn drop(&mut self) {
        if self.io.is_some() {
            self.worker.forget(self.key);
        }
    }
}

impl<O: Owner> Stream for MayStream<O> {
    type Pipe = KernelPipe;

    #[inline]
    fn try_read(&self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            let result = socket::receive(self.socket(), into);
            match &result {
                // Short, so drained; unless the end was announced, which comes with no event of its own any more.
                Ok(n) if (1..into.len()).contains(n) && self.ready.get() & ENDING == 0 => {
                    self.ready.set(self.ready.get() & !READ);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.ready.set(self.ready.get() & !READ),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                _ => {}
            }
            return result;
        }
    }

    #[inline]
    fn try_write(&self, from: &[IoSlice<'_>]) -> io::Result<usize> {
        loop {
            // send(2) is the cheaper call.
            let result = match from {
                [one] => socket::send(self.socket(), one),
                many => self.socket().write_vectored(many),
            };
            match &result {
                Ok(n) => {
                    if *n < from.iter().map(|slice| slice.len()).sum() {
                        self.ready.set(self.ready.get() & !WRITE);
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.ready.set(self.ready.get() & !WRITE),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => {}
            }
            return result;
        }
    }

    #[inline]
    fn is_readable(&self) -> bool {
        self.ready.get() & READ != 0
    }

    #[inline]
    fn is_writable(&self) -> bool {
        self.ready.get() & WRITE != 0
    }

    fn peer_state(&self) -> PeerState {
        let ready = self.ready.get();
        if ready & GONE != 0 {
            PeerState::Reset
        } else if ready & libc::EPOLLRDHUP as u32 != 0 {
            PeerState::HalfClosed
        } else {
            PeerState::Open
        }
    }

    fn is_quiet(&self, thorough: bool) -> bool {
        self.pull();
        if self.ready.get() & ENDING != 0 {
            return false;
        }
        if !thorough && !self.is_readable() {
            return true;
        }
        let mut byte = [std::mem::MaybeUninit::<u8>::uninit()];
        let socket = socket2::SockRef::from(self.socket());
        match socket.peek(&mut byte) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                self.ready.set(self.ready.get() & !READ);
                true
            }
            _ => false,
        }
    }

    fn take_connect_error(&self) -> io::Result<()> {
        match self.socket().take_error()? {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    fn room(&self) -> usize {
        let mut memory = [0_u32; SOCKET_MEMORY];
        let mut bytes = size_of_val(&memory) as libc::socklen_t;
        // SAFETY: `memory` has room for `bytes` bytes, both live through the call, and the descriptor is open.
        let known = unsafe {
            let into = memory.as_mut_ptr().cast();
            libc::getsockopt(self.fd(), libc::SOL_SOCKET, libc::SO_MEMINFO, into, &raw mut bytes)
        };
        if known != 0 {
            return usize::MAX;
        }
        // Of what the kernel counts, up to a half is its own.
        (memory[SEND_BUFFER].saturating_sub(memory[SEND_QUEUE]) / 2) as usize
    }

    fn unsent(&self) -> usize {
        let mut bytes: libc::c_int = 0;
        // SAFETY: SIOCOUTQ writes an int, which lives through the call, and the descriptor is open.
        let known = unsafe { libc::ioctl(self.fd(), libc::TIOCOUTQ, &raw mut bytes) };
        if known == 0 { usize::try_from(bytes).unwrap_or(0) } else { 0 }
    }

    fn pipe(&self, body_bytes: u64) -> Option<KernelPipe> {
        self.worker.pipe(body_bytes)
    }

    fn try_fill(&self, pipe: &mut KernelPipe, bytes_max: usize) -> io::Result<usize> {
        let result = pipe.fill(self.fd(), bytes_max);
        if matches!(&result, Err(e) if e.kind() == io::ErrorKind::WouldBlock) {
            self.ready.set(self.ready.get() & !READ);
        }
        result
    }

    fn try_drain(&self, pipe: &mut KernelPipe) -> io::Result<usize> {
        let result = pipe.drain(self.fd());
        if matches!(&result, Err(e) if e.kind() == io::ErrorKind::WouldBlock) {
            self.ready.set(self.ready.get() & !WRITE);
        }
        result
    }

    fn shutdown_write(&self) {
        let _ = self.socket().shutdown(Shutdown::Write);
    }

    fn reset_on_close(&self) {
        let _ = socket2::SockRef::from(self.socket()).set_linger(Some(std::time::Duration::ZERO));
    }
}
