//! One connection's TLS, of either side: bytes in, bytes out. It knows no socket, and is the one file that knows rustls'
//! unbuffered API, which leaves the bytes to its caller: a session without any on their way holds none.

use std::fmt;
use std::io::{self, IoSlice};
use std::rc::Rc;
use std::sync::Arc;

use rustls::client::UnbufferedClientConnection;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, UnbufferedStatus, WriteTraffic};
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
const BARREN_BYTES_MAX: u32 = 64 * 1024;
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
    shelves: Rc<Shelves>,
    /// None where it is parked without any.
    on_the_way: Option<Box<OnTheWay>>,
    /// Bytes that came since there was plaintext in them.
    barren_bytes: u32,
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

/// Bytes that nobody has taken yet.
#[derive(Default)]
struct OnTheWay {
    /// They came, and aren't a whole record yet.
    inbound: Option<Buffer>,
    /// Plaintext.
    plain: Option<Buffer>,
    /// Records that the socket hasn't taken yet.
    outbound: Option<Buffer>,
}

/// That of a session without any.
const NOTHING: OnTheWay = OnTheWay { inbound: None, plain: None, outbound: None };

/// How the taking in of records goes on.
enum Step {
    /// There may be more to take in.
    More,
    /// It waits for more bytes, or for something to be written.
    Waits,
    /// What was to be said is in records behind those that were there already.
    Said,
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
        let barren_bytes = hello.as_ref().map_or(0, Buffer::len) as u32;
        let on_the_way = Some(Box::new(OnTheWay { inbound: hello, ..NOTHING }));
        Ok(Self { on_the_way, barren_bytes, ..Self::new(config, shelves)? })
    }

    /// The client's side. Nothing is said yet, see [`Session::digest`].
    pub(super) fn of_client(client: UnbufferedClientConnection, shelves: &Rc<Shelves>) -> Self {
        Self::of(Side::Client(client), shelves)
    }

    fn of(side: Side, shelves: &Rc<Shelves>) -> Self {
        let shelves = Rc::clone(shelves);
        Self { side, shelves, on_the_way: None, barren_bytes: 0, has_ended: false, has_said_end: false, failure: None }
    }

    fn on_the_way(&self) -> &OnTheWay {
        self.on_the_way.as_deref().unwrap_or(&NOTHING)
    }

    fn on_its_way(&mut self) -> &mut OnTheWay {
        self.on_the_way.get_or_insert_default()
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

    /// What came and isn't taken in is the beginning of a line of text.
    pub(super) fn speaks_in_clear(&self) -> bool {
        speaks_in_clear(self.on_the_way().inbound.as_ref().map_or(&[], Buffer::filled))
    }

    /// Has these bytes go out as they are, and nothing else go on.
    #[cold]
    pub(super) fn say_in_clear(&mut self, bytes: &[u8]) {
        let outbound = Some(Buffer::holding(bytes)).filter(|outbound| !outbound.is_empty());
        *self.on_its_way() = OnTheWay { outbound, ..NOTHING };
        self.failure = Some(Box::new(Error::General("the peer doesn't speak TLS".to_owned())));
    }

    /// The alert that is on its way, where it can be seen.
    pub(super) fn alert_in_clear(&mut self) -> Option<&mut u8> {
        alert::in_clear(self.on_the_way.as_mut()?.outbound.as_mut()?.filled_mut())
    }

    pub(super) fn has_plain(&self) -> bool {
        self.on_the_way().plain.is_some()
    }

    /// Half a record came.
    pub(super) fn has_inbound(&self) -> bool {
        self.on_the_way().inbound.is_some()
    }

    /// Bytes that the socket hasn't taken yet.
    pub(super) fn outbound_bytes(&self) -> usize {
        self.on_the_way().outbound.as_ref().map_or(0, Buffer::len)
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
        let Some(held) = self.on_the_way.as_mut().map(|bytes| &mut bytes.plain) else { return 0 };
        let Some(plain) = held else { return 0 };
        let n = plain.len().min(into.len());
        into[..n].copy_from_slice(&plain.filled()[..n]);
        plain.consume(n);
        held.take_if(|plain| plain.is_empty());
        n
    }

    /// Lets `receive` put bytes behind those that came. `Ok(0)` is its own.
    pub(super) fn fill(&mut self, receive: impl FnOnce(&mut [u8]) -> io::Result<usize>) -> io::Result<usize> {
        let held = &mut self.on_the_way.get_or_insert_default().inbound;
        let inbound = roomy(held, &self.shelves.records);
        if inbound.is_full() {
            // No record is that long, and no handshake message may be.
            return Err(self.fail(Error::General("a message that is too long".to_owned())));
        }
        let received = receive(inbound.spare());
        let bytes = *received.as_ref().unwrap_or(&0);
        inbound.fill(bytes);
        self.barren_bytes += bytes as u32;
        held.take_if(|inbound| inbound.is_empty());
        received
    }

    /// Lets `receive` read what nobody is to have, and says how much that was.
    pub(super) fn pour_away(&self, receive: impl FnOnce(&mut [u8]) -> io::Result<usize>) -> io::Result<usize> {
        receive(self.shelves.records.take().spare())
    }

    /// Takes in every whole record that has come: plaintext goes into `into`, and what finds no room there is kept. Says how
    /// many bytes are in `into`. A client's first flight comes of it too. A failure behind plaintext is told the next time.
    pub(super) fn digest(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.go_on(into, None)
    }

    /// Takes in what has come, and then says something.
    fn go_on(&mut self, into: &mut [u8], saying: Option<&Saying<'_>>) -> io::Result<usize> {
        if self.failure.is_some() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut read = 0;
        loop {
            let bytes = self.on_the_way.get_or_insert_default();
            let inbound = bytes.inbound.as_mut().map_or(&mut [][..], Buffer::filled_mut);
            let mut out = Out { plain: &mut bytes.plain, outbound: &mut bytes.outbound, shelves: &self.shelves };
            let (discard, step) = match &mut self.side {
                Side::Server(tls) => out.take_step(tls.process_tls_records(inbound), &mut into[read..], saying),
                Side::Client(tls) => out.take_step(tls.process_tls_records(inbound), &mut into[read..], saying),
            };
            let (n, step) = match step {
                Ok(step) => step,
                Err(error) => return Err(self.fail(Error::General(error.to_string()))),
            };
            read += n;
            if n > 0 || bytes.plain.is_some() {
                self.barren_bytes = 0;
            } else if self.barren_bytes > BARREN_BYTES_MAX {
                return Err(self.fail(Error::General("too much without content".to_owned())));
            }
            if let Some(inbound) = &mut bytes.inbound {
                inbound.consume(discard);
                bytes.inbound.take_if(|inbound| inbound.is_empty());
            }
            match step {
                // Behind plaintext there is no more to do where no byte is left.
                Step::More if n > 0 && bytes.inbound.is_none() && !self.side.common().wants_write() => return Ok(read),
                Step::More => {}
                Step::Waits if saying.is_some() => return Err(io::ErrorKind::InvalidData.into()),
                Step::Waits | Step::Said => return Ok(read),
                Step::Ended => {
                    self.has_ended = true;
                    // What comes behind the end is nothing.
                    bytes.inbound = None;
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
            let bytes = self.on_the_way.get_or_insert_default();
            let inbound = bytes.inbound.as_mut().map_or(&mut [][..], Buffer::filled_mut);
            let mut out = Out { plain: &mut bytes.plain, outbound: &mut bytes.outbound, shelves: &self.shelves };
            let took = match &mut self.side {
                Side::Server(tls) => out.take_last(tls.process_tls_records(inbound)),
                Side::Client(tls) => out.take_last(tls.process_tls_records(inbound)),
            };
            if !took {
                break;
            }
        }
        self.on_its_way().inbound = None;
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
                let mut buffer = self.shelves.batches.take();
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
        self.go_on(&mut [], Some(&Saying::Bytes(plain)))?;
        Ok(plain.len())
    }

    /// Says that nothing more is said (RFC 8446 §6.1): a body that ends here is whole.
    pub(super) fn say_end(&mut self) {
        if !self.has_said_end && !self.is_handshaking() && self.failure.is_none() {
            self.has_said_end = self.go_on(&mut [], Some(&Saying::End)).is_ok();
        }
    }

    /// Has `send` send what is to go out, as far as it does.
    pub(super) fn drain(&mut self, mut send: impl FnMut(&[u8]) -> io::Result<usize>) -> io::Result<()> {
        let Some(bytes) = &mut self.on_the_way else { return Ok(()) };
        while let Some(outbound) = &mut bytes.outbound {
            let taken = send(outbound.filled())?;
            outbound.consume(taken);
            bytes.outbound.take_if(|outbound| outbound.is_empty());
        }
        Ok(())
    }

    /// Nothing that waits to go out is to go.
    pub(super) fn forget_outbound(&mut self) {
        self.on_its_way().outbound = None;
    }

    /// For a long wait: holds the bytes that it has in pieces of memory of just their size.
    pub(super) fn shrink(&mut self) {
        let Some(bytes) = &mut self.on_the_way else { return };
        let OnTheWay { inbound, plain, outbound } = &mut **bytes;
        if inbound.is_none() && plain.is_none() && outbound.is_none() {
            self.on_the_way = None;
            return;
        }
        [inbound, plain, outbound].into_iter().flatten().for_each(shrink);
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

/// Where what a session makes of records goes.
struct Out<'s> {
    plain: &'s mut Option<Buffer>,
    outbound: &'s mut Option<Buffer>,
    shelves: &'s Shelves,
}

impl Out<'_> {
    /// Does what the session asks for next: how much came into `into` by it, and how it goes on. What is to be discarded of
    /// the bytes that came is first.
    fn take_step<S>(
        &mut self,
        status: UnbufferedStatus<'_, '_, S>,
        into: &mut [u8],
        saying: Option<&Saying<'_>>,
    ) -> (usize, io::Result<(usize, Step)>) {
        (status.discard, self.follow(status.state, into, saying))
    }

    fn follow<S>(
        &mut self,
        state: Result<ConnectionState<'_, '_, S>, Error>,
        into: &mut [u8],
        saying: Option<&Saying<'_>>,
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
                let outbound = roomy(self.outbound, &self.shelves.batches);
                let written = message.encode(outbound.spare()).map_err(|error| overflown(&error))?;
                outbound.fill(written);
                Step::More
            }
            Ok(ConnectionState::TransmitTlsData(sent)) => {
                sent.done();
                Step::More
            }
            Ok(ConnectionState::WriteTraffic(traffic)) => match saying {
                Some(saying) => self.say(traffic, saying)?,
                None => Step::Waits,
            },
            Ok(ConnectionState::PeerClosed) => Step::Ended,
            Ok(_) => Step::Waits,
            Err(error) => Step::Failed(error),
        };
        Ok((read, step))
    }

    /// Takes one of the last things that the session has to say; false where there was none, or no room for it.
    fn take_last<S>(&mut self, status: UnbufferedStatus<'_, '_, S>) -> bool {
        let Ok(ConnectionState::EncodeTlsData(mut message)) = status.state else { return false };
        let outbound = roomy(self.outbound, &self.shelves.batches);
        let written = message.encode(outbound.spare()).unwrap_or(0);
        outbound.fill(written);
        self.outbound.take_if(|outbound| outbound.is_empty());
        written > 0
    }

    fn say<S>(&mut self, mut traffic: WriteTraffic<'_, S>, saying: &Saying<'_>) -> io::Result<Step> {
        let outbound = roomy(self.outbound, &self.shelves.batches);
        let written = match saying {
            Saying::Bytes(plain) => traffic.encrypt(plain, outbound.spare()).ok(),
            Saying::End => traffic.queue_close_notify(outbound.spare()).ok(),
        };
        outbound.fill(written.unwrap_or(0));
        self.outbound.take_if(|outbound| outbound.is_empty());
        written.map(|_| Step::Said).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// Keeps plaintext that nobody has read yet.
    fn keep(&mut self, rest: &[u8]) -> io::Result<()> {
        if rest.is_empty() {
            return Ok(());
        }
        // Plaintext is shorter than its records, and those are read when all of it was taken.
        let kept = roomy(self.plain, &self.shelves.records).append(rest);
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

/// These bytes are the beginning of a line of text.
pub(super) fn speaks_in_clear(bytes: &[u8]) -> bool {
    bytes.first().is_some_and(u8::is_ascii_alphabetic)
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
