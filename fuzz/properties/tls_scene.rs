//! A world of one socket, without coroutines: whoever waits there has a script go on, which lets records of a real peer come,
//! as they are or spoilt.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io::{self, IoSlice, Read, Write};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Waker;
use std::time::Duration;

use maypole::runtime::world::{Instant, Need, PeerState, Pipe, Stream, Wake, Watch, World};
use maypole::transport::Stored;
use rustls::Connection;

/// Reads that find nothing, and waits for nothing: more than any need for one of what has come.
const IDLE_MAX: u32 = 64;
/// Beyond what a handshake lingers for, so that it parks.
const SILENCE: Duration = Duration::from_millis(6);
/// What peers say at once, in bytes; and what is written to them.
const SIZES: [usize; 8] = [0, 1, 2, 100, 1_000, 16_384, 16_385, 40_000];
/// In all.
pub const PLAIN_BYTES_MAX: usize = 200_000;
/// Requests for new keys: far fewer than end a connection.
const KEY_UPDATES_MAX: u32 = 8;

/// What a script has the user of the stream do.
#[derive(Clone, Copy, Debug)]
pub enum Deed {
    Write(usize),
    Park,
    End,
}

/// The script, the peer, and the socket between it and the layer.
pub struct Scene {
    script: RefCell<VecDeque<u8>>,
    peer: RefCell<Connection>,
    /// Records that the peer has said, and that haven't come.
    pending: RefCell<VecDeque<Vec<u8>>>,
    inbox: RefCell<VecDeque<u8>>,
    /// The end of what comes.
    pub has_ended: Cell<bool>,
    /// What comes isn't what the peer has said.
    pub is_spoilt: Cell<bool>,
    /// Nothing is spoilt from now on.
    stays_sound: Cell<bool>,
    /// Something has come that nobody has waited for yet.
    has_news: Cell<bool>,
    /// Plaintext that the peer has said, and has read.
    pub said: RefCell<Vec<u8>>,
    pub heard: RefCell<Vec<u8>>,
    pub has_said_end: Cell<bool>,
    key_updates: Cell<u32>,
    /// Bytes that the socket takes.
    room: Cell<usize>,
    idle: Cell<u32>,
    clock: Cell<Instant>,
    deeds: RefCell<VecDeque<Deed>>,
    pub parked: RefCell<Option<(Wire, Stored<()>, Instant)>>,
    bell: Arc<Bell>,
}

#[derive(Default)]
struct Bell(AtomicBool);

impl std::task::Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Scene {
    pub fn new(peer: Connection, script: &[u8]) -> Rc<Self> {
        let scene = Self {
            script: RefCell::new(script.iter().copied().collect()),
            peer: RefCell::new(peer),
            pending: RefCell::default(),
            inbox: RefCell::default(),
            has_ended: Cell::new(false),
            is_spoilt: Cell::new(false),
            stays_sound: Cell::new(false),
            has_news: Cell::new(true),
            said: RefCell::default(),
            heard: RefCell::default(),
            has_said_end: Cell::new(false),
            key_updates: Cell::new(0),
            room: Cell::new(usize::MAX),
            idle: Cell::new(0),
            clock: Cell::new(Instant(0)),
            deeds: RefCell::default(),
            parked: RefCell::default(),
            bell: Arc::default(),
        };

        scene.listen();
        Rc::new(scene)
    }

    /// Has the script go on until something has come, or the deadline is there.
    pub fn wait(&self, deadline: Instant) -> Wake {
        loop {
            if self.bell.0.swap(false, Ordering::Relaxed) || self.has_news.take() {
                return Wake::Event;
            }
            if self.clock.get() >= deadline {
                return Wake::Deadline;
            }
            if !self.go_on() {
                self.idles();
                self.clock.set(deadline);
            }
        }
    }

    /// What the script has the user do next.
    pub fn next_deed(&self) -> Option<Deed> {
        self.deeds.borrow_mut().pop_front().inspect(|_| self.idle.set(0))
    }

    /// Whether the user may end the stream. Where rustls finds a fault behind that, its debug builds fail by an assertion of
    /// their own: an alert may not follow `close_notify`.
    pub fn may_end(&self) -> bool {
        self.stays_sound.set(!self.is_spoilt.get());
        self.stays_sound.get()
    }

    /// One step of the script. Behind its end all comes that is left, and then the end. False when there is nothing more.
    pub fn go_on(&self) -> bool {
        let Some(step) = self.script.borrow_mut().pop_front() else { return self.finish() };
        self.idle.set(0);
        let part = usize::from(step % 32);
        match step / 32 {
            0 => (0..=part).for_each(|_| self.let_one_come()),
            1 => self.cut((part + 1) * (part + 1)),
            2..5 if self.stays_sound.get() => {}
            2 => self.spoil(part),
            3 => self.change(part),
            4 => {
                let mut script = self.script.borrow_mut();
                let end = script.len().min(part + 1);
                let bytes: Vec<u8> = script.drain(..end).collect();
                self.spoilt();
                self.come(&bytes);
            }
            5 => self.say(SIZES[part % 8]),
            6 => self.deeds.borrow_mut().push_back(match part {
                0..16 => Deed::Write(SIZES[part % 8]),
                16..31 => Deed::Park,
                _ => Deed::End,
            }),
            _ => self.turn(part),
        }
        true
    }

    fn turn(&self, part: usize) {
        match part {
            0..8 => self.clock.set(self.clock.get() + SILENCE),
            8..16 => self.takes(SIZES[part % 8]),
            16..20 => self.takes(usize::MAX),
            20..28 if self.key_updates.get() < KEY_UPDATES_MAX && !self.has_said_end.get() => {
                self.key_updates.set(self.key_updates.get() + 1);
                let _ = self.peer.borrow_mut().refresh_traffic_keys();
            }
            28 | 29 => self.say_end(),
            30 if !self.stays_sound.get() => {
                self.spoilt();
                self.end();
            }
            _ => {}
        }
        self.listen();
    }

    fn finish(&self) -> bool {
        let is_left = !self.pending.borrow().is_empty();
        if self.room.get() < usize::MAX {
            self.takes(usize::MAX);
        } else if is_left {
            self.let_one_come();
        } else if !self.has_ended.get() && (self.is_spoilt.get() || self.has_said_end.get()) {
            self.end();
        } else if !self.peer.borrow().is_handshaking() && !self.has_said_end.get() {
            self.say_end();
        } else {
            return false;
        }
        true
    }

    fn say(&self, bytes: usize) {
        let begins = self.said.borrow().len();
        if self.has_said_end.get() || begins + bytes > PLAIN_BYTES_MAX {
            return;
        }
        let plain: Vec<u8> = (begins..begins + bytes).map(|n| (n * 7 + n / 251) as u8).collect();
        if let Err(error) = self.peer.borrow_mut().writer().write_all(&plain) {
            return assert!(self.is_spoilt.get(), "it was told of a fault: {error}");
        }
        self.said.borrow_mut().extend(plain);
        self.listen();
    }

    /// What the peer said before its handshake is over it hasn't sent yet.
    fn say_end(&self) {
        if !self.peer.borrow().is_handshaking() && !self.has_said_end.replace(true) {
            self.peer.borrow_mut().send_close_notify();
            self.listen();
        }
    }

    /// Takes what the peer says, by record.
    fn listen(&self) {
        let mut bytes = Vec::new();
        let mut peer = self.peer.borrow_mut();
        while peer.wants_write() {
            peer.write_tls(&mut bytes).expect("memory");
        }
        let mut rest = &bytes[..];
        while let [_, _, _, high, low, ..] = *rest {
            let (record, behind) = rest.split_at(5 + usize::from(u16::from_be_bytes([high, low])));
            self.pending.borrow_mut().push_back(record.to_vec());
            rest = behind;
        }
    }

    /// Hands the peer what the layer has sent.
    fn tell(&self, mut bytes: &[u8]) {
        let mut peer = self.peer.borrow_mut();
        while !bytes.is_empty() {
            let taken = peer.read_tls(&mut bytes);
            let processed = peer.process_new_packets();
            if let Ok(state) = &processed {
                let mut plain = vec![0; state.plaintext_bytes_to_read()];
                peer.reader().read_exact(&mut plain).expect("it is there");
                self.heard.borrow_mut().extend(plain);
            }
            if !matches!(taken, Ok(1..)) || processed.is_err() {
                // Behind the end of what was said, or of a peer that found fault, nothing is taken.
                assert!(self.is_spoilt.get() || processed.is_ok(), "what was sent isn't sound: {processed:?}");
                break;
            }
        }
        drop(peer);
        self.listen();
    }

    fn let_one_come(&self) {
        let record = self.pending.borrow_mut().pop_front();
        self.come(&record.unwrap_or_default());
    }

    fn cut(&self, bytes: usize) {
        let mut pending = self.pending.borrow_mut();
        let Some(record) = pending.front_mut().filter(|record| record.len() > bytes) else { return };
        let piece: Vec<u8> = record.drain(..bytes).collect();
        drop(pending);
        self.come(&piece);
    }

    /// Leaves a record out, has it come twice or late, or is cut in two or joined where only clear ones may be.
    fn spoil(&self, how: usize) {
        let mut pending = self.pending.borrow_mut();
        let Some(mut record) = pending.pop_front() else { return };
        self.spoilt();
        match how % 5 {
            0 => return,
            1 => pending.push_front(record.clone()),
            2 => {
                let behind = pending.len().min(1 + how / 5);
                return pending.insert(behind, record);
            }
            3 if record.len() > 6 => {
                let mut second = record.split_off(record.len() / 2);
                second.splice(..0, [record[0], record[1], record[2], 0, 0]);
                measure(&mut second);
                pending.push_front(second);
            }
            _ => {
                let next = pending.pop_front().unwrap_or_default();
                record.extend(next.get(5..).unwrap_or_default());
            }
        }
        measure(&mut record);
        pending.push_front(record);
    }

    fn change(&self, how: usize) {
        let mut script = self.script.borrow_mut();
        let (at, by) = (script.pop_front().unwrap_or(0), script.pop_front().unwrap_or(1).max(1));
        let mut pending = self.pending.borrow_mut();
        let Some(record) = pending.front_mut().filter(|record| !record.is_empty()) else { return };
        let at = (usize::from(at) << (how % 8)) % record.len();
        record[at] ^= by;
        self.spoilt();
    }

    fn takes(&self, room: usize) {
        if self.room.replace(room) < room {
            self.has_come();
        }
    }

    fn spoilt(&self) {
        self.is_spoilt.set(true);
    }

    fn come(&self, bytes: &[u8]) {
        if !bytes.is_empty() && !self.has_ended.get() {
            self.inbox.borrow_mut().extend(bytes);
            self.has_come();
        }
    }

    fn end(&self) {
        self.has_ended.set(true);
        self.has_come();
    }

    fn has_come(&self) {
        self.has_news.set(true);
        self.idle.set(0);
    }

    fn idles(&self) {
        self.idle.set(self.idle.get() + 1);
        assert!(self.idle.get() < IDLE_MAX, "it goes on and on about nothing");
    }
}

/// Has a record's head say how long it is.
fn measure(record: &mut [u8]) {
    let bytes = record.len().saturating_sub(5).to_be_bytes();
    if let Some(length) = record.get_mut(3..5) {
        length.copy_from_slice(&bytes[bytes.len() - 2..]);
    }
}

/// The layer's end of the socket, and the world that it is of.
#[derive(Clone)]
pub struct Wire(pub Rc<Scene>);

/// There is none.
pub enum NoPipe {}

impl Pipe for NoPipe {
    fn len(&self) -> usize {
        0
    }

    fn pour(&mut self, _: &mut [u8]) -> usize {
        0
    }
}

impl Stream for Wire {
    type Pipe = NoPipe;

    fn try_read(&self, into: &mut [u8]) -> io::Result<usize> {
        assert!(!into.is_empty(), "a read of nothing looks like the end");
        let read = self.0.inbox.borrow_mut().read(into)?;
        if read > 0 || self.0.has_ended.get() {
            return Ok(read);
        }
        self.0.idles();
        Err(io::ErrorKind::WouldBlock.into())
    }

    fn try_write(&self, from: &[IoSlice<'_>]) -> io::Result<usize> {
        let room = self.0.room.get();
        let bytes: Vec<u8> = from.iter().flat_map(|slice| slice.iter().copied()).take(room).collect();
        if bytes.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.0.room.set(if room == usize::MAX { room } else { room - bytes.len() });
        self.0.tell(&bytes);
        Ok(bytes.len())
    }

    fn is_readable(&self) -> bool {
        !self.0.inbox.borrow().is_empty() || self.0.has_ended.get()
    }

    fn is_writable(&self) -> bool {
        self.0.room.get() > 0
    }

    fn peer_state(&self) -> PeerState {
        if self.0.has_ended.get() { PeerState::HalfClosed } else { PeerState::Open }
    }

    fn is_quiet(&self, _: bool) -> bool {
        !self.is_readable()
    }

    fn take_connect_error(&self) -> io::Result<()> {
        Ok(())
    }

    fn pipe(&self, _: u64) -> Option<NoPipe> {
        None
    }

    fn try_fill(&self, _: &mut NoPipe, _: usize) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn try_drain(&self, _: &mut NoPipe) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn shutdown_write(&self) {}

    fn reset_on_close(&self) {}
}

impl World for Wire {
    type Stream = Self;
    type Parked = Stored<()>;

    fn now(&self) -> Instant {
        self.0.clock.get()
    }

    fn unix_seconds(&self) -> u64 {
        0
    }

    fn random(&self) -> u64 {
        0
    }

    fn worker(&self) -> usize {
        0
    }

    fn connect(&self, _: SocketAddr) -> io::Result<Self> {
        Ok(self.clone())
    }

    fn wait(&self, _: &Self, _: Option<(&Self, Watch)>, deadline: Instant) -> Wake {
        self.0.wait(deadline)
    }

    fn yield_now(&self, _: &Self) {
        self.0.idles();
    }

    fn take_turns(&self, _: &Self) {}

    fn waker(&self, _: &Self) -> Waker {
        Waker::from(Arc::clone(&self.0.bell))
    }

    fn park(&self, stream: Self, parked: Stored<()>, deadline: Instant) {
        self.park_for(Need::Read, stream, parked, deadline);
    }

    fn park_for(&self, _: Need, stream: Self, parked: Stored<()>, deadline: Instant) {
        let before = self.0.parked.replace(Some((stream, parked, deadline)));
        assert!(before.is_none(), "there is one stream");
    }

    fn tie(&self, _: &Self, _: &Self) -> bool {
        true
    }

    fn resume_parked(&self) {}
}
