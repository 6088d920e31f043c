//! Whether a backend is the proxy itself: a request there would come back, again and again.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

/// Where the proxy listens, each with the field that says so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnListeners(pub Vec<(SocketAddr, &'static str)>);

impl OwnListeners {
    /// The one that takes connections to this address, if any does.
    pub fn reached_by(&self, address: SocketAddr) -> Option<(SocketAddr, &'static str)> {
        self.0.iter().find(|(listener, _)| reaches(address, *listener)).copied()
    }
}

fn reaches(address: SocketAddr, listener: SocketAddr) -> bool {
    // The system chooses another one than 0.
    if address.port() != listener.port() || address.port() == 0 {
        return false;
    }
    // Connecting to no address in particular reaches this machine.
    let address = match address.ip().to_canonical() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        address => address,
    };
    let listener = listener.ip().to_canonical();
    if listener.is_unspecified() {
        // A socket on `::` takes IPv6 alone, see `runtime::listen`.
        listener.is_ipv4() == address.is_ipv4() && is_of_this_machine(address)
    } else {
        listener == address
    }
}

/// A datagram socket sends from the address that it sends to where that is the machine's own. Connecting it sends nothing.
fn is_of_this_machine(address: IpAddr) -> bool {
    let any: IpAddr = if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let from = || {
        let socket = UdpSocket::bind((any, 0)).ok()?;
        socket.connect((address, 9)).ok()?;
        Some(socket.local_addr().ok()?.ip())
    };
    address.is_loopback() || from() == Some(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_reaches_a_listener_of_its_port_on_this_machine() {
        for (listener, reached, others) in [
            (
                "0.0.0.0:8080",
                &["127.0.0.1:8080", "127.9.9.9:8080", "0.0.0.0:8080", "[::ffff:127.0.0.1]:8080"][..],
                &["127.0.0.1:8081", "[::1]:8080", "192.0.2.1:8080", "[::]:8080"][..],
            ),
            ("[::]:8080", &["[::1]:8080", "[::]:8080"], &["127.0.0.1:8080", "[2001:db8::1]:8080"]),
            ("127.0.0.1:80", &["127.0.0.1:80", "0.0.0.0:80"], &["127.0.0.2:80", "[::1]:80", "192.0.2.1:80"]),
            ("192.0.2.1:80", &["192.0.2.1:80"], &["127.0.0.1:80", "192.0.2.2:80"]),
            ("0.0.0.0:0", &[], &["127.0.0.1:0"]),
        ] {
            let own = OwnListeners(vec![(listener.parse().unwrap(), "port")]);
            let reaches = |address: &&&str| own.reached_by(address.parse().unwrap()).is_some();
            assert_eq!(reached.iter().filter(reaches).count(), reached.len(), "{listener}");
            assert_eq!(others.iter().filter(reaches).count(), 0, "{listener}");
        }
    }
}
