//! Connecting: one after the other over the addresses of a backend's name, without blocking, under one deadline.

use std::io;
use std::net::SocketAddr;

use crate::runtime::world::{Instant, PeerState, Stream, Wake, Watch, World};

/// Why no connection was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectError {
    /// Its name has no address.
    NotResolved,
    /// Every address refused.
    Refused,
    /// No address could be reached.
    Unroutable(io::ErrorKind),
    /// The deadline passed.
    Timeout,
    /// No local port was free (`EADDRNOTAVAIL`).
    NoLocalPort,
    /// No descriptor was free.
    NoDescriptor,
    /// The client reset its connection meanwhile.
    ClientGone,
}

/// Connects to one of `addresses`, beginning with number `first`, for `client`, whose reset ends the attempt. Each
/// address gets its share of the time that is left. Returns the stream and the number of its address.
///
/// # Errors
/// When no address took the connection: what was wrong with the last one, but `Refused` only when all refused.
pub fn connect<W: World>(
    world: &W,
    addresses: &[SocketAddr],
    first: usize,
    client: &W::Stream,
    deadline: Instant,
) -> Result<(W::Stream, usize), ConnectError> {
    let mut failure = None;
    for n in 0..addresses.len() {
        let number = (first + n) % addresses.len();
        let now = world.now();
        if now >= deadline {
            return Err(ConnectError::Timeout);
        }
        let share = deadline.since(now) / u32::try_from(addresses.len() - n).unwrap_or(u32::MAX);
        match attempt(world, addresses[number], client, now + share) {
            Ok(stream) => return Ok((stream, number)),
            // Another address changes nothing about these.
            Err(error @ (ConnectError::ClientGone | ConnectError::NoDescriptor)) => return Err(error),
            Err(ConnectError::Refused) if failure.is_some() => {}
            Err(error) => failure = Some(error),
        }
    }
    Err(failure.unwrap_or(ConnectError::NotResolved))
}

fn attempt<W: World>(
    world: &W,
    address: SocketAddr,
    client: &W::Stream,
    deadline: Instant,
) -> Result<W::Stream, ConnectError> {
    let stream = world.connect(address).map_err(|e| classify(&e))?;
    while !stream.is_writable() {
        let wake = world.wait(&stream, Some((client, Watch::Hangup)), deadline);
        if client.peer_state() == PeerState::Reset {
            return Err(ConnectError::ClientGone);
        }
        if wake == Wake::Deadline {
            return Err(ConnectError::Timeout);
        }
    }
    stream.take_connect_error().map_err(|e| classify(&e))?;
    Ok(stream)
}

fn classify(error: &io::Error) -> ConnectError {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => ConnectError::Refused,
        io::ErrorKind::TimedOut => ConnectError::Timeout,
        io::ErrorKind::AddrNotAvailable => ConnectError::NoLocalPort,
        _ if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) => ConnectError::NoDescriptor,
        kind => ConnectError::Unroutable(kind),
    }
}
