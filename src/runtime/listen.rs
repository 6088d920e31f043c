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
    // The port is shared once it is ours alone, and by the very socket that has it: who has connected there is served.
    let first = open(address)?;
    first.bind(&SockAddr::from(address))?;
    // Binding alone succeeds beside another socket that doesn't listen yet.
    first.listen(BACKLOG)?;
    first.set_reuse_port(true)?;
    let address = first.local_addr()?.as_socket().unwrap_or(address);
    let mut sockets = vec![first];
    for _ in 1..workers {
        let socket = open(address)?;
        socket.set_reuse_port(true)?;
        socket.bind(&SockAddr::from(address))?;
        socket.listen(BACKLOG)?;
        sockets.push(socket);
    }
    let sockets = sockets.into_iter().enumerate();
    let sockets = sockets.map(|(worker, socket)| homing::home(OwnedFd::from(socket), worker, workers));
    Ok(Listeners { address, sockets: sockets.collect::<io::Result<_>>()? })
}

fn open(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    // Accepted sockets inherit both, which saves system calls for each.
    socket.set_tcp_nodelay(true)?;
    keep_alive(&socket)?;
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
    use std::net::{Shutdown, TcpStream};
    use std::thread;

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

    /// The first of them had connected to a socket that was there to see whether the port is free, and were reset.
    #[test]
    fn who_connects_while_it_begins_to_listen_is_there_to_be_accepted() {
        // An address of this process's own: between two rounds its port is nobody's, and others connect from 127.0.0.1.
        let [.., high, low] = std::process::id().to_be_bytes();
        let address = listen(SocketAddr::from(([127, 77, high, low], 0)), 1).unwrap().address;
        for _ in 0..1_500 {
            let (listeners, client) = thread::scope(|scope| {
                let client = scope.spawn(|| {
                    loop {
                        if let Ok(client) = TcpStream::connect(address) {
                            return client;
                        }
                    }
                });
                (listen(address, 2).unwrap(), client.join().unwrap())
            });
            let client = SockRef::from(&client);
            let is_accepted = || {
                let accepted = listeners.sockets.iter().find_map(|listener| SockRef::from(listener).accept().ok());
                accepted.is_some_and(|(_, peer)| peer.as_socket() == client.local_addr().unwrap().as_socket())
            };
            while !is_accepted() {
                assert!(client.take_error().unwrap().is_none(), "it was reset");
            }
            // It ends first, so that no port is left waiting on this side.
            client.shutdown(Shutdown::Both).unwrap();
        }
    }

    #[test]
    fn a_taken_port_is_an_error_although_it_could_be_shared() {
        let first = listen("127.0.0.1:0".parse().unwrap(), 2).unwrap();
        let second = listen(first.address, 2);
        assert_eq!(second.unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }
}
