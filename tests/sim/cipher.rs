//! TLS as an actor speaks it, by rustls' buffered sessions: bytes in, bytes out. It knows no socket.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{Read, Write};
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, Connection, Error, HandshakeKind, ServerConfig, ServerConnection};

/// A record that nobody can have sealed.
pub const CORRUPT: [u8; 37] = {
    let mut record = [7; 37];
    [record[0], record[1], record[2], record[3], record[4]] = [23, 3, 3, 0, 32];
    record
};

/// One side of a session.
pub struct Cipher(RefCell<Session>);

struct Session {
    tls: Connection,
    /// What came in clear, and nobody has taken yet.
    plain: VecDeque<u8>,
    /// `close_notify` came.
    ended: bool,
}

impl Cipher {
    pub fn of_client(config: &Arc<ClientConfig>, host: &'static str) -> Self {
        let name = ServerName::try_from(host).expect("a name");
        Self::of(ClientConnection::new(Arc::clone(config), name).expect("a client").into())
    }

    pub fn of_server(config: &Arc<ServerConfig>) -> Self {
        Self::of(ServerConnection::new(Arc::clone(config)).expect("a server").into())
    }

    fn of(mut tls: Connection) -> Self {
        tls.set_buffer_limit(None);
        Self(RefCell::new(Session { tls, plain: VecDeque::new(), ended: false }))
    }

    pub fn is_handshaking(&self) -> bool {
        self.0.borrow().tls.is_handshaking()
    }

    /// It goes on with a session of before.
    pub fn is_resumed(&self) -> bool {
        self.0.borrow().tls.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// It was said that nothing more comes.
    pub fn has_ended(&self) -> bool {
        self.0.borrow().ended
    }

    /// What is to be sent for TLS itself.
    pub fn due(&self) -> Vec<u8> {
        self.0.borrow_mut().due()
    }

    /// Records that say this.
    pub fn seal(&self, bytes: &[u8]) -> Vec<u8> {
        let mut session = self.0.borrow_mut();
        session.tls.writer().write_all(bytes).expect("memory without a limit");
        session.due()
    }

    /// The record that says that nothing more is said, unless that was said.
    pub fn seal_end(&self) -> Vec<u8> {
        let mut session = self.0.borrow_mut();
        session.tls.send_close_notify();
        session.due()
    }

    /// The alert that ends the session, if there is one to be said.
    pub fn seal_refusal(&self) -> Vec<u8> {
        let _ = self.open(&CORRUPT);
        self.due()
    }

    /// Takes in what came.
    pub fn open(&self, sealed: &[u8]) -> Result<(), Error> {
        let Session { tls, plain, ended } = &mut *self.0.borrow_mut();
        let mut rest = sealed;
        while !rest.is_empty() && !*ended {
            tls.read_tls(&mut rest).expect("memory, of which all that is in clear was taken");
            let state = tls.process_new_packets()?;
            let before = plain.len();
            plain.resize(before + state.plaintext_bytes_to_read(), 0);
            let spare = &mut plain.make_contiguous()[before..];
            tls.reader().read_exact(spare).expect("what is said to be there");
            *ended = state.peer_has_closed();
        }
        Ok(())
    }

    /// Appends what came in clear, up to `max` bytes of it, and says how much that was. `Some(0)` is the end that was said.
    pub fn take(&self, into: &mut Vec<u8>, max: usize) -> Option<usize> {
        let Session { plain, ended, .. } = &mut *self.0.borrow_mut();
        let taken = plain.len().min(max);
        into.extend(plain.drain(..taken));
        (taken > 0 || *ended).then_some(taken)
    }
}

impl Session {
    fn due(&mut self) -> Vec<u8> {
        let mut records = Vec::new();
        while self.tls.wants_write() {
            self.tls.write_tls(&mut records).expect("memory");
        }
        records
    }
}
