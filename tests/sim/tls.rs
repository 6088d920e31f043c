//! TLS over the simulated network, which takes and gives bytes in pieces of any size, wakes for nothing, and tells of events
//! late: nothing is lost, and only what was announced is an end. Its randomness isn't the seed's: lengths are the same each
//! time, bytes aren't.

use std::cell::RefCell;
use std::io::{ErrorKind, IoSlice, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use maypole::observe::HandshakeCounts;
use maypole::runtime::world::{Arrival, Service, Stream, Wake, World};
use maypole::transport::{Certificate as Certified, Layer, Layered, LayeredService, Stored, TlsRules, TlsServer};
use rustls::ClientConnection;

use crate::certificate::Certificate;
use crate::net::Connecting;
use crate::peer::{Got, Peer};
use crate::sim::{SECOND, Sim, Time};
use crate::temper::Temper;
use crate::world::{SimStream, SimWorld};

const FRONT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), 443);
const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 9, 0, 1));
const PATIENCE: Time = 60 * SECOND;
const IDLE: Duration = Duration::from_secs(60);
const BYTES: usize = 100_000;

type Beneath = SimWorld<Stored<Unsent>>;

/// What was read and isn't sent back yet.
type Unsent = Vec<u8>;

/// Sends back what comes, and parks whenever it would have to wait.
struct Echo(Layered<Beneath>);

impl Echo {
    fn serve(&self, stream: Layer<SimStream>, mut unsent: Unsent) {
        let mut buffer = vec![0; 5_000];
        let deadline = self.0.now() + IDLE;
        loop {
            while !unsent.is_empty() {
                match stream.try_write(&[IoSlice::new(&unsent)]) {
                    Ok(taken) => drop(unsent.drain(..taken)),
                    Err(error) if error.kind() == ErrorKind::WouldBlock && unsent.len().is_multiple_of(2) => {
                        self.0.wait(&stream, None, deadline);
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        let need = maypole::runtime::world::Need::Write;
                        return self.0.park_for(need, stream, unsent, deadline);
                    }
                    Err(_) => return stream.reset_on_close(),
                }
            }
            match stream.try_read(&mut buffer) {
                // What was written is still to arrive.
                Ok(0) => {
                    stream.shutdown_write();
                    while stream.unsent() > 0 && self.0.now() < deadline {
                        self.0.wait(&stream, None, deadline.min(self.0.now() + Duration::from_secs(1)));
                    }
                    return;
                }
                Ok(read) => unsent.extend_from_slice(&buffer[..read]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => return stream.reset_on_close(),
            }
        }
        self.0.park(stream, unsent, deadline);
    }
}

impl Service<Layered<Beneath>> for Echo {
    fn accepted(&self, stream: Layer<SimStream>, _: Arrival) {
        assert!(stream.is_encrypted());
        self.serve(stream, Unsent::new());
    }

    fn resumed(&self, stream: Layer<SimStream>, unsent: Unsent, wake: Wake) {
        if wake == Wake::Event {
            self.serve(stream, unsent);
        }
    }

    fn tick(&self) {}
}

/// What a client has received.
#[derive(Default)]
struct Received {
    bytes: Vec<u8>,
    /// Its end was announced.
    in_good_order: bool,
}

/// The client's end of a connection, for a coroutine that sends and one that receives.
#[derive(Clone)]
struct Client {
    peer: Rc<Peer>,
    tls: Rc<RefCell<ClientConnection>>,
}

impl Client {
    fn flush(&self) {
        let mut bytes = Vec::new();
        while self.tls.borrow().wants_write() {
            self.tls.borrow_mut().write_tls(&mut bytes).expect("memory");
        }
        let _ = self.peer.send(&bytes, self.peer.sim.now() + PATIENCE);
    }

    fn send(&self, bytes: &[u8], announces: bool) {
        for piece in bytes.chunks(7_001) {
            self.tls.borrow_mut().writer().write_all(piece).expect("memory");
            self.flush();
        }
        if announces {
            self.tls.borrow_mut().send_close_notify();
            self.flush();
        }
        self.peer.finish();
    }

    /// Takes in what comes; false when nothing more does.
    fn receive(&self, into: &mut Received) -> bool {
        let mut bytes = Vec::new();
        let got = self.peer.receive(&mut bytes, 3_000, self.peer.sim.now() + PATIENCE);
        let mut tls = self.tls.borrow_mut();
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            tls.read_tls(&mut rest).expect("memory");
            tls.process_new_packets().expect("sound records");
            let mut plain = [0; 4_096];
            while let Ok(read) = tls.reader().read(&mut plain) {
                into.bytes.extend_from_slice(&plain[..read]);
                if read == 0 {
                    into.in_good_order = true;
                    break;
                }
            }
        }
        matches!(got, Got::Bytes(_))
    }
}

fn run(seed: u64, announces: bool) -> (Vec<u8>, Received, Vec<String>) {
    let sim = Sim::new(seed, Temper::any);
    let world = SimWorld::new(&sim, 0);
    let certificate = Certificate::new();
    let shown = Certified::of(certificate.chain.clone(), certificate.key.clone(), None).expect("they fit");
    let front = Arc::new(TlsServer::showing(shown).expect("a server"));
    let counts = Arc::new(HandshakeCounts::new(1));
    let rules = TlsRules {
        listeners: vec![0],
        server: front,
        handshake_timeout: IDLE,
        handshakes_max: 1,
        counts,
        in_clear: |_| Vec::new(),
    };
    let served = Rc::new(LayeredService::over(world.clone(), Echo).with_tls(rules));
    world.serve(served.clone());
    sim.listen(FRONT, world.listener(|| Connecting::Accepted(0)));
    let sent: Vec<u8> = (0..BYTES).map(|n| (n * 7 + n / 251) as u8).collect();
    let received = Rc::new(RefCell::new(Received::default()));
    let (own, into, bytes) = (sim.clone(), received.clone(), sent.clone());
    sim.spawn("client", move || {
        let peer =
            Rc::new(Peer::dial(&own, CLIENT, FRONT, None).expect("the simulated system never runs out of ports"));
        let tls = certificate.client(rustls::ALL_VERSIONS);
        let client = Client { peer, tls: Rc::new(RefCell::new(tls)) };
        let mut got = Received::default();
        while client.tls.borrow().is_handshaking() {
            client.flush();
            if client.tls.borrow().is_handshaking() && !client.receive(&mut got) {
                return;
            }
        }
        client.flush();
        let sender = client.clone();
        own.spawn("sender", move || sender.send(&bytes, announces));
        while client.receive(&mut got) {}
        into.replace(got);
    });
    sim.run(600 * SECOND, 100 * SECOND);
    let mut faults: Vec<_> = sim.take_wrongs().iter().map(ToString::to_string).collect();
    faults.extend(sim.unfinished_tasks().into_iter().map(|name| format!("{name} hasn't ended")));
    if (world.parked(), sim.net.service_streams(), served.in_use()) != (0, 0, (0, 0)) {
        faults.push("something is left".to_owned());
    }
    world.end();
    sim.end();
    (sent, received.take(), faults)
}

#[test]
fn an_echo_over_tls_loses_nothing_and_ends_as_it_is_told_to_under_any_temper() {
    for seed in 0..40 {
        let (sent, received, faults) = run(seed, true);
        assert_eq!(faults, Vec::<String>::new(), "seed {seed}");
        assert!(received.bytes == sent, "seed {seed}: {} of {} bytes", received.bytes.len(), sent.len());
        assert!(received.in_good_order, "seed {seed}");
    }
}

#[test]
fn a_fin_alone_is_no_end_under_any_temper() {
    for seed in 0..20 {
        let (sent, received, faults) = run(seed, false);
        assert_eq!(faults, Vec::<String>::new(), "seed {seed}");
        assert!(sent.starts_with(&received.bytes) && !received.in_good_order, "seed {seed}");
    }
}
