//! TLS for those who speak in clear: what they say goes on encrypted, and what they are told comes decrypted. An end is passed
//! on as what it was: in good order, or cut.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, Connection, ServerConnection};
use socket2::SockRef;

use super::secure::{Authority, Signed, config};
use super::{PATIENCE, free_port};

/// Who listens on a loopback port, and passes each connection on to another; until it is dropped.
pub struct Bridge {
    port: u16,
    stopped: Arc<AtomicBool>,
}

/// One connection, on both sides of the bridge.
struct Passage {
    tls: Mutex<Connection>,
    clear: TcpStream,
    encrypted: TcpStream,
    is_cut: AtomicBool,
}

impl Bridge {
    /// For clients that speak in clear, to a TLS port that shows a certificate of this authority's for `name`.
    pub fn to_tls(port: u16, name: &str, authority: &Authority) -> Self {
        let config = Arc::new(client_config(authority));
        let name = ServerName::try_from(name.to_owned()).expect("a name");
        Self::start(port, move |here, there| {
            let client = ClientConnection::new(Arc::clone(&config), name.clone()).expect("a client");
            Passage::new(client.into(), here, there)
        })
    }

    /// For servers that speak in clear on this port; this certificate is shown.
    pub fn from_tls(port: u16, shown: &Signed) -> Self {
        let config = Arc::new(config(shown, None));
        Self::start(port, move |here, there| {
            let server = ServerConnection::new(Arc::clone(&config)).expect("a server");
            Passage::new(server.into(), there, here)
        })
    }

    fn start(to: u16, passage: impl Fn(TcpStream, TcpStream) -> Passage + Send + 'static) -> Self {
        let port = free_port();
        let listener = TcpListener::bind(("127.0.0.1", port)).expect("a free port");
        let stopped = Arc::new(AtomicBool::new(false));
        let is_stopped = Arc::clone(&stopped);
        std::thread::spawn(move || {
            for here in listener.incoming().flatten() {
                if is_stopped.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(there) = TcpStream::connect(("127.0.0.1", to)) else { continue };
                let passage = Arc::new(passage(here, there));
                let same = Arc::clone(&passage);
                std::thread::spawn(move || same.carry(Passage::encrypt));
                std::thread::spawn(move || passage.carry(Passage::decrypt));
            }
        });
        Self { port, stopped }
    }

    pub fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

impl Passage {
    fn new(mut tls: Connection, clear: TcpStream, encrypted: TcpStream) -> Self {
        tls.set_buffer_limit(None);
        for socket in [&clear, &encrypted] {
            socket.set_nodelay(true).expect("a socket");
            socket.set_read_timeout(Some(PATIENCE * 2)).expect("a socket");
            socket.set_write_timeout(Some(PATIENCE * 2)).expect("a socket");
        }
        Self { tls: Mutex::new(tls), clear, encrypted, is_cut: AtomicBool::new(false) }
    }

    /// One direction, to its end. What fails there cuts both off.
    fn carry(&self, direction: fn(&Self) -> io::Result<()>) {
        if direction(self).is_err() {
            self.is_cut.store(true, Ordering::SeqCst);
            for socket in [&self.clear, &self.encrypted] {
                let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
                // Who reads the other direction wakes, and the last to go resets both.
                let _ = socket.shutdown(Shutdown::Read);
            }
        }
    }

    fn encrypt(&self) -> io::Result<()> {
        self.flush(&mut self.tls.lock().expect("not poisoned"))?;
        let mut bytes = [0; 16 * 1024];
        loop {
            let count = (&self.clear).read(&mut bytes)?;
            let mut tls = self.tls.lock().expect("not poisoned");
            if self.is_cut.load(Ordering::SeqCst) {
                return Ok(());
            }
            if count == 0 {
                tls.send_close_notify();
                self.flush(&mut tls)?;
                return self.encrypted.shutdown(Shutdown::Write);
            }
            tls.writer().write_all(&bytes[..count])?;
            self.flush(&mut tls)?;
        }
    }

    fn decrypt(&self) -> io::Result<()> {
        let mut bytes = [0; 16 * 1024];
        loop {
            let count = (&self.encrypted).read(&mut bytes)?;
            if self.is_cut.load(Ordering::SeqCst) {
                return Ok(());
            }
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let (mut plain, mut has_ended) = (Vec::new(), false);
            let mut tls = self.tls.lock().expect("not poisoned");
            let mut rest = &bytes[..count];
            while !rest.is_empty() && !has_ended {
                tls.read_tls(&mut rest)?;
                let taken = tls.process_new_packets();
                self.flush(&mut tls)?;
                let state = taken.map_err(io::Error::other)?;
                let at = plain.len();
                plain.resize(at + state.plaintext_bytes_to_read(), 0);
                tls.reader().read_exact(&mut plain[at..])?;
                has_ended = state.peer_has_closed();
            }
            drop(tls);
            (&self.clear).write_all(&plain)?;
            if has_ended {
                return self.clear.shutdown(Shutdown::Write);
            }
        }
    }

    fn flush(&self, tls: &mut Connection) -> io::Result<()> {
        while tls.wants_write() {
            tls.write_tls(&mut &self.encrypted)?;
        }
        Ok(())
    }
}

/// A client's settings: it trusts this authority alone.
fn client_config(authority: &Authority) -> ClientConfig {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().expect("versions");
    let mut config = builder.with_root_certificates(authority.roots()).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config
}
