//! Accepting connections, and sharing them out fairly.
//!
//! The kernel spreads connections over the workers' listeners by a hash, so of a few long ones most may land on one
//! worker. One that is ahead of another hands what it accepts over to it: then and never later, since what was read or
//! written of a connection binds it to its worker. Short ones stay where they are: the next moment deals anew.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::time::Duration;

use may::io::WaitIo;

use super::{Handle, Job};
use crate::runtime::stream::Owner;
use crate::runtime::world::{Arrival, Instant};
use crate::runtime::{clock, homing};

/// Connections accepted before others get a turn.
const ACCEPT_BATCH: usize = 64;
/// The pause after an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A worker may be ahead of another by one part in this many: handing over costs a wake-up, and among many connections
/// chance is fair enough.
const LEAD_PARTS: u64 = 8;
/// Jobs that wait for a coroutine, beyond which a worker leaves new connections to the kernel's backlog for a while: they
/// would take descriptors from those that are served.
const WAITING_MAX: usize = 256;
/// How often failing accepts are logged.
const WARN_INTERVAL: Duration = Duration::from_secs(10);

impl<P: 'static> Handle<P> {
    /// Accepts what comes to a listener.
    pub(super) fn run_acceptor(&self, listener_number: usize, socket: OwnedFd) {
        let worker = &self.0;
        // SAFETY: the descriptor is owned, and a listening TCP socket.
        let listener = unsafe { may::net::TcpListener::from_raw_fd(socket.into_raw_fd()) };
        let key = self.register(listener.inner().as_raw_fd(), listener.waker());
        worker.acceptors.borrow_mut().push(key);
        let (mut batch, mut next_warning) = (0, Instant(0));
        loop {
            while worker.runners.get().is_some_and(|runners| runners.waiting() >= WAITING_MAX) {
                self.pause_accepting(&listener, key, ACCEPT_PAUSE);
            }
            let failed = match accept(listener.inner().as_raw_fd()) {
                Ok((socket, peer)) => self.accepted(socket, Arrival { peer, listener: listener_number }).err(),
                Err(error) => Some(error),
            };
            batch += 1;
            let pause = match failed.as_ref().map(io::Error::kind) {
                // The client gave up before it was accepted (accept(2)): nothing is wrong here.
                None | Some(io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted) => {
                    if batch < ACCEPT_BATCH {
                        continue;
                    }
                    Duration::ZERO
                }
                Some(io::ErrorKind::WouldBlock) if !worker.accepting.get() => break,
                Some(io::ErrorKind::WouldBlock) => Duration::MAX,
                Some(_) => {
                    worker.counters.accept_errors.bump();
                    if clock::now_coarse() >= next_warning {
                        next_warning = clock::now_coarse() + WARN_INTERVAL;
                        log::warn!("worker {}: connections can't be accepted: {}", worker.id, text(failed.as_ref()));
                    }
                    ACCEPT_PAUSE
                }
            };
            batch = 0;
            self.pause_accepting(&listener, key, pause);
        }
        self.forget(key);
    }

    /// Gives others a turn until `pause` is over, or a connection comes.
    fn pause_accepting(&self, listener: &may::net::TcpListener, key: usize, pause: Duration) {
        let worker = &self.0;
        let wait = || {
            listener.wait_io();
            homing::check(worker.id);
        };
        if pause.is_zero() {
            return self.yield_slice(key, false, wait);
        }
        if pause < Duration::MAX {
            self.set_deadline(key, clock::now() + pause);
        }
        wait();
        if let Some(slot) = worker.slots.borrow_mut().get_mut(key) {
            slot.expired = false;
        }
    }

    fn accepted(&self, socket: OwnedFd, arrival: Arrival) -> io::Result<()> {
        let Some(other) = self.one_behind() else { return self.take_in(socket, arrival) };
        self.0.team.counters[other].arriving.fetch_add(1, Ordering::Relaxed);
        self.0.team.mailboxes.hand_over(other, socket, arrival);
        Ok(())
    }

    /// The worker with the fewest connections, when this one is ahead of it by more than it may be. None while it
    /// stops: the others may have looked into their mailboxes for the last time.
    fn one_behind(&self) -> Option<usize> {
        let worker = &self.0;
        if !worker.lifetimes.are_long() {
            return None;
        }
        let (fewest, other) = worker.team.counters.iter().map(|each| each.open()).zip(0..).min()?;
        let ahead = worker.counters.open() > fewest + fewest / LEAD_PARTS;
        (ahead && worker.accepting.get()).then_some(other)
    }

    /// Takes a connection that another worker accepted.
    pub(super) fn take_over(&self, socket: OwnedFd, arrival: Arrival) {
        self.0.counters.arriving.fetch_sub(1, Ordering::Relaxed);
        if self.take_in(socket, arrival).is_err() {
            self.0.counters.accept_errors.bump();
        }
    }

    fn take_in(&self, socket: OwnedFd, arrival: Arrival) -> io::Result<()> {
        let spare = || self.0.service.get().is_some_and(|service| service.spare_descriptor());
        let socket = match self.home(socket) {
            Ok(socket) => socket,
            Err((_, socket)) if spare() => self.home(socket).map_err(|(error, _)| error)?,
            Err((error, _)) => return Err(error),
        };
        let stream = self.adopt(socket, libc::EPOLLIN as u32 | libc::EPOLLOUT as u32)?;
        if let Some(slot) = self.0.slots.borrow_mut().get_mut(stream.key) {
            slot.accepted_at = clock::now_coarse();
        }
        self.0.counters.accepted.bump();
        self.run(Job::Accepted(stream, arrival));
        Ok(())
    }
}

fn text(error: Option<&io::Error>) -> String {
    error.map_or_else(String::new, ToString::to_string)
}

fn accept(listener: i32) -> io::Result<(OwnedFd, SocketAddr)> {
    // SAFETY: `listener` is an open listening socket for as long as its acceptor runs.
    let listener = unsafe { std::os::fd::BorrowedFd::borrow_raw(listener) };
    let (socket, peer) = socket2::SockRef::from(&listener).accept4(libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC)?;
    let peer = peer.as_socket().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
    Ok((OwnedFd::from(socket), peer))
}
