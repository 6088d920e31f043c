//! Records of TLS, in a handshake and behind it, towards clients and backends: cut, joined, left out, doubled, reordered and
//! changed, in pieces of any size, in the layer that the product has beneath its proxy, with rustls at the other end.
//!
//! A stream never gives plaintext that the other end hasn't sent, in order; it ends only where that end said so, once all of it
//! was read; what is as it was sent is read to its end; behind an error nothing more is read. Nothing goes on without a byte
//! of news, and buffers are held for what is on its way alone.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use maypole::observe::HandshakeCounts;
use maypole::runtime::world::{Arrival, Service, Stream, Wake, World};
use maypole::transport::client::{BackendTls, ClientRules};
use maypole::transport::{Certificate, Layer, Layered, LayeredService, TlsRules, TlsServer};
use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, Connection, RootCertStore, ServerConfig, ServerConnection};
use rustls::{SupportedProtocolVersion, version};

use super::tls_scene::{Deed, PLAIN_BYTES_MAX, Scene, Wire};

/// What reads ask for, in bytes.
const READS: [usize; 4] = [1, 700, 16_384, 70_000];
/// A stream holds no more of them: half a record, plaintext that nobody has read, and what is to be sent.
const BUFFERS_MAX: usize = 3;
const HOST: &str = "localhost";
/// Longer than all silences of a script.
const TIMEOUT: Duration = Duration::from_secs(3600);

type Layers = LayeredService<Wire, Takes>;

/// See the module.
pub fn check(bytes: &[u8]) {
    let Some((&shape, script)) = bytes.split_first() else { return };
    let versions: &[&SupportedProtocolVersion] =
        if shape & 1 == 0 { &[&version::TLS13, &version::TLS12] } else { &[&version::TLS12] };
    let of_client = shape & 2 == 0;
    let peer = if of_client { a_client(versions) } else { a_server(versions) };
    let scene = Scene::new(peer, script);
    let layers = layers(&scene, of_client);
    let stream = if of_client { greeted(&scene, &layers) } else { connected(&layers) };
    let mut user = User { scene: &scene, layers: &layers, read: Vec::new(), written: 0, has_ended: false };
    match stream {
        Some(stream) => user.use_up(stream, READS[usize::from(shape / 4) % READS.len()]),
        None => assert!(scene.is_spoilt.get(), "a handshake as it was said came to nothing"),
    }
    assert_eq!(layers.in_use(), (0, 0), "nothing is left");
}

/// Goes through the handshake of a client, until there is a stream or there is none any more.
fn greeted(scene: &Rc<Scene>, layers: &Layers) -> Option<Layer<Wire>> {
    let arrival = Arrival { peer: SocketAddr::from(([127, 0, 0, 1], 1)), listener: 0 };
    layers.accepted(Wire(Rc::clone(scene)), arrival);
    loop {
        assert!(layers.in_use().0 <= BUFFERS_MAX);
        if let Some(stream) = layers.service().stream.take() {
            return Some(stream);
        }
        let (wire, stored, deadline) = scene.parked.take()?;
        assert_eq!(layers.in_use().0, 0, "a parked stream holds no buffer");
        let wake = scene.wait(deadline);
        layers.resumed(wire, stored, wake);
    }
}

/// Goes through the handshake with a backend, as `upstream/connect.rs` does.
fn connected(layers: &Layers) -> Option<Layer<Wire>> {
    let world = &layers.service().world;
    let stream = world.connect_encrypted(SocketAddr::from(([127, 0, 0, 1], 1)), HOST).expect("a socket");
    let deadline = world.now() + TIMEOUT;
    loop {
        let wake = world.wait(&stream, None, deadline);
        assert!(layers.in_use().0 <= BUFFERS_MAX);
        if stream.is_writable() {
            return stream.take_connect_error().is_ok().then_some(stream);
        }
        if wake == Wake::Deadline {
            return None;
        }
    }
}

/// Who reads and writes a stream, and what has come of it.
struct User<'s> {
    scene: &'s Rc<Scene>,
    layers: &'s Layers,
    read: Vec<u8>,
    /// Bytes that the stream has taken. One that is owed is on its way already.
    written: usize,
    has_ended: bool,
}

impl User<'_> {
    fn use_up(&mut self, mut stream: Layer<Wire>, piece: usize) {
        let world = &self.layers.service().world;
        let mut failed = None;
        loop {
            let read = self.read_all(&stream, piece);
            match (&failed, read.kind()) {
                (None, io::ErrorKind::WouldBlock) => {}
                (None, kind) => failed = Some(kind),
                (Some(before), kind) => assert_eq!(*before, kind, "it is well again"),
            }
            let deed = self.scene.next_deed();
            if let Some(deed) = deed {
                stream = self.act(stream, deed);
            }
            assert!(self.layers.in_use().0 <= BUFFERS_MAX);
            assert!(self.arrived() <= self.written + 1, "more has arrived than was written and a byte that is owed");
            if deed.is_none() && world.wait(&stream, None, world.now() + TIMEOUT) == Wake::Deadline {
                break;
            }
        }
        if !self.scene.is_spoilt.get() {
            assert!(self.has_ended && self.read == *self.scene.said.borrow(), "not all was read: {failed:?}");
            assert!(self.arrived() >= self.written, "not all has arrived");
        }
        assert!(failed.is_some() || self.has_ended, "what has ended says so");
    }

    /// Bytes that the other end has read.
    fn arrived(&self) -> usize {
        let heard = self.scene.heard.borrow();
        assert!(heard.iter().zip(0..).all(|(byte, nth)| *byte == said(nth)), "the other end has read something else");
        heard.len()
    }

    /// Reads what there is, and why there is no more.
    fn read_all(&mut self, stream: &Layer<Wire>, piece: usize) -> io::Error {
        let mut into = vec![0; piece];
        loop {
            match stream.try_read(&mut into) {
                Ok(0) => {
                    assert!(self.scene.has_said_end.get(), "nobody has said that it ends");
                    assert_eq!(self.read.len(), self.scene.said.borrow().len(), "some of it is missing");
                    self.has_ended = true;
                    return io::ErrorKind::NotConnected.into();
                }
                Ok(n) => {
                    self.read.extend(&into[..n]);
                    assert!(self.scene.said.borrow().starts_with(&self.read), "the other end hasn't sent that");
                }
                Err(error) => return error,
            }
        }
    }

    fn act(&mut self, stream: Layer<Wire>, deed: Deed) -> Layer<Wire> {
        match deed {
            Deed::Write(bytes) if self.written + bytes > PLAIN_BYTES_MAX => {}
            Deed::Write(bytes) => {
                let plain: Vec<u8> = (self.written..self.written + bytes).map(said).collect();
                let (front, back) = plain.split_at(bytes / 3);
                let pieces = [IoSlice::new(front), IoSlice::new(back)];
                let written = stream.try_write(&pieces[usize::from(front.is_empty())..]);
                let written = written.unwrap_or(0);
                assert!(written <= bytes, "more is taken than was given");
                self.written += written;
            }
            Deed::End if self.scene.may_end() => stream.shutdown_write(),
            Deed::End => {}
            Deed::Park => {
                let world = &self.layers.service().world;
                world.park(stream, (), world.now() + TIMEOUT);
                while let Some((wire, stored, deadline)) = self.scene.parked.take() {
                    assert_eq!(self.layers.in_use().0, 0, "a parked stream holds no buffer");
                    let wake = self.scene.wait(deadline);
                    self.layers.resumed(wire, stored, wake);
                }
                return self.layers.service().stream.take().expect("it comes back");
            }
        }
        stream
    }
}

/// The `nth` byte that a user writes.
fn said(nth: usize) -> u8 {
    (nth * 5 + nth / 239) as u8
}

/// Takes a stream, for a user.
struct Takes {
    world: Layered<Wire>,
    stream: RefCell<Option<Layer<Wire>>>,
}

impl Service<Layered<Wire>> for Takes {
    fn accepted(&self, stream: Layer<Wire>, _: Arrival) {
        self.stream.replace(Some(stream));
    }

    fn resumed(&self, stream: Layer<Wire>, (): (), _: Wake) {
        self.stream.replace(Some(stream));
    }

    fn tick(&self) {}
}

fn layers(scene: &Rc<Scene>, of_client: bool) -> Layers {
    let take = |world| Takes { world, stream: RefCell::default() };
    let layers = LayeredService::over(Wire(Rc::clone(scene)), take);
    if of_client {
        return layers.with_tls(TlsRules {
            listeners: vec![0],
            server: Arc::clone(&made().server),
            handshake_timeout: TIMEOUT,
            handshakes_max: 1,
            counts: Arc::new(HandshakeCounts::new(1)),
            in_clear: |_| b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(),
        });
    }
    let rules = ClientRules { authorities: Some(vec![made().certificate.clone()]), ..ClientRules::default() };
    layers.with_backends(Arc::new(BackendTls::new(rules).expect("rules")))
}

/// What is made once.
struct Made {
    certificate: Vec<u8>,
    key: Vec<u8>,
    server: Arc<TlsServer>,
}

fn made() -> &'static Made {
    static MADE: OnceLock<Made> = OnceLock::new();
    MADE.get_or_init(|| {
        let made = rcgen::generate_simple_self_signed([HOST.to_owned()]).expect("a certificate");
        let (certificate, key) = (made.cert.der().to_vec(), made.signing_key.serialize_der());
        let shown = Certificate::of(vec![certificate.clone()], key.clone(), None).expect("they fit");
        let server = Arc::new(TlsServer::showing(shown).expect("a server"));
        Made { certificate, key, server }
    })
}

/// Without keys that are large and slow.
fn provider() -> Arc<CryptoProvider> {
    let kx_groups = vec![aws_lc_rs::kx_group::X25519];
    Arc::new(CryptoProvider { kx_groups, ..aws_lc_rs::default_provider() })
}

fn a_client(versions: &[&'static SupportedProtocolVersion]) -> Connection {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(made().certificate.clone())).expect("a certificate");
    let config = ClientConfig::builder_with_provider(provider()).with_protocol_versions(versions).expect("versions");
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    config.resumption = Resumption::disabled();
    let name = ServerName::try_from(HOST).expect("a name");
    let mut client = ClientConnection::new(Arc::new(config), name).expect("a client");
    client.set_buffer_limit(None);
    client.into()
}

fn a_server(versions: &[&'static SupportedProtocolVersion]) -> Connection {
    let config = ServerConfig::builder_with_provider(provider()).with_protocol_versions(versions).expect("versions");
    let chain = vec![CertificateDer::from(made().certificate.clone())];
    let key = PrivateKeyDer::try_from(made().key.clone()).expect("a key");
    let config = config.with_no_client_auth().with_single_cert(chain, key).expect("they fit");
    let mut server = ServerConnection::new(Arc::new(config)).expect("a server");
    server.set_buffer_limit(None);
    server.into()
}
