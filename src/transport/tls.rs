//! A TLS stream: a session over a socket.
//!
//! Readiness is the socket's, and that of what the session holds: a read takes every whole record that has come, since no
//! event tells of one that is left, and keeps what its caller has no room for. A write takes one batch although the socket
//! may not; the next one waits until that is gone. What is left of it goes when the world beneath comes back from a wait, and until
//! then the batch's last byte isn't said to be taken: who has written all may close.
//!
//! Its calls are kept out of line: a plain stream's share the code around them.
//!
//! A body that was cut never looks whole: the end of the stream is `close_notify`, and a FIN without it an error. In the other
//! direction `close_notify` goes before FIN, and never where the connection is to be cut.

use std::cell::{Cell, OnceCell, RefCell, RefMut};
use std::io::{self, IoSlice};
use std::sync::Arc;

use super::alert;
use super::certificate::Certificate;
use super::client::{Progress, fault};
use super::client_certificate;
use super::server::TlsServer;
use super::session::Session;
use super::store::ACME_TLS_ALPN;
use crate::observe::HandshakeEnd;
use crate::runtime::handshake::HandshakeFault;
use crate::runtime::world::{PeerState, Stream};

/// A TLS stream.
#[derive(Debug)]
pub struct Tls<S: Stream> {
    /// None only once it is taken apart.
    parts: Option<(S, Box<Kept>)>,
}

const WHOLE: &str = "a stream that isn't taken apart has its socket";

/// What is kept of a TLS stream beside its socket, in any state.
#[derive(Debug)]
pub(super) struct Kept {
    session: RefCell<Session>,
    side: Side,
    /// A byte that is on its way isn't said to be taken yet, and will be written again.
    owes: Cell<bool>,
    /// FIN is to follow what is still to be sent.
    fin_due: Cell<bool>,
    /// The connection is to be cut: nothing says that this is its end.
    is_cut: Cell<bool>,
}

/// What is of one side alone.
#[derive(Debug)]
enum Side {
    /// Of a client's stream, once its hello was read.
    Server(OnceCell<Facts>),
    /// Of the handshake that this side began.
    Client(RefCell<Progress>),
}

/// What a client was shown, and has shown.
#[derive(Debug)]
pub(super) struct Facts {
    certificate: Arc<Certificate>,
    server: Arc<TlsServer>,
    /// Set once its handshake is over, if it has one.
    client: OnceCell<Box<str>>,
}

impl Facts {
    pub(super) fn new(certificate: Arc<Certificate>, server: &Arc<TlsServer>) -> Self {
        Self { certificate, server: Arc::clone(server), client: OnceCell::new() }
    }
}

impl<S: Stream> Tls<S> {
    /// Over a socket that is connected, or about to be where the session is a client's.
    pub(super) fn new(socket: S, session: Session) -> Self {
        let side = if session.is_client() {
            Side::Client(RefCell::new(Progress::Connecting))
        } else {
            Side::Server(OnceCell::new())
        };
        let kept = Kept {
            session: RefCell::new(session),
            side,
            owes: Cell::new(false),
            fin_due: Cell::new(false),
            is_cut: Cell::new(false),
        };
        Self::join(socket, Box::new(kept))
    }

    pub(super) fn join(socket: S, kept: Box<Kept>) -> Self {
        Self { parts: Some((socket, kept)) }
    }

    /// The reverse of [`Tls::join`]; what is kept is as small as it can be.
    pub(super) fn part(mut self) -> (S, Box<Kept>) {
        self.session().shrink();
        self.parts.take().expect(WHOLE)
    }

    fn parts(&self) -> &(S, Box<Kept>) {
        self.parts.as_ref().expect(WHOLE)
    }

    #[inline]
    pub(super) fn socket(&self) -> &S {
        &self.parts().0
    }

    fn session(&self) -> RefMut<'_, Session> {
        self.parts().1.session.borrow_mut()
    }

    fn facts(&self) -> Option<&Facts> {
        match &self.parts().1.side {
            Side::Server(facts) => facts.get(),
            Side::Client(_) => None,
        }
    }

    fn progress(&self) -> Option<&RefCell<Progress>> {
        match &self.parts().1.side {
            Side::Server(_) => None,
            Side::Client(progress) => Some(progress),
        }
    }

    /// Its handshake isn't over.
    pub(super) fn is_handshaking(&self) -> bool {
        self.session().is_handshaking()
    }

    /// Its client's hello isn't answered.
    pub(super) fn is_fresh(&self) -> bool {
        !self.session().has_answered()
    }

    /// Takes in what has come, for a handshake.
    ///
    /// # Errors
    /// Nothing has, or the client is gone.
    pub(super) fn receive(&self) -> io::Result<()> {
        let n = self.session().fill(|into| self.socket().try_read(into))?;
        if n == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }

    /// Goes on with the handshake by what has come.
    ///
    /// # Errors
    /// It failed. The alert that says so isn't sent yet.
    pub(super) fn shake(&self) -> io::Result<()> {
        let mut session = self.session();
        session.digest(&mut [])?;
        self.flush(&mut session).or_else(unless_blocked)
    }

    /// Reads what nobody is to have.
    ///
    /// # Errors
    /// There is nothing now, or the client is gone.
    pub(super) fn pour_away(&self) -> io::Result<()> {
        let read = self.session().pour_away(|into| self.socket().try_read(into))?;
        if read == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }

    /// See [`Session::speaks_in_clear`].
    pub(super) fn speaks_in_clear(&self) -> bool {
        self.session().speaks_in_clear()
    }

    /// Has these bytes go out as they are, and nothing else.
    pub(super) fn say_in_clear(&self, bytes: &[u8]) {
        self.session().say_in_clear(bytes);
    }

    /// Says that there is nothing for the name that the client asks for, where another reason was to be told.
    pub(super) fn blame_name(&self) {
        if let Some(alert) = self.session().alert_in_clear() {
            *alert = alert::UNRECOGNIZED_NAME;
        }
    }

    /// Why its handshake failed.
    pub(super) fn refusal(&self) -> HandshakeEnd {
        let mut session = self.session();
        let told = session.alert_in_clear().map(|alert| *alert);
        session.failure().map_or(HandshakeEnd::Left, |error| alert::end_of(error, told))
    }

    /// The client's hello was read, and answered by this.
    pub(super) fn has_shown(&self, facts: Facts) {
        if let Side::Server(known) = &self.parts().1.side {
            // After a hello that had to be said again, the same is picked.
            let _ = known.set(facts);
        }
    }

    /// Its handshake is over, and was all that its client wanted.
    pub(super) fn ends_with_handshake(&self) -> bool {
        self.session().protocol() == Some(ACME_TLS_ALPN)
    }

    /// Its handshake is over: whether it went on with a session of before.
    pub(super) fn has_met(&self) -> bool {
        let session = self.session();
        if let (Some(facts), Some(der)) = (self.facts(), session.peer_certificate()) {
            let _ = facts.client.set(client_certificate::verified(der).into());
        }
        session.is_resumed()
    }

    pub(super) fn peer_identity(&self) -> Option<&str> {
        let facts = self.facts()?;
        Some(facts.client.get().map_or(client_certificate::NONE, |client| client))
    }

    #[inline(never)]
    pub(super) fn stands_for(&self, host: &str) -> bool {
        self.facts().is_none_or(|facts| facts.server.stands_for(&facts.certificate, host))
    }

    /// The handshake that this side began isn't over.
    #[inline(never)]
    pub(super) fn is_connecting(&self) -> bool {
        self.progress().is_some_and(|progress| progress.borrow().is_under_way())
    }

    /// Takes a handshake that this side began as far as it goes by what has come. What takes long is done while what `take_turn`
    /// gives is held.
    pub(super) fn connect<F>(&self, take_turn: impl Fn() -> F) {
        let Some(progress) = self.progress() else { return };
        let begins = matches!(*progress.borrow(), Progress::Connecting);
        if begins && !self.socket().is_writable() {
            return;
        }
        let begun = if begins { self.socket().take_connect_error() } else { Ok(()) };
        let now = match begun.and_then(|()| self.connected(begins, take_turn)) {
            Ok(true) => Progress::Done,
            Ok(false) => Progress::Shaking,
            Err(error) => Progress::Failed(error),
        };
        progress.replace(now);
    }

    /// Whether the handshake is over.
    fn connected<F>(&self, begins: bool, take_turn: impl Fn() -> F) -> io::Result<bool> {
        if begins {
            self.shake().map_err(|_| HandshakeFault::Protocol)?;
        }
        while self.is_handshaking() {
            match self.receive() {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(_) => return Err(HandshakeFault::Protocol.into()),
            }
            // It may have to wait for one.
            self.shrink();
            let _flight = take_turn();
            if self.shake().is_err() {
                let fault = self.session().failure().map_or(HandshakeFault::Protocol, fault);
                return Err(fault.into());
            }
        }
        Ok(true)
    }

    #[inline(never)]
    pub(super) fn take_connect_error(&self) -> io::Result<()> {
        self.progress().map_or(Ok(()), |progress| progress.borrow_mut().take_error())
    }

    #[inline(never)]
    pub(super) fn is_writable(&self) -> bool {
        match self.progress().map(RefCell::borrow).as_deref() {
            None | Some(Progress::Done) => self.socket().is_writable(),
            Some(Progress::Connecting | Progress::Shaking) => false,
            Some(Progress::Failed(_)) => true,
        }
    }

    /// For a long wait of which it isn't the stream: holds no more than its bytes.
    #[inline(never)]
    pub(super) fn shrink(&self) {
        self.session().shrink();
    }

    /// Bytes that a socket would have taken are to go.
    #[inline(never)]
    pub(super) fn has_outbound(&self) -> bool {
        self.session().outbound_bytes() > 0
    }

    /// There is something to read that no event will tell of.
    #[inline(never)]
    pub(super) fn has_news(&self) -> bool {
        let session = self.session();
        session.has_plain() || session.has_ended() || session.failure().is_some()
    }

    /// The end was said, and isn't sent yet.
    pub(super) fn is_ending(&self) -> bool {
        self.parts().1.fin_due.get()
    }

    pub(super) fn outbound_bytes(&self) -> usize {
        self.session().outbound_bytes()
    }

    /// Sends what is to go, as far as it does; to be called where a coroutine comes back from a wait.
    #[inline(never)]
    pub(super) fn settle(&self) {
        let mut session = self.session();
        if session.outbound_bytes() > 0 {
            // A read or write tells of what is wrong.
            let _ = self.flush(&mut session);
        }
    }

    fn flush(&self, session: &mut Session) -> io::Result<()> {
        let sent = session.drain(|bytes| self.socket().try_write(&[IoSlice::new(bytes)]));
        let blocked = matches!(&sent, Err(error) if error.kind() == io::ErrorKind::WouldBlock);
        if !blocked && self.parts().1.fin_due.take() {
            self.socket().shutdown_write();
        }
        if sent.is_err() && !blocked {
            // Behind what is lost nothing may follow.
            session.forget_outbound();
            self.end_unsaid();
        }
        sent
    }

    #[inline(never)]
    pub(super) fn try_read(&self, into: &mut [u8]) -> io::Result<usize> {
        let mut session = self.session();
        loop {
            let read = session.take_plain(into);
            if read > 0 {
                return Ok(read);
            }
            if session.has_ended() {
                return Ok(0);
            }
            // What has failed stays so: of its socket nothing more is to be had.
            let is_sound = session.failure().is_none();
            if is_sound && session.fill(|into| self.socket().try_read(into))? == 0 {
                let end: io::Result<usize> = Err(io::ErrorKind::UnexpectedEof.into());
                #[cfg(feature = "sabotage-fin-is-the-end")] // Broken on purpose: ./x sabotage
                let end = Ok(0);
                return end;
            }
            let digested = session.digest(into);
            if session.outbound_bytes() > 0 {
                let _ = self.flush(&mut session);
            }
            let read = digested.map_err(|error| refused(&session).unwrap_or(error))?;
            if read > 0 {
                return Ok(read);
            }
        }
    }

    #[inline(never)]
    pub(super) fn try_write(&self, from: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut session = self.session();
        if session.has_said_end() || self.parts().1.is_cut.get() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        if session.outbound_bytes() > 0 {
            self.flush(&mut session)?;
        }
        let owes = &self.parts().1.owes;
        if owes.get() {
            owes.set(from.iter().all(|piece| piece.is_empty()));
            return Ok(usize::from(!owes.get()));
        }
        let taken = session.encrypt(from)?;
        self.flush(&mut session).or_else(unless_blocked)?;
        owes.set(taken > 0 && session.outbound_bytes() > 0);
        match taken - usize::from(owes.get()) {
            0 if taken > 0 => Err(io::ErrorKind::WouldBlock.into()),
            taken => Ok(taken),
        }
    }

    pub(super) fn is_readable(&self) -> bool {
        self.socket().is_readable() || self.has_news()
    }

    #[inline(never)]
    pub(super) fn peer_state(&self) -> PeerState {
        match self.socket().peer_state() {
            PeerState::Open if self.session().has_ended() => PeerState::HalfClosed,
            state => state,
        }
    }

    #[inline(never)]
    pub(super) fn is_quiet(&self, thorough: bool) -> bool {
        self.holds_nothing() && (self.socket().is_quiet(thorough) || self.is_told_of_sessions())
    }

    fn holds_nothing(&self) -> bool {
        let session = self.session();
        let holds = session.has_plain() || session.has_inbound() || session.has_ended() || session.outbound_bytes() > 0;
        !holds && session.failure().is_none()
    }

    /// Whether what has come is what a server says of later sessions, and nothing else (RFC 8446 §4.6.1): it says so when it
    /// likes, also once it has answered.
    fn is_told_of_sessions(&self) -> bool {
        if !self.session().is_client() || self.socket().peer_state() != PeerState::Open {
            return false;
        }
        let nothing = |error: &io::Error| error.kind() == io::ErrorKind::WouldBlock;
        self.try_read(&mut []).is_err_and(|error| nothing(&error)) && self.holds_nothing()
    }

    #[inline(never)]
    pub(super) fn room(&self) -> usize {
        self.socket().room().saturating_sub(self.outbound_bytes())
    }

    #[inline(never)]
    pub(super) fn unsent(&self) -> usize {
        self.socket().unsent() + self.outbound_bytes()
    }

    #[inline(never)]
    pub(super) fn shutdown_write(&self) {
        self.parts().1.fin_due.set(true);
        self.say_end(&mut self.session());
    }

    /// Says that nothing more is said, if it may; false where the socket doesn't take all of what is to go.
    #[inline(never)]
    pub(super) fn ends_at_once(&self) -> bool {
        let mut session = self.session();
        self.say_end(&mut session);
        session.outbound_bytes() == 0
    }

    /// What was written is all, unless the connection is to be cut.
    fn say_end(&self, session: &mut Session) {
        if !self.parts().1.is_cut.get() {
            session.say_end();
        }
        let _ = self.flush(session);
    }

    #[inline(never)]
    pub(super) fn end_unsaid(&self) {
        self.parts().1.is_cut.set(true);
    }

    #[inline(never)]
    pub(super) fn reset_on_close(&self) {
        self.parts().1.is_cut.set(true);
        self.session().forget_outbound();
        self.socket().reset_on_close();
    }
}

impl<S: Stream> Drop for Tls<S> {
    fn drop(&mut self) {
        // One that a panic ends isn't ended in good order.
        if self.parts.is_some() && !self.parts().1.is_cut.get() && !std::thread::panicking() {
            self.say_end(&mut self.session());
        }
    }
}

/// A server says by an alert that it doesn't take this client's certificate, or wants one, once the handshake is over for the
/// client (RFC 8446 §4.4.2.4).
#[cold]
fn refused(session: &Session) -> Option<io::Error> {
    let fault = session.failure().filter(|_| session.is_client()).map(fault);
    fault.filter(|fault| *fault == HandshakeFault::Alert).map(io::Error::from)
}

fn unless_blocked(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::WouldBlock { Ok(()) } else { Err(error) }
}
