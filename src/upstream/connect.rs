//! Connecting: one after the other over the addresses of a backend's name, without blocking, under one deadline.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use crate::runtime::handshake::HandshakeFault;
use crate::runtime::world::{Instant, PeerState, Stream, Wake, Watch, World};

/// From here on a wait keeps no more of its stack than it uses.
const SLOW_AFTER: Duration = Duration::from_millis(250);

/// Why no connection was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectError {
    /// Its name has no address.
    NotResolved,
    /// Every address refused.
    Refused,
    /// No address could be reached.
    Unroutable,
    /// The deadline passed.
    Timeout,
    /// No local port was free towards it, or no local address fits it (`EADDRNOTAVAIL`).
    NoLocalPort,
    /// No descriptor was free (`EMFILE`, `ENFILE`).
    NoDescriptor,
    /// It was to be encrypted, and couldn't be.
    Handshake(HandshakeFault),
    /// The system said no in another way.
    Failed(io::ErrorKind),
    /// The client reset its connection meanwhile.
    ClientGone,
}

/// Connects to the first of `addresses` that takes the connection, encrypted where it has to prove that it is `host`, for
/// `client`, whose reset ends the attempt. Each address gets its share of the time that is left, handshake included. Returns the stream and the number of its address, counted from 0.
///
/// # Errors
/// When no address took the connection: what was wrong with the last one that tells anything of the backend, but
/// `Refused` only when all that could be asked refused.
pub fn connect<W: World>(
    world: &W,
    addresses: impl ExactSizeIterator<Item = SocketAddr>,
    host: Option<&str>,
    client: &W::Stream,
    deadline: Instant,
) -> Result<(W::Stream, usize), ConnectError> {
    let mut failure = None;
    let count = addresses.len();
    for (number, address) in addresses.enumerate() {
        let now = world.now();
        if now >= deadline {
            return Err(ConnectError::Timeout);
        }
        let share = deadline.since(now) / u32::try_from(count - number).unwrap_or(u32::MAX);
        match attempt(world, address, host, client, now + share) {
            Ok(stream) => return Ok((stream, number)),
            // Another address changes nothing about these.
            Err(error @ (ConnectError::ClientGone | ConnectError::NoDescriptor)) => return Err(error),
            Err(error) => failure = Some(more_telling(failure, error)),
        }
        if number + 1 < count {
            world.take_turns(client);
        }
    }
    Err(failure.unwrap_or(ConnectError::NotResolved))
}

fn attempt<W: World>(
    world: &W,
    address: SocketAddr,
    host: Option<&str>,
    client: &W::Stream,
    deadline: Instant,
) -> Result<W::Stream, ConnectError> {
    let stream = match host {
        None => world.connect(address),
        Some(host) => world.connect_encrypted(address, host),
    };
    let stream = stream.map_err(|e| classify(&e))?;
    let slow_at = world.now() + SLOW_AFTER;
    while !stream.is_writable() {
        let also = Some((client, Watch::Hangup));
        let mut wake = world.wait(&stream, also, deadline.min(slow_at));
        if wake == Wake::Deadline && slow_at < deadline {
            wake = world.wait_long(&stream, also, deadline);
        }
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

/// Which of two addresses' failures says more of the backend.
fn more_telling(before: Option<ConnectError>, now: ConnectError) -> ConnectError {
    match (before, now) {
        // A local shortage says nothing. `localhost` on a machine without IPv6 begins with one.
        (None | Some(ConnectError::NoLocalPort), now) => now,
        (Some(before), ConnectError::Refused | ConnectError::NoLocalPort) => before,
        (Some(_), now) => now,
    }
}

fn classify(error: &io::Error) -> ConnectError {
    if let Some(libc::EMFILE | libc::ENFILE) = error.raw_os_error() {
        return ConnectError::NoDescriptor;
    }
    if let Some(fault) = HandshakeFault::of(error) {
        return ConnectError::Handshake(fault);
    }
    match error.kind() {
        io::ErrorKind::ConnectionRefused => ConnectError::Refused,
        io::ErrorKind::TimedOut => ConnectError::Timeout,
        io::ErrorKind::AddrNotAvailable => ConnectError::NoLocalPort,
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable | io::ErrorKind::NetworkDown => {
            ConnectError::Unroutable
        }
        kind => ConnectError::Failed(kind),
    }
}

#[cfg(test)]
mod tests {
    use super::ConnectError::{Failed, NoDescriptor, NoLocalPort, Refused, Timeout, Unroutable};
    use super::*;

    #[test]
    fn what_the_system_says_is_told_apart() {
        for (code, want) in [
            (libc::ECONNREFUSED, Refused),
            (libc::EHOSTUNREACH, Unroutable),
            (libc::ENETUNREACH, Unroutable),
            (libc::ETIMEDOUT, Timeout),
            (libc::EADDRNOTAVAIL, NoLocalPort),
            (libc::EMFILE, NoDescriptor),
            (libc::ENFILE, NoDescriptor),
            (libc::EACCES, Failed(io::ErrorKind::PermissionDenied)),
            (libc::ENOMEM, Failed(io::ErrorKind::OutOfMemory)),
        ] {
            assert_eq!(classify(&io::Error::from_raw_os_error(code)), want);
        }
    }

    #[test]
    fn of_several_addresses_the_failure_is_told_that_says_most_of_the_backend() {
        for (failures, want) in [
            (vec![Refused, Refused], Refused),
            (vec![NoLocalPort, Refused], Refused),
            (vec![Refused, NoLocalPort], Refused),
            (vec![NoLocalPort, NoLocalPort], NoLocalPort),
            (vec![Refused, Timeout], Timeout),
            (vec![Timeout, Refused], Timeout),
            (vec![Timeout, NoLocalPort, Refused], Timeout),
            (vec![Timeout, Unroutable], Unroutable),
        ] {
            let told = failures.iter().fold(None, |before, &now| Some(more_telling(before, now)));
            assert_eq!(told, Some(want), "{failures:?}");
        }
    }
}
