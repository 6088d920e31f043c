//! A stream of any kind.

use std::io::{self, IoSlice};

use super::tls::Tls;
use crate::runtime::world::{PeerState, Stream};

/// A stream over a socket.
#[derive(Debug)]
pub enum Layer<S: Stream> {
    /// The bytes are the socket's own.
    Plain(S),
    /// TLS over the socket.
    Tls(Tls<S>),
}

impl<S: Stream> Layer<S> {
    /// The socket beneath.
    #[inline]
    pub(super) fn socket(&self) -> &S {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(tls) => tls.socket(),
        }
    }
}

impl<S: Stream> Stream for Layer<S> {
    type Pipe = S::Pipe;

    #[inline]
    fn try_read(&self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.try_read(into),
            Self::Tls(tls) => tls.try_read(into),
        }
    }

    #[inline]
    fn try_write(&self, from: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.try_write(from),
            Self::Tls(tls) => tls.try_write(from),
        }
    }

    #[inline]
    fn is_readable(&self) -> bool {
        match self {
            Self::Plain(socket) => socket.is_readable(),
            Self::Tls(tls) => tls.is_readable(),
        }
    }

    #[inline]
    fn is_writable(&self) -> bool {
        match self {
            Self::Plain(socket) => socket.is_writable(),
            Self::Tls(tls) => tls.is_writable(),
        }
    }

    #[inline]
    fn is_encrypted(&self) -> bool {
        match self {
            Self::Plain(socket) => socket.is_encrypted(),
            Self::Tls(_) => true,
        }
    }

    fn peer_identity(&self) -> Option<&str> {
        match self {
            Self::Plain(socket) => socket.peer_identity(),
            Self::Tls(tls) => tls.peer_identity(),
        }
    }

    fn stands_for(&self, host: &str) -> bool {
        match self {
            Self::Plain(socket) => socket.stands_for(host),
            Self::Tls(tls) => tls.stands_for(host),
        }
    }

    #[inline]
    fn peer_state(&self) -> PeerState {
        match self {
            Self::Plain(socket) => socket.peer_state(),
            Self::Tls(tls) => tls.peer_state(),
        }
    }

    #[inline]
    fn is_quiet(&self, thorough: bool) -> bool {
        match self {
            Self::Plain(socket) => socket.is_quiet(thorough),
            Self::Tls(tls) => tls.is_quiet(thorough),
        }
    }

    fn take_connect_error(&self) -> io::Result<()> {
        match self {
            Self::Plain(socket) => socket.take_connect_error(),
            Self::Tls(tls) => tls.take_connect_error(),
        }
    }

    fn room(&self) -> usize {
        match self {
            Self::Plain(socket) => socket.room(),
            Self::Tls(tls) => tls.room(),
        }
    }

    fn unsent(&self) -> usize {
        match self {
            Self::Plain(socket) => socket.unsent(),
            Self::Tls(tls) => tls.unsent(),
        }
    }

    #[inline]
    fn takes_pipe(&self) -> bool {
        match self {
            Self::Plain(socket) => socket.takes_pipe(),
            Self::Tls(_) => false,
        }
    }

    fn pipe(&self, body_bytes: u64) -> Option<S::Pipe> {
        match self {
            Self::Plain(socket) => socket.pipe(body_bytes),
            Self::Tls(_) => None,
        }
    }

    fn try_fill(&self, pipe: &mut S::Pipe, bytes_max: usize) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.try_fill(pipe, bytes_max),
            Self::Tls(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    fn try_drain(&self, pipe: &mut S::Pipe) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.try_drain(pipe),
            Self::Tls(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    fn shutdown_write(&self) {
        match self {
            Self::Plain(socket) => socket.shutdown_write(),
            Self::Tls(tls) => tls.shutdown_write(),
        }
    }

    fn ends_at_once(&self) -> bool {
        match self {
            Self::Plain(socket) => socket.ends_at_once(),
            Self::Tls(tls) => tls.ends_at_once(),
        }
    }

    fn end_unsaid(&self) {
        match self {
            Self::Plain(socket) => socket.end_unsaid(),
            Self::Tls(tls) => tls.end_unsaid(),
        }
    }

    fn reset_on_close(&self) {
        match self {
            Self::Plain(socket) => socket.reset_on_close(),
            Self::Tls(tls) => tls.reset_on_close(),
        }
    }
}
