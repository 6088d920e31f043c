//! A whole answer of a backend, read as its bytes come, where nothing of it is passed on: what health checks read with.
//! What it takes and what it refuses is what the proxy takes and refuses of its traffic.

use std::fmt;

use super::chunked::{ChunkError, Decoder};
use super::framing::Framing;
use super::head::{HeadLimits, Parsed};
use super::method::Method;
use super::response::{ResponseError, parse_response};

/// Interim answers (1xx) to one request; more are a fault of the backend.
pub const INTERIM_MAX: u32 = 32;

/// What is wrong with an answer that has too many of them.
pub const TOO_MANY_INTERIM: ResponseError = ResponseError::Malformed("too many interim answers");

/// Why an answer can't be passed on, for what its backend sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseFault {
    /// Its head is refused.
    Head(ResponseError),
    /// Its chunks are.
    Chunk(ChunkError),
    /// A 101 to a request that offered no other protocol.
    UnaskedSwitch,
    /// The connection ended before the head was whole.
    ClosedBeforeHead,
    /// The connection ended before the body was whole.
    BodyCut,
}

impl ResponseFault {
    /// What is wrong, in a few words of ASCII: the same to clients and in the reasons of health checks.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Head(error) => error.reason(),
            Self::Chunk(error) => error.reason(),
            Self::UnaskedSwitch => "backend switched protocols unasked",
            Self::ClosedBeforeHead => "backend closed the connection before its response",
            Self::BodyCut => "backend closed the connection within its response",
        }
    }
}

impl fmt::Display for ResponseFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason())
    }
}

impl std::error::Error for ResponseFault {}

/// Reads the answer to one request that offered no other protocol.
#[derive(Debug)]
pub struct ResponseReader {
    method: Method,
    limits: HeadLimits,
    /// Of the head, so far.
    head: Vec<u8>,
    interim: u32,
    status: Option<u16>,
    body: Rest,
}

/// What is to come of a body.
#[derive(Debug)]
enum Rest {
    /// Not known before the head is there.
    Unknown,
    Length(u64),
    Chunks(Decoder),
    UntilClose,
}

impl ResponseReader {
    /// For the answer to a request of this method.
    pub fn new(method: Method, limits: HeadLimits) -> Self {
        Self { method, limits, head: Vec::new(), interim: 0, status: None, body: Rest::Unknown }
    }

    /// The status of the final answer, once its head is there.
    pub fn status(&self) -> Option<u16> {
        self.status
    }

    /// The answer is whole; what comes behind it is of no account.
    pub fn is_done(&self) -> bool {
        match &self.body {
            Rest::Unknown | Rest::UntilClose => false,
            Rest::Length(left) => *left == 0,
            Rest::Chunks(decoder) => decoder.is_done(),
        }
    }

    /// Takes what has come, and puts the payload in it behind `payload`.
    ///
    /// # Errors
    /// At the first byte that can't be right; the reader is not to be used again.
    pub fn take(&mut self, bytes: &[u8], payload: &mut Vec<u8>) -> Result<(), ResponseFault> {
        if self.status.is_some() {
            return self.take_body(bytes, payload);
        }
        self.head.extend_from_slice(bytes);
        while self.status.is_none() {
            let parsed = parse_response(&self.head, self.method, &self.limits, |response| {
                (response.status, response.framing, response.is_interim())
            });
            let Parsed::Complete { head_bytes, value } = parsed.map_err(ResponseFault::Head)? else { return Ok(()) };
            let (status, framing, is_interim) = value;
            self.head.drain(..head_bytes);
            if is_interim {
                self.interim += 1;
                if self.interim > INTERIM_MAX {
                    return Err(ResponseFault::Head(TOO_MANY_INTERIM));
                }
            } else if status == 101 {
                return Err(ResponseFault::UnaskedSwitch);
            } else {
                self.status = Some(status);
                self.body = Rest::of(framing, self.limits.head_bytes);
            }
        }
        let behind = std::mem::take(&mut self.head);
        self.take_body(&behind, payload)
    }

    fn take_body(&mut self, bytes: &[u8], payload: &mut Vec<u8>) -> Result<(), ResponseFault> {
        match &mut self.body {
            Rest::Unknown => {}
            Rest::UntilClose => payload.extend_from_slice(bytes),
            Rest::Length(left) => {
                let taken = bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                payload.extend_from_slice(&bytes[..taken]);
                *left -= taken as u64;
            }
            Rest::Chunks(decoder) => {
                let before = payload.len();
                payload.extend_from_slice(bytes);
                let step = decoder.decode(&mut payload[before..]).map_err(ResponseFault::Chunk)?;
                payload.truncate(before + step.body);
            }
        }
        Ok(())
    }

    /// The connection has ended as it should.
    ///
    /// # Errors
    /// When the answer isn't whole.
    pub fn end(&self) -> Result<(), ResponseFault> {
        if matches!(self.body, Rest::UntilClose) || self.is_done() { Ok(()) } else { Err(self.cut()) }
    }

    /// What it means when the connection breaks before the answer is whole.
    pub fn cut(&self) -> ResponseFault {
        if self.status.is_some() { ResponseFault::BodyCut } else { ResponseFault::ClosedBeforeHead }
    }
}

impl Rest {
    fn of(framing: Framing, trailer_bytes_max: usize) -> Self {
        match framing {
            Framing::None => Self::Length(0),
            Framing::Length(bytes) => Self::Length(bytes),
            Framing::Chunked => Self::Chunks(Decoder::new(trailer_bytes_max).padded()),
            Framing::UntilClose => Self::UntilClose,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: HeadLimits = HeadLimits { head_bytes: 1024, headers: 10, uri_bytes: 100 };

    /// Status and payload, or what is wrong, of an answer that comes in pieces of so many bytes and then ends.
    fn read(bytes: &[u8], method: Method, piece: usize) -> Result<(Option<u16>, Vec<u8>), ResponseFault> {
        let mut reader = ResponseReader::new(method, LIMITS);
        let mut payload = Vec::new();
        for piece in bytes.chunks(piece) {
            reader.take(piece, &mut payload)?;
        }
        reader.end()?;
        Ok((reader.status(), payload))
    }

    #[test]
    fn an_answer_is_read_alike_however_it_comes() {
        let malformed = |reason| Err(ResponseFault::Head(ResponseError::Malformed(reason)));
        for (bytes, want) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokay", Ok((200, "ok"))),
            ("HTTP/1.0 404 No\r\n\r\nall of it", Ok((404, "all of it"))),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2 \r\nok\r\n0\r\nX: 1\r\n\r\nmore", Ok((200, "ok"))),
            ("HTTP/1.1 103 E\r\nContent-Length: 5\r\n\r\nHTTP/1.1 204 No\r\n\r\nx", Ok((204, ""))),
            ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no", Err(ResponseFault::BodyCut)),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", Err(ResponseFault::BodyCut)),
            ("HTTP/1.1 103 E\r\n\r\nHTTP/1.1 200 OK\r\n", Err(ResponseFault::ClosedBeforeHead)),
            ("", Err(ResponseFault::ClosedBeforeHead)),
            ("HTTP/1.1 101 S\r\n\r\n", Err(ResponseFault::UnaskedSwitch)),
            ("HTTP/1.1 200 OK\nContent-Length: 0\n\n", malformed("line ends in LF without CR")),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n",
                Err(ResponseFault::Chunk(ChunkError::BadSize)),
            ),
        ] {
            let want = want.map(|(status, payload)| (Some(status), payload.as_bytes().to_vec()));
            for piece in [1, 2, 7, 1000] {
                assert_eq!(read(bytes.as_bytes(), Method::Get, piece), want, "{bytes:?} by {piece}");
            }
        }
        let head = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n";
        assert_eq!(read(head, Method::Head, 5), Ok((Some(200), Vec::new())));
    }

    #[test]
    fn interim_answers_are_bounded() {
        let interim = b"HTTP/1.1 103 E\r\n\r\n".repeat(32);
        let last = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
        assert_eq!(read(&[&interim[..], last].concat(), Method::Get, 9), Ok((Some(200), Vec::new())));
        let more = [&interim[..], b"HTTP/1.1 103 E\r\n\r\n", last].concat();
        assert_eq!(read(&more, Method::Get, 9), Err(ResponseFault::Head(TOO_MANY_INTERIM)));
    }
}
