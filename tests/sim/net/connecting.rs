//! Connecting: where somebody listens, and what becomes of an attempt.

use super::*;
use crate::sim::SECOND;

/// How long a kernel tries to connect to a host that says nothing.
const CONNECT_GIVES_UP: Time = 127 * SECOND;

/// What becomes of an attempt to connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connecting {
    /// Succeeds after this long on top of the latency.
    Accepted(Time),
    /// A reset comes back after this long on top of the latency.
    Refused(Time),
    /// Nothing ever comes back.
    BlackHole,
    /// This comes back after this long on top of the latency.
    Fails(ErrorKind, Time),
    /// The system says no at once, with this `errno`.
    Impossible(i32),
}

/// Something that takes connections at an address.
#[derive(Clone)]
pub struct Listener {
    /// Asked for each attempt.
    pub outcome: Rc<dyn Fn() -> Connecting>,
    /// Gets the accepted socket and the address of who connected.
    pub accept: Rc<dyn Fn(SocketId, SocketAddr)>,
    /// Who holds the accepted sockets.
    pub holder: Holder,
}

impl Connecting {
    /// What it is called in a report, unless it succeeds.
    fn fault(self) -> Option<Fault> {
        match self {
            Self::Accepted(_) => None,
            Self::Refused(_) | Self::Fails(ErrorKind::ConnectionRefused, _) => Some(Fault::ConnectRefused),
            Self::BlackHole => Some(Fault::ConnectTimesOut),
            Self::Impossible(libc::EMFILE | libc::ENFILE) => Some(Fault::ConnectNoDescriptor),
            Self::Impossible(libc::EADDRNOTAVAIL) => Some(Fault::ConnectNoPort),
            Self::Impossible(libc::EACCES | libc::EPERM) => Some(Fault::ConnectForbidden),
            Self::Fails(..) | Self::Impossible(_) => Some(Fault::ConnectUnroutable),
        }
    }
}

impl Sim {
    pub fn listen(&self, address: SocketAddr, listener: Listener) {
        self.net.listeners.borrow_mut().insert(address, listener);
    }

    /// Starts to connect from `from` to `address`.
    pub fn dial(&self, from: std::net::IpAddr, address: SocketAddr, holder: Holder) -> io::Result<SocketId> {
        let listener = self.net.listeners.borrow().get(&address).cloned();
        let outcome = listener.as_ref().map_or(Connecting::Refused(0), |listener| (listener.outcome)());
        if holder == Holder::Service
            && let Some(fault) = outcome.fault()
        {
            self.struck(fault);
        }
        if holder == Holder::Service {
            self.trail.dialled(self.now(), self.running.get(), address, outcome);
        }
        if let Connecting::Impossible(errno) = outcome {
            return Err(io::Error::from_raw_os_error(errno));
        }
        let port = self.net.next_port.get().max(20_000);
        self.net.next_port.set(port + 1);
        let mut socket = Socket::new(holder, false);
        if holder == Holder::Service {
            let mut taps = self.net.taps.borrow_mut();
            socket.tap = Some(taps.len());
            taps.push(Tap { written: Vec::new() });
        }
        let id = self.net.add(socket);
        if holder == Holder::Service {
            self.trail.dials_as(id);
        }
        self.trace.note(self.now(), "dial", &[id.number()], || format!("{address} {outcome:?}"));
        let there = self.latency();
        match (outcome, listener) {
            (Connecting::Accepted(delay), Some(listener)) => {
                let from = SocketAddr::new(from, port);
                self.after(there + delay, move |sim| sim.meet(id, &listener, from));
            }
            (Connecting::BlackHole, _) => {
                self.after_idly(CONNECT_GIVES_UP, move |sim| sim.break_off(id, ErrorKind::TimedOut));
            }
            (Connecting::Refused(delay), _) => {
                let back = self.latency();
                self.after(there + delay + back, move |sim| sim.break_off(id, ErrorKind::ConnectionRefused));
            }
            (Connecting::Fails(kind, delay), _) => {
                let back = self.latency();
                self.after(there + delay + back, move |sim| sim.break_off(id, kind));
            }
            _ => {}
        }
        Ok(id)
    }

    /// An attempt to connect has come to its listener.
    fn meet(&self, dialer: SocketId, listener: &Listener, from: SocketAddr) {
        if self.net.with(dialer, |socket| socket.closed) {
            return;
        }
        let optimistic = self.temper.optimistic;
        let mut socket = Socket::new(listener.holder, optimistic);
        socket.peer = Some(dialer);
        socket.connected = true;
        socket.writable = true;
        let accepted = self.net.add(socket);
        self.net.with(dialer, |socket| socket.peer = Some(accepted));
        let back = self.latency();
        self.net.with(accepted, |socket| socket.last_arrival = self.now());
        let arrival = self.now() + back;
        self.net.with(dialer, |socket| socket.last_arrival = arrival);
        self.after(back, move |sim| {
            let lives = sim.net.with(dialer, |socket| {
                socket.connected = socket.broken.is_none();
                socket.connected && !socket.closed
            });
            if lives {
                sim.moved(dialer);
                sim.tell(dialer, Mask::WRITABLE);
            } else {
                // Whoever dialled has gone meanwhile.
                sim.arrive_in_order(accepted, move |sim| sim.break_off(accepted, ErrorKind::ConnectionReset));
            }
        });
        if listener.holder == Holder::Service {
            self.trail.accepted(self.now(), accepted, dialer, from.ip());
        }
        self.trace.note(self.now(), "accept", &[accepted.number(), dialer.number()], || from.to_string());
        (listener.accept)(accepted, from);
    }
}
