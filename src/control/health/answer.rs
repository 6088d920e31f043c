//! How a probe reads its answer: through `http1`, as the proxy reads those that it passes on, so that no backend is up whose
//! answers are refused. `ureq` connects, sends the request and keeps the time; the bytes that come back are taken from
//! its connection here, and it is told no more than that an answer has come.

use std::fmt;
use std::io::{self, Read, Write};
use std::sync::Arc;

use parking_lot::Mutex;
use rustls::{ClientConnection, StreamOwned};
use ureq::Error;
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, LazyBuffers, NextTimeout, Transport, TransportAdapter,
};

use crate::http1::{HeadLimits, Method, ResponseFault, ResponseReader};
use crate::runtime::handshake::HandshakeFault;
use crate::transport::client::{self, BackendTls};

/// How much of a body is looked at.
const BODY_BYTES_MAX: usize = 64 * 1024;
const READ_BYTES: usize = 16 * 1024;
/// What `ureq` is told of every answer.
const TOLD: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

/// A backend's answer, as far as it has come.
#[derive(Debug)]
pub(super) struct Answer {
    reader: ResponseReader,
    /// The first 64 KiB of its body.
    pub(super) body: Vec<u8>,
    /// What is wrong with it.
    pub(super) fault: Option<ResponseFault>,
}

impl Answer {
    /// To a request of this method.
    pub(super) fn new(method: Method, limits: HeadLimits) -> Self {
        Self { reader: ResponseReader::new(method, limits), body: Vec::new(), fault: None }
    }

    pub(super) fn status(&self) -> Option<u16> {
        self.reader.status()
    }

    fn is_enough(&self) -> bool {
        self.reader.is_done() || self.body.len() >= BODY_BYTES_MAX
    }

    fn take(&mut self, bytes: &[u8]) {
        let taken = if bytes.is_empty() { self.reader.end() } else { self.reader.take(bytes, &mut self.body) };
        self.body.truncate(BODY_BYTES_MAX);
        self.fault = taken.err();
    }
}

/// Makes of connections such that collect an [`Answer`].
#[derive(Debug)]
pub(super) struct AnswerConnector {
    pub(super) answer: Arc<Mutex<Answer>>,
    /// None: in clear.
    pub(super) encrypted: Option<Encrypted>,
}

/// By what a backend is to prove who it is, and whom it should be.
#[derive(Debug)]
pub(super) struct Encrypted {
    pub(super) tls: Arc<BackendTls>,
    pub(super) host: String,
}

impl<In: Transport> Connector<In> for AnswerConnector {
    type Out = AnswerConnection<In>;

    fn connect(&self, details: &ConnectionDetails, chained: Option<In>) -> Result<Option<Self::Out>, Error> {
        let config = details.config;
        let Some(connection) = chained else { return Ok(None) };
        let mut connection = TransportAdapter::new(connection, Arc::clone(&details.current_time));
        let connection = match &self.encrypted {
            None => Connection::Plain(connection),
            Some(encrypted) => {
                connection.set_timeout(details.timeout);
                Connection::Tls(Box::new(encrypted.shake_hands(connection)?))
            }
        };
        Ok(Some(AnswerConnection {
            connection,
            buffers: LazyBuffers::new(config.input_buffer_size(), config.output_buffer_size()),
            answer: Arc::clone(&self.answer),
            told: false,
        }))
    }
}

impl Encrypted {
    fn shake_hands<S: Read + Write>(&self, mut socket: S) -> Result<StreamOwned<ClientConnection, S>, Error> {
        let mut tls = self.tls.connection(&self.host)?;
        match tls.complete_io(&mut socket) {
            Ok(_) => Ok(StreamOwned::new(tls, socket)),
            Err(error) => Err(tls_failure(&error).unwrap_or_else(|| match Error::from(error) {
                Error::Io(error) => {
                    let left = format!("{}: {}", HandshakeFault::Protocol.reason(), left(&error));
                    Error::Other(left.into())
                }
                other => other, // the time is over
            })),
        }
    }
}

/// What TLS says of a connection, in the words that operators are told of requests, too.
fn tls_failure(error: &io::Error) -> Option<Error> {
    let error = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    Some(Error::Other(client::words(error).into()))
}

fn left(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => "connection closed".to_owned(),
        io::ErrorKind::ConnectionReset => "connection reset".to_owned(),
        _ => error.to_string(),
    }
}

/// Bytes to and from a backend.
enum Connection<In: Transport> {
    Plain(TransportAdapter<In>),
    Tls(Box<StreamOwned<ClientConnection, TransportAdapter<In>>>),
}

impl<In: Transport> Connection<In> {
    fn set_timeout(&mut self, timeout: NextTimeout) {
        match self {
            Self::Plain(connection) => connection.set_timeout(timeout),
            Self::Tls(tls) => tls.sock.set_timeout(timeout),
        }
    }

    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(connection) => connection.read(into),
            Self::Tls(tls) => tls.read(into),
        }
    }

    fn write_all(&mut self, from: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(connection) => connection.write_all(from),
            Self::Tls(tls) => tls.write_all(from).and_then(|()| tls.flush()),
        }
    }
}

impl<In: Transport> Drop for Connection<In> {
    fn drop(&mut self) {
        if let Self::Tls(tls) = self {
            tls.conn.send_close_notify();
            let _ = tls.conn.write_tls(&mut tls.sock);
        }
    }
}

/// A connection on which `ureq` asks, and whose answer goes into an [`Answer`].
pub(super) struct AnswerConnection<In: Transport> {
    connection: Connection<In>,
    buffers: LazyBuffers,
    answer: Arc<Mutex<Answer>>,
    told: bool,
}

impl<In: Transport> AnswerConnection<In> {
    /// Reads the answer, up to its end or as much as is looked at. Fails with what is wrong with it.
    fn read_answer(&mut self) -> Result<(), Error> {
        let mut answer = self.answer.lock();
        let mut bytes = vec![0; READ_BYTES];
        while !answer.is_enough() {
            match self.connection.read(&mut bytes) {
                Ok(0) => {
                    answer.take(&[]);
                    break;
                }
                Ok(count) => answer.take(&bytes[..count]),
                Err(error) => match tls_failure(&error).unwrap_or_else(|| Error::from(error)) {
                    Error::Io(_) => answer.fault = Some(answer.reader.cut()),
                    other => return Err(other), // the time is over, or TLS says why
                },
            }
            if answer.fault.is_some() {
                break;
            }
        }
        answer.fault.map_or(Ok(()), |fault| Err(Error::Other(Box::new(fault))))
    }
}

impl<In: Transport> Transport for AnswerConnection<In> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        self.connection.set_timeout(timeout);
        Ok(self.connection.write_all(&self.buffers.output()[..amount])?)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        if self.told {
            return Ok(false);
        }
        self.connection.set_timeout(timeout);
        self.read_answer()?;
        self.told = true;
        self.buffers.input_append_buf()[..TOLD.len()].copy_from_slice(TOLD);
        self.buffers.input_appended(TOLD.len());
        Ok(true)
    }

    fn is_open(&mut self) -> bool {
        false // no other request follows on it
    }

    fn is_tls(&self) -> bool {
        matches!(self.connection, Connection::Tls(_))
    }
}

impl<In: Transport> fmt::Debug for AnswerConnection<In> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AnswerConnection").field("answer", &self.answer).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_that_leaves_is_told_of_in_few_words() {
        assert_eq!(left(&io::ErrorKind::UnexpectedEof.into()), "connection closed");
        assert_eq!(left(&io::Error::from_raw_os_error(libc::ECONNRESET)), "connection reset");
    }
}
