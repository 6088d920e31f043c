use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io::{self, IoSlice, Read, Write};
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;

use rustls::{ClientConnection, SupportedProtocolVersion};

pub(super) use self::certificate::Certificate;
use super::certificate::Certificate as Certified;
use super::server::{Greeter, TlsServer};
use super::session::{Session, Shelves};
use super::tls::Tls;
use super::turns::Turns as Share;
use crate::runtime::world::{Instant, Need, PeerState, Pipe, Stream, Wake, Watch, World};

#[path = "../../tests/support/any_certificate.rs"]
mod any_certificate;
#[path = "../../tests/support/certificate.rs"]
mod certificate;
mod forged;
mod greeter;

/// A socket in memory, whose other end is the test's.
#[derive(Clone)]
pub(super) struct Wire(Rc<Ends>);

#[derive(Default)]
struct Ends {
    to_server: RefCell<VecDeque<u8>>,
    to_client: RefCell<VecDeque<u8>>,
    /// The client has sent FIN.
    has_ended: Cell<bool>,
    /// Bytes that the server may still write, and read at once.
    room: Cell<usize>,
    piece: Cell<usize>,
    /// What the server has done to its sending side.
    fin: Cell<bool>,
    reset: Cell<bool>,
}

pub(super) enum NoPipe {}

impl Pipe for NoPipe {
    fn len(&self) -> usize {
        0
    }

    fn pour(&mut self, _: &mut [u8]) -> usize {
        0
    }
}

impl Wire {
    /// One with room for anything.
    pub(super) fn open() -> Self {
        let wire = Self(Rc::default());
        wire.0.room.set(usize::MAX);
        wire.0.piece.set(usize::MAX);
        wire
    }

    /// Takes what was written to it.
    pub(super) fn take_written(&self) -> Vec<u8> {
        self.0.to_client.borrow_mut().drain(..).collect()
    }

    /// Has bytes come.
    pub(super) fn come(&self, bytes: &[u8]) {
        self.0.to_server.borrow_mut().extend(bytes);
    }

    /// Has the other side's FIN come.
    pub(super) fn end(&self) {
        self.0.has_ended.set(true);
    }
}

impl Stream for Wire {
    type Pipe = NoPipe;

    fn try_read(&self, into: &mut [u8]) -> io::Result<usize> {
        let mut from = self.0.to_server.borrow_mut();
        let n = into.len().min(from.len()).min(self.0.piece.get());
        if n == 0 && !self.0.has_ended.get() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        from.drain(..n).zip(into).for_each(|(byte, into)| *into = byte);
        Ok(n)
    }

    fn try_write(&self, from: &[IoSlice<'_>]) -> io::Result<usize> {
        assert!(!self.0.fin.get(), "written behind FIN");
        let bytes: Vec<u8> = from.iter().flat_map(|slice| slice.iter().copied()).take(self.0.room.get()).collect();
        if bytes.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.0.room.set(self.0.room.get() - bytes.len());
        self.0.to_client.borrow_mut().extend(&bytes);
        Ok(bytes.len())
    }

    fn is_readable(&self) -> bool {
        !self.0.to_server.borrow().is_empty()
    }

    fn is_writable(&self) -> bool {
        self.0.room.get() > 0
    }

    fn peer_state(&self) -> PeerState {
        if self.0.has_ended.get() { PeerState::HalfClosed } else { PeerState::Open }
    }

    fn is_quiet(&self, _: bool) -> bool {
        self.0.to_server.borrow().is_empty() && !self.0.has_ended.get()
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

    fn shutdown_write(&self) {
        self.0.fin.set(true);
    }

    fn reset_on_close(&self) {
        self.0.reset.set(true);
    }
}

/// A TLS stream and its client.
struct Scene {
    client: ClientConnection,
    wire: Wire,
    tls: Tls<Wire>,
    shelves: Rc<Shelves>,
}

static TLS12_ALONE: &[&SupportedProtocolVersion] = &[&rustls::version::TLS12];

impl Scene {
    fn new(versions: &[&'static SupportedProtocolVersion]) -> Self {
        let certificate = Certificate::new();
        let shown = Certified::of(certificate.chain.clone(), certificate.key.clone(), None).expect("they fit");
        let server = Arc::new(TlsServer::showing(shown).expect("a server"));
        let greeter = Greeter::new(Arc::clone(&server));
        let client = certificate.client(versions);
        let wire = Wire::open();
        let shelves = Rc::new(Shelves::default());
        let tls = Tls::new(wire.clone(), Session::new(greeter.config(), &shelves).expect("a session"));
        Self { client, wire, tls, shelves }
    }

    /// One whose handshake is over.
    fn open(versions: &[&'static SupportedProtocolVersion]) -> Self {
        let mut scene = Self::new(versions);
        while scene.client.is_handshaking() || scene.tls.is_handshaking() {
            scene.send();
            while scene.tls.receive().is_ok() {
                scene.tls.shake().expect("a sound handshake");
            }
            scene.take_all();
        }
        assert!(!scene.tls.is_fresh());
        assert_eq!(scene.shelves.in_use(), 0, "nothing is on its way");
        scene
    }

    /// Has the client's bytes on their way.
    fn send(&mut self) {
        while self.client.wants_write() {
            let mut bytes = Vec::new();
            self.client.write_tls(&mut bytes).expect("memory");
            self.wire.0.to_server.borrow_mut().extend(&bytes);
        }
    }

    fn client_says(&mut self, bytes: &[u8]) {
        self.client.set_buffer_limit(None);
        self.client.writer().write_all(bytes).expect("memory");
        self.send();
    }

    /// Hands the server's bytes to the client, which says what they hold.
    fn take_all(&mut self) -> Vec<u8> {
        let bytes: Vec<u8> = self.wire.0.to_client.borrow_mut().drain(..).collect();
        let (mut rest, mut plain) = (&bytes[..], Vec::new());
        while !rest.is_empty() {
            self.client.read_tls(&mut rest).expect("memory");
            let state = self.client.process_new_packets().expect("sound records");
            let mut piece = vec![0; state.plaintext_bytes_to_read()];
            self.client.reader().read_exact(&mut piece).expect("they are there");
            plain.extend(piece);
        }
        plain
    }

    /// All that the server can read, by pieces of so many bytes.
    fn read_all(&self, piece: usize) -> (Vec<u8>, io::Result<()>) {
        let (mut all, mut into) = (Vec::new(), vec![0; piece]);
        loop {
            match self.tls.try_read(&mut into) {
                Ok(0) => return (all, Ok(())),
                Ok(n) => all.extend(&into[..n]),
                Err(error) => return (all, Err(error)),
            }
        }
    }

    /// The client has been told that there is nothing more.
    fn is_ended(&mut self) -> bool {
        self.take_all();
        match self.client.reader().read(&mut [0]) {
            Ok(0) => true,
            Ok(_) => panic!("more than the end"),
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                false
            }
        }
    }
}

fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|n| (n * 7 + n / 251) as u8).collect()
}

fn kind(result: io::Result<()>) -> io::ErrorKind {
    result.expect_err("an error").kind()
}

#[test]
fn bytes_go_both_ways_in_pieces_of_any_size_and_nothing_is_held_without_any() {
    for versions in [rustls::ALL_VERSIONS, TLS12_ALONE] {
        for (piece, into) in [(usize::MAX, 16_384), (1, 100), (7, 1), (4_096, 100_000)] {
            let mut scene = Scene::open(versions);
            scene.wire.0.piece.set(piece);
            let sent = pattern(50_000);
            scene.client_says(&sent);
            let (read, end) = scene.read_all(into);
            assert!(read == sent, "{piece} {into}");
            assert_eq!(kind(end), io::ErrorKind::WouldBlock);
            let halves = sent.split_at(20_001);
            let written = scene.tls.try_write(&[IoSlice::new(halves.0), IoSlice::new(halves.1)]).expect("room");
            assert_eq!(written, sent.len());
            assert!(scene.take_all() == sent, "{piece} {into}");
            assert_eq!(scene.shelves.in_use(), 0);
            assert!(scene.tls.is_quiet(true));
        }
    }
}

#[test]
fn what_a_reader_has_no_room_for_is_readable_without_an_event() {
    let mut scene = Scene::open(rustls::ALL_VERSIONS);
    scene.client_says(b"abcdef");
    let mut into = [0; 4];
    assert_eq!(scene.tls.try_read(&mut into).expect("bytes"), 4);
    assert!(!scene.wire.is_readable() && scene.tls.is_readable() && scene.tls.has_news() && !scene.tls.is_quiet(false));
    let (socket, kept) = scene.tls.part();
    scene.tls = Tls::join(socket, kept);
    assert_eq!(scene.read_all(4).0, b"ef");
    assert!(!scene.tls.is_readable());
}

#[test]
fn half_a_record_stays_while_it_is_parked_in_no_more_than_its_bytes() {
    let mut scene = Scene::open(rustls::ALL_VERSIONS);
    scene.client_says(b"abcdef");
    let rest = scene.wire.0.to_server.borrow_mut().split_off(10);
    assert_eq!(kind(scene.read_all(10).1), io::ErrorKind::WouldBlock);
    assert!(!scene.tls.is_readable() && !scene.tls.is_quiet(true));
    assert_eq!(scene.shelves.in_use(), 1);
    let (socket, kept) = scene.tls.part();
    assert_eq!(scene.shelves.in_use(), 0);
    scene.tls = Tls::join(socket, kept);
    scene.wire.0.to_server.borrow_mut().extend(rest);
    assert_eq!(scene.read_all(10).0, b"abcdef");
}

#[test]
fn one_batch_is_taken_where_there_is_no_room_and_the_next_waits_for_it() {
    let mut scene = Scene::open(rustls::ALL_VERSIONS);
    let sent = pattern(200_000);
    scene.wire.0.room.set(1_000);
    let first = scene.tls.try_write(&[IoSlice::new(&sent)]).expect("a batch");
    assert_eq!(first, 64 * 1024 - 1, "the last byte isn't said to be taken");
    assert_eq!(kind(scene.tls.try_write(&[IoSlice::new(&sent[first..])]).map(|_| ())), io::ErrorKind::WouldBlock);
    assert!(scene.tls.has_outbound() && scene.tls.unsent() > 60_000 && !scene.tls.is_quiet(false));
    let mut taken = scene.take_all();
    let mut written = first;
    while taken.len() < sent.len() {
        scene.wire.0.room.set(30_000);
        scene.tls.settle();
        while let Ok(n @ 1..) = scene.tls.try_write(&[IoSlice::new(&sent[written..])]) {
            written += n;
        }
        taken.extend(scene.take_all());
    }
    assert!(taken == sent);
    assert_eq!(scene.shelves.in_use(), 0);
}

#[test]
fn an_end_is_one_that_was_announced() {
    for announced in [true, false] {
        let mut scene = Scene::open(rustls::ALL_VERSIONS);
        scene.client_says(b"all");
        if announced {
            scene.client.send_close_notify();
            scene.send();
        }
        scene.wire.0.has_ended.set(true);
        let (read, end) = scene.read_all(10);
        assert_eq!(read, b"all");
        match end {
            Ok(()) => assert!(announced && scene.tls.is_readable()),
            Err(error) => assert!(!announced && error.kind() == io::ErrorKind::UnexpectedEof),
        }
        assert_eq!(scene.tls.peer_state(), PeerState::HalfClosed);
    }
}

#[test]
fn the_end_is_announced_before_fin_and_behind_all_that_was_written() {
    let mut scene = Scene::open(rustls::ALL_VERSIONS);
    scene.wire.0.room.set(5);
    let taken = scene.tls.try_write(&[IoSlice::new(b"all of it")]).expect("a batch");
    assert_eq!(taken, 8, "the last byte isn't said to be taken");
    // What is parked has no room to spare.
    let (socket, kept) = scene.tls.part();
    scene.tls = Tls::join(socket, kept);
    scene.tls.shutdown_write();
    assert!(!scene.wire.0.fin.get() && scene.tls.is_ending());
    assert_eq!(kind(scene.tls.try_write(&[IoSlice::new(b"more")]).map(|_| ())), io::ErrorKind::BrokenPipe);
    scene.wire.0.room.set(usize::MAX);
    scene.tls.settle();
    assert!(scene.wire.0.fin.get() && !scene.tls.is_ending());
    assert_eq!(scene.take_all(), b"all of it");
    assert!(scene.is_ended());
    drop(scene.tls);
}

/// Nothing told of it any more, and the next read waited for bytes.
#[test]
fn what_has_failed_stays_so_and_says_so_without_an_event_behind_what_came_before_it() {
    let mut scene = Scene::open(rustls::ALL_VERSIONS);
    scene.client_says(b"sound");
    scene.wire.come(&[23, 3, 3, 0, 20]);
    scene.wire.come(&[7; 20]);
    for read in [&b"sound"[..], b""] {
        let (all, end) = scene.read_all(100);
        assert_eq!((all.as_slice(), kind(end)), (read, io::ErrorKind::InvalidData));
        assert!(scene.tls.is_readable() && !scene.tls.is_quiet(false));
    }
}

#[test]
fn an_end_that_finds_no_room_has_to_be_waited_for() {
    let mut scene = Scene::open(rustls::ALL_VERSIONS);
    scene.wire.0.room.set(10);
    assert!(!scene.tls.ends_at_once() && scene.tls.has_outbound() && !scene.wire.0.fin.get());
    scene.tls.shutdown_write();
    scene.wire.0.room.set(usize::MAX);
    scene.tls.settle();
    assert!(scene.tls.ends_at_once() && scene.wire.0.fin.get() && scene.is_ended());
}

#[test]
fn one_that_is_closed_says_so_and_one_that_is_cut_or_panics_does_not() {
    for (how, ended) in [("dropped", true), ("left unsaid", false), ("cut", false), ("panicked", false)] {
        let mut scene = Scene::open(rustls::ALL_VERSIONS);
        scene.tls.try_write(&[IoSlice::new(b"half")]).expect("room");
        assert_eq!(scene.take_all(), b"half");
        let fresh = Scene::new(rustls::ALL_VERSIONS).tls;
        let tls = std::mem::replace(&mut scene.tls, fresh);
        match how {
            "left unsaid" => tls.end_unsaid(),
            "cut" => tls.reset_on_close(),
            "panicked" => {
                let panicked = catch_unwind(AssertUnwindSafe(move || {
                    let _tls = tls;
                    std::panic::resume_unwind(Box::new(()));
                }));
                assert!(panicked.is_err());
            }
            _ => drop(tls),
        }
        assert_eq!((scene.is_ended(), scene.wire.0.reset.get()), (ended, how == "cut"), "{how}");
    }
}

#[test]
fn what_is_no_handshake_gets_an_alert() {
    let long = vec![0xff; 40_000];
    for bytes in [&b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..], &[22, 3, 1, 0, 4, 1, 0, 0, 0], &long] {
        let scene = Scene::new(rustls::ALL_VERSIONS);
        scene.wire.0.to_server.borrow_mut().extend(bytes);
        let shaken = loop {
            match scene.tls.receive().and_then(|()| scene.tls.shake()) {
                Ok(()) => {}
                Err(error) => break error,
            }
        };
        assert_eq!(shaken.kind(), io::ErrorKind::InvalidData);
        scene.tls.shutdown_write();
        let said: Vec<u8> = scene.wire.0.to_client.borrow().iter().copied().collect();
        assert_eq!((said[0], said[5], said.len()), (21, 2, 7), "a fatal alert, and nothing more: {said:?}");
        assert!(scene.wire.0.fin.get());
    }
}

/// A world whose turns are counted, in whose other turns something is done, and whose clock goes as it is told.
#[derive(Clone)]
struct Turns(Rc<Cell<u32>>, Rc<dyn Fn()>, Rc<Cell<u64>>);

impl World for Turns {
    type Stream = Wire;
    type Parked = ();

    fn yield_now(&self, _: &Wire) {
        self.0.set(self.0.get() + 1);
        (self.1)();
    }

    fn now(&self) -> Instant {
        Instant(self.2.get())
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

    fn connect(&self, _: SocketAddr) -> io::Result<Wire> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn wait(&self, _: &Wire, _: Option<(&Wire, Watch)>, _: Instant) -> Wake {
        Wake::Deadline
    }

    fn take_turns(&self, _: &Wire) {}

    fn waker(&self, _: &Wire) -> Waker {
        Waker::noop().clone()
    }

    fn park(&self, _: Wire, (): (), _: Instant) {}

    fn park_for(&self, _: Need, _: Wire, (): (), _: Instant) {}

    fn tie(&self, _: &Wire, _: &Wire) -> bool {
        true
    }

    fn resume_parked(&self) {}
}

#[test]
fn a_turn_is_for_eight_handshakes_or_half_a_millisecond_of_them() {
    let scene = Scene::new(rustls::ALL_VERSIONS);
    let share = Rc::new(Share::default());
    let yields = Rc::new(Cell::new(0));
    let alone = Turns(Rc::clone(&yields), Rc::new(|| {}), Rc::default());
    for nth in 0..100 {
        drop(share.take(&alone, &scene.wire));
        assert_eq!(yields.get(), nth / 8);
    }
    // Where others take the places of a new turn first, it waits for one more.
    let (others, wire) = (Rc::clone(&share), scene.wire.clone());
    let crowd = Rc::new(Cell::new(20));
    let left = Rc::clone(&crowd);
    let world = alone.clone();
    let in_between = move || {
        for _ in 0..left.get().min(8) {
            left.set(left.get() - 1);
            drop(others.take(&world, &wire));
        }
    };
    let crowded = Turns(Rc::clone(&yields), Rc::new(in_between), Rc::default());
    let before = yields.get();
    for _ in 0..20 {
        drop(share.take(&crowded, &scene.wire));
    }
    assert_eq!(crowd.get(), 0);
    assert!(yields.get() - before >= (20 + 20) / 8, "{} turns", yields.get() - before);

    // What takes long has turns of fewer, and what comes between two of them isn't counted.
    let share = Share::default();
    let lasts = |nanos: u64| alone.2.set(alone.2.get() + nanos);
    let before = yields.get();
    for nth in 0..30 {
        lasts(10_000_000);
        let flight = share.take(&alone, &scene.wire);
        lasts(200_000);
        drop(flight);
        assert_eq!(yields.get() - before, nth / 3);
    }
    // The time of others counts for those that come next, and has them wait for nobody.
    let (share, before) = (Share::default(), yields.get());
    for _ in 0..10 {
        let flight = share.flight(&alone);
        lasts(600_000);
        drop(flight);
    }
    assert!(yields.get() == before && !share.have_room());
}

#[test]
fn floods_of_what_costs_the_client_nothing_end_its_connection() {
    let mut scene = Scene::open(rustls::ALL_VERSIONS);
    let end = (0..1_000).find_map(|_| {
        scene.client.refresh_traffic_keys().expect("TLS 1.3");
        scene.send();
        let (read, end) = scene.read_all(10);
        assert_eq!(read, b"");
        scene.take_all_leniently();
        Some(kind(end)).filter(|kind| *kind != io::ErrorKind::WouldBlock)
    });
    assert_eq!(end, Some(io::ErrorKind::InvalidData));
}

impl Scene {
    /// Drops what the server has said.
    fn take_all_leniently(&self) {
        self.wire.0.to_client.borrow_mut().clear();
    }
}
