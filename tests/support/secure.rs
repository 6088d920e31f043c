//! An authority of the test's own, and backends that speak TLS, each in the way that a test needs.

use std::io::{self, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use maypole::transport::pem;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{HandshakeKind, RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use socket2::SockRef;

use super::origin::PROBE_PATH;
use super::wire::{self, Message};
use super::{PATIENCE, free_port};

/// Who signs certificates.
pub struct Authority {
    pub issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate of an authority's and its key, in DER.
#[derive(Clone)]
pub struct Signed {
    pub chain: Vec<Vec<u8>>,
    pub key: Vec<u8>,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        Self { issuer: CertifiedIssuer::self_signed(parameters(name), key).expect("a certificate") }
    }

    /// One that ended long ago.
    pub fn expired(name: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        Self { issuer: CertifiedIssuer::self_signed(ended(name), key).expect("a certificate") }
    }

    /// One that this one vouches for, and that ended long ago.
    pub fn expired_below(&self, name: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        let signed = CertifiedIssuer::signed_by(ended(name), key, &self.issuer);
        Self { issuer: signed.expect("a certificate") }
    }

    /// Its certificate, in DER.
    pub fn der(&self) -> Vec<u8> {
        self.issuer.as_ref().der().to_vec()
    }

    /// A certificate for these hosts.
    pub fn sign(&self, hosts: &[&str]) -> Signed {
        self.sign_until(hosts, 2100)
    }

    /// One that ended long ago.
    pub fn sign_expired(&self, hosts: &[&str]) -> Signed {
        self.sign_until(hosts, 2020)
    }

    fn sign_until(&self, hosts: &[&str], year: i32) -> Signed {
        let hosts: Vec<String> = hosts.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(hosts).expect("names");
        params.not_after = date_time_ymd(year, 1, 1);
        let key = KeyPair::generate().expect("a key");
        let made = params.signed_by(&key, &self.issuer).expect("a certificate");
        Signed { chain: vec![made.der().to_vec()], key: key.serialize_der() }
    }

    /// It alone, for who trusts it.
    pub fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.as_ref().der().clone()).expect("a certificate");
        roots
    }

    /// Its certificate, as a file in this folder.
    pub fn file(&self, folder: &Path) -> PathBuf {
        written(folder, "ca.pem", &pem::write("CERTIFICATE", self.issuer.as_ref().der()))
    }
}

fn parameters(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).expect("no names");
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
}

fn ended(name: &str) -> CertificateParams {
    let mut params = parameters(name);
    params.not_after = date_time_ymd(2020, 1, 1);
    params
}

impl Signed {
    /// Tells its certificate from others: the end of its signature.
    pub fn mark(&self) -> String {
        mark(&self.chain[0])
    }

    /// Its certificates and its key, as files in this folder.
    pub fn files(&self, folder: &Path, name: &str) -> (PathBuf, PathBuf) {
        let chain: String = self.chain.iter().map(|der| pem::write("CERTIFICATE", der)).collect();
        let cert = written(folder, &format!("{name}.pem"), &chain);
        (cert, written(folder, &format!("{name}.key"), &pem::write("PRIVATE KEY", &self.key)))
    }
}

fn mark(der: &[u8]) -> String {
    format!("{:02x?}", &der[der.len() - 8..])
}

/// Written beside its place and moved there, so that a half of it is never seen.
pub fn written(folder: &Path, name: &str, text: &str) -> PathBuf {
    let (beside, path) = (folder.join("new"), folder.join(name));
    std::fs::write(&beside, text).expect("writable");
    std::fs::rename(&beside, &path).expect("the same folder");
    path
}

/// What a backend does with those that connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// It shakes hands and answers.
    Good,
    /// It resets the connection once the handshake has begun.
    Resets,
    /// It says nothing.
    Silent,
    /// It answers in clear.
    Plain,
}

/// A backend that speaks TLS on a loopback port, until it is dropped. A request for `/cut` gets half of a body that ends with
/// the connection, which ends without `close_notify`; one for `/whole` the same with it; one for `/who` a body that says by its
/// mark which certificate it was shown, and one for `/who-last` the same on a connection that ends then; any other a body that
/// says the name that was asked for.
pub struct SecureOrigin {
    port: u16,
    stage: Arc<Stage>,
}

struct Stage {
    config: Mutex<Arc<ServerConfig>>,
    manner: Mutex<Manner>,
    connections: AtomicUsize,
    full: AtomicUsize,
    resumed: AtomicUsize,
    probes: AtomicUsize,
    /// Connections that the proxy ended with `close_notify`: those of probes, and those of requests.
    closed: [AtomicUsize; 2],
    requests: Mutex<Vec<Message>>,
    /// The marks of what open connections have shown, but for those of probes.
    clients: Mutex<Vec<String>>,
    stopped: AtomicBool,
}

impl SecureOrigin {
    /// Shows this certificate.
    pub fn start(shown: &Signed) -> Self {
        Self::with(config(shown, None), Manner::Good)
    }

    /// The same, and asks for one of that authority.
    pub fn asking(shown: &Signed, authority: &Authority) -> Self {
        Self::with(config(shown, Some(authority)), Manner::Good)
    }

    /// In another manner.
    pub fn behaving(shown: &Signed, manner: Manner) -> Self {
        Self::with(config(shown, None), manner)
    }

    pub fn with(config: ServerConfig, manner: Manner) -> Self {
        let port = free_port();
        let listener = TcpListener::bind(("127.0.0.1", port)).expect("a free port");
        let stage = Arc::new(Stage {
            config: Mutex::new(Arc::new(config)),
            manner: Mutex::new(manner),
            connections: AtomicUsize::new(0),
            full: AtomicUsize::new(0),
            resumed: AtomicUsize::new(0),
            probes: AtomicUsize::new(0),
            closed: Default::default(),
            requests: Mutex::default(),
            clients: Mutex::default(),
            stopped: AtomicBool::new(false),
        });
        let on_stage = Arc::clone(&stage);
        std::thread::spawn(move || {
            for socket in listener.incoming().map_while(Result::ok) {
                if on_stage.stopped.load(Ordering::SeqCst) {
                    return;
                }
                let stage = Arc::clone(&on_stage);
                std::thread::spawn(move || stage.serve(socket));
            }
        });
        Self { port, stage }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn url(&self) -> String {
        format!("https://localhost:{}", self.port)
    }

    /// From now on it shows another certificate.
    pub fn show(&self, shown: &Signed) {
        *self.stage.config.lock().expect("not poisoned") = Arc::new(config(shown, None));
    }

    /// Requests so far, but for probes.
    pub fn requests(&self) -> Vec<Message> {
        self.stage.requests.lock().expect("not poisoned").clone()
    }

    /// The marks of what open connections have shown that have had a request, but for those of probes.
    pub fn clients(&self) -> Vec<String> {
        self.stage.clients.lock().expect("not poisoned").clone()
    }

    pub fn connections(&self) -> usize {
        self.stage.connections.load(Ordering::SeqCst)
    }

    pub fn probes(&self) -> usize {
        self.stage.probes.load(Ordering::SeqCst)
    }

    /// Handshakes of requests' connections: full ones, and resumed ones.
    pub fn handshakes(&self) -> (usize, usize) {
        (self.stage.full.load(Ordering::SeqCst), self.stage.resumed.load(Ordering::SeqCst))
    }

    /// Connections that the proxy ended with `close_notify`: those of probes, and those of requests.
    pub fn closed(&self) -> [usize; 2] {
        self.stage.closed.each_ref().map(|count| count.load(Ordering::SeqCst))
    }
}

impl Drop for SecureOrigin {
    fn drop(&mut self) {
        self.stage.stopped.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

/// A server's settings: this certificate, and clients of that authority alone.
pub fn config(shown: &Signed, clients_of: Option<&Authority>) -> ServerConfig {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(rustls::ALL_VERSIONS)
        .expect("versions");
    let builder = match clients_of {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(authority.roots()), provider);
            builder.with_client_cert_verifier(verifier.build().expect("a verifier"))
        }
    };
    let chain = shown.chain.iter().cloned().map(CertificateDer::from).collect();
    let key = PrivateKeyDer::try_from(shown.key.clone()).expect("a key");
    let mut config = builder.with_single_cert(chain, key).expect("they fit");
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config
}

type Tls = StreamOwned<ServerConnection, TcpStream>;

/// The mark of the certificate that the other side has shown; empty where it has shown none.
fn shown_by(tls: &Tls) -> String {
    tls.conn.peer_certificates().and_then(|chain| chain.first()).map(|der| mark(der)).unwrap_or_default()
}

impl Stage {
    fn serve(&self, mut socket: TcpStream) {
        self.connections.fetch_add(1, Ordering::SeqCst);
        socket.set_read_timeout(Some(PATIENCE * 2)).expect("a socket");
        socket.set_nodelay(true).expect("a socket");
        let manner = *self.manner.lock().expect("not poisoned");
        match manner {
            Manner::Good => {
                let config = Arc::clone(&self.config.lock().expect("not poisoned"));
                let tls = ServerConnection::new(config).expect("a server");
                let mut tls = BufReader::new(StreamOwned::new(tls, socket));
                let mut counted = false;
                let _ = self.converse(&mut tls, &mut counted);
                let ended = counted.then(|| shown_by(tls.get_ref()));
                let mut clients = self.clients.lock().expect("not poisoned");
                if let Some(at) = clients.iter().position(|mark| Some(mark) == ended.as_ref()) {
                    clients.swap_remove(at);
                }
            }
            Manner::Resets => {
                let _ = socket.read(&mut [0; 1]);
                let _ = SockRef::from(&socket).set_linger(Some(std::time::Duration::ZERO));
            }
            Manner::Silent => {
                let _ = socket.read_to_end(&mut Vec::new());
            }
            Manner::Plain => {
                let _ = socket.read(&mut [0; 16 * 1024]);
                let _ = socket.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
                let _ = socket.shutdown(Shutdown::Write);
                let _ = socket.read_to_end(&mut Vec::new());
            }
        }
    }

    fn converse(&self, tls: &mut BufReader<Tls>, counted: &mut bool) -> io::Result<()> {
        while let Some(mut request) = self.next_request(tls, *counted)? {
            wire::read_request_body(tls, &mut request)?;
            let is_probe = request.target() == PROBE_PATH;
            if is_probe {
                self.probes.fetch_add(1, Ordering::SeqCst);
            } else if !std::mem::replace(counted, true) {
                let resumed = tls.get_ref().conn.handshake_kind() == Some(HandshakeKind::Resumed);
                if resumed { &self.resumed } else { &self.full }.fetch_add(1, Ordering::SeqCst);
                self.clients.lock().expect("not poisoned").push(shown_by(tls.get_ref()));
            }
            let target = request.target().to_owned();
            if !is_probe {
                self.requests.lock().expect("not poisoned").push(request);
            }
            let tls = tls.get_mut();
            if matches!(target.as_str(), "/cut" | "/whole") {
                tls.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhalf")?;
                tls.flush()?;
                if target == "/whole" {
                    tls.conn.send_close_notify();
                    tls.flush()?;
                }
                return tls.sock.shutdown(Shutdown::Write);
            }
            let is_last = target == "/who-last";
            let says = if target.starts_with("/who") {
                shown_by(tls)
            } else {
                tls.conn.server_name().unwrap_or("none").to_owned()
            };
            let close = if is_last { "Connection: close\r\n" } else { "" };
            let answer = format!("HTTP/1.1 200 OK\r\n{close}Content-Length: {}\r\n\r\n{says}", says.len());
            tls.write_all(answer.as_bytes())?;
            tls.flush()?;
            if is_last {
                tls.conn.send_close_notify();
                tls.flush()?;
                return tls.sock.shutdown(Shutdown::Write);
            }
        }
        Ok(())
    }

    fn next_request(&self, tls: &mut BufReader<Tls>, of_requests: bool) -> io::Result<Option<Message>> {
        let request = wire::read_head(tls)?;
        if request.is_none() {
            // A FIN without `close_notify` would have been an error.
            self.closed[usize::from(of_requests)].fetch_add(1, Ordering::SeqCst);
        }
        Ok(request)
    }
}
