//! How other threads reach a worker: a queue of messages and an eventfd that wakes its mailbox coroutine.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Wake;
use std::time::{Duration, Instant};

use crossbeam::channel;
use crossbeam::queue::SegQueue;

use super::world::Arrival;

/// What a message does on its worker; it must not wait.
pub(super) type Message = Box<dyn FnOnce(&dyn Controls) + Send>;

/// What messages may do to a worker.
pub(super) trait Controls {
    /// Serves a connection that another worker accepted.
    fn take_over(&self, socket: OwnedFd, arrival: Arrival);
    /// Accepts what is queued, then stops listening.
    fn stop_accepting(&self);
    /// Resumes every parked stream.
    fn recall(&self);
    /// Ends the wait on the stream of this slot, or resumes it where it is parked.
    fn wake(&self, key: usize);
}

/// One worker's mailbox.
#[derive(Debug)]
pub(super) struct Mailbox {
    queue: SegQueue<Message>,
    bell: OwnedFd,
    rung: AtomicBool,
}

/// The mailboxes of all workers, for the control plane. Clones are handles to the same.
#[derive(Clone, Debug)]
pub struct Mailboxes(pub(super) Arc<[Arc<Mailbox>]>);

impl Mailboxes {
    /// Returns when every worker has passed its mailbox, so that what was stored before the call (a snapshot swapped in) is
    /// seen by every later pick, but waits no longer than `wait_max`. How many have not passed it.
    pub fn barrier(&self, wait_max: Duration) -> usize {
        let (done, passed) = channel::bounded::<()>(self.0.len());
        for mailbox in self.0.iter() {
            let done = done.clone();
            mailbox.post(Box::new(move |_| {
                let _ = done.try_send(());
            }));
        }
        let deadline = Instant::now() + wait_max;
        self.0.iter().filter(|_| passed.recv_deadline(deadline).is_err()).count()
    }

    /// Sends a connection that was just accepted to another worker.
    pub(super) fn hand_over(&self, worker: usize, socket: OwnedFd, arrival: Arrival) {
        self.0[worker].post(Box::new(move |worker| worker.take_over(socket, arrival)));
    }

    /// Has every worker accept what is queued, stop listening, and resume its parked streams.
    pub fn stop_accepting(&self) {
        for mailbox in self.0.iter() {
            mailbox.post(Box::new(|worker| {
                worker.stop_accepting();
                worker.recall();
            }));
        }
    }
}

/// Wakes the coroutine that waits on one of a worker's streams, or resumes the parked stream, from any thread.
pub(super) struct Bell {
    pub(super) mailbox: Arc<Mailbox>,
    /// The stream's slot. Once the stream is gone the slot may be another one's, whose wait then ends for nothing.
    pub(super) key: usize,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        let key = self.key;
        self.mailbox.post(Box::new(move |worker| worker.wake(key)));
    }
}

impl Mailbox {
    pub(super) fn new() -> io::Result<Self> {
        // SAFETY: no pointers; the result is checked and has no other owner.
        let fd = unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: eventfd just returned it.
        let bell = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { queue: SegQueue::new(), bell, rung: AtomicBool::new(false) })
    }

    /// Homes the bell for its worker.
    pub(super) fn homed(self, worker: usize, workers: usize) -> io::Result<Self> {
        Ok(Self { bell: super::homing::home(self.bell, worker, workers)?, ..self })
    }

    /// The descriptor that becomes readable when there is mail. The same one that [`Mailbox::ring`] writes to, lent for
    /// registering; it lives as long as the process.
    pub(super) fn bell(&self) -> BellFd {
        BellFd(self.bell.as_raw_fd())
    }

    fn post(&self, message: Message) {
        self.queue.push(message);
        self.ring();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Wakes the mailbox's coroutine; one system call however often it is rung before that one looks.
    pub(super) fn ring(&self) {
        if !self.rung.swap(true, Ordering::AcqRel) {
            let one = 1_u64.to_ne_bytes();
            // SAFETY: writes 8 bytes from a live array to an open descriptor. It can only fail when the counter is
            // full, and then the bell is rung already.
            unsafe { libc::write(self.bell.as_raw_fd(), one.as_ptr().cast(), one.len()) };
        }
    }

    /// Silences the bell. The mail is to be collected behind it, or the bell rung again: in this order none is missed.
    pub(super) fn silence(&self) {
        self.rung.store(false, Ordering::Release);
        let mut count = [0_u8; 8];
        // SAFETY: reads at most 8 bytes into a live array from an open, non-blocking descriptor.
        unsafe { libc::read(self.bell.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
    }

    /// Hands out the mail.
    pub(super) fn collect(&self) -> impl Iterator<Item = Message> + '_ {
        std::iter::from_fn(|| self.queue.pop())
    }
}

/// A descriptor that is lent, not owned: dropping it closes nothing.
#[derive(Debug)]
pub(super) struct BellFd(i32);

impl AsRawFd for BellFd {
    fn as_raw_fd(&self) -> i32 {
        self.0
    }
}
