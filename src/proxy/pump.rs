//! A pump moves one body from one stream to another: never more of it in memory than one buffer, never a wait of its
//! own. It reads when its block is written, so backpressure goes from end to end. A long body whose length is known
//! goes through a pipe instead of the buffer, where one is to be had: this program need not look at it.

use std::io::{self, IoSlice};
use std::rc::Rc;

use super::bound::{BODY_BUFFER_BYTES, Bound};
use super::error::Failure;
use crate::http1::{ChunkError, Decoder, Framing, HopTrailers, chunk_header};
use crate::runtime::buffer::{Buffer, Buffers};
use crate::runtime::world::{Pipe, Stream};

/// Bytes that a pump moves before it asks whether others should get a turn.
pub(super) const TURN_BYTES: usize = 128 * 1024;

/// Up to this size, copying a body behind its head is cheaper than writing from two places.
pub(super) const COPY_BYTES_MAX: usize = 2048;

/// A buffer larger than this is filled with no more than its receiver takes at once.
const BUFFER_BYTES_UNASKED: usize = 32 * 1024;
/// What is read at least: it has to meet with no room before the stream says that there is room again.
const PIECE_BYTES_MIN: usize = 2048;

/// A body on its way.
pub(super) struct Pump<S: Stream> {
    reader: Reader,
    /// The body goes out in chunks.
    chunks: bool,
    /// The body's end was read.
    ended: bool,
    block: Block,
    /// Its sender can't set those trailers that this plan says.
    withholding: Option<(Rc<Bound>, bool)>,
    hop_trailers: Option<HopTrailers>,
    /// Payload behind the block, on its way past the buffer. Kept without bytes inside only while bytes move.
    pipe: Option<S::Pipe>,
    /// Payload bytes read so far, and how many there may be.
    payload_bytes: u64,
    payload_max: u64,
    /// Bytes written so far: grows with every progress.
    written: u64,
    /// The stream's end says nothing of the body's.
    close_distrusted: bool,
}

enum Reader {
    Length { whole: u64, left: u64 },
    Chunked(Decoder),
    UntilClose,
}

/// What is to be written next, in this order: what was left of a head, a chunk's size line, payload at the buffer's
/// front, what ends the chunk or the body.
struct Block {
    lead: Vec<u8>,
    prefix: [u8; 18],
    prefix_bytes: u8,
    payload: usize,
    /// Bytes behind the payload that belong to it but are not passed on (chunk framing).
    skip: usize,
    suffix: &'static [u8],
    trailers: Vec<u8>,
    /// How much of lead + prefix + payload + suffix + trailers is still to be written.
    left: usize,
}

/// Where a pump stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The body is through.
    Done,
    /// Nothing to read now.
    NeedsRead,
    /// No room to write now.
    NeedsWrite,
    /// It could go on, but others may want a turn.
    Yields,
}

/// What broke a body off.
#[derive(Debug)]
pub(super) enum PumpError {
    /// Reading failed.
    Read,
    /// The stream ended before the body.
    EarlyEnd,
    /// The chunks are malformed.
    Chunk(ChunkError),
    /// More payload than allowed.
    TooLarge,
    /// Writing failed.
    Write,
}

impl<S: Stream> Pump<S> {
    /// A pump for a body that comes in as `from` and goes out in chunks or plainly. `payload_max` of 0: no bound.
    pub(super) fn new(from: Framing, chunks: bool, payload_max: u64, trailer_bytes_max: usize) -> Self {
        let reader = match from {
            Framing::None => Reader::Length { whole: 0, left: 0 },
            Framing::Length(n) => Reader::Length { whole: n, left: n },
            Framing::Chunked => Reader::Chunked(Decoder::new(trailer_bytes_max)),
            Framing::UntilClose => Reader::UntilClose,
        };
        let payload_max = if payload_max == 0 { u64::MAX } else { payload_max };
        let ended = matches!(reader, Reader::Length { left: 0, .. });
        Self {
            reader,
            chunks,
            ended,
            block: Block::new(),
            withholding: None,
            hop_trailers: None,
            pipe: None,
            payload_bytes: 0,
            payload_max,
            written: 0,
            close_distrusted: false,
        }
    }

    /// The body is a backend's answer, which is read as its senders write it.
    pub(super) fn of_backend(mut self) -> Self {
        if let Reader::Chunked(decoder) = self.reader {
            self.reader = Reader::Chunked(decoder.padded());
        }
        self
    }

    /// Drops fields where they come behind the body: what a peer that isn't trusted can't set by this plan, and what goes no
    /// further than this hop.
    pub(super) fn withhold(&mut self, of_peer: Option<(&Rc<Bound>, bool)>, hop: Option<&HopTrailers>) {
        self.withholding = of_peer.map(|(bound, trusted)| (Rc::clone(bound), trusted));
        self.hop_trailers = hop.cloned();
    }

    /// Puts `rest` in front of the body: what could not be written of a head.
    pub(super) fn lead_with(&mut self, rest: &[u8]) {
        self.block.lead = rest.to_vec();
        self.block.left += rest.len();
    }

    /// Takes what `buffer` has of the body and writes it behind `head`, in one call where it fits. What doesn't fit of
    /// the head is kept.
    pub(super) fn begin(&mut self, head: &mut Vec<u8>, buffer: &mut Buffer, to: &S) -> Result<(), PumpError> {
        self.load(buffer)?;
        if self.block.left <= COPY_BYTES_MAX {
            self.block.pieces(buffer).iter().for_each(|piece| head.extend_from_slice(piece));
            self.block.advance(self.block.left, buffer);
        }
        let [_, prefix, payload, suffix, trailers] = self.block.pieces(buffer);
        let pieces = [head, prefix, payload, suffix, trailers];
        match write(to, &pieces) {
            Ok(n) => {
                self.written += n as u64;
                let of_head = n.min(head.len());
                self.block.advance(n - of_head, buffer);
                if of_head < head.len() {
                    self.lead_with(&head[of_head..]);
                }
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.lead_with(head);
                Ok(())
            }
            Err(_) => Err(PumpError::Write),
        }
    }

    /// Moves what can be moved without waiting.
    pub(super) fn step(&mut self, from: &S, buffer: &mut Buffer, to: &S) -> Result<Step, PumpError> {
        let step = self.go(from, buffer, to);
        // While nothing moves others may have the pipe, unless it holds what is to be written.
        self.pipe.take_if(|pipe| pipe.is_empty());
        step
    }

    fn go(&mut self, from: &S, buffer: &mut Buffer, to: &S) -> Result<Step, PumpError> {
        let mut turn = 0;
        loop {
            while self.has_to_write() {
                if !to.is_writable() {
                    return Ok(Step::NeedsWrite);
                }
                match self.write_on(buffer, to) {
                    Ok(n) => self.written += n as u64,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Step::NeedsWrite),
                    Err(_) => return Err(PumpError::Write),
                }
            }
            if self.ended {
                return Ok(Step::Done);
            }
            if buffer.is_empty() {
                if turn >= TURN_BYTES {
                    return Ok(Step::Yields);
                }
                if !from.is_readable() {
                    return Ok(Step::NeedsRead);
                }
                match self.read_on(from, buffer, to) {
                    Ok(0) => self.end_of_stream()?,
                    Ok(n) => turn += n,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Step::NeedsRead),
                    Err(_) => return Err(PumpError::Read),
                }
            }
            self.load(buffer)?;
        }
    }

    /// Something of what was read is still to be written.
    fn has_to_write(&self) -> bool {
        self.block.left > 0 || self.pipe.as_ref().is_some_and(|pipe| !pipe.is_empty())
    }

    /// Writes what is to be written, as far as it goes.
    fn write_on(&mut self, buffer: &mut Buffer, to: &S) -> io::Result<usize> {
        match &mut self.pipe {
            Some(pipe) if self.block.left == 0 => to.try_drain(pipe),
            _ => {
                let n = write(to, &self.block.pieces(buffer))?;
                self.block.advance(n, buffer);
                Ok(n)
            }
        }
    }

    /// Reads what comes next, into a pipe if one is to be had, else into the buffer.
    fn read_on(&mut self, from: &S, buffer: &mut Buffer, to: &S) -> io::Result<usize> {
        if let Reader::Length { whole, left } = &mut self.reader {
            self.pipe = self.pipe.take().or_else(|| if to.takes_pipe() { from.pipe(*whole) } else { None });
            if let Some(pipe) = &mut self.pipe {
                let bytes_max = piece_bytes(BODY_BUFFER_BYTES, to).min(usize::try_from(*left).unwrap_or(usize::MAX));
                match from.try_fill(pipe, bytes_max) {
                    Ok(n) => {
                        *left -= n as u64;
                        self.ended = *left == 0;
                        self.payload_bytes += n as u64;
                        return Ok(n);
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(error),
                    // What is wrong with the stream, if it isn't only this way to read it, a plain read tells.
                    Err(_) => {}
                }
            }
        }
        let bytes_max = piece_bytes(buffer.capacity(), to);
        let spare = buffer.spare();
        let bytes_max = bytes_max.min(spare.len());
        let n = from.try_read(&mut spare[..bytes_max])?;
        buffer.fill(n);
        Ok(n)
    }

    /// Before a long wait: takes what is in the pipe into a buffer, so that bodies which move have the pipe.
    pub(super) fn empty_pipe(&mut self, buffer: &mut Option<Buffer>, buffers: &Buffers) {
        let Some(pipe) = &mut self.pipe else { return };
        if buffer.as_ref().is_none_or(Buffer::is_empty) {
            let mut large = buffers.take();
            let poured = pipe.pour(large.spare());
            large.fill(poured);
            self.block.payload += poured;
            self.block.left += poured;
            *buffer = Some(large);
        }
        self.pipe.take_if(|pipe| pipe.is_empty());
    }

    /// From now on the end of the stream doesn't end a body that lasts until the close, but cuts it.
    pub(super) fn distrust_close(&mut self) {
        self.close_distrusted = true;
    }

    /// Bytes written so far.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    /// Bytes of the body read so far, its framing left out.
    pub(super) fn payload_bytes(&self) -> u64 {
        self.payload_bytes
    }

    /// Payload that is known to come still, beyond what is loaded; `None` when only its end will tell.
    pub(super) fn expects(&self) -> Option<u64> {
        match self.reader {
            Reader::Length { left, .. } => Some(left),
            _ => None,
        }
    }

    /// Makes a block of what `buffer` has of the body. Bytes behind the body's end stay in the buffer.
    fn load(&mut self, buffer: &mut Buffer) -> Result<(), PumpError> {
        if self.ended || buffer.is_empty() {
            return Ok(());
        }
        let (payload, used) = match &mut self.reader {
            Reader::Length { left, .. } => {
                let n = buffer.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= n as u64;
                self.ended = *left == 0;
                (n, n)
            }
            Reader::Chunked(decoder) => {
                let found = decoder.decode(buffer.filled_mut()).map_err(PumpError::Chunk)?;
                self.ended = found.end;
                if found.end && !decoder.trailers().is_empty() {
                    let withheld = self.withholding.as_ref();
                    let withheld = withheld.map(|(bound, trusted)| bound.route.rules.withheld(*trusted));
                    decoder.withhold(withheld, self.hop_trailers.as_ref());
                }
                (found.body, found.consumed)
            }
            Reader::UntilClose => (buffer.len(), buffer.len()),
        };
        self.payload_bytes += payload as u64;
        if self.payload_bytes > self.payload_max {
            return Err(PumpError::TooLarge);
        }
        self.block.payload = payload;
        self.block.skip = used - payload;
        self.frame();
        if payload == 0 {
            buffer.consume(std::mem::take(&mut self.block.skip));
        }
        Ok(())
    }

    fn end_of_stream(&mut self) -> Result<(), PumpError> {
        if self.close_distrusted || !matches!(self.reader, Reader::UntilClose) {
            return Err(PumpError::EarlyEnd);
        }
        self.ended = true;
        self.frame();
        Ok(())
    }

    /// Puts the outgoing framing around the block's payload.
    fn frame(&mut self) {
        let block = &mut self.block;
        if self.chunks {
            if block.payload > 0 {
                let mut digits = [0; 18];
                let header = chunk_header(block.payload, &mut digits);
                block.prefix[..header.len()].copy_from_slice(header);
                block.prefix_bytes = header.len() as u8;
            }
            let trailers = match &self.reader {
                Reader::Chunked(decoder) if self.ended => decoder.trailers(),
                _ => &[],
            };
            block.suffix = match (block.payload > 0, self.ended, trailers.is_empty()) {
                (true, false, _) => b"\r\n",
                (true, true, true) => b"\r\n0\r\n\r\n",
                (true, true, false) => b"\r\n0\r\n",
                (false, false, _) => b"",
                (false, true, true) => b"0\r\n\r\n",
                (false, true, false) => b"0\r\n",
            };
            if !trailers.is_empty() {
                block.trailers = [trailers, b"\r\n"].concat();
            }
        }
        block.left += block.prefix().len() + block.payload + block.suffix.len() + block.trailers.len();
    }
}

impl Block {
    const fn new() -> Self {
        Self {
            lead: Vec::new(),
            prefix: [0; 18],
            prefix_bytes: 0,
            payload: 0,
            skip: 0,
            suffix: b"",
            trailers: Vec::new(),
            left: 0,
        }
    }

    /// What is left, in order. Only whole pieces are counted off, so the first may be a part: see `advance`.
    fn pieces<'a>(&'a self, buffer: &'a Buffer) -> [&'a [u8]; 5] {
        [&self.lead, self.prefix(), &buffer.filled()[..self.payload], self.suffix, &self.trailers]
    }

    fn prefix(&self) -> &[u8] {
        &self.prefix[..usize::from(self.prefix_bytes)]
    }

    /// Counts `n` written bytes off the front.
    fn advance(&mut self, n: usize, buffer: &mut Buffer) {
        self.left -= n;
        let mut n = n;
        let mut off = |len: usize| {
            let taken = n.min(len);
            n -= taken;
            taken
        };
        let of_lead = off(self.lead.len());
        if of_lead > 0 {
            self.lead.drain(..of_lead);
        }
        let prefix_bytes = usize::from(self.prefix_bytes);
        let of_prefix = off(prefix_bytes);
        if of_prefix > 0 {
            self.prefix.copy_within(of_prefix..prefix_bytes, 0);
            self.prefix_bytes -= of_prefix as u8;
        }
        let of_payload = off(self.payload);
        self.payload -= of_payload;
        buffer.consume(of_payload);
        if self.payload == 0 && self.skip > 0 {
            buffer.consume(std::mem::take(&mut self.skip));
        }
        self.suffix = &self.suffix[off(self.suffix.len())..];
        let of_trailers = off(self.trailers.len());
        if of_trailers > 0 {
            self.trailers.drain(..of_trailers);
        }
    }
}

/// How much to read at once. What a slow receiver doesn't take stays in the buffer for as long as it is slow: of a large
/// one that would be most of it, and thousands of them are a memory full.
fn piece_bytes<S: Stream>(buffer_bytes: usize, to: &S) -> usize {
    if buffer_bytes <= BUFFER_BYTES_UNASKED { buffer_bytes } else { to.room().clamp(PIECE_BYTES_MIN, buffer_bytes) }
}

/// Writes the pieces in one call, leaving out the empty ones.
pub(super) fn write<S: Stream>(to: &S, pieces: &[&[u8]]) -> io::Result<usize> {
    let mut slices = [IoSlice::new(&[]); 5];
    let mut count = 0;
    for piece in pieces.iter().filter(|piece| !piece.is_empty()) {
        slices[count] = IoSlice::new(piece);
        count += 1;
    }
    if count == 0 { Ok(0) } else { to.try_write(&slices[..count]) }
}

/// What an upload that broke off on the client's side means.
pub(super) fn upload_failure(error: &PumpError) -> Failure {
    match error {
        PumpError::TooLarge => Failure::BodyTooLarge,
        PumpError::Chunk(error) => Failure::BadChunk(*error),
        PumpError::Read | PumpError::EarlyEnd | PumpError::Write => Failure::ClientGone,
    }
}

#[cfg(test)]
mod tests;
