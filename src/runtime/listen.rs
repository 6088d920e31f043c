//! Listening sockets: one a worker and address, sharing the port by `SO_REUSEPORT`.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, Socket, TcpKeepalive, Type};

use super::homing;

/// Connections that the kernel completes before they are accepted; cut down to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// The listening sockets of one address: the n-th is homed for worker n.
#[derive(Debug)]
pub struct Listeners {
    /// Where they listen; the port is filled in where 0 was asked for.
    pub address: SocketAddr,
    pub(super) sockets: Vec<OwnedFd>,
}

/// Listens on `address` with one socket for each of `workers`.
///
/// # Errors
/// `EADDRINUSE` also when another process shares the port by `SO_REUSEPORT`, which plain binding would do silently.
pub fn listen(address: SocketAddr, workers: usize) -> io::Result<Listeners> {
    drop(bind(address, false)?);
    let first = bind(address, true)?;
    let address = first.local_addr()?.as_socket().unwrap_or(address);
    let mut sockets = vec![first];
    for _ in 1..workers {
        sockets.push(bind(address, true)?);
    }
    let sockets = sockets.into_iter().enumerate().map(|(worker, socket)| {
        socket.listen(BACKLOG)?;
        homing::home(OwnedFd::from(socket), worker, workers)
    });
    Ok(Listeners { address, sockets: sockets.collect::<io::Result<_>>()? })
}

fn bind(address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if shared {
        socket.set_reuse_port(true)?;
    }
    socket.set_nonblocking(true)?;
    // Accepted sockets inherit both, which saves system calls for each.
    socket.set_tcp_nodelay(true)?;
    keep_alive(&socket)?;
    socket.bind(&SockAddr::from(address))?;
    if !shared {
        // Binding alone succeeds beside another socket with SO_REUSEADDR; listening tells.
        socket.listen(1)?;
    }
    Ok(socket)
}

/// From silence to the first question whether the peer is still there, from one question to the next, and how many go unanswered
/// before the connection ends: a dead peer is known after two minutes. So a tunnel in which nothing moves ends with its peer.
const PEER_ASKED_AFTER: Duration = Duration::from_secs(60);
const PEER_ASKED_EACH: Duration = Duration::from_secs(15);
const PEER_ASKED_TIMES: u32 = 4;

/// Has the kernel end a connection whose peer is gone without a word.
pub(super) fn keep_alive(socket: &Socket) -> io::Result<()> {
    let how = TcpKeepalive::new().with_time(PEER_ASKED_AFTER).with_interval(PEER_ASKED_EACH);
    socket.set_tcp_keepalive(&how.with_retries(PEER_ASKED_TIMES))
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use socket2::SockRef;

    use super::*;

    #[test]
    fn accepted_connections_have_the_listeners_keep_alive() {
        let listeners = listen("127.0.0.1:0".parse().unwrap(), 1).unwrap();
        let _client = TcpStream::connect(listeners.address).unwrap();
        let listener = SockRef::from(&listeners.sockets[0]);
        let accepted = loop {
            match listener.accept() {
                Ok((accepted, _)) => break accepted,
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
        };
        assert!(accepted.keepalive().unwrap() && accepted.tcp_nodelay().unwrap());
        assert_eq!(accepted.tcp_keepalive_time().unwrap(), PEER_ASKED_AFTER);
        assert_eq!(accepted.tcp_keepalive_interval().unwrap(), PEER_ASKED_EACH);
        assert_eq!(accepted.tcp_keepalive_retries().unwrap(), PEER_ASKED_TIMES);
    }

    #[test]
    fn a_taken_port_is_an_error_although_it_could_be_shared() {
        let first = listen("127.0.0.1:0".parse().unwrap(), 2).unwrap();
        let second = listen(first.address, 2);
        assert_eq!(second.unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }
}
