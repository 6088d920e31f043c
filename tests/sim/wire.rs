//! HTTP/1.1 as the actors read it: a plain and strict reader of its own, so that the proxy isn't judged by itself.

use std::rc::Rc;

use crate::peer::{Got, Peer};
use crate::sim::Time;

/// Longer than any head that an actor or the proxy has reason to send.
const HEAD_BYTES_MAX: usize = 100_000;

/// A connection that is read message by message.
pub struct Wire {
    pub peer: Rc<Peer>,
    held: Vec<u8>,
    received: usize,
    pub pace: Pace,
}

/// How an actor reads.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Bytes at a time.
    pub piece: usize,
    /// A rest of up to this long after each piece.
    pub rest: Time,
    /// How long it waits for more before it gives up.
    pub patience: Time,
}

/// A request's or response's head.
#[derive(Clone, Debug, Default)]
pub struct Head {
    pub line: String,
    pub fields: Vec<(String, String)>,
}

/// Why a message stopped short.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cut {
    /// The other side closed its sending side.
    End,
    /// The connection ended, and nobody had said that it would, as TLS has it.
    Torn,
    Reset,
    /// Nothing came for as long as the reader is patient.
    Late,
    /// What came isn't HTTP.
    Malformed(String),
}

impl Cut {
    /// How many bytes came, or what came instead.
    pub fn unless_bytes(got: Got) -> Result<usize, Self> {
        match got {
            Got::Bytes(bytes) => Ok(bytes),
            Got::End => Err(Self::End),
            Got::Torn => Err(Self::Torn),
            Got::Reset => Err(Self::Reset),
            Got::Late => Err(Self::Late),
        }
    }
}

impl Head {
    pub fn field(&self, name: &str) -> Option<&str> {
        let named = self.fields.iter().find(|(field, _)| field.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.as_str())
    }

    pub fn values<'h>(&'h self, name: &'h str) -> impl Iterator<Item = &'h str> {
        let named = self.fields.iter().filter(move |(field, _)| field.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.as_str())
    }

    /// True when the comma-separated list in `name` has `token`.
    pub fn lists(&self, name: &str, token: &str) -> bool {
        self.values(name).flat_map(|value| value.split(',')).any(|item| item.trim().eq_ignore_ascii_case(token))
    }

    /// The status of a response.
    pub fn status(&self) -> Option<u16> {
        let mut words = self.line.split(' ');
        let version = words.next()?;
        let status = words.next()?;
        (version.starts_with("HTTP/1.") && status.len() == 3).then(|| status.parse().ok()).flatten()
    }
}

impl Wire {
    pub fn new(peer: Rc<Peer>, pace: Pace) -> Self {
        Self { peer, held: Vec::new(), received: 0, pace }
    }

    /// What has been received and belongs to no message yet.
    pub fn held(&self) -> &[u8] {
        &self.held
    }

    /// How many bytes have come that belong to a message.
    pub fn consumed(&self) -> usize {
        self.received - self.held.len()
    }

    fn fill(&mut self) -> Result<(), Cut> {
        let deadline = self.peer.sim.now() + self.pace.patience;
        let got = self.peer.receive(&mut self.held, self.pace.piece, deadline);
        self.received += Cut::unless_bytes(got)?;
        if self.pace.rest > 0 {
            let rest = self.peer.sim.chance.below(self.pace.rest);
            self.peer.sim.sleep(rest);
        }
        Ok(())
    }

    /// Waits for the first byte of a message. `Err(Cut::End)`: there is none.
    pub fn begin(&mut self) -> Result<(), Cut> {
        if self.held.is_empty() { self.fill() } else { Ok(()) }
    }

    pub fn head(&mut self) -> Result<Head, Cut> {
        let mut searched = 0;
        let end = loop {
            if let Some(at) = find(&self.held[searched..], b"\r\n\r\n") {
                break searched + at;
            }
            if self.held.len() > HEAD_BYTES_MAX {
                return Err(Cut::Malformed("a head without end".to_owned()));
            }
            searched = self.held.len().saturating_sub(3);
            self.fill()?;
        };
        let head = parse_head(&self.held[..end]);
        self.held.drain(..end + 4);
        head.map_err(Cut::Malformed)
    }

    /// Moves `length` bytes of a body into `body`.
    pub fn exactly(&mut self, length: usize, body: &mut Vec<u8>) -> Result<(), Cut> {
        let mut missing = length;
        loop {
            let take = missing.min(self.held.len());
            body.extend(self.held.drain(..take));
            missing -= take;
            if missing == 0 {
                return Ok(());
            }
            self.fill()?;
        }
    }

    /// Moves a chunked body into `body`; the result has its trailers.
    pub fn chunked(&mut self, body: &mut Vec<u8>) -> Result<Vec<(String, String)>, Cut> {
        loop {
            let line = self.line()?;
            let digits = line.split(';').next().unwrap_or_default().trim();
            let length = usize::from_str_radix(digits, 16)
                .map_err(|_| Cut::Malformed(format!("a chunk of size '{}'", excerpt(&line))))?;
            if length == 0 {
                break;
            }
            self.exactly(length, body)?;
            let end = self.line()?;
            if !end.is_empty() {
                return Err(Cut::Malformed(format!("a chunk that ends in '{}'", excerpt(&end))));
            }
        }
        let mut trailers = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok(trailers);
            }
            trailers.push(parse_field(&line).map_err(Cut::Malformed)?);
        }
    }

    /// Moves all that comes into `body`; says how it ended.
    pub fn until_end(&mut self, body: &mut Vec<u8>) -> Cut {
        loop {
            body.append(&mut self.held);
            if let Err(cut) = self.fill() {
                return cut;
            }
        }
    }

    fn line(&mut self) -> Result<String, Cut> {
        let end = loop {
            if let Some(at) = find(&self.held, b"\r\n") {
                break at;
            }
            self.fill()?;
        };
        let line = String::from_utf8_lossy(&self.held[..end]).into_owned();
        self.held.drain(..end + 2);
        if line.contains(['\r', '\n']) {
            return Err(Cut::Malformed(format!("a line '{}'", excerpt(&line))));
        }
        Ok(line)
    }
}

/// The beginning of what came, readable whatever it is.
fn excerpt(bytes: impl AsRef<[u8]>) -> String {
    let bytes = bytes.as_ref();
    bytes[..bytes.len().min(40)].escape_ascii().to_string()
}

fn find(within: &[u8], what: &[u8]) -> Option<usize> {
    memchr::memmem::find(within, what)
}

fn parse_head(bytes: &[u8]) -> Result<Head, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "a head that isn't UTF-8".to_owned())?;
    let mut lines = text.split("\r\n");
    let line = lines.next().unwrap_or_default().to_owned();
    if !line.contains("HTTP/1.") {
        return Err(format!("a head that begins with '{}'", excerpt(&line)));
    }
    let fields = lines.map(parse_field).collect::<Result<_, _>>()?;
    Ok(Head { line, fields })
}

fn parse_field(line: impl AsRef<str>) -> Result<(String, String), String> {
    let line = line.as_ref();
    let (name, value) = line.split_once(':').ok_or_else(|| format!("a field line '{}'", excerpt(line)))?;
    if name.is_empty() || name.contains(' ') || line.contains(['\r', '\n']) {
        return Err(format!("a field line '{}'", excerpt(line)));
    }
    Ok((name.to_owned(), value.trim().to_owned()))
}
