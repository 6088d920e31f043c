use std::sync::Arc;

use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection};

use super::*;
use crate::runtime::world::Stream;
use crate::transport::tests::{Certificate, Wire};
use crate::transport::tls::Tls;

/// A stream to a server, and that one.
struct Scene {
    server: ServerConnection,
    wire: Wire,
    tls: Tls<Wire>,
    shelves: Rc<Shelves>,
}

const AT: SocketAddr = SocketAddr::V4(std::net::SocketAddrV4::new(std::net::Ipv4Addr::LOCALHOST, 1));

fn trusting(certificate: &Certificate) -> BackendTls {
    let rules = ClientRules { authorities: Some(certificate.chain.clone()), ..ClientRules::default() };
    BackendTls::new(rules).expect("a certificate")
}

fn server(certificate: &Certificate) -> Arc<ServerConfig> {
    let chain = certificate.chain.iter().cloned().map(CertificateDer::from).collect();
    let key = PrivateKeyDer::try_from(certificate.key.clone()).expect("a key");
    let builder = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().expect("versions").with_no_client_auth();
    Arc::new(builder.with_single_cert(chain, key).expect("they fit"))
}

impl Scene {
    fn new(tls: &BackendTls, host: &str, server: &Arc<ServerConfig>) -> Self {
        let (wire, shelves) = (Wire::open(), Rc::new(Shelves::default()));
        let session = tls.session(AT, host, &shelves).expect("a session");
        let server = ServerConnection::new(Arc::clone(server)).expect("a server");
        Self { server, tls: Tls::new(wire.clone(), session), wire, shelves }
    }

    /// Takes both sides as far as they go.
    fn shake(&mut self) {
        for _ in 0..4 {
            if self.tls.is_connecting() {
                self.tls.connect(|| ());
            }
            let said = self.wire.take_written();
            let mut rest = &said[..];
            while !rest.is_empty() {
                self.server.read_tls(&mut rest).expect("memory");
                let _ = self.server.process_new_packets();
            }
            self.server_sends();
        }
    }

    fn server_sends(&mut self) {
        while self.server.wants_write() {
            let mut bytes = Vec::new();
            self.server.write_tls(&mut bytes).expect("memory");
            self.wire.come(&bytes);
        }
    }
}

#[test]
fn what_comes_of_later_sessions_keeps_an_idle_stream_quiet_and_all_else_does_not() {
    let certificate = Certificate::new();
    let (tls, config) = (trusting(&certificate), server(&certificate));
    for what in ["nothing more", "bytes", "an end", "a FIN"] {
        let mut scene = Scene::new(&tls, "localhost", &config);
        assert!(scene.tls.is_connecting() && !scene.tls.is_writable());
        scene.shake();
        assert!(!scene.tls.is_connecting() && scene.tls.is_writable());
        scene.tls.take_connect_error().expect("a sound handshake");
        assert!(scene.wire.is_readable(), "tickets are there");
        match what {
            "bytes" => std::io::Write::write_all(&mut scene.server.writer(), b"x").expect("memory"),
            "an end" => scene.server.send_close_notify(),
            "a FIN" => scene.wire.end(),
            _ => {}
        }
        scene.server_sends();
        assert_eq!(scene.tls.is_quiet(false), what == "nothing more", "{what}");
        if what == "nothing more" {
            assert!(scene.tls.is_quiet(true) && !scene.wire.is_readable());
            assert_eq!(scene.shelves.in_use(), 0, "it holds no buffer");
        }
    }
}

#[test]
fn sessions_are_resumed_at_their_own_address_alone() {
    let certificate = Certificate::new();
    let (tls, config) = (trusting(&certificate), server(&certificate));
    let kind = |scene: &mut Scene| {
        scene.shake();
        assert!(scene.tls.is_quiet(false));
        scene.server.handshake_kind()
    };
    let full = Some(rustls::HandshakeKind::Full);
    assert_eq!(kind(&mut Scene::new(&tls, "localhost", &config)), full);
    assert_eq!(kind(&mut Scene::new(&tls, "localhost", &config)), Some(rustls::HandshakeKind::Resumed));
    let mut elsewhere = Scene::new(&tls, "localhost", &config);
    let at = SocketAddr::from(([127, 0, 0, 2], 1));
    let session = tls.session(at, "localhost", &elsewhere.shelves).expect("a session");
    elsewhere.tls = Tls::new(elsewhere.wire.clone(), session);
    assert_eq!(kind(&mut elsewhere), full);
}

#[test]
fn nothing_is_resumed_under_rules_that_have_taken_the_place_of_others() {
    let certificate = Certificate::new();
    let (tls, config) = (trusting(&certificate), server(&certificate));
    let kind = || {
        let mut scene = Scene::new(&tls, "localhost", &config);
        scene.shake();
        assert!(scene.tls.is_quiet(false));
        scene.server.handshake_kind()
    };
    let (full, resumed) = (Some(rustls::HandshakeKind::Full), Some(rustls::HandshakeKind::Resumed));
    assert_eq!((tls.generation(), kind(), kind()), (0, full, resumed));
    tls.replace(tls.rules()).expect("the same rules");
    assert_eq!((tls.generation(), kind(), kind()), (1, full, resumed));
    let nobodys = ClientRules { authorities: Some(vec![b"nothing".to_vec()]), ..tls.rules() };
    assert_eq!(tls.replace(nobodys), Err(ClientRulesError::Authorities));
    assert_eq!((tls.generation(), kind()), (1, resumed), "all is as it was");
}

#[test]
fn a_session_of_before_does_not_outlive_a_swap_during_its_handshake() {
    let certificate = Certificate::new();
    let (tls, config) = (trusting(&certificate), server(&certificate));
    let mut before = Scene::new(&tls, "localhost", &config);
    tls.replace(tls.rules()).expect("the same rules");
    before.shake();
    assert!(before.tls.is_quiet(false), "its tickets have come");
    let mut after = Scene::new(&tls, "localhost", &config);
    after.shake();
    assert_eq!(after.server.handshake_kind(), Some(rustls::HandshakeKind::Full));
}

#[test]
fn the_authorities_of_the_system_are_read_once_and_outlive_a_swap() {
    let tls = BackendTls::new(ClientRules::default()).expect("rules");
    tls.replace(tls.rules()).expect("the same rules");
    let is_ready = |tls: &BackendTls| tls.connection("localhost").is_ok();
    assert!(!is_ready(&tls), "no backend has needed them yet");
    tls.make_ready();
    assert!(is_ready(&tls));
    tls.replace(tls.rules()).expect("the same rules");
    assert!(is_ready(&tls));
}

#[test]
fn of_too_many_addresses_those_are_forgotten_that_were_not_used_for_longest() {
    let base = trusting(&Certificate::new());
    let settings = base.now.load();
    let config = settings.config().expect("ready");
    let mut sessions = Sessions::default();
    let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
    let first = sessions.of(at(1), "a", config);
    let second = sessions.of(at(2), "a", config);
    for port in 3..=1_100 {
        sessions.of(at(port), "a", config);
        assert!(Arc::ptr_eq(&first, &sessions.of(at(1), "a", config)), "it is in use");
    }
    assert_eq!(sessions.of.len(), ADDRESSES_MAX);
    assert!(!Arc::ptr_eq(&second, &sessions.of(at(2), "a", config)));
}

#[test]
fn a_certificate_that_is_not_accepted_is_told_to_both_sides() {
    let (certificate, another) = (Certificate::new(), Certificate::new());
    for (tls, host) in [(trusting(&another), "localhost"), (trusting(&certificate), "b.example")] {
        let mut scene = Scene::new(&tls, host, &server(&certificate));
        scene.shake();
        assert!(!scene.tls.is_connecting() && scene.tls.is_writable());
        let error = scene.tls.take_connect_error().expect_err("not accepted");
        assert_eq!(HandshakeFault::of(&error), Some(HandshakeFault::Certificate));
        assert!(scene.server.is_handshaking());
        drop(scene.tls);
        assert_eq!(scene.shelves.in_use(), 0);
    }
}

#[test]
fn a_server_that_leaves_or_speaks_otherwise_breaks_the_protocol() {
    let certificate = Certificate::new();
    let (tls, config) = (trusting(&certificate), server(&certificate));
    for leaves in [true, false] {
        let scene = Scene::new(&tls, "localhost", &config);
        scene.tls.connect(|| ());
        if leaves {
            scene.wire.end();
        } else {
            scene.wire.come(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        }
        scene.tls.connect(|| ());
        let error = scene.tls.take_connect_error().expect_err("a fault");
        assert_eq!(HandshakeFault::of(&error), Some(HandshakeFault::Protocol), "{leaves}");
    }
}

#[test]
fn hosts_are_verified_without_their_last_dot_and_addresses_by_themselves() {
    let name = |host| server_name(host).expect("a name").to_str().into_owned();
    assert_eq!((name("a.example."), name("my_app")), ("a.example".to_owned(), "my_app".to_owned()));
    assert!(matches!(server_name("::1"), Some(ServerName::IpAddress(_))));
    assert!(server_name("a b").is_none());
}
