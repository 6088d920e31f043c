//! The chunked coding: one outcome however the bytes are split, and the one that the grammar calls for.

use maypole::http1::{CHUNK_END, ChunkError, Decoder, LAST_CHUNK, chunk_header};

use super::{cuts, strict};

/// Small, so that the limit is met often.
const TRAILER_BYTES_MAX: usize = 64;

/// What a decoder made of a body.
#[derive(Debug, PartialEq, Eq)]
struct Body {
    payload: Vec<u8>,
    trailers: Vec<u8>,
    consumed: usize,
    ended: bool,
}

/// However the bytes are split, payload, trailers, end and error are one, and they are those of a reader that sees the
/// whole body at once. What was decoded and is encoded again means the same.
pub fn check(bytes: &[u8]) {
    for sender in [Sender::Client, Sender::Backend] {
        check_of(sender, bytes);
    }
}

/// Whose body it is: a backend may put white space at the end of its size lines.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sender {
    Client,
    Backend,
}

fn check_of(sender: Sender, bytes: &[u8]) {
    let whole = decode(sender, [bytes]);
    let mut places = cuts(bytes, 5);
    places.insert(0, 0);
    places.push(bytes.len());
    assert_eq!(decode(sender, places.windows(2).map(|pair| &bytes[pair[0]..pair[1]])), whole, "cut at {places:?}");
    assert_eq!(decode(sender, bytes.chunks(1)), whole, "byte by byte");

    let read = by_the_grammar(sender, bytes);
    match &whole {
        Ok(body) if body.ended => {
            assert_eq!(read.as_ref(), Some(&(body.payload.clone(), body.consumed)));
            trailers_are_fields(&body.trailers, &bytes[..body.consumed]);
            assert_eq!(decode(sender, [&encoded(body)[..]]).as_ref().map(|again| &again.payload), Ok(&body.payload));
        }
        Ok(_) | Err(ChunkError::TooMuchOverhead | ChunkError::TrailersTooLarge) => {}
        Err(error) => assert!(read.is_none(), "{error:?}, but by the grammar it is sound"),
    }
}

fn decode<'b>(sender: Sender, pieces: impl IntoIterator<Item = &'b [u8]>) -> Result<Body, ChunkError> {
    let decoder = Decoder::new(TRAILER_BYTES_MAX);
    let mut decoder = if sender == Sender::Backend { decoder.padded() } else { decoder };
    let mut body = Body { payload: Vec::new(), trailers: Vec::new(), consumed: 0, ended: false };
    for piece in pieces {
        let mut piece = piece.to_vec();
        let step = decoder.decode(&mut piece)?;
        assert!(step.body <= step.consumed && step.consumed <= piece.len());
        assert!(step.end || step.consumed == piece.len(), "bytes were left");
        assert_eq!(step.end, decoder.is_done());
        body.payload.extend_from_slice(&piece[..step.body]);
        body.consumed += step.consumed;
        // A space behind each colon is the most that is added to what was received.
        assert!(decoder.trailers().len() <= 2 * TRAILER_BYTES_MAX);
        if step.end {
            body.ended = true;
            break;
        }
    }
    if body.ended {
        body.trailers = decoder.trailers().to_vec();
    }
    Ok(body)
}

fn trailers_are_fields(trailers: &[u8], bytes: &[u8]) {
    let text = [b"trailers\r\n", trailers, b"\r\n"].concat();
    let head = strict::Head::read(&text).expect("trailers are lines of fields");
    assert_eq!(head.bytes, text.len());
    for name in ["content-length", "transfer-encoding", "host", "connection", "authorization", "set-cookie", "te"] {
        assert_eq!(head.all(name).count(), 0, "{name} may not come late");
    }
    for (name, _) in head.fields {
        assert!(bytes.windows(name.len()).any(|window| window == name), "nobody sent {}", name.escape_ascii());
    }
}

fn encoded(body: &Body) -> Vec<u8> {
    let mut out = Vec::new();
    for piece in body.payload.chunks(7) {
        out.extend_from_slice(chunk_header(piece.len(), &mut [0; 18]));
        out.extend_from_slice(piece);
        out.extend_from_slice(CHUNK_END);
    }
    out.extend_from_slice(LAST_CHUNK);
    out.extend_from_slice(CHUNK_END);
    out
}

/// `*chunk last-chunk trailer-section CRLF` (RFC 9112 §7.1), read at once: the payload, and how long all of it was. None
/// when it breaks the grammar or isn't whole.
fn by_the_grammar(sender: Sender, bytes: &[u8]) -> Option<(Vec<u8>, usize)> {
    let mut payload = Vec::new();
    let mut at = 0;
    loop {
        let line = bytes[at..].windows(2).position(|two| two == b"\r\n")?;
        let written = &bytes[at..at + line];
        let padding = written.iter().rev().take_while(|&&byte| byte == b' ' || byte == b'\t').count();
        let written = if sender == Sender::Backend { &written[..written.len() - padding] } else { written };
        let (size, extensions) = split_size(written)?;
        at += line + 2;
        extensions_are_sound(extensions)?;
        if size == 0 {
            break;
        }
        payload.extend_from_slice(bytes.get(at..at.checked_add(size)?)?);
        at += size;
        at += bytes[at..].starts_with(b"\r\n").then_some(2)?;
    }
    // The trailer section is that of a head without a first line.
    let rest = [b"trailers\r\n", &bytes[at..]].concat();
    let trailers = strict::Head::read(&rest)?;
    Some((payload, at + trailers.bytes - b"trailers\r\n".len()))
}

fn split_size(line: &[u8]) -> Option<(usize, &[u8])> {
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let (digits, extensions) = line.split_at(digits);
    // More than 15 digits are refused, zeros in front not counted.
    let zeros = digits.iter().take_while(|&&digit| digit == b'0').count();
    if digits.len() - zeros > 15 {
        return None;
    }
    let size = usize::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    Some((size, extensions))
}

/// `*( BWS ";" BWS chunk-ext-name [ BWS "=" BWS chunk-ext-val ] )` (RFC 9112 §7.1.1).
fn extensions_are_sound(mut text: &[u8]) -> Option<()> {
    while !text.is_empty() {
        text = skip_spaces(text).strip_prefix(b";")?;
        text = skip_token(skip_spaces(text))?;
        if let Some(value) = skip_spaces(text).strip_prefix(b"=") {
            let value = skip_spaces(value);
            text = if value.starts_with(b"\"") { skip_quoted(value)? } else { skip_token(value)? };
        }
    }
    Some(())
}

fn skip_spaces(text: &[u8]) -> &[u8] {
    let spaces = text.iter().take_while(|&&byte| byte == b' ' || byte == b'\t').count();
    &text[spaces..]
}

fn skip_token(text: &[u8]) -> Option<&[u8]> {
    let bytes = text.iter().take_while(|&&byte| strict::is_token(&[byte])).count();
    (bytes > 0).then(|| &text[bytes..])
}

/// What follows `DQUOTE *( qdtext / quoted-pair ) DQUOTE` (RFC 9110 §5.6.4).
fn skip_quoted(text: &[u8]) -> Option<&[u8]> {
    let mut at = 1;
    loop {
        match text.get(at..)? {
            [b'"', rest @ ..] => return Some(rest),
            [b'\\', byte, ..] if strict::is_value(*byte) => at += 2,
            [b'\\', ..] => return None,
            [byte, ..] if strict::is_value(*byte) => at += 1,
            _ => return None,
        }
    }
}
