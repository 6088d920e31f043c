//! An actor's end of a connection: plain blocking calls, each with a deadline, on the actor's own coroutine. With TLS they say and
//! hear the same, in records.

use std::cell::{Cell, RefCell};
use std::io::{ErrorKind, IoSlice};
use std::net::{IpAddr, SocketAddr};

use crate::cipher::{CORRUPT, Cipher};
use crate::net::{Holder, SocketId};
use crate::sim::{SECOND, Sim, Time};
use crate::tally::{Fault, Promise};
use crate::trail::Deed;

/// Dropping it closes the connection.
pub struct Peer {
    pub sim: Sim,
    id: SocketId,
    closed: Cell<bool>,
    /// Where reads go first.
    piece: RefCell<Box<[u8; PIECE_BYTES_MAX]>>,
    /// None: it speaks in clear.
    cipher: Option<Cipher>,
    /// A part of a record is still to be sent, so that nothing else can be.
    mid_record: Cell<bool>,
    /// It ends without `close_notify`.
    tears: Cell<bool>,
    /// It has given the other side, or itself, reason to end the session.
    provokes: Cell<bool>,
}

/// How long it waits until it may say that it ends.
const ENDING: Time = 60 * SECOND;

/// The most that one read takes.
const PIECE_BYTES_MAX: usize = 16_384;

/// What a read came back with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Got {
    Bytes(usize),
    End,
    /// The connection ended, and nobody had said that it would, as TLS has it.
    Torn,
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
    pub fn new(sim: &Sim, id: SocketId, cipher: Option<Cipher>) -> Self {
        Self {
            sim: sim.clone(),
            id,
            closed: Cell::new(false),
            piece: RefCell::new(Box::new([0; PIECE_BYTES_MAX])),
            cipher,
            mid_record: Cell::new(false),
            tears: Cell::new(false),
            provokes: Cell::new(false),
        }
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
    pub fn dial(sim: &Sim, from: IpAddr, address: SocketAddr, cipher: Option<Cipher>) -> std::io::Result<Self> {
        let id = sim.dial(from, address, Holder::Actor)?;
        Ok(Self::new(sim, id, cipher))
    }

    /// Says and hears what comes before anything else, if there is such.
    pub fn shake(&self, deadline: Time) -> Result<(), Got> {
        let Some(cipher) = &self.cipher else { return Ok(()) };
        let mut sealed = Vec::new();
        loop {
            self.send_sealed(&cipher.due(), || deadline).map_err(|unsent| match unsent {
                Unsent::Late => Got::Late,
                Unsent::Gone => Got::Reset,
            })?;
            if !cipher.is_handshaking() {
                return Ok(());
            }
            match self.receive_raw(&mut sealed, PIECE_BYTES_MAX, deadline) {
                Got::Bytes(_) => self.open(cipher, &sealed)?,
                Got::End => return Err(Got::Torn),
                got => return Err(got),
            }
            sealed.clear();
        }
    }

    /// Its session goes on with one of before.
    pub fn is_resumed(&self) -> bool {
        self.cipher.as_ref().is_some_and(Cipher::is_resumed)
    }

    pub fn is_encrypted(&self) -> bool {
        self.cipher.is_some()
    }

    /// The other side has said that nothing more comes, as TLS has it.
    pub fn was_told_the_end(&self) -> bool {
        self.cipher.as_ref().is_some_and(Cipher::has_ended)
    }

    /// Takes in what came. What is wrong with it the other side is told, as far as that goes at once.
    fn open(&self, cipher: &Cipher, sealed: &[u8]) -> Result<(), Got> {
        let Err(error) = cipher.open(sealed) else { return Ok(()) };
        if !self.provokes.get() {
            self.sim.wrong(Promise::WellFormed, format!("an actor's session failed: {error}"));
        }
        if !self.mid_record.get() {
            let _ = self.sim.write(self.id, &[IoSlice::new(&cipher.due())]);
        }
        self.tears.set(true);
        Err(Got::Torn)
    }

    /// Appends what comes, up to `max` bytes of it.
    pub fn receive(&self, into: &mut Vec<u8>, max: usize, deadline: Time) -> Got {
        let Some(cipher) = &self.cipher else { return self.receive_raw(into, max, deadline) };
        let mut sealed = Vec::new();
        loop {
            match cipher.take(into, max) {
                Some(0) => return Got::End,
                Some(taken) => {
                    // A record that came at once may be read bit by bit.
                    self.sim.moved(self.id);
                    return Got::Bytes(taken);
                }
                None => {}
            }
            match self.receive_raw(&mut sealed, max, deadline) {
                Got::Bytes(_) => {
                    if let Err(got) = self.open(cipher, &sealed) {
                        return got;
                    }
                }
                Got::End if !self.closed.get() => return Got::Torn,
                got => return got,
            }
            sealed.clear();
        }
    }

    fn receive_raw(&self, into: &mut Vec<u8>, max: usize, deadline: Time) -> Got {
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
        match &self.cipher {
            Some(cipher) => self.send_sealed(&cipher.seal(bytes), deadline),
            None => self.send_raw(bytes, deadline),
        }
    }

    /// Sends whole records: where that fails in the middle of one, nothing can be said any more.
    fn send_sealed(&self, records: &[u8], deadline: impl Fn() -> Time) -> Result<(), Unsent> {
        if self.mid_record.replace(true) {
            return Err(Unsent::Gone);
        }
        self.send_raw(records, deadline)?;
        self.mid_record.set(false);
        Ok(())
    }

    fn send_raw(&self, bytes: &[u8], deadline: impl Fn() -> Time) -> Result<(), Unsent> {
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

    /// Closes the sending side. With TLS it is enough to say so.
    pub fn finish(&self) {
        if self.say_end(ENDING) == Ok(true) && self.sim.chance.percent(20) {
            return self.sim.struck(Fault::ClientEndsAndStays);
        }
        self.sim.finish(self.id);
    }

    /// Says that nothing more is said, as long as that is taken within `patience`. False where there is no way to say it.
    pub fn say_end(&self, patience: Time) -> Result<bool, Unsent> {
        match &self.cipher {
            Some(cipher) if !self.tears.get() && !cipher.is_handshaking() => {
                self.send_sealed(&cipher.seal_end(), || self.sim.now() + patience).map(|()| true)
            }
            _ => Ok(false),
        }
    }

    /// Sends a record that nobody can have sealed.
    pub fn corrupt(&self, deadline: Time) {
        self.provokes.set(true);
        self.tears.set(true);
        let _ = self.send_sealed(&CORRUPT, || deadline);
    }

    /// Ends the session by an alert, as one does that refuses it; false where it can't.
    pub fn refuse(&self, deadline: Time) -> bool {
        self.tears.set(true);
        let alert = self.cipher.as_ref().map_or_else(Vec::new, Cipher::seal_refusal);
        !alert.is_empty() && self.send_sealed(&alert, || deadline).is_ok()
    }

    /// Closes both ways now, under the hands of whoever reads or writes.
    pub fn close(&self) {
        if !self.closed.replace(true) {
            if let Some(cipher) = &self.cipher
                && !self.tears.get()
                && !self.mid_record.get()
                && !cipher.is_handshaking()
            {
                let _ = self.sim.write(self.id, &[IoSlice::new(&cipher.seal_end())]);
            }
            self.sim.close(self.id);
        }
    }

    /// Makes the close a reset.
    pub fn reset_on_close(&self) {
        self.tears.set(true);
        self.sim.reset_on_close(self.id);
    }

    /// Has it end without a word of it, as TLS has it: a FIN alone.
    pub fn tear(&self) {
        self.tears.set(true);
    }

    /// Its session is going to fail.
    pub fn provoke(&self) {
        self.provokes.set(true);
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.close();
    }
}
