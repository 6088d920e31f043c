//! Accepting connections.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
use std::time::Duration;

use may::io::WaitIo;

use super::{Handle, Job};
use crate::runtime::world::Instant;
use crate::runtime::{clock, homing};

/// Connections accepted before others get a turn.
const ACCEPT_BATCH: usize = 64;
/// The pause after an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How often failing accepts are logged.
const COMPLAINT_EVERY: Duration = Duration::from_secs(10);

impl<P: 'static> Handle<P> {
    pub(super) fn accept_from(&self, socket: OwnedFd) {
        let worker = &self.0;
        // SAFETY: the descriptor is owned, and a listening TCP socket.
        let listener = unsafe { may::net::TcpListener::from_raw_fd(socket.into_raw_fd()) };
        let key = self.register(listener.inner().as_raw_fd(), listener.waker());
        worker.acceptors.borrow_mut().push(key);
        let (mut batch, mut next_complaint) = (0, Instant(0));
        loop {
            let failed = match accept(listener.inner().as_raw_fd()) {
                Ok((socket, peer)) => self.accepted(socket, peer).err(),
                Err(error) => Some(error),
            };
            batch += 1;
            let pause = match failed.as_ref().map(io::Error::kind) {
                None if batch < ACCEPT_BATCH => continue,
                None => Duration::ZERO,
                Some(io::ErrorKind::WouldBlock) if !worker.accepting.get() => break,
                Some(io::ErrorKind::WouldBlock) => Duration::MAX,
                // The client gave up before it was accepted (accept(2)): nothing is wrong here.
                Some(io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted) => continue,
                Some(_) => {
                    worker.counters.accept_errors.bump();
                    if clock::now_coarse() >= next_complaint {
                        next_complaint = clock::now_coarse() + COMPLAINT_EVERY;
                        log::warn!("worker {}: connections can't be accepted: {}", worker.id, text(failed.as_ref()));
                    }
                    ACCEPT_PAUSE
                }
            };
            batch = 0;
            if pause.is_zero() {
                worker.yielded.borrow_mut().push(key);
                worker.mailbox.ring();
            } else if pause < Duration::MAX {
                self.set_deadline(key, clock::now() + pause);
            }
            listener.wait_io();
            homing::check(worker.id);
            if let Some(slot) = worker.slots.borrow_mut().get_mut(key) {
                slot.expired = false;
            }
        }
        self.forget(key);
    }

    fn accepted(&self, socket: OwnedFd, peer: SocketAddr) -> io::Result<()> {
        let stream = self.adopt(socket, libc::EPOLLIN as u32 | libc::EPOLLOUT as u32)?;
        self.0.counters.accepted.bump();
        self.run(Job::Accepted(stream, peer));
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
