//! The [`World`] that a service sees of its worker.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::{Handle, MayWorld, Parked};
use crate::runtime::listen::keep_alive;
use crate::runtime::lot::Mode;
use crate::runtime::mailbox::{Bell, Controls};
use crate::runtime::stream::MayStream;
use crate::runtime::world::{Instant, Need, Stream, Wake, Watch, World};
use crate::runtime::{clock, stack};

/// How long the first wait on a backend goes without watching the client: most answers come sooner, and watching
/// costs a system call.
const WATCH_AFTER: Duration = Duration::from_millis(5);

/// How often a second stream that the kernel doesn't watch is looked at.
const UNWATCHED_POLL: Duration = Duration::from_millis(20);

impl<P: 'static> World for MayWorld<P> {
    type Stream = MayStream<Handle<P>>;
    type Parked = P;

    #[inline]
    fn now(&self) -> Instant {
        clock::now()
    }

    fn unix_seconds(&self) -> u64 {
        clock::unix_seconds()
    }

    fn random(&self) -> u64 {
        // SplitMix64 (Steele, Lea, Flood 2014).
        let state = self.0.0.random.get().wrapping_add(0x9E37_79B9_7F4A_7C15);
        self.0.0.random.set(state);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn worker(&self) -> usize {
        self.0.0.id
    }

    fn connect(&self, address: SocketAddr) -> io::Result<Self::Stream> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
        socket.set_tcp_nodelay(true)?;
        keep_alive(&socket)?;
        let socket = self.0.home(OwnedFd::from(socket)).map_err(|(error, _)| error)?;
        match socket2::SockRef::from(&socket).connect(&SockAddr::from(address)) {
            Ok(()) => {}
            Err(e) if e.raw_os_error() == Some(libc::EINPROGRESS) => {}
            Err(e) => {
                self.0.0.numbers.borrow_mut().give_back(socket.as_raw_fd());
                return Err(e);
            }
        }
        self.0.adopt(socket, 0)
    }

    fn wait(&self, on: &Self::Stream, also: Option<(&Self::Stream, Watch)>, deadline: Instant) -> Wake {
        let Some((second, watch)) = also else {
            return if self.0.wait_on(on, deadline) { Wake::Deadline } else { Wake::Event };
        };
        if second.pull() {
            return Wake::Event;
        }
        if watch == Watch::Hangup && !self.0.lot_mode(second.key).sees_hangups() {
            let first_look = clock::now_coarse() + WATCH_AFTER;
            if first_look < deadline {
                if !self.0.wait_on(on, first_look) {
                    return Wake::Event;
                }
                if second.pull() {
                    return Wake::Event;
                }
            }
        }
        self.0.set_wakes(second.key, Some(on.key));
        let armed = self.0.arm_lot(second, if watch == Watch::Everything { Mode::Everything } else { Mode::Hangup });
        let until = match watch {
            Watch::Everything if !armed => deadline.min(clock::now() + UNWATCHED_POLL),
            // Without a watch a hang-up is seen when the deadline or the backend's answer comes.
            _ => deadline,
        };
        let expired = !second.pull() && self.0.wait_on(on, until);
        self.0.set_wakes(second.key, None);
        if expired && until == deadline && !second.pull() { Wake::Deadline } else { Wake::Event }
    }

    fn yield_now(&self, on: &Self::Stream) {
        self.0.yield_slice(on.key, self.0.0.slice.began_by_event(), || {
            self.0.wait_on(on, Instant::NEVER);
        });
    }

    #[inline]
    fn take_turns(&self, on: &Self::Stream) {
        if self.0.0.slice.is_over() {
            self.yield_now(on);
        }
    }

    fn wait_long(&self, on: &Self::Stream, also: Option<(&Self::Stream, Watch)>, deadline: Instant) -> Wake {
        stack::without_unused(|| self.wait(on, also, deadline))
    }

    fn waker(&self, on: &Self::Stream) -> Waker {
        Waker::from(Arc::new(Bell { mailbox: Arc::clone(&self.0.0.mailbox), key: on.key }))
    }

    fn park(&self, stream: Self::Stream, parked: P, deadline: Instant) {
        self.0.park(Mode::Parked, stream, parked, deadline);
    }

    fn park_for(&self, need: Need, stream: Self::Stream, parked: P, deadline: Instant) {
        self.0.park(Mode::ParkedFor(need), stream, parked, deadline);
    }

    fn tie(&self, stream: &Self::Stream, also: &Self::Stream) -> bool {
        // Armed for the first time it tells at once of what is there.
        self.0.arm_lot(also, Mode::Everything);
        if also.pull() {
            return false;
        }
        self.0.set_wakes(also.key, Some(stream.key));
        if let Some(slot) = self.0.0.slots.borrow_mut().get_mut(stream.key) {
            slot.tied = Some(also.key as u32);
        }
        true
    }

    fn resume_parked(&self) {
        self.0.recall();
    }
}

impl<P: 'static> Handle<P> {
    fn park(&self, mode: Mode, mut stream: MayStream<Handle<P>>, parked: P, mut deadline: Instant) {
        // One that is still watched since it parked last brings no event for what has come meanwhile.
        stream.pull();
        let (key, ready) = (stream.key, stream.ready.get());
        {
            let mut slots = self.0.slots.borrow_mut();
            let Some(slot) = slots.get_mut(key) else { return };
            let watched = mode == Mode::Parked && slot.lot_mode == Mode::Parked && !stream.is_readable();
            if !watched && self.0.lot.arm(slot.fd, key, slot.lot_mode, mode).is_err() {
                // The kernel has no memory for it: the connection ends rather than wait unwatched. Accepting fails of
                // the same, and logs it now and then; a line for each connection here would hold the worker up.
                return self.0.counters.accept_errors.bump();
            }
            slot.lot_mode = mode;
            slot.parked = stream.io.take().map(|io| Parked { io, ready, what: parked });
            let tied = slot.tied.and_then(|tied| slots.get(tied as usize));
            if tied.is_some_and(|tied| tied.lot_mode != Mode::Everything) {
                deadline = deadline.min(clock::now() + UNWATCHED_POLL);
            }
        }
        self.set_deadline(key, deadline);
    }
}
