//! Who is told of what a socket can do, and when: edges for the service, levels for actors.

use super::*;

impl Sim {
    /// Tells a socket's holder what happened there.
    pub(super) fn tell(&self, id: SocketId, mask: Mask) {
        let (holder, due) = self.net.with(id, |socket| {
            socket.pending |= mask;
            (socket.holder, std::mem::replace(&mut socket.event_is_due, true))
        });
        if holder == Holder::Actor {
            self.net.with(id, |socket| socket.event_is_due = false);
            self.wake_actors(id);
        } else if !due {
            let delay = self.chance.within(&self.temper.event_delay);
            self.after(delay, move |sim| sim.deliver(id));
        }
    }

    pub(super) fn wake_actors(&self, id: SocketId) {
        let (reader, writer) = self.net.with(id, |socket| (socket.reader.take(), socket.writer.take()));
        for pause in [reader, writer].into_iter().flatten() {
            self.wake(pause, Woken::Event);
        }
    }

    /// An event reaches the worker.
    pub(super) fn deliver(&self, id: SocketId) {
        let space = self.space(id);
        let (mask, watcher) = self.net.with(id, |socket| {
            socket.event_is_due = false;
            let mut mask = std::mem::take(&mut socket.pending);
            if socket.closed {
                return (mask, Watcher::Nobody);
            }
            if self.temper.full_masks {
                mask |= socket.state(space);
            }
            socket.readable |= mask.meets(Mask::READABLE);
            socket.told_of_bytes |= mask.meets(Mask::READABLE);
            socket.writable |= mask.meets(Mask::WRITABLE);
            if mask.meets(Mask::HALF_CLOSED) && socket.peer_state == PeerState::Open {
                socket.peer_state = PeerState::HalfClosed;
            }
            let both_finished = self.temper.hangs_up_after_both && socket.fin_arrived && socket.fin_sent;
            if mask.meets(Mask::RESET) && (socket.broken.is_some() || both_finished) {
                socket.peer_state = PeerState::Reset;
            }
            let wanted = match &socket.watcher {
                Watcher::Nobody => false,
                Watcher::Waits(_, wanted) | Watcher::Parked(wanted, _) => mask.meets(*wanted),
            };
            if !wanted {
                socket.latched |= mask;
                return (mask, Watcher::Nobody);
            }
            (mask, std::mem::replace(&mut socket.watcher, Watcher::Nobody))
        });
        self.trace.note(self.now(), "event", &[id.number(), u64::from(mask.0)], String::new);
        match watcher {
            Watcher::Nobody => {}
            Watcher::Waits(pause, _) => {
                self.wake(pause, Woken::Event);
            }
            Watcher::Parked(_, resume) => resume(self),
        }
    }

    /// Whether a wait on a worker's socket was ended by another worker since this was asked last.
    pub fn take_ring(&self, id: SocketId) -> bool {
        self.net.with(id, |socket| std::mem::take(&mut socket.rung))
    }

    /// Ends the wait on a worker's socket, or else the next one.
    pub fn ring(&self, id: SocketId) {
        let mut parked = None;
        let waiting = self.net.with(id, |socket| match &socket.watcher {
            Watcher::Waits(pause, _) => {
                socket.rung = true;
                Some(*pause)
            }
            Watcher::Parked(..) => {
                let Watcher::Parked(_, resume) = std::mem::replace(&mut socket.watcher, Watcher::Nobody) else {
                    return None;
                };
                parked = Some(resume);
                None
            }
            Watcher::Nobody => {
                socket.latched |= Mask::READABLE;
                None
            }
        });
        self.trace.note(self.now(), "ring", &[id.number()], String::new);
        if let Some(pause) = waiting {
            self.wake(pause, Woken::Event);
        }
        if let Some(resume) = parked {
            resume(self);
        }
    }

    /// Registers the only watcher of a worker's socket; false when there is one already.
    pub fn watch(&self, id: SocketId, watcher: Watcher) -> bool {
        self.net.with(id, |socket| {
            let free = matches!(socket.watcher, Watcher::Nobody);
            if free {
                socket.watcher = watcher;
            }
            free
        })
    }

    pub fn unwatch(&self, id: SocketId) -> Watcher {
        self.net.with(id, |socket| std::mem::replace(&mut socket.watcher, Watcher::Nobody))
    }

    /// Takes note of events that came while nobody waited; true when one of `wanted` did.
    pub fn take_latched(&self, id: SocketId, wanted: Mask) -> bool {
        self.net.with(id, |socket| std::mem::take(&mut socket.latched)).meets(wanted)
    }

    /// Bytes that have arrived at a socket and were not read yet.
    pub fn unread_bytes(&self, id: SocketId) -> usize {
        self.net.with(id, |socket| socket.inbox.len())
    }

    /// True when a parked socket would be resumed at once: there is something to read now.
    pub fn has_something(&self, id: SocketId) -> bool {
        self.net.with(id, |socket| !socket.inbox.is_empty() || socket.fin_arrived || socket.broken.is_some())
    }

    /// The kernel tells of what is there once more, as it does when a socket is registered anew.
    pub fn tell_again(&self, id: SocketId, wanted: Mask) {
        let space = if wanted.meets(Mask::WRITABLE) { self.space(id) } else { 0 };
        let mut mask = self.net.with(id, |socket| socket.state(space));
        if self.has_something(id) {
            mask |= Mask::READABLE;
        }
        if mask.meets(wanted) {
            self.tell(id, mask);
        }
    }

    pub fn is_readable(&self, id: SocketId) -> bool {
        self.net.with(id, |socket| socket.readable)
    }

    pub fn is_writable(&self, id: SocketId) -> bool {
        self.net.with(id, |socket| socket.writable)
    }

    pub fn peer_state(&self, id: SocketId) -> PeerState {
        self.net.with(id, |socket| socket.peer_state)
    }

    /// True when no event said that there is something to read or that the peer has gone.
    pub fn looks_quiet(&self, id: SocketId) -> bool {
        self.net.with(id, |socket| !socket.told_of_bytes && socket.peer_state == PeerState::Open)
    }

    /// Waits, as an actor, until a read (`reading`) or a write would do something. False when `deadline` came first.
    pub fn await_level(&self, id: SocketId, reading: bool, deadline: Time) -> bool {
        loop {
            let space = self.space(id);
            let state = self.net.with(id, |socket| socket.state(space));
            let closed = self.net.with(id, |socket| socket.closed);
            if closed || state.meets(if reading { Mask::READABLE } else { Mask::WRITABLE }) {
                return true;
            }
            if self.now() >= deadline {
                return false;
            }
            let pause = self.next_pause();
            self.net.with(id, |socket| {
                let place = if reading { &mut socket.reader } else { &mut socket.writer };
                assert!(place.is_none(), "two actors wait on one end");
                *place = Some(pause);
                if !reading {
                    socket.starved = true;
                }
            });
            self.after_idly(deadline - self.now(), move |sim| {
                sim.wake(pause, Woken::Deadline);
            });
            self.pause();
            self.net.with(id, |socket| {
                let place = if reading { &mut socket.reader } else { &mut socket.writer };
                *place = None;
            });
        }
    }
}
