//! What clients of each kind meet with: rustls' own client, and everything in memory.

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType, IsCa, KeyIdMethod,
    KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{AlertDescription, ClientConfig, Error, HandshakeKind, NamedGroup, RootCertStore};

use super::any_certificate::AnyCertificate;
use super::*;
use crate::observe::HandshakeEnd;
use crate::transport::greeting::greet;
use crate::transport::server::{ClientRules, ClientRulesError, ServerSettings};
use crate::transport::store::{ACME_TLS_ALPN, CertificateStore};
use crate::transport::tickets::{TicketKey, TicketKeys};

/// What came of a handshake.
struct Met {
    tls: Tls<Wire>,
    client: ClientConnection,
    /// What the client makes of it, if it dislikes something.
    disliked: Option<Error>,
    refused: Option<HandshakeEnd>,
}

fn meet(greeter: &Greeter, mut client: ClientConnection) -> Met {
    let wire = Wire::open();
    let shelves = Rc::new(Shelves::default());
    let tls = Tls::new(wire.clone(), Session::new(greeter.config(), &shelves).expect("a session"));
    let (mut disliked, mut refused) = (None, None);
    while disliked.is_none() && refused.is_none() && (client.is_handshaking() || tls.is_handshaking()) {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).expect("memory");
        }
        wire.0.to_server.borrow_mut().extend(&bytes);
        while refused.is_none() && tls.receive().is_ok() {
            refused = greet(greeter, &tls).err();
        }
        if refused.is_some() {
            tls.shutdown_write();
        }
        let bytes: Vec<u8> = wire.0.to_client.borrow_mut().drain(..).collect();
        let mut rest = &bytes[..];
        while !rest.is_empty() && disliked.is_none() {
            client.read_tls(&mut rest).expect("memory");
            disliked = client.process_new_packets().err();
        }
    }
    if refused.is_none() {
        tls.has_met();
    }
    Met { tls, client, disliked, refused }
}

/// Certificates for these names, and clients that trust them.
struct Town {
    store: Arc<CertificateStore>,
    roots: RootCertStore,
    shown: Vec<Vec<u8>>,
}

impl Town {
    fn of(names: &[&str]) -> Self {
        let (mut roots, mut shown, mut all) = (RootCertStore::empty(), Vec::new(), Vec::new());
        for name in names {
            let made = rcgen::generate_simple_self_signed([(*name).to_owned()]).expect("a certificate");
            roots.add(made.cert.der().clone()).expect("a certificate");
            shown.push(made.cert.der().to_vec());
            let staple = Some(format!("a staple of {name}").into_bytes());
            let certificate = Certified::of(vec![made.cert.der().to_vec()], made.signing_key.serialize_der(), staple);
            all.push(Arc::new(certificate.expect("they fit")));
        }
        Self { store: Arc::new(CertificateStore::holding(all)), roots, shown }
    }

    fn server(&self, settings: ServerSettings, tickets: &Arc<TicketKeys>, clients: Option<&ClientRules>) -> Greeter {
        let server = TlsServer::new(settings, Arc::clone(&self.store), Arc::clone(tickets), clients);
        Greeter::new(Arc::new(server.expect("a server")))
    }

    /// One without any particulars.
    fn plain_server(&self) -> Greeter {
        self.server(ServerSettings::default(), &own_keys(), None)
    }

    fn client(&self, versions: &[&'static SupportedProtocolVersion]) -> ClientConfig {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).expect("versions");
        config.with_root_certificates(self.roots.clone()).with_no_client_auth()
    }
}

fn own_keys() -> Arc<TicketKeys> {
    Arc::new(TicketKeys::own(std::time::SystemTime::now()))
}

fn file_keys() -> Arc<TicketKeys> {
    Arc::new(TicketKeys::shared(TicketKey::read(&[7; TicketKey::BYTES]).expect("a key")))
}

fn to(config: &ClientConfig, name: &str) -> ClientConnection {
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    ClientConnection::new(Arc::new(config.clone()), name).expect("a client")
}

fn alert(met: &Met) -> (Option<HandshakeEnd>, Option<AlertDescription>) {
    let heard = match met.disliked {
        Some(Error::AlertReceived(alert)) => Some(alert),
        _ => None,
    };
    (met.refused, heard)
}

/// Takes in what a server says behind its handshake: tickets.
fn hear_out(met: &mut Met) {
    let bytes: Vec<u8> = met.tls.socket().0.to_client.borrow_mut().drain(..).collect();
    let mut rest = &bytes[..];
    while !rest.is_empty() {
        met.client.read_tls(&mut rest).expect("memory");
        met.client.process_new_packets().expect("sound records");
    }
}

#[test]
fn a_client_is_shown_the_certificate_for_its_name_and_the_first_if_there_is_none() {
    let town = Town::of(&["a.example", "b.example", "*.example"]);
    let greeter = town.plain_server();
    for (name, which) in [("a.example", 0), ("b.example", 1), ("B.EXAMPLE", 1), ("c.example", 2), ("other", 0)] {
        let mut config = town.client(rustls::ALL_VERSIONS);
        // What is shown is looked at here.
        config.dangerous().set_certificate_verifier(AnyCertificate::new());
        let met = meet(&greeter, to(&config, name));
        assert_eq!((met.disliked, met.refused), (None, None), "{name}");
        assert_eq!(met.client.peer_certificates().expect("one")[0].as_ref(), town.shown[which], "{name}");
    }
}

#[test]
fn strict_sni_refuses_a_name_without_a_certificate_by_its_own_alert() {
    let town = Town::of(&["a.example"]);
    for versions in [rustls::ALL_VERSIONS, TLS12_ALONE] {
        let settings = ServerSettings { strict_sni: true, ..ServerSettings::default() };
        let greeter = town.server(settings, &own_keys(), None);
        let config = town.client(versions);
        let met = meet(&greeter, to(&config, "b.example"));
        assert_eq!(alert(&met), (Some(HandshakeEnd::Refused(112)), Some(AlertDescription::UnrecognisedName)));
        assert_eq!(meet(&greeter, to(&config, "a.example")).disliked, None);
        // One that says no name is shown the first: its certificate just isn't for an address.
        let met = meet(&greeter, to(&config, "127.0.0.1"));
        assert!(matches!(met.disliked, Some(Error::InvalidCertificate(_))), "{:?}", met.disliked);
    }
}

#[test]
fn versions_and_protocols_are_those_that_are_configured_and_hybrid_keys_are_exchanged() {
    let town = Town::of(&["a.example"]);
    let greeter = town.plain_server();
    for (versions, group) in [(rustls::ALL_VERSIONS, NamedGroup::X25519MLKEM768), (TLS12_ALONE, NamedGroup::X25519)] {
        let met = meet(&greeter, to(&town.client(versions), "a.example"));
        assert_eq!(met.client.negotiated_key_exchange_group().map(rustls::crypto::SupportedKxGroup::name), Some(group));
        assert_eq!(met.client.alpn_protocol(), None, "none was offered");
    }
    let newest = ServerSettings { tls13_only: true, ..ServerSettings::default() };
    let met = meet(&town.server(newest, &own_keys(), None), to(&town.client(TLS12_ALONE), "a.example"));
    assert_eq!(alert(&met), (Some(HandshakeEnd::Refused(70)), Some(AlertDescription::ProtocolVersion)));
    for (offered, want) in [
        (&["h2", "http/1.1"][..], Some(&b"http/1.1"[..])),
        (&["http/1.1", "acme-tls/1"], Some(b"http/1.1")),
        (&["h2"], None),
        (&["acme-tls/1"], None),
    ] {
        let mut config = town.client(rustls::ALL_VERSIONS);
        config.alpn_protocols = offered.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        let met = meet(&greeter, to(&config, "a.example"));
        if want.is_some() {
            assert_eq!((met.client.alpn_protocol(), met.refused), (want, None), "{offered:?}");
            continue;
        }
        let told = match offered {
            ["h2"] => (120, AlertDescription::NoApplicationProtocol),
            _ => (112, AlertDescription::UnrecognisedName),
        };
        assert_eq!(alert(&met), (Some(HandshakeEnd::Refused(told.0)), Some(told.1)), "{offered:?}");
    }
}

#[test]
fn an_authority_that_asks_by_tls_alpn_01_is_shown_its_certificate_and_nothing_more() {
    let town = Town::of(&["a.example"]);
    let settings = ServerSettings { answers_challenges: true, ..ServerSettings::default() };
    let greeter = town.server(settings, &own_keys(), None);
    let made = Certificate::new();
    let shown = Certified::of(made.chain.clone(), made.key.clone(), None).expect("they fit");
    town.store.set_challenge("a.example", Arc::new(shown));
    let mut config = town.client(rustls::ALL_VERSIONS);
    config.dangerous().set_certificate_verifier(AnyCertificate::new());
    config.alpn_protocols = vec![ACME_TLS_ALPN.to_vec()];
    let met = meet(&greeter, to(&config, "a.example"));
    assert_eq!(met.client.peer_certificates().expect("one")[0].as_ref(), made.chain[0]);
    assert!(met.tls.ends_with_handshake());
    town.store.clear_challenge("a.example");
    assert!(meet(&greeter, to(&config, "a.example")).refused.is_some());
}

#[test]
fn a_staple_goes_with_the_certificate() {
    let town = Town::of(&["a.example"]);
    for versions in [rustls::ALL_VERSIONS, TLS12_ALONE] {
        let mut config = town.client(versions);
        let seen = AnyCertificate::new();
        config.dangerous().set_certificate_verifier(Arc::clone(&seen) as _);
        meet(&town.plain_server(), to(&config, "a.example"));
        assert_eq!(*seen.staple.lock(), b"a staple of a.example");
    }
}

#[test]
fn sessions_are_resumed_at_other_workers_and_with_a_files_keys_after_a_restart() {
    let town = Town::of(&["a.example"]);
    for versions in [rustls::ALL_VERSIONS, TLS12_ALONE] {
        let keys = file_keys();
        let server = TlsServer::new(ServerSettings::default(), Arc::clone(&town.store), keys, None).expect("a server");
        let server = Arc::new(server);
        let workers = [(); 2].map(|()| Greeter::new(Arc::clone(&server)));
        let config = town.client(versions);
        let kind = |greeter: &Greeter| {
            let mut met = meet(greeter, to(&config, "a.example"));
            hear_out(&mut met);
            assert_eq!(met.tls.has_met(), met.client.handshake_kind() == Some(HandshakeKind::Resumed));
            met.client.handshake_kind()
        };
        let full = kind(&workers[0]);
        assert!(matches!(full, Some(HandshakeKind::Full | HandshakeKind::FullWithHelloRetryRequest)), "{full:?}");
        assert_eq!(kind(&workers[1]), Some(HandshakeKind::Resumed), "another worker");
        let restarted = town.server(ServerSettings::default(), &file_keys(), None);
        assert_eq!(kind(&restarted), Some(HandshakeKind::Resumed), "another process");
        assert_ne!(kind(&town.plain_server()), Some(HandshakeKind::Resumed), "without the file");
    }
}

/// An authority for clients, and a client of it.
struct Club {
    authority: CertifiedIssuer<'static, KeyPair>,
    member: (Vec<u8>, Vec<u8>),
}

const MEMBER: u64 = 77;

impl Club {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let authority =
            CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("an authority");
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "member");
        params.serial_number = Some(SerialNumber::from(MEMBER));
        let key = KeyPair::generate().expect("a key");
        let member = params.signed_by(&key, &authority).expect("a certificate");
        Self { member: (member.der().to_vec(), key.serialize_der()), authority }
    }

    fn rules(&self, revoked: Option<u64>) -> ClientRules {
        let list = |serial: u64| {
            let now = rcgen::date_time_ymd(2025, 1, 1);
            let revoked = RevokedCertParams {
                serial_number: SerialNumber::from(serial),
                revocation_time: now,
                reason_code: None,
                invalidity_date: None,
            };
            let params = CertificateRevocationListParams {
                this_update: now,
                next_update: rcgen::date_time_ymd(2040, 1, 1),
                crl_number: SerialNumber::from(1),
                issuing_distribution_point: None,
                revoked_certs: vec![revoked],
                key_identifier_method: KeyIdMethod::Sha256,
            };
            params.signed_by(&self.authority).expect("a list").der().to_vec()
        };
        let authorities = vec![self.authority.der().to_vec()];
        ClientRules { authorities, revoked: revoked.map(list).into_iter().collect(), optional: false }
    }

    fn client(&self, town: &Town, versions: &[&'static SupportedProtocolVersion]) -> ClientConfig {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).expect("versions");
        let config = config.with_root_certificates(town.roots.clone());
        let (certificate, key) = self.member.clone();
        let key = PrivateKeyDer::try_from(key).expect("a key");
        config.with_client_auth_cert(vec![CertificateDer::from(certificate)], key).expect("they fit")
    }
}

#[test]
fn a_client_has_to_show_what_it_is_held_to() {
    let (town, club, others) = (Town::of(&["a.example"]), Club::new("club"), Club::new("others"));
    for versions in [rustls::ALL_VERSIONS, TLS12_ALONE] {
        let meets = |rules: &ClientRules, config: &ClientConfig| {
            let greeter = town.server(ServerSettings::default(), &own_keys(), Some(rules));
            let met = meet(&greeter, to(config, "a.example"));
            (met.refused, met.tls.peer_identity().map(str::to_owned))
        };
        let (member, nobody) = (club.client(&town, versions), town.client(versions));
        let verified = Some(r#"verified;subject="CN=member""#.to_owned());
        assert_eq!(meets(&club.rules(None), &member), (None, verified.clone()));
        assert_eq!(meets(&club.rules(Some(MEMBER + 1)), &member), (None, verified.clone()));
        assert_eq!(meets(&club.rules(Some(MEMBER)), &member).0, Some(HandshakeEnd::Refused(44)));
        assert_eq!(meets(&others.rules(None), &member).0, Some(HandshakeEnd::Refused(48)));
        assert_eq!(meets(&club.rules(None), &nobody).0, Some(HandshakeEnd::Refused(116)));
        let optional = ClientRules { optional: true, ..club.rules(None) };
        assert_eq!(meets(&optional, &nobody), (None, Some("none".to_owned())));
        assert_eq!(meets(&optional, &member), (None, verified));
        assert_eq!(meets(&optional, &others.client(&town, versions)).0, Some(HandshakeEnd::Refused(48)));
    }
}

#[test]
fn who_is_held_to_something_else_resumes_nothing() {
    let (town, club) = (Town::of(&["a.example"]), Club::new("club"));
    let greeter = town.server(ServerSettings::default(), &file_keys(), Some(&club.rules(None)));
    let member = club.client(&town, rustls::ALL_VERSIONS);
    let kind = || {
        let mut met = meet(&greeter, to(&member, "a.example"));
        if met.refused.is_none() {
            hear_out(&mut met);
            assert_eq!(met.tls.peer_identity(), Some(r#"verified;subject="CN=member""#), "resumed or not");
        }
        (met.refused, met.client.handshake_kind() == Some(HandshakeKind::Resumed))
    };
    assert_eq!((kind(), kind()), ((None, false), (None, true)));
    greeter.server().hold_clients_to(Some(&club.rules(Some(1)))).expect("rules");
    assert_eq!((kind(), kind()), ((None, false), (None, true)));
    greeter.server().hold_clients_to(Some(&club.rules(Some(MEMBER)))).expect("rules");
    assert_eq!(kind(), (Some(HandshakeEnd::Refused(44)), false), "not by the session of before");
    let before = greeter.config();
    let broken = ClientRules { authorities: vec![b"none".to_vec()], ..ClientRules::default() };
    let refused = greeter.server().hold_clients_to(Some(&broken));
    assert!(matches!(refused, Err(ClientRulesError::Authority { nth: 0, .. })), "{refused:?}");
    let nobody = greeter.server().hold_clients_to(Some(&ClientRules::default()));
    assert_eq!(nobody, Err(ClientRulesError::NoAuthority));
    let unread = ClientRules { revoked: vec![b"none".to_vec()], ..club.rules(None) };
    assert!(matches!(greeter.server().hold_clients_to(Some(&unread)), Err(ClientRulesError::Revoked { .. })));
    assert!(Arc::ptr_eq(&before, &greeter.config()), "what is refused changes nothing");
}

#[test]
fn a_host_is_at_home_unless_another_certificate_is_for_it() {
    let town = Town::of(&["a.example", "b.example"]);
    for (strict_sni, hosts) in [
        (
            false,
            [("a.example", true), ("A.EXAMPLE.", true), ("b.example", false), ("c.example", true), ("[::1]", true)],
        ),
        (
            true,
            [("a.example", true), ("A.EXAMPLE.", true), ("b.example", false), ("c.example", false), ("[::1]", false)],
        ),
    ] {
        let settings = ServerSettings { strict_sni, ..ServerSettings::default() };
        let greeter = town.server(settings, &own_keys(), None);
        let met = meet(&greeter, to(&town.client(rustls::ALL_VERSIONS), "a.example"));
        for (host, want) in hosts {
            assert_eq!(met.tls.stands_for(host), want, "{host}, strict: {strict_sni}");
        }
    }
}

#[test]
fn a_hello_in_clear_behind_a_handshake_ends_the_connection() {
    let scene = Scene::open(rustls::ALL_VERSIONS);
    scene.wire.0.to_server.borrow_mut().extend([22, 3, 3, 0, 4, 1, 0, 0, 0]);
    assert_eq!(kind(scene.read_all(10).1), io::ErrorKind::InvalidData);
    assert!(scene.tls.try_write(&[IoSlice::new(b"more")]).is_err());
}

#[test]
fn records_without_content_end_a_connection_before_long() {
    let mut scene = Scene::open(rustls::ALL_VERSIONS);
    // Warnings are what a client of rustls can say without content; rustls itself takes a few of them.
    let end = (0..5_000).find_map(|_| {
        let _ = scene.client.refresh_traffic_keys();
        scene.send();
        let end = scene.read_all(10).1;
        scene.take_all_leniently();
        Some(kind(end)).filter(|kind| *kind != io::ErrorKind::WouldBlock)
    });
    assert_eq!(end, Some(io::ErrorKind::InvalidData));
}

#[test]
fn a_record_that_is_too_long_is_refused() {
    let scene = Scene::open(rustls::ALL_VERSIONS);
    scene.wire.0.to_server.borrow_mut().extend([23, 3, 3, 0x50, 0]);
    scene.wire.0.to_server.borrow_mut().extend([0; 100]);
    assert_eq!(kind(scene.read_all(10).1), io::ErrorKind::InvalidData);
}
