//! What the network and the control plane saw of a run, in order: who asked whom for what, and who did what to whom. The
//! judge takes from it what each exchange met (`story.rs`).

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use crate::net::{Connecting, SocketId};
use crate::sim::{MILLISECOND, TaskId, Time};

/// A place in the order of all that was noted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment {
    number: u64,
    pub at: Time,
}

impl Moment {
    pub const FIRST: Self = Self { number: 0, at: 0 };
    pub const NEVER: Self = Self { number: u64::MAX, at: Time::MAX };
}

/// A client's connection, as the proxy holds it.
#[derive(Clone, Debug)]
pub struct Line {
    /// The client's end.
    client: SocketId,
    pub from: IpAddr,
    pub accepted: Moment,
    /// Each write to the client: how many bytes have been written then, and what was the case.
    pub written: Vec<(Moment, usize, State)>,
    pub closed: Option<Moment>,
    pub panicked: Option<Moment>,
}

/// What is the case in the proxy at some moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct State {
    /// Client connections that have a seat.
    pub seated: usize,
    /// Requests that wait for room.
    pub waiting: usize,
    /// Some backend may get a request now.
    pub has_room: bool,
    /// Some may get one now or when it has room again.
    pub may_have_room: bool,
}

/// An attempt to connect to a backend, and the connection that came of it.
#[derive(Clone, Debug)]
pub struct Way {
    pub dialled: Moment,
    /// The connection of the client for whose request it was made.
    pub by: Option<SocketId>,
    pub address: SocketAddr,
    pub outcome: Connecting,
    /// The proxy's end, if the system gave it one.
    pub socket: Option<SocketId>,
    /// Which requests the proxy wanted to write to it.
    pub offers: Vec<(Moment, u64)>,
    pub deeds: Vec<(Moment, Deed)>,
    /// The proxy closed it.
    pub closed: Option<Moment>,
}

/// What an origin did on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// It sent the last byte of a whole answer.
    Answers,
    /// It said that it will close, and nothing is to follow.
    SaysClose,
    /// It sent what no answer may be or have.
    Babbles,
    /// It showed a certificate that isn't to be trusted.
    ShowsBadCertificate,
    /// It refused the session by an alert.
    Refuses,
    /// It answered a handshake with none, or left.
    BreaksHandshake,
    /// It fell silent.
    Stalls,
    /// It had enough of a client that neither sent nor read.
    GivesUp,
    /// It closed its sending side.
    Closes,
    Resets,
}

/// Who there was to be asked, from a moment on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Roll {
    /// The eligible backends' ids.
    pub eligible: Vec<u64>,
    /// Some backend's name had no address.
    pub unresolved: bool,
}

/// A failure that the proxy has counted of a backend.
#[derive(Clone, Copy, Debug)]
pub struct Counted {
    pub moment: Moment,
    /// The connection of the client in whose service it was.
    pub line: SocketId,
    pub origin: usize,
}

/// All of it.
#[derive(Default)]
pub struct Trail {
    last: Cell<u64>,
    lines: RefCell<BTreeMap<SocketId, Line>>,
    ways: RefCell<Vec<Way>>,
    ways_of: RefCell<BTreeMap<SocketId, usize>>,
    serving: RefCell<BTreeMap<TaskId, SocketId>>,
    rolls: RefCell<Vec<(Moment, Roll)>>,
    /// When something moved on a connection, by the proxy's end of it.
    moved: RefCell<BTreeMap<SocketId, Vec<Time>>>,
    drained: Cell<Option<Moment>>,
    held_anew: RefCell<Vec<Time>>,
    look: RefCell<Option<Rc<dyn Fn() -> State>>>,
    failures: RefCell<Vec<Counted>>,
    count: RefCell<Option<Rc<dyn Fn() -> Vec<usize>>>>,
}

impl Trail {
    fn now(&self, at: Time) -> Moment {
        self.last.set(self.last.get() + 1);
        Moment { number: self.last.get(), at }
    }

    /// How the state of the proxy is looked at.
    pub fn look_with(&self, look: impl Fn() -> State + 'static) {
        *self.look.borrow_mut() = Some(Rc::new(look));
    }

    /// How it is found out of which origins the proxy has counted failures since it was last asked, one for each.
    pub fn count_with(&self, count: impl Fn() -> Vec<usize> + 'static) {
        *self.count.borrow_mut() = Some(Rc::new(count));
    }

    /// `task` has had a turn, or a part of one, that belongs to no more than one try.
    pub fn count_failures(&self, now: Time, task: Option<TaskId>) {
        let (Some(line), Some(count)) = (self.served_by(task), self.count.borrow().clone()) else { return };
        for origin in count() {
            let moment = self.now(now);
            self.failures.borrow_mut().push(Counted { moment, line, origin });
        }
    }

    /// The failures that the proxy has counted of backends, in order.
    pub fn failures(&self) -> Vec<Counted> {
        self.failures.borrow().clone()
    }

    /// `task` serves the client's connection whose end at the proxy is `line`.
    pub fn serves(&self, task: TaskId, line: SocketId) {
        self.serving.borrow_mut().insert(task, line);
    }

    /// The proxy's end of the connection that `task` serves.
    pub fn served_by(&self, task: Option<TaskId>) -> Option<SocketId> {
        self.serving.borrow().get(&task?).copied()
    }

    /// The proxy has taken a client's connection.
    pub fn accepted(&self, now: Time, socket: SocketId, client: SocketId, from: IpAddr) {
        let accepted = self.now(now);
        let line = Line { client, from, accepted, written: Vec::new(), closed: None, panicked: None };
        self.lines.borrow_mut().insert(socket, line);
        self.moved.borrow_mut().insert(socket, vec![now]);
    }

    /// The running task was unwound in the middle of its work.
    pub fn panicked(&self, now: Time, task: Option<TaskId>) {
        let moment = self.now(now);
        let Some(served_by) = self.served_by(task) else { return };
        if let Some(line) = self.lines.borrow_mut().get_mut(&served_by) {
            line.panicked = Some(moment);
        }
    }

    /// The running task wants to connect.
    pub fn dialled(&self, now: Time, task: Option<TaskId>, address: SocketAddr, outcome: Connecting) {
        self.count_failures(now, task);
        let dialled = self.now(now);
        let (by, offers, deeds) = (self.served_by(task), Vec::new(), Vec::new());
        self.ways.borrow_mut().push(Way { dialled, by, address, outcome, socket: None, offers, deeds, closed: None });
    }

    /// The last attempt to connect goes on as this socket of the proxy's.
    pub fn dials_as(&self, socket: SocketId) {
        let way = self.ways.borrow().len() - 1;
        self.ways.borrow_mut()[way].socket = Some(socket);
        self.ways_of.borrow_mut().insert(socket, way);
        self.moved.borrow_mut().insert(socket, Vec::new());
    }

    /// The proxy's end of the last attempt to connect.
    pub fn last_dialled(&self) -> SocketId {
        let ways = self.ways.borrow();
        ways.last().and_then(|way| way.socket).expect("it has just been dialled")
    }

    /// The running task wants to write `bytes`, of which `taken` are taken.
    pub fn written(&self, now: Time, task: Option<TaskId>, socket: SocketId, bytes: &[u8], taken: usize) {
        let moment = self.now(now);
        if let Some(line) = self.lines.borrow_mut().get_mut(&socket) {
            let before = line.written.last().map_or(0, |(_, bytes, _)| *bytes);
            let state = self.look.borrow().as_ref().map_or_else(State::default, |look| look());
            line.written.push((moment, before + taken, state));
        }
        let (Some(&way), Some(id)) = (self.ways_of.borrow().get(&socket), exchange_in(bytes)) else { return };
        self.count_failures(now, task);
        let moment = self.now(now);
        let offers = &mut self.ways.borrow_mut()[way].offers;
        if offers.last().is_none_or(|(_, last)| *last != id) {
            offers.push((moment, id));
        }
    }

    /// The proxy closed a socket.
    pub fn closed(&self, now: Time, socket: SocketId) {
        let moment = self.now(now);
        if let Some(line) = self.lines.borrow_mut().get_mut(&socket) {
            line.closed = Some(moment);
        }
        if let Some(&way) = self.ways_of.borrow().get(&socket) {
            self.ways.borrow_mut()[way].closed = Some(moment);
        }
    }

    /// An origin did something on the connection whose end at the proxy is `socket`.
    pub fn done(&self, now: Time, socket: SocketId, deed: Deed) {
        let moment = self.now(now);
        if let Some(&way) = self.ways_of.borrow().get(&socket) {
            self.ways.borrow_mut()[way].deeds.push((moment, deed));
        }
    }

    /// Something moved on a connection, of which this is an end: bytes, their arrival, or that they were read.
    pub fn moved(&self, now: Time, end: SocketId) {
        if let Some(moved) = self.moved.borrow_mut().get_mut(&end)
            && moved.last().is_none_or(|last| now >= last + MILLISECOND)
        {
            moved.push(now);
        }
    }

    /// When something moved on the connection whose end at the proxy is `socket`, to a millisecond.
    pub fn moves_of(&self, socket: SocketId) -> Vec<Time> {
        self.moved.borrow().get(&socket).cloned().unwrap_or_default()
    }

    /// The control plane has published who there is.
    pub fn called(&self, now: Time, roll: Roll) {
        let mut rolls = self.rolls.borrow_mut();
        if rolls.last().is_none_or(|(_, last)| *last != roll) {
            rolls.push((self.now(now), roll));
        }
    }

    /// Since the first backend was there, nobody came, went or turned.
    pub fn stayed_as_it_was(&self) -> bool {
        let rolls = self.rolls.borrow();
        rolls.iter().all(|(moment, _)| moment.at == rolls[0].0.at)
    }

    /// At no time was a backend without an address.
    pub fn all_resolved(&self) -> bool {
        !self.rolls.borrow().iter().any(|(_, roll)| roll.unresolved)
    }

    /// Connections to backends are encrypted by something else from then on.
    pub fn holds_anew(&self, now: Time) {
        self.held_anew.borrow_mut().push(now);
    }

    /// When that was.
    pub fn held_anew(&self) -> Vec<Time> {
        self.held_anew.borrow().clone()
    }

    /// The proxy was told to stop.
    pub fn drained(&self, now: Time) {
        self.drained.set(Some(self.now(now)));
    }

    /// How many of clients' connections the proxy has taken, and whether nothing ended any of them in its midst.
    pub fn accepted_in_order(&self) -> (u64, bool) {
        (self.lines.borrow().len() as u64, self.drained.get().is_none() && self.panics() == 0)
    }

    /// Of how many the coroutine was unwound.
    pub fn panics(&self) -> u64 {
        self.lines.borrow().values().filter(|line| line.panicked.is_some()).count() as u64
    }

    /// The proxy's end of a client's connection.
    pub fn line_of(&self, client: SocketId) -> Option<SocketId> {
        self.lines.borrow().iter().find(|(_, line)| line.client == client).map(|(socket, _)| *socket)
    }

    pub fn line(&self, socket: SocketId) -> Option<Line> {
        self.lines.borrow().get(&socket).cloned()
    }

    pub fn ways(&self) -> Vec<Way> {
        self.ways.borrow().clone()
    }

    /// The number of the way whose end at the proxy is `socket`.
    pub fn way_of(&self, socket: SocketId) -> Option<usize> {
        self.ways_of.borrow().get(&socket).copied()
    }

    pub fn drained_at(&self) -> Moment {
        self.drained.get().unwrap_or(Moment::NEVER)
    }

    /// Client connections from `from` at a moment, as far as they were accepted before it.
    pub fn lines_at(&self, moment: Moment, from: IpAddr) -> usize {
        let lines = self.lines.borrow();
        let open = |line: &&Line| line.accepted <= moment && line.closed.is_none_or(|closed| closed > moment);
        lines.values().filter(|line| line.from == from).filter(open).count()
    }

    /// Whether the roll was like this at any time from `from` to `to`.
    pub fn was_called(&self, from: Moment, to: Moment, like: impl Fn(&Roll) -> bool) -> bool {
        let rolls = self.rolls.borrow();
        let ends = rolls.iter().skip(1).map(|(moment, _)| *moment).chain([Moment::NEVER]);
        rolls.iter().zip(ends).any(|((begin, roll), end)| like(roll) && *begin <= to && from <= end)
    }
}

/// The number in the target of the request that `bytes` begin with.
fn exchange_in(bytes: &[u8]) -> Option<u64> {
    let target = memchr::memmem::find(&bytes[..bytes.len().min(24)], b" /exchange/")?;
    let digits = &bytes[target + " /exchange/".len()..];
    let length = digits.iter().take_while(|byte| byte.is_ascii_digit()).count();
    std::str::from_utf8(&digits[..length]).ok()?.parse().ok()
}
