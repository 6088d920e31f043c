//! A load of TLS handshakes: some clients connect one time after the other, shake hands, ask once, and leave. Nothing of an
//! earlier handshake is used, or with `--resume` all that can be.
//!
//! X25519 and `TLS_AES_128_GCM_SHA256` alone are offered, so that every server does the same sums. Prints one line of JSON.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use argh::FromArgs;
use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs::{self, cipher_suite, kx_group};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore, StreamOwned, version};

/// Shakes hands with localhost for some seconds and prints how often that went well.
#[derive(FromArgs)]
struct Arguments {
    /// the port
    #[argh(positional)]
    port: u16,
    /// the authority that the server is verified by, a PEM file
    #[argh(option)]
    ca: String,
    /// resume sessions instead of starting anew
    #[argh(switch)]
    resume: bool,
    /// clients at once
    #[argh(option, default = "16")]
    clients: usize,
    /// seconds that it goes on
    #[argh(option, default = "3.0")]
    seconds: f64,
}

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
const SERVER: &str = "localhost";
/// So long each wait for the server may take.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Default)]
struct Counts {
    full: u64,
    resumed: u64,
    failed: u64,
}

fn config(arguments: &Arguments, authority: &CertificateDer<'static>) -> Result<Arc<ClientConfig>, rustls::Error> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.clone())?;
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups = vec![kx_group::X25519];
    provider.cipher_suites = vec![cipher_suite::TLS13_AES_128_GCM_SHA256];
    let builder = ClientConfig::builder_with_provider(Arc::new(provider)).with_protocol_versions(&[&version::TLS13])?;
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    if !arguments.resume {
        config.resumption = Resumption::disabled();
    }
    Ok(Arc::new(config))
}

fn shake_hands(config: &Arc<ClientConfig>, port: u16) -> io::Result<HandshakeKind> {
    let name = ServerName::try_from(SERVER).expect("a name");
    let session = ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
    let socket = TcpStream::connect(("127.0.0.1", port))?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_write_timeout(Some(PATIENCE))?;
    let mut stream = StreamOwned::new(session, socket);
    stream.write_all(REQUEST)?;
    let mut answer = Vec::with_capacity(1024);
    stream.read_to_end(&mut answer)?;
    if !answer.starts_with(b"HTTP/1.1 200 ") {
        return Err(io::Error::other("not a 200"));
    }
    stream.conn.handshake_kind().ok_or_else(|| io::Error::other("no handshake"))
}

fn client(arguments: &Arguments, authority: &CertificateDer<'static>, until: Instant) -> Counts {
    let config = config(arguments, authority).expect("a configuration");
    let mut counts = Counts::default();
    while Instant::now() < until {
        match shake_hands(&config, arguments.port) {
            Ok(HandshakeKind::Resumed) => counts.resumed += 1,
            Ok(_) => counts.full += 1,
            Err(error) => {
                eprintln!("{error}");
                counts.failed += 1;
            }
        }
    }
    counts
}

fn main() -> ExitCode {
    let arguments: Arguments = argh::from_env();
    let authority = match CertificateDer::from_pem_file(&arguments.ca) {
        Ok(authority) => authority,
        Err(error) => {
            eprintln!("{}: {error}", arguments.ca);
            return ExitCode::FAILURE;
        }
    };
    let until = Instant::now() + Duration::from_secs_f64(arguments.seconds);
    let counts: Vec<Counts> = std::thread::scope(|scope| {
        let clients: Vec<_> =
            (0..arguments.clients).map(|_| scope.spawn(|| client(&arguments, &authority, until))).collect();
        clients.into_iter().map(|client| client.join().expect("no panic")).collect()
    });
    let sum = |of: fn(&Counts) -> u64| counts.iter().map(of).sum::<u64>();
    println!(
        r#"{{"full": {}, "resumed": {}, "failed": {}}}"#,
        sum(|counts| counts.full),
        sum(|counts| counts.resumed),
        sum(|counts| counts.failed)
    );
    ExitCode::SUCCESS
}
