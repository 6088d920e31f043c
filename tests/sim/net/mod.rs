//! The simulated network: pairs of sockets joined by two bounded byte pipes, as a kernel would have them, and the
//! readiness that its events leave behind at a worker's streams.
//!
//! A packet that arrives changes the socket at once; the event that tells a worker of it comes later, as with epoll:
//! in between, a read sees more than the flags say.

mod connecting;
mod readiness;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::io::{self, ErrorKind, IoSlice};
use std::net::SocketAddr;
use std::rc::Rc;

use maypole::runtime::world::PeerState;

pub use self::connecting::{Connecting, Listener};
use crate::sim::{Pause, Sim, Time, Woken};
use crate::tally::Fault;
use crate::trail::Deed;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SocketId(usize);

impl SocketId {
    pub fn number(self) -> u64 {
        self.0 as u64
    }
}

/// Who holds a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// The service under test, through the world's traits.
    Service,
    /// A scripted actor.
    Actor,
}

/// What an event says of a socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mask(u8);

impl Mask {
    pub const READABLE: Self = Self(1);
    pub const WRITABLE: Self = Self(2);
    pub const HALF_CLOSED: Self = Self(4);
    pub const RESET: Self = Self(8);
    pub const HANGUP: Self = Self(4 | 8);
    pub const ANYTHING: Self = Self(15);

    pub fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

impl std::ops::BitOrAssign for Mask {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

/// What wants to know of a worker's socket.
pub enum Watcher {
    Nobody,
    /// A coroutine that waits for one of these.
    Waits(Pause, Mask),
    /// A parked connection, for one of these.
    Parked(Mask, Box<dyn FnOnce(&Sim)>),
}

/// What a service wrote on one of its outgoing connections, in clear, whether or not it got there.
pub struct Tap {
    pub written: Vec<u8>,
}

struct Socket {
    holder: Holder,
    peer: Option<SocketId>,
    /// Arrived, unread.
    inbox: VecDeque<u8>,
    /// Sent to this socket, not yet here.
    flying: usize,
    /// When the last thing sent to this socket arrives.
    last_arrival: Time,
    /// Raised to forget what is flying to this socket.
    flight: u32,
    fin_arrived: bool,
    broken: Option<ErrorKind>,
    connected: bool,
    fin_sent: bool,
    closed: bool,
    reset_on_close: bool,
    /// A write didn't fit: freed space is an event.
    starved: bool,
    // What events have told a worker:
    readable: bool,
    writable: bool,
    told_of_bytes: bool,
    peer_state: PeerState,
    pending: Mask,
    event_is_due: bool,
    latched: Mask,
    watcher: Watcher,
    rung: bool,
    // Actors wait for conditions, not for edges:
    reader: Option<Pause>,
    writer: Option<Pause>,
    tap: Option<usize>,
}

impl Socket {
    fn new(holder: Holder, optimistic: bool) -> Self {
        Self {
            holder,
            peer: None,
            inbox: VecDeque::new(),
            flying: 0,
            last_arrival: 0,
            flight: 0,
            fin_arrived: false,
            broken: None,
            connected: false,
            fin_sent: false,
            closed: false,
            reset_on_close: false,
            starved: false,
            readable: optimistic,
            writable: false,
            told_of_bytes: false,
            peer_state: PeerState::Open,
            pending: Mask::default(),
            event_is_due: false,
            latched: Mask::default(),
            watcher: Watcher::Nobody,
            rung: false,
            reader: None,
            writer: None,
            tap: None,
        }
    }

    /// All that is true now, as an event would say it.
    fn state(&self, space: usize) -> Mask {
        let mut state = Mask::default();
        if !self.inbox.is_empty() || self.fin_arrived || self.broken.is_some() {
            state |= Mask::READABLE;
        }
        if (self.connected && space > 0) || self.broken.is_some() {
            state |= Mask::WRITABLE;
        }
        if self.fin_arrived {
            state |= Mask::HALF_CLOSED;
        }
        if self.broken.is_some() {
            state |= Mask::RESET;
        }
        state
    }
}

#[derive(Default)]
pub struct Net {
    sockets: RefCell<Vec<Socket>>,
    listeners: RefCell<BTreeMap<SocketAddr, Listener>>,
    service_streams: Cell<usize>,
    taps: RefCell<Vec<Tap>>,
    next_port: Cell<u16>,
}

impl Net {
    /// Streams that the service holds now.
    pub fn service_streams(&self) -> usize {
        self.service_streams.get()
    }

    pub fn take_taps(&self) -> Vec<Tap> {
        self.taps.take()
    }

    /// The service has written this.
    pub fn tap(&self, id: SocketId, bytes: &[u8]) {
        if let Some(tap) = self.with(id, |socket| socket.tap) {
            self.taps.borrow_mut()[tap].written.extend_from_slice(bytes);
        }
    }

    pub fn clear(&self) {
        // Watchers hold streams, whose drop comes back here: no borrow may last.
        let sockets = self.sockets.take();
        self.listeners.take();
        let mut watchers: Vec<Watcher> = Vec::new();
        for mut socket in sockets {
            watchers.push(std::mem::replace(&mut socket.watcher, Watcher::Nobody));
        }
        drop(watchers);
    }

    fn add(&self, socket: Socket) -> SocketId {
        if socket.holder == Holder::Service {
            self.service_streams.set(self.service_streams.get() + 1);
        }
        let mut sockets = self.sockets.borrow_mut();
        sockets.push(socket);
        SocketId(sockets.len() - 1)
    }

    fn with<R>(&self, id: SocketId, look: impl FnOnce(&mut Socket) -> R) -> R {
        look(&mut self.sockets.borrow_mut()[id.0])
    }
}

/// What a socket's holder and the network do to it.
impl Sim {
    pub(super) fn latency(&self) -> Time {
        self.chance.within(&self.temper.latency)
    }

    /// Free space in the pipe from `id` to its peer.
    fn space(&self, id: SocketId) -> usize {
        let sockets = self.net.sockets.borrow();
        let Some(peer) = sockets[id.0].peer else { return 0 };
        let peer = &sockets[peer.0];
        self.temper.window.saturating_sub(peer.inbox.len() + peer.flying)
    }

    /// Bytes that were written at `id` and that its peer hasn't read.
    pub fn unread_by_peer(&self, id: SocketId) -> usize {
        let sockets = self.net.sockets.borrow();
        let peer = sockets[id.0].peer.map(|peer| &sockets[peer.0]);
        peer.map_or(0, |peer| peer.inbox.len() + peer.flying)
    }

    /// A write as the kernel does it: as much as fits, cut into segments that arrive one after the other.
    pub fn write(&self, id: SocketId, from: &[IoSlice<'_>]) -> io::Result<usize> {
        let blocked = Err(ErrorKind::WouldBlock.into());
        let total: usize = from.iter().map(|slice| slice.len()).sum();
        let (peer, verdict) = self.net.with(id, |socket| {
            let verdict = if socket.broken.is_some() {
                Some(Err(take_error(socket, self.temper.errors_once, ErrorKind::BrokenPipe)))
            } else if socket.fin_sent {
                Some(Err(ErrorKind::BrokenPipe.into()))
            } else if !socket.connected {
                socket.writable = false;
                Some(Err(ErrorKind::WouldBlock.into()))
            } else if total == 0 {
                Some(Ok(0))
            } else {
                None
            };
            (socket.peer, verdict)
        });
        if let Some(verdict) = verdict {
            return verdict;
        }
        let Some(peer) = peer else { return blocked };
        let space = self.space(id);
        let mut fits = total.min(space);
        if fits > 1 && self.chance.percent(self.temper.partial_writes) {
            fits = 1 + self.chance.index(fits);
        }
        if fits < total {
            self.net.with(id, |socket| {
                socket.starved = true;
                socket.writable = false;
            });
            if fits < space {
                self.struck(Fault::WriteStopsShort);
                // There is room all the same, so nobody else would tell.
                let delay = self.latency();
                self.after(delay, move |sim| sim.tell_space(id));
            }
        }
        self.moved(id);
        if fits == 0 {
            return blocked;
        }
        let mut bytes = Vec::with_capacity(fits);
        for slice in from {
            let take = slice.len().min(fits - bytes.len());
            bytes.extend_from_slice(&slice[..take]);
        }
        self.trace.note(self.now(), "write", &[id.number(), fits as u64], || preview(&bytes));
        self.send(peer, bytes);
        Ok(fits)
    }

    fn send(&self, to: SocketId, bytes: Vec<u8>) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let longest = rest.len().min(self.temper.segment);
            let length =
                if longest == rest.len() && self.chance.percent(50) { longest } else { 1 + self.chance.index(longest) };
            let tail = rest.split_off(length);
            self.net.with(to, |socket| socket.flying += length);
            let segment = std::mem::replace(&mut rest, tail);
            self.arrive_in_order(to, move |sim| sim.take_in(to, &segment));
        }
    }

    /// Has `action` done when what was sent to `to` before has arrived, unless a reset overtakes it.
    fn arrive_in_order(&self, to: SocketId, action: impl FnOnce(&Self) + 'static) {
        let earliest = self.now() + self.latency();
        let (at, flight) = self.net.with(to, |socket| {
            socket.last_arrival = socket.last_arrival.max(earliest);
            (socket.last_arrival, socket.flight)
        });
        self.after(at - self.now(), move |sim| {
            if sim.net.with(to, |socket| socket.flight == flight) {
                action(sim);
            }
        });
    }

    fn take_in(&self, id: SocketId, bytes: &[u8]) {
        self.trace.note(self.now(), "arrive", &[id.number(), bytes.len() as u64], String::new);
        self.moved(id);
        let (closed, peer) = self.net.with(id, |socket| {
            socket.flying -= bytes.len();
            if !socket.closed && socket.broken.is_none() {
                socket.inbox.extend(bytes);
            }
            (socket.closed, socket.peer)
        });
        if closed {
            // Nobody is there to read it: a reset goes back.
            if let Some(peer) = peer {
                self.arrive_in_order(peer, move |sim| sim.break_off(peer, ErrorKind::ConnectionReset));
            }
            return;
        }
        self.tell(id, Mask::READABLE);
    }

    fn take_in_fin(&self, id: SocketId) {
        self.trace.note(self.now(), "fin", &[id.number()], String::new);
        self.moved(id);
        self.net.with(id, |socket| socket.fin_arrived = true);
        let mut mask = Mask::READABLE;
        mask |= Mask::HALF_CLOSED;
        self.tell(id, mask);
        self.tell_hangup(id);
    }

    /// Where both sides have closed their sending side, that is an event of its own.
    fn tell_hangup(&self, id: SocketId) {
        let both = self.net.with(id, |socket| socket.fin_arrived && socket.fin_sent && !socket.closed);
        if both && self.temper.hangs_up_after_both {
            self.tell(id, Mask::ANYTHING);
        }
    }

    /// The connection is no more, as a reset or a failed attempt to connect leaves it.
    fn break_off(&self, id: SocketId, how: ErrorKind) {
        let alive = self.net.with(id, |socket| {
            let alive =
                !socket.closed && socket.broken.is_none() && (how == ErrorKind::ConnectionReset || !socket.connected);
            if alive {
                socket.broken = Some(how);
                if self.temper.resets_discard {
                    socket.inbox.clear();
                }
            }
            alive
        });
        if alive {
            self.trace.note(self.now(), "broken", &[id.number()], || how.to_string());
            self.moved(id);
            self.tell(id, Mask::ANYTHING);
        }
    }

    /// A read as the kernel does it. `Ok(0)` is the end.
    pub fn read(&self, id: SocketId, into: &mut [u8]) -> io::Result<usize> {
        let (outcome, peer) = self.net.with(id, |socket| {
            let take = into.len().min(socket.inbox.len());
            if take > 0 {
                copy_out(&mut socket.inbox, &mut into[..take]);
                // A short read says that nothing is left, unless the end has been told already: that comes once.
                if take < into.len() && socket.peer_state == PeerState::Open {
                    socket.readable = false;
                    socket.told_of_bytes = false;
                }
                return (Ok(take), socket.peer);
            }
            if into.is_empty() {
                return (Ok(0), None);
            }
            if socket.broken.is_some() {
                return (take_error_or_end(socket, self.temper.errors_once), None);
            }
            if socket.fin_arrived {
                return (Ok(0), None);
            }
            socket.readable = false;
            socket.told_of_bytes = false;
            (Err(ErrorKind::WouldBlock.into()), None)
        });
        self.trace.note(
            self.now(),
            "read",
            &[id.number(), *outcome.as_ref().unwrap_or(&0) as u64],
            || match &outcome {
                Ok(length) => preview(&into[..*length]),
                Err(error) => error.to_string(),
            },
        );
        if let (Ok(_), Some(peer)) = (&outcome, peer) {
            self.moved(id);
            if self.net.with(peer, |socket| socket.starved) && self.space(peer) * 3 >= self.temper.window {
                let delay = self.latency();
                self.after(delay, move |sim| sim.tell_space(peer));
            }
        }
        outcome
    }

    /// Notes that something moved on a connection.
    pub fn moved(&self, id: SocketId) {
        for end in [Some(id), self.peer_of(id)].into_iter().flatten() {
            self.trail.moved(self.now(), end);
        }
    }

    fn tell_space(&self, id: SocketId) {
        let starved = self.net.with(id, |socket| std::mem::take(&mut socket.starved));
        if starved {
            self.tell(id, Mask::WRITABLE);
        }
    }

    /// Closes the sending side.
    pub fn finish(&self, id: SocketId) {
        let peer = self.net.with(id, |socket| {
            let first = !socket.fin_sent && socket.connected && socket.broken.is_none();
            socket.fin_sent = true;
            if first { socket.peer } else { None }
        });
        if let Some(peer) = peer {
            self.trail.done(self.now(), peer, Deed::Closes);
            self.arrive_in_order(peer, move |sim| sim.take_in_fin(peer));
            self.tell_hangup(id);
        }
    }

    pub fn reset_on_close(&self, id: SocketId) {
        self.net.with(id, |socket| socket.reset_on_close = true);
    }

    /// Closes both ways: a reset where bytes were unread or one was asked for, else the sending side's end.
    pub fn close(&self, id: SocketId) {
        if self.net.sockets.borrow().is_empty() {
            return;
        }
        let (rudely, peer, holder) = self.net.with(id, |socket| {
            let rudely = socket.reset_on_close || !socket.inbox.is_empty();
            socket.inbox.clear();
            (rudely && socket.broken.is_none(), socket.peer, socket.holder)
        });
        self.trace.note(self.now(), "close", &[id.number()], || if rudely { "reset" } else { "" }.to_owned());
        if holder == Holder::Service {
            self.net.service_streams.set(self.net.service_streams.get() - 1);
            self.trail.closed(self.now(), id);
        }
        if !rudely {
            self.finish(id);
        }
        self.net.with(id, |socket| socket.closed = true);
        if holder == Holder::Actor {
            self.wake_actors(id);
        }
        if let (true, Some(peer)) = (rudely, peer) {
            self.trail.done(self.now(), peer, Deed::Resets);
            if self.chance.percent(50) {
                let lost = self.net.with(peer, |socket| {
                    socket.flight += 1;
                    std::mem::take(&mut socket.flying)
                });
                if lost > 0 {
                    self.struck(Fault::ResetOvertakes);
                }
            }
            self.arrive_in_order(peer, move |sim| sim.break_off(peer, ErrorKind::ConnectionReset));
        }
    }

    /// The other end of a connection.
    pub fn peer_of(&self, id: SocketId) -> Option<SocketId> {
        self.net.with(id, |socket| socket.peer)
    }

    /// Whether the other end has been closed.
    pub fn is_closed_by_peer(&self, id: SocketId) -> bool {
        let peer = self.net.with(id, |socket| socket.peer);
        peer.is_none_or(|peer| self.net.with(peer, |socket| socket.closed))
    }

    /// The error that connecting ended with, once.
    /// Whether connecting has come to an end.
    pub fn is_connected(&self, id: SocketId) -> bool {
        self.net.with(id, |socket| socket.connected || socket.broken.is_some())
    }

    pub fn take_connect_error(&self, id: SocketId) -> io::Result<()> {
        self.net.with(id, |socket| match socket.broken {
            Some(kind) => Err(kind.into()),
            None if socket.connected => Ok(()),
            None => Err(ErrorKind::NotConnected.into()),
        })
    }
}

/// After a reset: the error, or `then` once the error was taken (where the system forgets it).
fn take_error(socket: &mut Socket, once: bool, then: ErrorKind) -> io::Error {
    let kind = socket.broken.unwrap_or(then);
    // Actors are told the truth each time.
    if once && socket.holder == Holder::Service && kind == ErrorKind::ConnectionReset {
        socket.broken = Some(then);
    }
    kind.into()
}

fn take_error_or_end(socket: &mut Socket, once: bool) -> io::Result<usize> {
    match take_error(socket, once, ErrorKind::BrokenPipe) {
        error if error.kind() == ErrorKind::BrokenPipe => Ok(0),
        error => Err(error),
    }
}

fn copy_out(inbox: &mut VecDeque<u8>, into: &mut [u8]) {
    let (first, second) = inbox.as_slices();
    let split = first.len().min(into.len());
    into[..split].copy_from_slice(&first[..split]);
    let rest = into.len() - split;
    into[split..].copy_from_slice(&second[..rest]);
    inbox.drain(..into.len());
}

fn preview(bytes: &[u8]) -> String {
    bytes[..bytes.len().min(60)].escape_ascii().to_string()
}
