//! An actor's end of a connection: plain blocking calls, each with a deadline, on the actor's own coroutine.

use std::cell::{Cell, RefCell};
use std::io::{ErrorKind, IoSlice};
use std::net::{IpAddr, SocketAddr};

use crate::net::{Holder, SocketId};
use crate::sim::{Sim, Time};
use crate::trail::Deed;

/// Dropping it closes the connection.
pub struct Peer {
    pub sim: Sim,
    id: SocketId,
    closed: Cell<bool>,
    /// Where reads go first.
    piece: RefCell<Box<[u8; PIECE_BYTES_MAX]>>,
}

/// The most that one read takes.
const PIECE_BYTES_MAX: usize = 16_384;

/// What a read came back with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Got {
    Bytes(usize),
    End,
    Reset,
    /// The deadline came first.
    Late,
}

/// Why not all could be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsent {
    Gone,
    Late,
}

impl Peer {
    pub fn new(sim: &Sim, id: SocketId) -> Self {
        Self { sim: sim.clone(), id, closed: Cell::new(false), piece: RefCell::new(Box::new([0; PIECE_BYTES_MAX])) }
    }

    pub fn id(&self) -> SocketId {
        self.id
    }

    /// The other end of its connection.
    pub fn opposite(&self) -> Option<SocketId> {
        self.sim.peer_of(self.id)
    }

    /// Notes what an origin did on its connection.
    pub fn note(&self, deed: Deed) {
        if let Some(way) = self.opposite() {
            self.sim.trail.done(self.sim.now(), way, deed);
        }
    }

    /// The other side has closed, whether this one can know of it yet or not.
    pub fn is_abandoned(&self) -> bool {
        self.sim.is_closed_by_peer(self.id)
    }

    /// Connects; the first bytes may be sent at once, as they leave when the connection stands.
    pub fn dial(sim: &Sim, from: IpAddr, address: SocketAddr) -> std::io::Result<Self> {
        let id = sim.dial(from, address, Holder::Actor)?;
        Ok(Self::new(sim, id))
    }

    /// Appends what comes, up to `max` bytes of it.
    pub fn receive(&self, into: &mut Vec<u8>, max: usize, deadline: Time) -> Got {
        loop {
            if !self.sim.await_level(self.id, true, deadline) {
                return Got::Late;
            }
            if self.closed.get() {
                return Got::End;
            }
            let mut piece = self.piece.borrow_mut();
            let max = max.min(piece.len());
            let outcome = self.sim.read(self.id, &mut piece[..max]);
            into.extend_from_slice(&piece[..*outcome.as_ref().unwrap_or(&0)]);
            drop(piece);
            match outcome {
                Ok(0) => return Got::End,
                Ok(length) => return Got::Bytes(length),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => return Got::Reset,
            }
        }
    }

    /// Sends all of it, by `deadline`.
    pub fn send(&self, bytes: &[u8], deadline: Time) -> Result<(), Unsent> {
        self.send_by(bytes, || deadline)
    }

    /// Sends all of it, as long as some of it is taken within `patience`.
    pub fn send_patiently(&self, bytes: &[u8], patience: Time) -> Result<(), Unsent> {
        self.send_by(bytes, || self.sim.now() + patience)
    }

    fn send_by(&self, bytes: &[u8], deadline: impl Fn() -> Time) -> Result<(), Unsent> {
        let mut sent = 0;
        while sent < bytes.len() {
            if !self.sim.await_level(self.id, false, deadline()) {
                return Err(Unsent::Late);
            }
            if self.closed.get() {
                return Err(Unsent::Gone);
            }
            match self.sim.write(self.id, &[IoSlice::new(&bytes[sent..])]) {
                Ok(length) => sent += length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => return Err(Unsent::Gone),
            }
        }
        Ok(())
    }

    /// Closes the sending side.
    pub fn finish(&self) {
        self.sim.finish(self.id);
    }

    /// Closes both ways now, under the hands of whoever reads or writes.
    pub fn close(&self) {
        if !self.closed.replace(true) {
            self.sim.close(self.id);
        }
    }

    /// Makes the close a reset.
    pub fn reset_on_close(&self) {
        self.sim.reset_on_close(self.id);
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.close();
    }
}
