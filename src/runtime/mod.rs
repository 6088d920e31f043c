//! What lives here: workers, homed sockets, deadlines, parking, buffers, mailboxes; all that knows `may`, epoll and
//! the operating system. What it may not know: HTTP. It is the only room with `unsafe`.
//!
//! A worker is one OS thread with an epoll of its own, on which coroutines run one at a time and never move
//! ([`homing`]). Each has a listener per address, a timing wheel on one timerfd, a mailbox on one eventfd, and a
//! parking lot (an epoll inside the worker's) for streams that no coroutine waits on.
#![allow(unsafe_code)]

pub mod buffer;
pub mod clock;
pub mod descriptors;
mod fd_numbers;
pub mod file_lock;
pub mod handshake;
pub mod homing;
pub mod listen;
mod lot;
mod mailbox;
mod pipe;
mod runner;
pub mod signals;
mod socket;
mod stack;
mod stack_count;
mod stream;
mod wheel;
mod worker;
pub mod world;

pub use mailbox::Mailboxes;
pub use stack_count::coroutines_max;
pub use stream::MayStream;
pub use worker::{Counter, Counters, MayWorld, Options, start};
