//! One connection's TLS, of either side: bytes in, bytes out. It knows no socket, and is the one file that knows rustls'
//! unbuffered API, which leaves the bytes to its caller: a session without any on their way holds none.

use std::fmt;
use std::io::{self, IoSlice};
use std::rc::Rc;
use std::sync::Arc;

use rustls::client::UnbufferedClientConnection;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, UnbufferedStatus};
use rustls::{CommonState, Error, HandshakeKind, ServerConfig};

use super::alert;
use crate::runtime::buffer::{Buffer, Buffers};

/// Room for the longest record (RFC 5246 §6.2.3: 2^14 + 2048 bytes behind five), and some of the next.
const RECORD_BYTES: usize = 20 * 1024;
/// Plaintext that is encrypted at once.
const BATCH_BYTES_MAX: usize = 64 * 1024;
/// Room for a batch's records, and for what TLS itself has to say before them.
const OUT_BYTES: usize = BATCH_BYTES_MAX + 8 * 1024;
/// What may come without a byte of plaintext in it, in a handshake or behind one: empty and padded records cost their reader
/// more than their sender, and keep a worker from all others.
const BARREN_BYTES_MAX: usize = 64 * 1024;
/// Of each size, buffers that a worker keeps however long they are unused.
const BUFFERS_KEPT: usize = 8;

/// A worker's buffers for bytes on their way.
#[derive(Debug)]
pub(super) struct Shelves {
    records: Buffers,
    batches: Buffers,
}

/// One side of one connection.
pub(super) struct Session {
    side: Side,
    /// Bytes that came and aren't a whole record yet.
    inbound: Option<Buffer>,
    on_the_way: OnTheWay,
    /// Bytes that came since there was plaintext in them.
    barren_bytes: usize,
    /// `close_notify` came: what was read is all that the peer sent.
    has_ended: bool,
    /// `close_notify` was said: nothing more can be.
    has_said_end: bool,
    /// Why nothing more is read: the peer broke the protocol, or said that we did, or isn't who it should be.
    failure: Option<Box<Error>>,
}

enum Side {
    Server(UnbufferedServerConnection),
    Client(UnbufferedClientConnection),
}

/// What a session has made of bytes, and nobody has taken yet.
struct OnTheWay {
    shelves: Rc<Shelves>,
    /// Plaintext that nobody has read yet.
    plain: Option<Buffer>,
    /// Records that the socket hasn't taken yet.
    outbound: Option<Buffer>,
}

/// How the taking in of records goes on.
enum Step {
    /// There may be more to take in.
    More,
    /// It waits for more bytes, or for something to be written.
    Waits,
    /// The peer said that there is nothing more.
    Ended,
    Failed(Error),
}

impl Default for Shelves {
    fn default() -> Self {
        let of = |bytes| Buffers::new(bytes, BUFFERS_KEPT);
        Self { records: of(RECORD_BYTES), batches: of(OUT_BYTES) }
    }
}

impl Shelves {
    /// To be called now and then: lets buffers go that are needed no more.
    pub(super) fn trim(&self) {
        self.records.trim();
        self.batches.trim();
    }

    /// A whole buffer for records, with all its room behind what is in it.
    pub(super) fn roomy<'b>(&self, buffer: &'b mut Option<Buffer>) -> &'b mut Buffer {
        roomy(buffer, &self.records)
    }

    /// Buffers that sessions hold now.
    pub(super) fn in_use(&self) -> usize {
        self.records.in_use() + self.batches.in_use()
    }
}

impl Session {
    /// The server's side.
    pub(super) fn new(config: Arc<ServerConfig>, shelves: &Rc<Shelves>) -> io::Result<Self> {
        let server = UnbufferedServerConnection::new(config).map_err(broken)?;
        Ok(Self::of(Side::Server(server), shelves))
    }

    /// The server's side of one whose client has sent this.
    pub(super) fn with_hello(
        config: Arc<ServerConfig>,
        hello: Option<Buffer>,
        shelves: &Rc<Shelves>,
    ) -> io::Result<Self> {
        let barren_bytes = hello.as_ref().map_or(0, Buffer::len);
        Ok(Self { inbound: hello, barren_bytes, ..Self::new(config, shelves)? })
    }

    /// The client's side. Nothing is said yet, see [`Session::digest`].
    pub(super) fn of_client(client: UnbufferedClientConnection, shelves: &Rc<Shelves>) -> Self {
        Self::of(Side::Client(client), shelves)
    }

    fn of(side: Side, shelves: &Rc<Shelves>) -> Self {
        let on_the_way = OnTheWay { shelves: Rc::clone(shelves), plain: None, outbound: None };
        Self { side, inbound: None, on_the_way, barren_bytes: 0, has_ended: false, has_said_end: false, failure: None }
    }

    pub(super) fn is_handshaking(&self) -> bool {
        self.side.common().is_handshaking()
    }

    /// It is the client's side.
    pub(super) const fn is_client(&self) -> bool {
        matches!(self.side, Side::Client(_))
    }

    /// The client's hello was answered.
    pub(super) fn has_answered(&self) -> bool {
        self.side.common().protocol_version().is_some()
    }

    /// The certificate that the peer has shown, in DER.
    pub(super) fn peer_certificate(&self) -> Option<&[u8]> {
        self.side.common().peer_certificates().and_then(<[_]>::first).map(AsRef::as_ref)
    }

    /// What is spoken within, if the handshake has said.
    pub(super) fn protocol(&self) -> Option<&[u8]> {
        self.side.common().alpn_protocol()
    }

    /// It goes on with a session of before.
    pub(super) fn is_resumed(&self) -> bool {
        self.side.common().handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// The first byte of what came and isn't taken in.
    pub(super) fn first_byte(&self) -> Option<u8> {
        self.inbound.as_ref()?.filled().first().copied()
    }

    /// Has these bytes go out as they are, and nothing else go on.
    #[cold]
    pub(super) fn say_in_clear(&mut self, bytes: &[u8]) {
        self.inbound = None;
        self.on_the_way.outbound = Some(Buffer::holding(bytes)).filter(|outbound| !outbound.is_empty());
        self.failure = Some(Box::new(Error::General("the peer doesn't speak TLS".to_owned())));
    }

    /// The alert that is on its way, where it can be seen.
    pub(super) fn alert_in_clear(&mut self) -> Option<&mut u8> {
        alert::in_clear(self.on_the_way.outbound.as_mut()?.filled_mut())
    }

    pub(super) fn has_plain(&self) -> bool {
        self.on_the_way.plain.is_some()
    }

    /// Half a record came.
    pub(super) fn has_inbound(&self) -> bool {
        self.inbound.is_some()
    }

    /// Bytes that the socket hasn't taken yet.
    pub(super) fn outbound_bytes(&self) -> usize {
        self.on_the_way.outbound.as_ref().map_or(0, Buffer::len)
    }

    pub(super) fn has_ended(&self) -> bool {
        self.has_ended
    }

    pub(super) fn has_said_end(&self) -> bool {
        self.has_said_end
    }

    /// Why nothing more is read, where that is so.
    pub(super) fn failure(&self) -> Option<&Error> {
        self.failure.as_deref()
    }

    /// Takes plaintext out that came earlier.
    pub(super) fn take_plain(&mut self, into: &mut [u8]) -> usize {
        let Some(plain) = &mut self.on_the_way.plain else { return 0 };
        let n = plain.len().min(into.len());
        into[..n].copy_from_slice(&plain.filled()[..n]);
        plain.consume(n);
        self.on_the_way.plain.take_if(|plain| plain.is_empty());
        n
    }

    /// Lets `receive` put bytes behind those that came. `Ok(0)` is its own.
    pub(super) fn fill(&mut self, receive: impl FnOnce(&mut [u8]) -> io::Result<usize>) -> io::Result<usize> {
        let inbound = roomy(&mut self.inbound, &self.on_the_way.shelves.records);
        if inbound.is_full() {
            // No record is that long, and no handshake message may be.
            return Err(self.fail(Error::General("a message that is too long".to_owned())));
        }
        let received = receive(inbound.spare());
        let bytes = *received.as_ref().unwrap_or(&0);
        inbound.fill(bytes);
        self.barren_bytes += bytes;
        self.inbound.take_if(|inbound| inbound.is_empty());
        received
    }

    /// Lets `receive` read what nobody is to have, and says how much that was.
    pub(super) fn pour_away(&self, receive: impl FnOnce(&mut [u8]) -> io::Result<usize>) -> io::Result<usize> {
        receive(self.on_the_way.shelves.records.take().spare())
    }

    /// Takes in every whole record that has come: plaintext goes into `into`, and what finds no room there is kept. Says how
    /// many bytes are in `into`. A client's first flight comes of it too. A failure behind plaintext is told the next time.
    pub(super) fn digest(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.failure.is_some() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut read = 0;
        loop {
            let inbound = self.inbound.as_mut().map_or(&mut [][..], Buffer::filled_mut);
            let (discard, step) = match &mut self.side {
                Side::Server(tls) => self.on_the_way.take_step(tls.process_tls_records(inbound), &mut into[read..]),
                Side::Client(tls) => self.on_the_way.take_step(tls.process_tls_records(inbound), &mut into[read..]),
            };
            let (n, step) = step.map_err(|error| self.fail(Error::General(error.to_string())))?;
            read += n;
            if n > 0 || self.has_plain() {
                self.barren_bytes = 0;
            } else if self.barren_bytes > BARREN_BYTES_MAX {
                return Err(self.fail(Error::General("too much without content".to_owned())));
            }
            if let Some(inbound) = &mut self.inbound {
                inbound.consume(discard);
                self.inbound.take_if(|inbound| inbound.is_empty());
            }
            match step {
                Step::More => {}
                Step::Waits => return Ok(read),
                Step::Ended => {
                    self.has_ended = true;
                    // What comes behind the end is nothing.
                    self.inbound = None;
                }
                Step::Failed(error) => {
                    let error = self.fail(error);
                    return if read > 0 { Ok(read) } else { Err(error) };
                }
            }
        }
    }

    /// What is to be said of an error goes out before anything else.
    #[cold]
    fn fail(&mut self, error: Error) -> io::Error {
        // The alert is the last of what was to be said. Behind it nothing may be asked of what has failed.
        while self.side.common().wants_write() {
            let inbound = self.inbound.as_mut().map_or(&mut [][..], Buffer::filled_mut);
            let took = match &mut self.side {
                Side::Server(tls) => self.on_the_way.take_last(tls.process_tls_records(inbound)),
                Side::Client(tls) => self.on_the_way.take_last(tls.process_tls_records(inbound)),
            };
            if !took {
                break;
            }
        }
        self.inbound = None;
        self.failure = Some(Box::new(error));
        io::ErrorKind::InvalidData.into()
    }

    /// Encrypts a batch of what is in `from`, in order, and says how many bytes that was. What was encrypted before must have
    /// been sent.
    pub(super) fn encrypt(&mut self, from: &[IoSlice<'_>]) -> io::Result<usize> {
        let gathered;
        let plain = match from {
            [one] => &one[..one.len().min(BATCH_BYTES_MAX)],
            many => {
                let mut buffer = self.on_the_way.shelves.batches.take();
                for piece in many {
                    buffer.append(&piece[..piece.len().min(BATCH_BYTES_MAX - buffer.len())]);
                }
                gathered = buffer;
                gathered.filled()
            }
        };
        if plain.is_empty() {
            return Ok(0);
        }
        self.write(&Saying::Bytes(plain))?;
        Ok(plain.len())
    }

    /// Says that nothing more is said (RFC 8446 §6.1): a body that ends here is whole.
    pub(super) fn say_end(&mut self) {
        if !self.has_said_end && !self.is_handshaking() && self.failure.is_none() {
            self.has_said_end = self.write(&Saying::End).is_ok();
        }
    }

    /// Puts records behind those that are there already.
    fn write(&mut self, saying: &Saying<'_>) -> io::Result<()> {
        // What TLS itself has to say goes first.
        self.digest(&mut [])?;
        let inbound = self.inbound.as_mut().map_or(&mut [][..], Buffer::filled_mut);
        match &mut self.side {
            Side::Server(tls) => self.on_the_way.write(tls.process_tls_records(inbound), saying),
            Side::Client(tls) => self.on_the_way.write(tls.process_tls_records(inbound), saying),
        }
    }

    /// Has `send` send what is to go out, as far as it does.
    pub(super) fn drain(&mut self, mut send: impl FnMut(&[u8]) -> io::Result<usize>) -> io::Result<()> {
        while let Some(outbound) = &mut self.on_the_way.outbound {
            let taken = send(outbound.filled())?;
            outbound.consume(taken);
            self.on_the_way.outbound.take_if(|outbound| outbound.is_empty());
        }
        Ok(())
    }

    /// Nothing that waits to go out is to go.
    pub(super) fn forget_outbound(&mut self) {
        self.on_the_way.outbound = None;
    }

    /// For a long wait: holds the bytes that it has in pieces of memory of just their size.
    pub(super) fn shrink(&mut self) {
        let OnTheWay { plain, outbound, .. } = &mut self.on_the_way;
        [&mut self.inbound, plain, outbound].into_iter().flatten().for_each(shrink);
    }
}

impl Side {
    fn common(&self) -> &CommonState {
        match self {
            Self::Server(tls) => tls,
            Self::Client(tls) => tls,
        }
    }
}

/// What is to be said in records.
enum Saying<'b> {
    Bytes(&'b [u8]),
    End,
}

impl OnTheWay {
    /// Does what the session asks for next: how much came into `into` by it, and how it goes on. What is to be discarded of
    /// the bytes that came is first.
    fn take_step<S>(
        &mut self,
        status: UnbufferedStatus<'_, '_, S>,
        into: &mut [u8],
    ) -> (usize, io::Result<(usize, Step)>) {
        (status.discard, self.follow(status.state, into))
    }

    fn follow<S>(
        &mut self,
        state: Result<ConnectionState<'_, '_, S>, Error>,
        into: &mut [u8],
    ) -> io::Result<(usize, Step)> {
        let mut read = 0;
        let step = match state {
            Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                while let Some(record) = traffic.next_record() {
                    let payload = record.map_err(broken)?.payload;
                    let (fits, rest) = payload.split_at(payload.len().min(into.len() - read));
                    into[read..read + fits.len()].copy_from_slice(fits);
                    read += fits.len();
                    self.keep(rest)?;
                }
                Step::More
            }
            Ok(ConnectionState::EncodeTlsData(mut message)) => {
                let outbound = roomy(&mut self.outbound, &self.shelves.batches);
                let written = message.encode(outbound.spare()).map_err(|error| overflown(&error))?;
                outbound.fill(written);
                Step::More
            }
            Ok(ConnectionState::TransmitTlsData(sent)) => {
                sent.done();
                Step::More
            }
            Ok(ConnectionState::PeerClosed) => Step::Ended,
            Ok(_) => Step::Waits,
            Err(error) => Step::Failed(error),
        };
        Ok((read, step))
    }

    /// Takes one of the last things that the session has to say; false where there was none, or no room for it.
    fn take_last<S>(&mut self, status: UnbufferedStatus<'_, '_, S>) -> bool {
        let Ok(ConnectionState::EncodeTlsData(mut message)) = status.state else { return false };
        let outbound = roomy(&mut self.outbound, &self.shelves.batches);
        let written = message.encode(outbound.spare()).unwrap_or(0);
        outbound.fill(written);
        self.outbound.take_if(|outbound| outbound.is_empty());
        written > 0
    }

    fn write<S>(&mut self, status: UnbufferedStatus<'_, '_, S>, saying: &Saying<'_>) -> io::Result<()> {
        let Ok(ConnectionState::WriteTraffic(mut traffic)) = status.state else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        let outbound = roomy(&mut self.outbound, &self.shelves.batches);
        let written = match saying {
            Saying::Bytes(plain) => traffic.encrypt(plain, outbound.spare()).ok(),
            Saying::End => traffic.queue_close_notify(outbound.spare()).ok(),
        };
        outbound.fill(written.unwrap_or(0));
        self.outbound.take_if(|outbound| outbound.is_empty());
        written.map(|_| ()).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// Keeps plaintext that nobody has read yet.
    fn keep(&mut self, rest: &[u8]) -> io::Result<()> {
        if rest.is_empty() {
            return Ok(());
        }
        // Plaintext is shorter than its records, and those are read when all of it was taken.
        let kept = roomy(&mut self.plain, &self.shelves.records).append(rest);
        if kept == rest.len() { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
    }
}

/// A whole buffer, with all its room behind what is in it: a long wait leaves it none, see [`Session::shrink`].
fn roomy<'b>(buffer: &'b mut Option<Buffer>, from: &Buffers) -> &'b mut Buffer {
    let whole = buffer.get_or_insert_with(|| from.take());
    if whole.capacity() < from.buffer_bytes() {
        let part = std::mem::replace(whole, from.take());
        whole.append(part.filled());
    }
    whole.compact();
    whole
}

/// Leaves a buffer no more room than its bytes need.
pub(super) fn shrink(buffer: &mut Buffer) {
    if buffer.capacity() > buffer.len() {
        *buffer = Buffer::holding(buffer.filled());
    }
}

fn broken(_: Error) -> io::Error {
    io::ErrorKind::InvalidData.into()
}

/// The peer makes us say more than it reads.
fn overflown(_: &EncodeError) -> io::Error {
    io::ErrorKind::InvalidData.into()
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").finish_non_exhaustive()
    }
}
