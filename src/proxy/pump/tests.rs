use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use super::*;
use crate::runtime::world::PeerState;

/// One end of a connection, as a test has it.
struct Script {
    unread: RefCell<VecDeque<u8>>,
    ended: bool,
    /// Bytes that it takes before it would block.
    room: Cell<usize>,
    written: RefCell<Vec<u8>>,
    /// Bytes that a pipe takes at a time; none: no pipe is to be had.
    pipe_bytes_max: usize,
    pipes_fail: bool,
    takes_pipe: bool,
    piped_bytes: Cell<usize>,
}

struct Queue(VecDeque<u8>);

impl Pipe for Queue {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn pour(&mut self, into: &mut [u8]) -> usize {
        let poured = into.len().min(self.0.len());
        into.iter_mut().zip(self.0.drain(..poured)).for_each(|(to, byte)| *to = byte);
        poured
    }
}

impl Script {
    fn new(unread: &[u8], room: usize) -> Self {
        Self {
            unread: RefCell::new(unread.iter().copied().collect()),
            ended: false,
            room: Cell::new(room),
            written: RefCell::default(),
            pipe_bytes_max: 4,
            pipes_fail: false,
            takes_pipe: true,
            piped_bytes: Cell::new(0),
        }
    }

    fn take(&self, bytes_max: usize) -> io::Result<Vec<u8>> {
        let mut unread = self.unread.borrow_mut();
        let taken = bytes_max.min(unread.len());
        if taken == 0 && !self.ended {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(unread.drain(..taken).collect())
    }
}

impl Stream for Script {
    type Pipe = Queue;

    fn try_read(&self, into: &mut [u8]) -> io::Result<usize> {
        let bytes = self.take(into.len())?;
        into[..bytes.len()].copy_from_slice(&bytes);
        Ok(bytes.len())
    }

    fn try_write(&self, from: &[IoSlice<'_>]) -> io::Result<usize> {
        let bytes: Vec<u8> = from.iter().flat_map(|slice| slice.iter().copied()).collect();
        let taken = bytes.len().min(self.room.get());
        if taken == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.room.set(self.room.get() - taken);
        self.written.borrow_mut().extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn takes_pipe(&self) -> bool {
        self.takes_pipe
    }

    fn pipe(&self, _body_bytes: u64) -> Option<Queue> {
        (self.pipe_bytes_max > 0).then(|| Queue(VecDeque::new()))
    }

    fn try_fill(&self, pipe: &mut Queue, bytes_max: usize) -> io::Result<usize> {
        assert!(pipe.is_empty() && bytes_max > 0);
        if self.pipes_fail {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        pipe.0.extend(self.take(bytes_max.min(self.pipe_bytes_max))?);
        self.piped_bytes.set(self.piped_bytes.get() + pipe.len());
        Ok(pipe.len())
    }

    fn try_drain(&self, pipe: &mut Queue) -> io::Result<usize> {
        assert!(self.takes_pipe && !pipe.is_empty());
        let drained = self.try_write(&[IoSlice::new(pipe.0.make_contiguous())])?;
        pipe.0.drain(..drained);
        Ok(drained)
    }

    fn is_readable(&self) -> bool {
        true
    }

    fn is_writable(&self) -> bool {
        true
    }

    fn peer_state(&self) -> PeerState {
        PeerState::Open
    }

    fn is_quiet(&self, _thorough: bool) -> bool {
        true
    }

    fn take_connect_error(&self) -> io::Result<()> {
        Ok(())
    }

    fn shutdown_write(&self) {}

    fn reset_on_close(&self) {}
}

fn begun(framing: Framing, buffer: &mut Buffer, to: &Script) -> Pump<Script> {
    let mut pump = Pump::new(framing, false, 0, 0);
    pump.begin(&mut b"head ".to_vec(), buffer, to).unwrap();
    pump
}

fn buffers() -> Buffers {
    Buffers::new(64, 1)
}

#[test]
fn a_short_body_is_copied_behind_its_head_and_a_longer_one_goes_from_where_it_is() {
    for (bytes, copied) in [(1, 1), (COPY_BYTES_MAX, COPY_BYTES_MAX), (COPY_BYTES_MAX + 1, 0)] {
        let mut buffer = Buffers::new(COPY_BYTES_MAX + 1, 1).take();
        buffer.append(&vec![b'x'; bytes]);
        let to = Script::new(b"", usize::MAX);
        let mut head = b"head ".to_vec();
        Pump::new(Framing::Length(bytes as u64), false, 0, 0).begin(&mut head, &mut buffer, &to).unwrap();
        assert_eq!(head.len(), 5 + copied, "{bytes} bytes");
        assert_eq!(to.written.borrow().len(), 5 + bytes);
    }
}

#[test]
fn what_the_buffer_has_goes_first_the_rest_through_pipes_and_what_follows_stays() {
    let (from, to) = (Script::new(b"fghij next", 100), Script::new(b"", 100));
    let mut buffer = buffers().take();
    buffer.append(b"abcde");
    let mut pump = begun(Framing::Length(10), &mut buffer, &to);
    assert_eq!(pump.step(&from, &mut buffer, &to).unwrap(), Step::Done);
    assert_eq!(*to.written.borrow(), b"head abcdefghij");
    assert_eq!(from.piped_bytes.get(), 5);
    assert_eq!(from.unread.borrow().iter().copied().collect::<Vec<u8>>(), b" next");
    assert_eq!((pump.written(), pump.payload_bytes(), pump.expects()), (15, 10, Some(0)));
}

#[test]
fn what_has_no_room_waits_in_the_pipe_and_an_empty_pipe_is_not_kept() {
    let (from, to) = (Script::new(b"abcdef", 100), Script::new(b"", 100));
    let mut buffer = buffers().take();
    let mut pump = begun(Framing::Length(8), &mut buffer, &to);
    to.room.set(3);
    assert_eq!(pump.step(&from, &mut buffer, &to).unwrap(), Step::NeedsWrite);
    assert_eq!((pump.pipe.as_ref().map(Pipe::len), buffer.len()), (Some(1), 0));
    to.room.set(100);
    assert_eq!(pump.step(&from, &mut buffer, &to).unwrap(), Step::NeedsRead);
    assert!(pump.pipe.is_none());
    assert_eq!(*to.written.borrow(), b"head abcdef");
}

#[test]
fn before_a_long_wait_the_pipe_is_emptied_and_the_order_stays() {
    let (from, to) = (Script::new(b"abcdefgh", 100), Script::new(b"", 100));
    let buffers = buffers();
    let mut buffer = buffers.take();
    let mut pump = begun(Framing::Length(8), &mut buffer, &to);
    to.room.set(1);
    assert_eq!(pump.step(&from, &mut buffer, &to).unwrap(), Step::NeedsWrite);
    let mut held = Some(buffer);
    pump.empty_pipe(&mut held, &buffers);
    let mut buffer = held.unwrap();
    assert!(pump.pipe.is_none());
    assert_eq!(buffer.filled(), b"bcd");
    to.room.set(100);
    assert_eq!(pump.step(&from, &mut buffer, &to).unwrap(), Step::Done);
    assert_eq!(*to.written.borrow(), b"head abcdefgh");
}

#[test]
fn without_a_pipe_or_where_it_fails_or_is_not_taken_the_body_goes_through_the_buffer() {
    let mut lacking = Script::new(b"abcdef", 100);
    lacking.pipe_bytes_max = 0;
    let mut failing = Script::new(b"abcdef", 100);
    failing.pipes_fail = true;
    let mut picky = Script::new(b"", 100);
    picky.takes_pipe = false;
    let taker = || Script::new(b"", 100);
    for (from, to) in [(lacking, taker()), (failing, taker()), (Script::new(b"abcdef", 100), picky)] {
        let mut buffer = buffers().take();
        let mut pump = begun(Framing::Length(6), &mut buffer, &to);
        assert_eq!(pump.step(&from, &mut buffer, &to).unwrap(), Step::Done);
        assert_eq!(*to.written.borrow(), b"head abcdef");
        assert_eq!(from.piped_bytes.get(), 0);
    }
}

#[test]
fn only_a_body_whose_length_is_known_goes_through_a_pipe() {
    for (framing, chunks) in [(Framing::UntilClose, false), (Framing::UntilClose, true), (Framing::Chunked, true)] {
        let mut from = Script::new(b"3\r\nabc\r\n0\r\n\r\n", 100);
        from.ended = true;
        let to = Script::new(b"", 100);
        let mut buffer = buffers().take();
        let mut pump = Pump::new(framing, chunks, 0, 100);
        assert_eq!(pump.step(&from, &mut buffer, &to).unwrap(), Step::Done);
        assert_eq!(from.piped_bytes.get(), 0, "{framing:?}");
    }
}

#[test]
fn a_stream_that_ends_within_the_pipe_cuts_the_body() {
    let mut from = Script::new(b"abcdef", 100);
    from.ended = true;
    let to = Script::new(b"", 100);
    let mut buffer = buffers().take();
    let mut pump = begun(Framing::Length(7), &mut buffer, &to);
    assert!(matches!(pump.step(&from, &mut buffer, &to), Err(PumpError::EarlyEnd)));
    assert_eq!(*to.written.borrow(), b"head abcdef");
}

#[test]
fn one_that_could_go_on_for_ever_yields_between_two_pieces() {
    let mut from = Script::new(&vec![b'o'; 3 * TURN_BYTES], 0);
    from.pipe_bytes_max = 1 << 16;
    let to = Script::new(b"", usize::MAX);
    let mut buffer = buffers().take();
    let mut pump = Pump::new(Framing::Length(3 << 20), false, 0, 0);
    for turn in 1..=2 {
        assert_eq!(pump.step(&from, &mut buffer, &to).unwrap(), Step::Yields);
        assert_eq!(to.written.borrow().len(), turn * TURN_BYTES);
        assert!(pump.pipe.is_none(), "others may have it meanwhile");
    }
}
