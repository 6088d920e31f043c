//! How a probe reads its answer: through `http1`, as the proxy reads those that it passes on, so that no backend is up whose
//! answers are refused. `ureq` connects, sends the request and keeps the time; the bytes that come back are taken from
//! its connection here, and it is told no more than that an answer has come.

use std::fmt;
use std::io::{Read, Write};
use std::sync::Arc;

use parking_lot::Mutex;
use ureq::Error;
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, LazyBuffers, NextTimeout, Transport, TransportAdapter,
};

use crate::http1::{HeadLimits, Method, ResponseFault, ResponseReader};

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

/// Puts an [`Answer`] behind connections that others make.
#[derive(Debug)]
pub(super) struct Listening(pub(super) Arc<Mutex<Answer>>);

impl<In: Transport> Connector<In> for Listening {
    type Out = Exchange<In>;

    fn connect(&self, details: &ConnectionDetails, chained: Option<In>) -> Result<Option<Self::Out>, Error> {
        let config = details.config;
        Ok(chained.map(|connection| Exchange {
            connection: TransportAdapter::new(connection, Arc::clone(&details.current_time)),
            buffers: LazyBuffers::new(config.input_buffer_size(), config.output_buffer_size()),
            answer: Arc::clone(&self.0),
            told: false,
        }))
    }
}

/// A connection on which `ureq` asks and an [`Answer`] listens.
pub(super) struct Exchange<In: Transport> {
    connection: TransportAdapter<In>,
    buffers: LazyBuffers,
    answer: Arc<Mutex<Answer>>,
    told: bool,
}

impl<In: Transport> Exchange<In> {
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
                Err(error) => match Error::from(error) {
                    Error::Io(_) => answer.fault = Some(answer.reader.cut()),
                    other => return Err(other), // the time is over
                },
            }
            if answer.fault.is_some() {
                break;
            }
        }
        answer.fault.map_or(Ok(()), |fault| Err(Error::Other(Box::new(fault))))
    }
}

impl<In: Transport> Transport for Exchange<In> {
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
}

impl<In: Transport> fmt::Debug for Exchange<In> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange").field("answer", &self.answer).finish_non_exhaustive()
    }
}
