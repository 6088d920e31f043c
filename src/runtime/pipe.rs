//! Pipes of the kernel, through which bytes go from socket to socket without a copy in user memory (splice(2)).

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::rc::{Rc, Weak};
use std::time::Duration;

use super::clock;
use super::world::{Instant, Pipe};

/// What a pipe must hold to be worth its price: the kernel's default, which needs no privilege. A user with too many
/// pipes gets them with a page or two (`fs.pipe-user-pages-soft` in pipe(7)).
const CAPACITY_BYTES: i32 = 64 * 1024;
/// A body of fewer bytes is cheaper to copy: `docs/decisions/009-large-bodies.md`.
const BODY_BYTES_MIN: u64 = 64 * 1024;
/// When none could be opened, none is tried again for so long.
const PAUSE: Duration = Duration::from_secs(1);

/// A worker's pipes, of which no more than so many are open. Those that are empty are used again.
#[derive(Debug)]
pub(super) struct Pipes(Rc<Rack>);

#[derive(Debug)]
struct Rack {
    free: RefCell<Vec<Rc<Tube>>>,
    open: Cell<usize>,
    open_max: usize,
    /// Their descriptors have numbers below this.
    below: RawFd,
    next_try: Cell<Instant>,
}

/// A pipe that is lent. Dropped, it goes back to its worker if it is empty, and is closed if it isn't.
///
/// As small as a pointer: every exchange has room for one, and few have one.
#[derive(Debug)]
pub struct KernelPipe(Rc<Tube>);

/// A pipe that is open. Its rack has it while it is free, a [`KernelPipe`] else.
#[derive(Debug)]
struct Tube {
    ends: Ends,
    bytes: Cell<usize>,
    home: Weak<Rack>,
}

#[derive(Debug)]
struct Ends {
    reading: OwnedFd,
    writing: OwnedFd,
}

impl Pipes {
    /// At most `open_max` pipes, with descriptors below `below`.
    pub(super) fn new(open_max: usize, below: RawFd) -> Self {
        let free = RefCell::new(Vec::with_capacity(open_max));
        Self(Rc::new(Rack { free, open: Cell::new(0), open_max, below, next_try: Cell::new(Instant(0)) }))
    }

    /// An empty pipe for a body of so many bytes; None when a copy is cheaper, or no pipe is to be had.
    pub(super) fn take(&self, body_bytes: u64) -> Option<KernelPipe> {
        if body_bytes < BODY_BYTES_MIN {
            return None;
        }
        let free = self.0.free.borrow_mut().pop();
        free.or_else(|| Rack::open(&self.0)).map(KernelPipe)
    }
}

impl Rack {
    fn open(self: &Rc<Self>) -> Option<Rc<Tube>> {
        if self.open.get() == self.open_max || clock::now_coarse() < self.next_try.get() {
            return None;
        }
        let Some(ends) = Ends::open().ok().filter(|ends| ends.are_below(self.below) && ends.are_roomy()) else {
            self.next_try.set(clock::now_coarse() + PAUSE);
            return None;
        };
        self.open.set(self.open.get() + 1);
        Some(Rc::new(Tube { ends, bytes: Cell::new(0), home: Rc::downgrade(self) }))
    }
}

impl Ends {
    fn open() -> io::Result<Self> {
        let mut fds = [0; 2];
        // SAFETY: there is room for the two descriptors that are written.
        if unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC | libc::O_NONBLOCK) } < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: pipe2 just returned them, and they have no other owner.
        let [reading, writing] = fds.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
        Ok(Self { reading, writing })
    }

    fn are_below(&self, below: RawFd) -> bool {
        self.reading.as_raw_fd().max(self.writing.as_raw_fd()) < below
    }

    fn are_roomy(&self) -> bool {
        // SAFETY: the descriptor is open, and the call takes no pointer.
        unsafe { libc::fcntl(self.writing.as_raw_fd(), libc::F_GETPIPE_SZ) >= CAPACITY_BYTES }
    }
}

impl KernelPipe {
    /// Moves up to `bytes_max` bytes from a socket into the pipe, which must be empty: so when it would block, there is
    /// nothing at the socket. That fewer were moved says nothing, since the pipe counts pieces, not bytes.
    pub(super) fn fill(&mut self, from: RawFd, bytes_max: usize) -> io::Result<usize> {
        debug_assert!(self.is_empty());
        let moved = splice(from, self.0.ends.writing.as_raw_fd(), bytes_max)?;
        self.0.bytes.set(moved);
        Ok(moved)
    }

    /// Moves what a socket takes of the pipe's bytes, of which there must be some: so when it would block, the socket
    /// has no room.
    pub(super) fn drain(&mut self, to: RawFd) -> io::Result<usize> {
        debug_assert!(!self.is_empty());
        let moved = splice(self.0.ends.reading.as_raw_fd(), to, self.len())?;
        self.0.bytes.set(self.len() - moved);
        Ok(moved)
    }
}

impl Pipe for KernelPipe {
    fn len(&self) -> usize {
        self.0.bytes.get()
    }

    fn pour(&mut self, into: &mut [u8]) -> usize {
        let mut poured = 0;
        while self.len() > 0 && poured < into.len() {
            let rest = &mut into[poured..];
            // SAFETY: `rest` has room for as many bytes, and the descriptor is open.
            let n = unsafe { libc::read(self.0.ends.reading.as_raw_fd(), rest.as_mut_ptr().cast(), rest.len()) };
            match usize::try_from(n) {
                Ok(n) if n > 0 => {
                    self.0.bytes.set(self.len() - n);
                    poured += n;
                }
                _ => break,
            }
        }
        poured
    }
}

impl Drop for KernelPipe {
    fn drop(&mut self) {
        let Some(home) = self.0.home.upgrade() else { return };
        if self.is_empty() {
            home.free.borrow_mut().push(Rc::clone(&self.0));
        } else {
            home.open.set(home.open.get() - 1);
        }
    }
}

fn splice(from: RawFd, to: RawFd, bytes: usize) -> io::Result<usize> {
    loop {
        // SAFETY: null offsets are what sockets and pipes take; both descriptors are open.
        let n = unsafe {
            libc::splice(from, std::ptr::null_mut(), to, std::ptr::null_mut(), bytes, libc::SPLICE_F_NONBLOCK)
        };
        if let Ok(n) = usize::try_from(n) {
            return Ok(n);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    const LONG: u64 = 1 << 30;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let here = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let there = listener.accept().unwrap().0;
        (here, there)
    }

    fn pipes(open_max: usize) -> Pipes {
        Pipes::new(open_max, RawFd::MAX)
    }

    /// A pipe with these bytes inside.
    fn filled(pipes: &Pipes, bytes: &[u8]) -> KernelPipe {
        let (mut here, there) = pair();
        here.write_all(bytes).unwrap();
        let mut pipe = pipes.take(LONG).unwrap();
        assert_eq!(pipe.fill(there.as_raw_fd(), 1 << 16).unwrap(), bytes.len());
        pipe
    }

    #[test]
    fn bytes_come_out_as_they_went_in() {
        let pipes = pipes(1);
        let (here, mut there) = pair();
        let mut pipe = filled(&pipes, b"hello world");
        let mut part = [0; 6];
        assert_eq!((pipe.pour(&mut part), &part), (6, b"hello "));
        assert_eq!((pipe.drain(here.as_raw_fd()).unwrap(), pipe.len()), (5, 0));
        let mut rest = [0; 5];
        there.read_exact(&mut rest).unwrap();
        assert_eq!(&rest, b"world");
    }

    #[test]
    fn no_more_is_taken_from_a_socket_than_was_asked_for() {
        let pipes = pipes(1);
        let (mut here, mut there) = pair();
        here.write_all(b"bodynext").unwrap();
        let mut pipe = pipes.take(LONG).unwrap();
        assert_eq!(pipe.fill(there.as_raw_fd(), 4).unwrap(), 4);
        let mut next = [0; 4];
        there.read_exact(&mut next).unwrap();
        assert_eq!(&next, b"next");
    }

    #[test]
    fn a_socket_says_that_it_has_nothing_and_that_it_has_ended() {
        let pipes = pipes(1);
        let (here, there) = pair();
        there.set_nonblocking(true).unwrap();
        let mut pipe = pipes.take(LONG).unwrap();
        assert_eq!(pipe.fill(there.as_raw_fd(), 4).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(here);
        assert_eq!(pipe.fill(there.as_raw_fd(), 4).unwrap(), 0);
    }

    #[test]
    fn an_empty_pipe_is_used_again_and_one_with_bytes_inside_is_not() {
        let pipes = pipes(2);
        let pipe = pipes.take(LONG).unwrap();
        let number = pipe.0.ends.reading.as_raw_fd();
        drop(pipe);
        let again = pipes.take(LONG).unwrap();
        assert_eq!(again.0.ends.reading.as_raw_fd(), number);
        drop(again);
        drop(filled(&pipes, b"secret"));
        assert_eq!((pipes.0.free.borrow().len(), pipes.0.open.get()), (0, 0));
        let mut clean = pipes.take(LONG).unwrap();
        assert_eq!(clean.pour(&mut [0; 6]), 0);
    }

    #[test]
    fn there_are_no_more_pipes_than_there_may_be() {
        let pipes = pipes(2);
        let [first, second] = [pipes.take(LONG), pipes.take(LONG)];
        assert!(first.is_some() && second.is_some());
        assert!(pipes.take(LONG).is_none());
        drop(first);
        assert!(pipes.take(LONG).is_some());
    }

    #[test]
    fn a_short_body_gets_no_pipe() {
        let pipes = pipes(1);
        assert!(pipes.take(BODY_BYTES_MIN - 1).is_none());
        assert!(pipes.take(BODY_BYTES_MIN).is_some());
    }

    #[test]
    fn a_pipe_leaves_the_control_planes_descriptors_alone() {
        let pipes = Pipes::new(1, 0);
        assert!(pipes.take(LONG).is_none());
        assert_eq!(pipes.0.open.get(), 0);
        assert!(pipes.0.next_try.get() > clock::now_coarse(), "it waits before it tries again");
    }

    #[test]
    fn a_pipe_of_a_page_or_two_is_not_roomy() {
        let ends = Ends::open().unwrap();
        assert!(ends.are_roomy());
        // SAFETY: the descriptor is open, and the call takes no pointer.
        let bytes = unsafe { libc::fcntl(ends.writing.as_raw_fd(), libc::F_SETPIPE_SZ, 8192) };
        assert_eq!(bytes, 8192);
        assert!(!ends.are_roomy());
    }
}
