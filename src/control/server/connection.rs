//! One client's connection, from its first byte to its last, on a thread of its own.
//!
//! ```text
//! idle ─▶ head ─▶ body ─▶ handler ─▶ answer ─▶ idle
//!   │       └───────┴── refused: answer, linger, close
//!   └─ closed by the client, by its deadline, or by the server's stopping
//! ```

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use super::message::{Answer, Call};
use super::shared::{Open, Shared};
use crate::http1::{Decoder, Framing, HeadLimits, Parsed, parse_request};

const HEAD_LIMITS: HeadLimits = HeadLimits { head_bytes: 16 * 1024, headers: 100, uri_bytes: 8 * 1024 };
/// Of a chunked body.
const TRAILER_BYTES_MAX: usize = 8 * 1024;
const READ_BYTES: usize = 8 * 1024;
/// How long, and for how many bytes, an answer is kept from being reset by what its client still sends.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Why a connection comes to its end.
enum End {
    /// The client is gone, or waits for nothing.
    Silent,
    /// The request can't be served, and where the next one would begin isn't known.
    Refused(u16, String),
}

impl From<io::Error> for End {
    fn from(_: io::Error) -> Self {
        Self::Silent
    }
}

pub(super) struct Connection<'a> {
    shared: &'a Shared,
    open: &'a Open,
    /// What has been read and not been used.
    unread: Vec<u8>,
    /// The socket's timeouts, so that they are set only when they change.
    read_timeout: Option<Duration>,
    write_timeout: Option<Duration>,
}

impl<'a> Connection<'a> {
    pub(super) fn new(shared: &'a Shared, open: &'a Open) -> Self {
        Self { shared, open, unread: Vec::new(), read_timeout: None, write_timeout: None }
    }

    /// Serves requests until the connection ends.
    pub(super) fn run(mut self) {
        let _ = self.stream().set_nodelay(true);
        let mut first = true;
        let end = loop {
            match self.exchange(first) {
                Ok(true) => first = false,
                Ok(false) => break End::Silent,
                Err(end) => break end,
            }
        };
        if let End::Refused(status, detail) = end {
            let _ = self.send(&Answer::problem(status, &detail).close(), false);
            self.linger();
        }
        let _ = self.stream().shutdown(Shutdown::Both);
    }

    /// One request and its answer; whether another one may follow.
    fn exchange(&mut self, first: bool) -> Result<bool, End> {
        let mut call = self.read_head(first)?;
        call.body = self.read_body(&call)?;
        let answer = self.answer(&call).for_call(&call, !self.shared.is_stopping());
        self.send(&answer, call.method == "HEAD")?;
        if !answer.keep_alive() {
            self.linger();
        }
        Ok(answer.keep_alive())
    }

    fn read_head(&mut self, first: bool) -> Result<Call, End> {
        let bounds = &self.shared.bounds;
        // The first request is expected at once; a client that only holds a connection open is let go sooner.
        let mut deadline = Instant::now() + if first { bounds.head } else { bounds.idle };
        let mut begun = false;
        loop {
            if !begun && !self.unread.is_empty() {
                begun = true;
                self.open.idle.store(false, Ordering::SeqCst);
                deadline = Instant::now() + bounds.head;
            }
            match parse_request(&self.unread, &HEAD_LIMITS, Call::read) {
                Ok(Parsed::Complete { head_bytes, value }) => {
                    self.unread.drain(..head_bytes);
                    return Ok(value);
                }
                Ok(Parsed::Partial) => {}
                Err(error) => return Err(End::Refused(error.status(), error.to_string())),
            }
            if !begun {
                self.open.idle.store(true, Ordering::SeqCst);
                if self.shared.is_stopping() {
                    return Err(End::Silent);
                }
            }
            match self.read_more(deadline) {
                Ok(0) => return Err(End::Silent),
                Err(error) if begun && is_timeout(&error) => {
                    return Err(End::Refused(408, "the request's head took too long".into()));
                }
                other => other.map(drop)?,
            }
        }
    }

    fn read_body(&mut self, call: &Call) -> Result<Vec<u8>, End> {
        let bytes_max = self.shared.bounds.body_bytes;
        let too_large = || End::Refused(413, format!("the request's body is over {bytes_max} bytes"));
        let length = match call.framing {
            Framing::None | Framing::UntilClose => return Ok(Vec::new()),
            Framing::Length(length) if length > bytes_max as u64 => return Err(too_large()),
            Framing::Length(length) => Some(length as usize),
            Framing::Chunked => None,
        };
        if call.expect_continue && self.unread.is_empty() {
            self.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        let deadline = Instant::now() + self.shared.bounds.body;
        let Some(length) = length else { return self.read_chunked(deadline, too_large) };
        while self.unread.len() < length {
            self.read_body_bytes(deadline)?;
        }
        let rest = self.unread.split_off(length);
        Ok(std::mem::replace(&mut self.unread, rest))
    }

    fn read_chunked(&mut self, deadline: Instant, too_large: impl Fn() -> End) -> Result<Vec<u8>, End> {
        let mut decoder = Decoder::new(TRAILER_BYTES_MAX);
        let mut body = Vec::new();
        loop {
            let step = decoder
                .decode(&mut self.unread)
                .map_err(|error| End::Refused(400, format!("the request's body is malformed: {error}")))?;
            body.extend_from_slice(&self.unread[..step.body]);
            self.unread.drain(..step.consumed);
            if body.len() > self.shared.bounds.body_bytes {
                return Err(too_large());
            }
            if step.end {
                return Ok(body);
            }
            self.read_body_bytes(deadline)?;
        }
    }

    fn read_body_bytes(&mut self, deadline: Instant) -> Result<(), End> {
        match self.read_more(deadline) {
            Ok(0) => Err(End::Silent),
            Ok(_) => Ok(()),
            Err(error) if is_timeout(&error) => Err(End::Refused(408, "the request's body took too long".into())),
            Err(error) => Err(error.into()),
        }
    }

    fn answer(&self, call: &Call) -> Answer {
        let handler = &self.shared.handler;
        panic::catch_unwind(AssertUnwindSafe(|| handler.answer(call))).unwrap_or_else(|_| {
            log::error!("a handler panicked on {} {}", call.method, call.path);
            Answer::problem(500, "the handler of this request failed").close()
        })
    }

    fn send(&mut self, answer: &Answer, to_head: bool) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(512 + answer.body().len());
        answer.write(&mut bytes, to_head, SystemTime::now());
        self.write_all(&bytes)
    }

    /// Lets the client read the last answer: closing on bytes that were not read would send a reset, which may
    /// overtake it (RFC 9112 §9.6).
    fn linger(&mut self) {
        let _ = self.stream().shutdown(Shutdown::Write);
        let deadline = Instant::now() + LINGER;
        let mut bytes = 0;
        while bytes < LINGER_BYTES_MAX {
            self.unread.clear();
            match self.read_more(deadline) {
                Ok(0) | Err(_) => return,
                Ok(read) => bytes += read,
            }
        }
    }

    /// Reads what comes next behind what is unread; 0 at the end of the stream.
    fn read_more(&mut self, deadline: Instant) -> io::Result<usize> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            // Whole milliseconds, so that a busy connection needs no system call for what hardly changes.
            let timeout = Duration::from_millis(left.as_millis() as u64 + 1);
            if self.read_timeout != Some(timeout) {
                self.stream().set_read_timeout(Some(timeout))?;
                self.read_timeout = Some(timeout);
            }
            let used = self.unread.len();
            self.unread.resize(used + READ_BYTES, 0);
            let read = self.stream().read(&mut self.unread[used..]);
            self.unread.truncate(used + *read.as_ref().unwrap_or(&0));
            match read {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => return read,
            }
        }
    }

    /// Writes it all by the deadline, however slowly the client takes it.
    fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        let deadline = Instant::now() + self.shared.bounds.write;
        self.set_write_timeout(self.shared.bounds.write)?;
        loop {
            match self.stream().write(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => bytes = &bytes[written..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            if bytes.is_empty() {
                return Ok(());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            self.set_write_timeout(left)?;
        }
    }

    fn set_write_timeout(&mut self, timeout: Duration) -> io::Result<()> {
        if self.write_timeout != Some(timeout) {
            self.stream().set_write_timeout(Some(timeout))?;
            self.write_timeout = Some(timeout);
        }
        Ok(())
    }

    fn stream(&self) -> &'a TcpStream {
        &self.open.stream
    }
}

/// What Unix and others call a timeout of a blocking socket.
fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}
