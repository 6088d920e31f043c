//! Listening sockets: one a worker and address, sharing the port by `SO_REUSEPORT`.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

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
    // Accepted sockets inherit it, which saves a system call each.
    socket.set_tcp_nodelay(true)?;
    socket.bind(&SockAddr::from(address))?;
    if !shared {
        // Binding alone succeeds beside another socket with SO_REUSEADDR; listening tells.
        socket.listen(1)?;
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_an_error_although_it_could_be_shared() {
        let first = listen("127.0.0.1:0".parse().unwrap(), 2).unwrap();
        let second = listen(first.address, 2);
        assert_eq!(second.unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }
}
