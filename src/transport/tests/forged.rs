//! Records that are sealed as they should be, and hold what no sound peer says: of a provider that puts it in the place of
//! plaintext.

use std::io::Write;
use std::net::SocketAddr;

use rustls::client::Resumption;
use rustls::crypto::cipher::{
    AeadKey, Iv, KeyBlockShape, MessageDecrypter, MessageEncrypter, OutboundChunks, OutboundOpaqueMessage,
    OutboundPlainMessage, Tls12AeadAlgorithm, Tls13AeadAlgorithm, UnsupportedOperationError,
};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{
    ClientConfig, Connection, ConnectionTrafficSecrets, ContentType, Error, RootCertStore, ServerConfig,
    ServerConnection, SupportedCipherSuite, Tls12CipherSuite, Tls13CipherSuite,
};

use super::*;
use crate::observe::HandshakeEnd;
use crate::transport::client::{BackendTls, ClientRules};

/// Becomes a record of 16 KiB without any content.
const PADDED: &[u8] = b"padded";
/// Becomes what asks for a handshake anew.
const ANEW: &[u8] = b"anew";
/// A server's request for it; a client's is a hello.
const HELLO_REQUEST: &[u8] = &[0; 4];

/// Forges what `PADDED` and `ANEW` stand for; the latter becomes `hello`.
struct Forger<A: 'static + ?Sized> {
    sound: &'static A,
    hello: Vec<u8>,
}

struct Forging {
    sound: Box<dyn MessageEncrypter>,
    hello: Vec<u8>,
}

impl MessageEncrypter for Forging {
    fn encrypt(&mut self, plain: OutboundPlainMessage<'_>, seq: u64) -> Result<OutboundOpaqueMessage, Error> {
        let (version, said) = (plain.version, plain.payload.to_vec());
        // The type behind the content, and zeros behind that (RFC 8446 §5.2); the last of them is written as a type.
        let mut padded = vec![0; 16 * 1024];
        padded[0] = u8::from(ContentType::ApplicationData);
        let (typ, payload) = match &said[..] {
            PADDED => (ContentType::from(0), OutboundChunks::Single(&padded)),
            ANEW => (ContentType::Handshake, OutboundChunks::Single(&self.hello)),
            said => (plain.typ, OutboundChunks::Single(said)),
        };
        self.sound.encrypt(OutboundPlainMessage { typ, version, payload }, seq)
    }

    fn encrypted_payload_len(&self, payload_len: usize) -> usize {
        self.sound.encrypted_payload_len(payload_len)
    }
}

impl Tls13AeadAlgorithm for Forger<dyn Tls13AeadAlgorithm> {
    fn encrypter(&self, key: AeadKey, iv: Iv) -> Box<dyn MessageEncrypter> {
        Box::new(Forging { sound: self.sound.encrypter(key, iv), hello: self.hello.clone() })
    }

    fn decrypter(&self, key: AeadKey, iv: Iv) -> Box<dyn MessageDecrypter> {
        self.sound.decrypter(key, iv)
    }

    fn key_len(&self) -> usize {
        self.sound.key_len()
    }

    fn extract_keys(&self, key: AeadKey, iv: Iv) -> Result<ConnectionTrafficSecrets, UnsupportedOperationError> {
        self.sound.extract_keys(key, iv)
    }
}

impl Tls12AeadAlgorithm for Forger<dyn Tls12AeadAlgorithm> {
    fn encrypter(&self, key: AeadKey, iv: &[u8], extra: &[u8]) -> Box<dyn MessageEncrypter> {
        Box::new(Forging { sound: self.sound.encrypter(key, iv, extra), hello: self.hello.clone() })
    }

    fn decrypter(&self, key: AeadKey, iv: &[u8]) -> Box<dyn MessageDecrypter> {
        self.sound.decrypter(key, iv)
    }

    fn key_block_shape(&self) -> KeyBlockShape {
        self.sound.key_block_shape()
    }

    fn extract_keys(
        &self,
        key: AeadKey,
        iv: &[u8],
        explicit: &[u8],
    ) -> Result<ConnectionTrafficSecrets, UnsupportedOperationError> {
        self.sound.extract_keys(key, iv, explicit)
    }
}

/// It lives as long as the process, as suites do.
fn forging(suite: SupportedCipherSuite, hello: &[u8]) -> SupportedCipherSuite {
    let hello = hello.to_vec();
    match suite {
        SupportedCipherSuite::Tls13(sound) => {
            let aead_alg = Box::leak(Box::new(Forger { sound: sound.aead_alg, hello }));
            let common = rustls::crypto::CipherSuiteCommon { ..sound.common };
            let Tls13CipherSuite { hkdf_provider, quic, .. } = *sound;
            SupportedCipherSuite::Tls13(Box::leak(Box::new(Tls13CipherSuite { common, hkdf_provider, aead_alg, quic })))
        }
        SupportedCipherSuite::Tls12(sound) => {
            let aead_alg = Box::leak(Box::new(Forger { sound: sound.aead_alg, hello }));
            let common = rustls::crypto::CipherSuiteCommon { ..sound.common };
            let Tls12CipherSuite { prf_provider, kx, sign, .. } = *sound;
            let suite = Tls12CipherSuite { common, prf_provider, kx, sign, aead_alg };
            SupportedCipherSuite::Tls12(Box::leak(Box::new(suite)))
        }
    }
}

fn provider(hello: &[u8]) -> Arc<CryptoProvider> {
    let sound = aws_lc_rs::default_provider();
    let cipher_suites = sound.cipher_suites.iter().map(|suite| forging(*suite, hello)).collect();
    Arc::new(CryptoProvider { cipher_suites, ..sound })
}

/// A stream whose other end forges.
struct Forged {
    peer: Connection,
    wire: Wire,
    tls: Tls<Wire>,
}

impl Forged {
    /// One whose handshake is over. The stream is that of a client or to a backend.
    fn open(of_client: bool, versions: &[&'static SupportedProtocolVersion]) -> Self {
        let certificate = Certificate::new();
        let (wire, shelves) = (Wire::open(), Rc::new(Shelves::default()));
        let (peer, session) = if of_client {
            let shown = Certified::of(certificate.chain.clone(), certificate.key.clone(), None).expect("they fit");
            let server = Arc::new(TlsServer::showing(shown).expect("a server"));
            let session = Session::new(Greeter::new(server).config(), &shelves).expect("a session");
            (a_client(&certificate, versions), session)
        } else {
            let rules = ClientRules { authorities: Some(certificate.chain.clone()), ..ClientRules::default() };
            let at = SocketAddr::from(([127, 0, 0, 1], 1));
            let session = BackendTls::new(rules).expect("rules").session(at, "localhost", &shelves);
            (a_server(&certificate, versions), session.expect("a session"))
        };
        let mut forged = Self { peer, tls: Tls::new(wire.clone(), session), wire };
        for _ in 0..6 {
            forged.tls.connect(|| ());
            forged.exchange();
            while forged.tls.is_handshaking() && forged.tls.receive().is_ok() {
                forged.tls.shake().expect("a sound handshake");
            }
        }
        assert!(!forged.peer.is_handshaking() && !forged.tls.is_handshaking());
        forged
    }

    /// Has the peer read what was written, and sends what it says.
    fn exchange(&mut self) {
        let written = self.wire.take_written();
        let mut rest = &written[..];
        while !rest.is_empty() {
            self.peer.read_tls(&mut rest).expect("memory");
            self.peer.process_new_packets().expect("sound records");
        }
        while self.peer.wants_write() {
            let mut bytes = Vec::new();
            self.peer.write_tls(&mut bytes).expect("memory");
            self.wire.come(&bytes);
        }
    }

    /// Says something in a record of its own, and how a read ends then.
    fn says(&mut self, plain: &[u8]) -> io::Result<usize> {
        self.peer.writer().write_all(plain).expect("memory");
        self.exchange();
        self.tls.try_read(&mut [0; 100])
    }
}

fn a_client(certificate: &Certificate, versions: &[&'static SupportedProtocolVersion]) -> Connection {
    let mut hello = Vec::new();
    certificate.client(versions).write_tls(&mut hello).expect("memory");
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(certificate.chain[0].clone())).expect("a certificate");
    let config = ClientConfig::builder_with_provider(provider(&hello[5..])).with_protocol_versions(versions);
    let mut config = config.expect("versions").with_root_certificates(roots).with_no_client_auth();
    config.resumption = Resumption::disabled();
    let name = ServerName::try_from("localhost").expect("a name");
    ClientConnection::new(Arc::new(config), name).expect("a client").into()
}

fn a_server(certificate: &Certificate, versions: &[&'static SupportedProtocolVersion]) -> Connection {
    let config = ServerConfig::builder_with_provider(provider(HELLO_REQUEST)).with_protocol_versions(versions);
    let chain = vec![CertificateDer::from(certificate.chain[0].clone())];
    let key = PrivateKeyDer::try_from(certificate.key.clone()).expect("a key");
    let config = config.expect("versions").with_no_client_auth().with_single_cert(chain, key).expect("they fit");
    ServerConnection::new(Arc::new(config)).expect("a server").into()
}

#[test]
fn records_of_padding_alone_end_a_stream_behind_64_kib_of_them() {
    for of_client in [true, false] {
        let mut forged = Forged::open(of_client, rustls::ALL_VERSIONS);
        for _ in 0..2 {
            for _ in 0..3 {
                assert_eq!(kind(forged.says(PADDED).map(drop)), io::ErrorKind::WouldBlock);
            }
            // What they count from.
            assert_eq!(forged.says(b"content").expect("sound"), 7);
        }
        let ends: Vec<_> = (0..4).map(|_| kind(forged.says(PADDED).map(drop))).collect();
        assert_eq!(ends[..3], [io::ErrorKind::WouldBlock; 3]);
        assert_eq!(ends[3], io::ErrorKind::InvalidData);
        // By rustls' own bound it would have another reason.
        assert_eq!(forged.tls.refusal(), HandshakeEnd::Refused(80));
    }
}

#[test]
fn a_second_request_for_a_new_handshake_ends_a_stream() {
    for of_client in [true, false] {
        let mut forged = Forged::open(of_client, TLS12_ALONE);
        assert_eq!(kind(forged.says(ANEW).map(drop)), io::ErrorKind::WouldBlock);
        assert_eq!(forged.says(b"content").expect("sound"), 7);
        assert_eq!(kind(forged.says(ANEW).map(drop)), io::ErrorKind::InvalidData);
        assert!(forged.tls.try_write(&[IoSlice::new(b"more")]).is_err());
    }
}
