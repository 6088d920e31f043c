//! Pebble and its name server as child processes, and clients that see what certificate they are shown.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use maypole::transport::pem;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::json;

use super::any_certificate::AnyCertificate;
use super::support::proxy::empty_folder;
use super::support::{PATIENCE, eventually, free_port};

/// Where what listens.
#[derive(Clone, Copy)]
pub struct Ports {
    /// The proxy, in clear.
    pub http: u16,
    /// The proxy, over TLS.
    pub tls: u16,
    /// The authority.
    pub authority: u16,
}

impl Ports {
    pub fn directory(self) -> String {
        format!("https://localhost:{}/dir", self.authority)
    }
}

/// Pebble, which validates at the proxy's ports; ended when it is dropped.
pub struct Authority {
    pebble: Child,
    names: Child,
    management: u16,
}

/// What a client was shown, and answered.
pub struct Seen {
    pub leaf: Vec<u8>,
    chain: Vec<CertificateDer<'static>>,
    pub answer: String,
}

/// A certificate that nobody trusts, with its key.
pub struct Made {
    pub der: Vec<u8>,
    pub pem: String,
}

pub fn is_installed() -> bool {
    let runs = |program: &str| {
        let command = Command::new(program).arg("-h").stdout(Stdio::null()).stderr(Stdio::null()).status();
        command.is_ok()
    };
    runs("pebble") && runs("pebble-challtestsrv")
}

/// The authority by which Pebble's own port is verified, in PEM; and Pebble's certificate and key beside it.
pub fn roots() -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let folder = empty_folder();
        let (root_key, key) = (KeyPair::generate().expect("a key"), KeyPair::generate().expect("a key"));
        let mut root = CertificateParams::new(Vec::new()).expect("params");
        root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root_made = root.self_signed(&root_key).expect("a root");
        let leaf = CertificateParams::new(["localhost".to_owned()]).expect("params");
        let leaf_made = leaf.signed_by(&key, &Issuer::new(root, root_key)).expect("a certificate");
        let write = |name: &str, text: String| std::fs::write(folder.join(name), text).expect("writable");
        write("roots.pem", pem::write("CERTIFICATE", root_made.der()));
        write("pebble.pem", pem::write("CERTIFICATE", leaf_made.der()));
        write("pebble.key", pem::write("PRIVATE KEY", &key.serialize_der()));
        folder
    });
    folder.join("roots.pem")
}

impl Authority {
    pub fn start(ports: Ports) -> Self {
        let keys = roots();
        let folder = empty_folder();
        let (management, dns) = (free_port(), free_port());
        let config = json!({ "pebble": {
            "listenAddress": format!("127.0.0.1:{}", ports.authority),
            "managementListenAddress": format!("127.0.0.1:{management}"),
            "certificate": keys.with_file_name("pebble.pem"),
            "privateKey": keys.with_file_name("pebble.key"),
            "httpPort": ports.http,
            "tlsPort": ports.tls,
            "ocspResponderURL": "",
            "externalAccountBindingRequired": false,
            "domainBlocklist": ["blocked-domain.example"],
        }});
        let file = folder.join("pebble.json");
        std::fs::write(&file, config.to_string()).expect("writable");
        let address = |port: u16| format!("127.0.0.1:{port}");
        let mut names = Command::new("pebble-challtestsrv");
        names.args(["-dns01", &address(dns), "-management", &address(free_port()), "-defaultIPv6", ""]);
        names.args(["-http01", "", "-https01", "", "-tlsalpn01", "", "-defaultIPv4", "127.0.0.1"]);
        let mut pebble = Command::new("pebble");
        pebble.args(["-config", file.to_str().expect("UTF-8"), "-dnsserver", &address(dns)]);
        pebble.env("PEBBLE_VA_NOSLEEP", "1").env("PEBBLE_WFE_NONCEREJECT", "20");
        let start = |command: &mut Command| {
            let log = std::fs::File::options().create(true).append(true).open(folder.join("log")).expect("writable");
            let command = command.stdin(Stdio::null()).stdout(log.try_clone().expect("a descriptor")).stderr(log);
            command.current_dir(&folder).spawn().expect("it is installed")
        };
        let authority = Self { names: start(&mut names), pebble: start(&mut pebble), management };
        let listens = |port: u16| TcpStream::connect(("127.0.0.1", port)).is_ok();
        eventually("Pebble listens", || listens(ports.authority) && listens(management) && listens(dns));
        authority
    }

    /// Whether a client that trusts its root takes what it was shown for `name`.
    pub fn verifies(&self, seen: &Seen, name: &str) -> bool {
        let url = format!("https://localhost:{}/roots/0", self.management);
        let output = Command::new("curl").args(["-sk", &url]).output().expect("curl runs");
        let text = String::from_utf8(output.stdout).expect("PEM");
        let root = pem::certificates(text.as_bytes()).expect("a certificate").remove(0);
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from(root)).expect("a root");
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier = rustls::client::WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build();
        let name = ServerName::try_from(name.to_owned()).expect("a name");
        let verifier = verifier.expect("a verifier");
        verifier.verify_server_cert(&seen.chain[0], &seen.chain[1..], &name, &[], UnixTime::now()).is_ok()
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        for child in [&mut self.pebble, &mut self.names] {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Seen {
    pub fn is_of_pebble(&self) -> bool {
        self.leaf.windows(6).any(|bytes| bytes == b"Pebble")
    }

    pub fn is_for(&self, name: &str) -> bool {
        self.leaf.windows(name.len()).any(|bytes| bytes == name.as_bytes())
    }
}

/// What a client is shown that asks for `name` on a connection of its own, and answered to a request; None: it isn't.
pub fn see(port: u16, name: &str) -> Option<Seen> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().ok()?;
    let config = config.dangerous().with_custom_certificate_verifier(AnyCertificate::new()).with_no_client_auth();
    let session = ClientConnection::new(Arc::new(config), ServerName::try_from(name.to_owned()).ok()?).ok()?;
    let socket = TcpStream::connect(("127.0.0.1", port)).ok()?;
    socket.set_read_timeout(Some(PATIENCE)).ok()?;
    let mut stream = StreamOwned::new(session, socket);
    let request = format!("GET / HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n");
    let mut answer = Vec::new();
    let answered = stream.write_all(request.as_bytes()).and_then(|()| stream.read_to_end(&mut answer));
    answered.inspect_err(|error| println!("{name} at {port}: {error}")).ok()?;
    let chain: Vec<CertificateDer<'static>> =
        stream.conn.peer_certificates()?.iter().map(|certificate| certificate.clone().into_owned()).collect();
    Some(Seen { leaf: chain.first()?.to_vec(), chain, answer: String::from_utf8_lossy(&answer).into_owned() })
}

/// A certificate of which two thirds are over.
pub fn nearly_expired(name: &str) -> Made {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new([name.to_owned()]).expect("params");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    let begin = rcgen::date_time_ymd(1970, 1, 1);
    let day = Duration::from_secs(24 * 3600);
    (params.not_before, params.not_after) = (begin + now - day * 80, begin + now + day * 10);
    let made = params.self_signed(&key).expect("a certificate");
    let text = pem::write("PRIVATE KEY", &key.serialize_der()) + &pem::write("CERTIFICATE", made.der());
    Made { der: made.der().to_vec(), pem: text }
}

/// Puts it where the certificate for `name` is kept.
pub fn put_in_place_of(cache: &Path, name: &str, text: &str) {
    let folders = std::fs::read_dir(cache).expect("a cache");
    let files: Vec<PathBuf> =
        folders.map(|entry| entry.expect("an entry").path().join(format!("{name}.pem"))).collect();
    assert!(files.len() == 1 && files[0].exists(), "{files:?}");
    std::fs::write(&files[0], text).expect("writable");
}
