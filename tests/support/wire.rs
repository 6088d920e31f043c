//! HTTP/1.1 as the tests read it: strict, plain, and written apart from the product's own parser.

use std::fmt::{self, Debug, Formatter};
use std::io::{self, BufRead, Read};

/// A request or a response as it came over the wire.
#[derive(Clone, Default)]
pub struct Message {
    /// The request line or the status line.
    pub start: String,
    /// Names and values in order, as spelled.
    pub fields: Vec<(String, String)>,
    /// What came of the body, chunks taken apart.
    pub body: Vec<u8>,
    /// The fields behind the last chunk.
    pub trailers: Vec<(String, String)>,
    /// False when the connection ended before the body did.
    pub complete: bool,
    /// The 1xx answers that came before a final one.
    pub interim: Vec<Message>,
}

impl Message {
    /// The value of the field, the first if there are more.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.all(name).first().copied()
    }

    /// The values of all fields of that name.
    pub fn all(&self, name: &str) -> Vec<&str> {
        self.fields.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str()).collect()
    }

    /// The values of all fields of that name as one list.
    pub fn list(&self, name: &str) -> String {
        self.all(name).join(", ")
    }

    /// Of a response; 0 when its first line has none.
    pub fn status(&self) -> u16 {
        self.start.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0)
    }

    /// Of a request: its method.
    pub fn method(&self) -> &str {
        self.start.split(' ').next().unwrap_or_default()
    }

    /// Of a request: its target.
    pub fn target(&self) -> &str {
        self.start.split(' ').nth(1).unwrap_or_default()
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON; fails the test when it isn't.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: not JSON: {self:?}"))
    }
}

/// For the messages of failed tests: as one reads it, long bodies shortened.
impl Debug for Message {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "[{}", self.start)?;
        for (name, value) in &self.fields {
            write!(f, " | {name}: {value}")?;
        }
        let shown: String = self.text().chars().take(500).collect();
        write!(f, "] {} bytes, complete: {}: {shown:?}", self.body.len(), self.complete)
    }
}

/// Reads a head. `None` when the connection ends before its first byte.
pub fn read_head(from: &mut impl BufRead) -> io::Result<Option<Message>> {
    let Some(start) = read_line(from)? else { return Ok(None) };
    let fields = read_fields(from)?;
    Ok(Some(Message { start, fields, ..Message::default() }))
}

/// Reads the body of a request whose head is `message`.
pub fn read_request_body(from: &mut impl BufRead, message: &mut Message) -> io::Result<()> {
    read_body(from, message, Some(0))
}

/// Reads the body of the answer to a request of the given method.
pub fn read_answer_body(from: &mut impl BufRead, message: &mut Message, method: &str) -> io::Result<()> {
    if method == "HEAD" || matches!(message.status(), 101 | 204 | 304) {
        message.complete = true;
        return Ok(());
    }
    read_body(from, message, None)
}

/// `unframed`: the length of a body with no framing at all; `None` when it lasts until the connection ends.
fn read_body(from: &mut impl BufRead, message: &mut Message, unframed: Option<u64>) -> io::Result<()> {
    if message.list("transfer-encoding").to_ascii_lowercase().ends_with("chunked") {
        return read_chunked(from, message);
    }
    let length = match message.field("content-length") {
        Some(text) => Some(text.parse().map_err(|_| broken("a Content-Length that is no number"))?),
        None => unframed,
    };
    from.take(length.unwrap_or(u64::MAX)).read_to_end(&mut message.body)?;
    message.complete = length.is_none_or(|length| message.body.len() as u64 == length);
    Ok(())
}

fn read_chunked(from: &mut impl BufRead, message: &mut Message) -> io::Result<()> {
    loop {
        let Some(line) = read_line(from)? else { return Ok(()) };
        let digits = line.split(';').next().unwrap_or_default().trim();
        let size = u64::from_str_radix(digits, 16).map_err(|_| broken("a chunk without a size"))?;
        if size == 0 {
            message.trailers = read_fields(from)?;
            message.complete = true;
            return Ok(());
        }
        let before = message.body.len() as u64;
        from.take(size).read_to_end(&mut message.body)?;
        if message.body.len() as u64 - before < size || read_line(from)?.is_none_or(|line| !line.is_empty()) {
            return Ok(());
        }
    }
}

fn read_fields(from: &mut impl BufRead) -> io::Result<Vec<(String, String)>> {
    let mut fields = Vec::new();
    loop {
        let line = read_line(from)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        if line.is_empty() {
            return Ok(fields);
        }
        let (name, value) = line.split_once(':').ok_or_else(|| broken("a field without a colon"))?;
        fields.push((name.to_owned(), value.trim().to_owned()));
    }
}

/// One line without its CRLF; `None` at the end of the stream.
fn read_line(from: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut line = Vec::new();
    if from.read_until(b'\n', &mut line)? == 0 {
        return Ok(None);
    }
    let line = line.strip_suffix(b"\r\n").ok_or(io::ErrorKind::UnexpectedEof)?;
    Ok(Some(String::from_utf8_lossy(line).into_owned()))
}

fn broken(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
