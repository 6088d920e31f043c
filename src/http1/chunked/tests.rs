use super::*;

/// Payload, trailers, and the bytes that were left over.
type Whole = (Vec<u8>, Vec<u8>, usize);

/// Decodes a client's `bytes`, at most `step` at a time; None when the end hasn't come.
fn decode(bytes: &[u8], step: usize) -> Result<Option<Whole>, ChunkError> {
    decode_with(Decoder::new(1024), bytes, step)
}

fn decode_with(mut decoder: Decoder, bytes: &[u8], step: usize) -> Result<Option<Whole>, ChunkError> {
    let mut payload = Vec::new();
    let mut used = 0;
    for piece in bytes.chunks(step) {
        let mut piece = piece.to_vec();
        let done = decoder.decode(&mut piece)?;
        payload.extend_from_slice(&piece[..done.body]);
        used += done.consumed;
        if done.end {
            assert!(decoder.is_done());
            return Ok(Some((payload, decoder.trailers().to_vec(), bytes.len() - used)));
        }
        assert_eq!(done.consumed, piece.len());
    }
    Ok(None)
}

#[test]
fn sound_bodies_are_decoded_however_they_are_split() {
    for (bytes, payload, trailers, left) in [
        (&b"0\r\n\r\n"[..], &b""[..], &b""[..], 0),
        (b"5\r\nhello\r\n0\r\n\r\nGET", b"hello", b"", 3),
        (b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n", b"hello world", b"", 0),
        (b"00A\r\n0123456789\r\n000\r\n\r\n", b"0123456789", b"", 0),
        (b"a\r\n0123456789\r\n0\r\n\r\n", b"0123456789", b"", 0),
        (b"000000000000001\r\nx\r\n0\r\n\r\n", b"x", b"", 0),
        (b"0000000000000001\r\nx\r\n0000000000000000\r\n\r\n", b"x", b"", 0),
        (&LEADING_ZEROS, b"x", b"", 0),
        (b"5;a=b;c=\"d\"\r\nhello\r\n0;z\r\n\r\n", b"hello", b"", 0),
        (b"5 ;\ta = \"\\\"; \\\\\" ;b\r\nhello\r\n0\r\n\r\n", b"hello", b"", 0),
        (b"5\r\n\r\n0\r\n\r\n0\r\n\r\n", b"\r\n0\r\n", b"", 0),
        (b"1\r\nx\r\n0\r\nX-T: 1\r\n\r\n", b"x", b"X-T: 1\r\n", 0),
        (b"0\r\nX-T:1\r\nY:\t \r\nZ: a b \t\r\n\r\n", b"", b"X-T: 1\r\nY: \r\nZ: a b\r\n", 0),
        (
            b"0\r\nContent-Length: 9\r\nX-A: 1\r\ntransfer-encoding: x\r\nHost: evil\r\nX-B: 2\r\n\r\n",
            b"",
            b"X-A: 1\r\nX-B: 2\r\n",
            0,
        ),
    ] {
        for step in [1, 2, 3, 7, bytes.len()] {
            let got = decode(bytes, step).unwrap().unwrap();
            // What came in the piece that ended the body but wasn't used is left over, too.
            assert_eq!(got.0, payload, "{} by {step}", bytes.escape_ascii());
            assert_eq!(got.1, trailers, "{} by {step}", bytes.escape_ascii());
            assert_eq!(got.2, left, "{} by {step}", bytes.escape_ascii());
        }
    }
}

#[test]
fn unsound_bodies_are_refused_however_they_are_split() {
    use ChunkError::{BadChunkEnd, BadExtension, BadSize, BadTrailer};
    for (bytes, want) in [
        (&b"5x\r\nhello\r\n0\r\n\r\n"[..], BadSize),
        (b"-5\r\nhello\r\n0\r\n\r\n", BadSize),
        (b"+5\r\nhello\r\n0\r\n\r\n", BadSize),
        (b"0x5\r\nhello\r\n0\r\n\r\n", BadSize),
        (b"\r\nhello\r\n0\r\n\r\n", BadSize),
        (b"g\r\nhello\r\n0\r\n\r\n", BadSize),
        (b"fffffffffffffffff\r\nhello", BadSize),
        (b"1000000000000000\r\nx", BadSize),
        (b"00000000fffffffffffffffff\r\nx", BadSize),
        (b"0000 \r\n\r\n", BadExtension),
        (b"5\nhello\n0\n\n", BadSize),
        (b" 5\r\nhello\r\n0\r\n\r\n", BadSize),
        (b"5\r\r\nhello\r\n0\r\n\r\n", BadSize),
        (b";a\r\nhello\r\n0\r\n\r\n", BadSize),
        (b"5_0\r\nhello", BadSize),
        (b"5\r\nhelloX\r\n0\r\n\r\n", BadChunkEnd),
        (b"5\r\nhello0\r\n\r\n", BadChunkEnd),
        (b"5\r\nhello\n0\r\n\r\n", BadChunkEnd),
        (b"5\r\nhello\rX", BadChunkEnd),
        (b"5;\x00\r\nhello\r\n0\r\n\r\n", BadExtension),
        (b"5;a\x7f\r\n", BadExtension),
        (b"5;a=\"\x01\"\r\n", BadExtension),
        (b"5;a=\"x\r\n", BadExtension),
        (b"5;a=\"\\\r\n", BadExtension),
        (b"5;\r\n", BadExtension),
        (b"5;a=\r\n", BadExtension),
        (b"5;a\nb\r\n", BadExtension),
        (b"5;a b\r\n", BadExtension),
        (b"5 \r\nhello", BadExtension),
        (b"5 5\r\nhello", BadExtension),
        (b"5;a=\"b\"c\r\n", BadExtension),
        (b"5;a\r\r\n", BadSize),
        (b"0\r\nX T: 1\r\n\r\n", BadTrailer),
        (b"0\r\nX-T : 1\r\n\r\n", BadTrailer),
        (b"0\r\n: 1\r\n\r\n", BadTrailer),
        (b"0\r\nX-T\r\n\r\n", BadTrailer),
        (b"0\r\n X-T: 1\r\n\r\n", BadTrailer),
        (b"0\r\nX: 1\r\n 2\r\n\r\n", BadTrailer),
        (b"0\r\nX: a\x00\r\n\r\n", BadTrailer),
        (b"0\r\nX: a\n\r\n", BadTrailer),
        (b"0\r\nX: a\rb\r\n\r\n", BadTrailer),
        (b"0\r\n\rX", BadTrailer),
        (b"0\r\n\n", BadTrailer),
    ] {
        for step in [1, 2, 3, 7, bytes.len()] {
            assert_eq!(decode(bytes, step), Err(want), "{} by {step}", bytes.escape_ascii());
        }
    }
}

/// A chunk of one byte whose size has 4,000 zeros before it.
static LEADING_ZEROS: [u8; 4000 + 11] = {
    let mut bytes = [b'0'; 4000 + 11];
    let rest = b"1\r\nx\r\n0\r\n\r\n";
    let mut at = 0;
    while at < rest.len() {
        bytes[4000 + 11 - rest.len() + at] = rest[at];
        at += 1;
    }
    bytes
};

#[test]
fn backends_may_pad_their_size_lines_and_clients_may_not() {
    for (bytes, payload) in [
        (&b"5 \r\nhello\r\n0 \t\r\n\r\n"[..], &b"hello"[..]),
        (b"5       \r\nhello\r\n0\r\n\r\n", b"hello"),
        (b"00000005\t\r\nhello\r\n00000000  \r\n\r\n", b"hello"),
        (b"5;a \r\nhello\r\n0\r\n\r\n", b"hello"),
        (b"5;a=b\t\r\nhello\r\n0;c=\"d\" \r\n\r\n", b"hello"),
    ] {
        for step in [1, 2, 3, 7, bytes.len()] {
            let text = bytes.escape_ascii();
            let got = decode_with(Decoder::new(1024).padded(), bytes, step).unwrap().unwrap();
            assert_eq!(got, (payload.to_vec(), Vec::new(), 0), "{text} by {step}");
            assert_eq!(decode(bytes, step), Err(ChunkError::BadExtension), "{text} by {step}");
        }
    }
    for bytes in [&b" 5\r\n"[..], b"5 5\r\n", b"5 \n", b"5; \r\n", b"5;a= \r\n", b"5 x\r\n", b"5;a b\r\n"] {
        assert!(decode_with(Decoder::new(1024).padded(), bytes, 1).is_err(), "{}", bytes.escape_ascii());
    }
    let endless = [&b"5"[..], &[b' '; 5000]].concat();
    assert_eq!(decode_with(Decoder::new(1024).padded(), &endless, 100), Err(ChunkError::TooMuchOverhead));
}

#[test]
fn trailers_that_are_withheld_are_dropped_from_among_the_others() {
    let names = FieldNames::new(["X-Real-IP"]);
    for (lines, want) in [
        ("", ""),
        ("X-A: 1\r\n", "X-A: 1\r\n"),
        ("x_real_ip: 6\r\n", ""),
        (
            "X-A: X-Real-IP: 6\r\nX-Real-IP: 6\r\nX-Real-IP:\r\nX-B:\r\nX-REAL-IP: :\r\n",
            "X-A: X-Real-IP: 6\r\nX-B: \r\n",
        ),
    ] {
        let mut decoder = Decoder::new(1024);
        assert!(decoder.decode(format!("0\r\n{lines}\r\n").as_bytes().to_vec().as_mut_slice()).unwrap().end);
        decoder.withhold(Some(&names), None);
        assert_eq!(String::from_utf8_lossy(decoder.trailers()), want);
    }
}

#[test]
fn a_body_is_not_over_before_its_last_byte() {
    let bytes = b"5;a=b\r\nhello\r\n0\r\nX-T: 1\r\n\r\n";
    for cut in 0..bytes.len() {
        assert_eq!(decode(&bytes[..cut], bytes.len()), Ok(None), "{cut}");
    }
}

#[test]
fn nothing_is_used_after_the_end() {
    let mut decoder = Decoder::new(0);
    let mut bytes = *b"0\r\n";
    assert!(!decoder.decode(&mut bytes).unwrap().end);
    // The empty line is part of the trailer section, for which there is no room here.
    assert_eq!(decoder.decode(&mut b"\r\n".to_vec()), Err(ChunkError::TrailersTooLarge));
    let mut decoder = Decoder::new(2);
    decoder.decode(&mut b"0\r\n\r\n".to_vec()).unwrap();
    let again = decoder.decode(&mut b"GET".to_vec());
    assert_eq!(again, Ok(Decoded { consumed: 0, body: 0, end: true }));
}

#[test]
fn an_endless_size_line_is_refused() {
    let endless = [&b"5;a="[..], &[b'x'; 5000]].concat();
    assert_eq!(decode(&endless, 100), Err(ChunkError::TooMuchOverhead));
    assert_eq!(decode(&[b'0'; 5000], 100), Err(ChunkError::TooMuchOverhead));
}

#[test]
fn long_extensions_on_small_chunks_pile_up() {
    let chunk = [&b"1;a="[..], &[b'x'; 100], b"\r\nz\r\n"].concat();
    assert_eq!(decode(&chunk.repeat(100), 1000), Err(ChunkError::TooMuchOverhead));
    // A stream of single bytes without them is slow, but honest.
    assert_eq!(decode(&b"1\r\nz\r\n".repeat(10_000), 1000), Ok(None));
    assert_eq!(decode(&b"1;ieof=yes\r\nz\r\n".repeat(10_000), 1000), Ok(None));
}

#[test]
fn trailers_are_bounded() {
    let many = [&b"0\r\n"[..], &b"X: 1\r\n".repeat(200)].concat();
    assert_eq!(decode(&many, 10), Err(ChunkError::TrailersTooLarge));
}

#[test]
fn size_lines_are_written_in_hex() {
    for (len, want) in
        [(1, &b"1\r\n"[..]), (31, b"1f\r\n"), (16_384, b"4000\r\n"), (usize::MAX, b"ffffffffffffffff\r\n")]
    {
        assert_eq!(chunk_header(len, &mut [0; 18]), want);
    }
}
