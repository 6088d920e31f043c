//! Pipes between the service's sockets, for bodies of any length.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice};

use maypole::runtime::world::Pipe;

use crate::net::SocketId;
use crate::sim::Sim;
use crate::tally::Fault;

/// How often, of a hundred, a pipe does less than it could.
const FALLS_SHORT: u64 = 25;
/// How often, of a hundred, it does nothing at all.
const FAILS: u64 = 3;

pub struct SimPipe {
    sim: Sim,
    bytes: VecDeque<u8>,
}

impl SimPipe {
    /// An empty one, if this world has one just now.
    pub fn take(sim: &Sim) -> Option<Self> {
        if sim.temper.pipes == 0 {
            return None;
        }
        if !sim.chance.percent(sim.temper.pipes) {
            sim.struck(Fault::PipeLacks);
            return None;
        }
        sim.pipes.set(sim.pipes.get() + 1);
        Some(Self { sim: sim.clone(), bytes: VecDeque::new() })
    }

    /// Moves bytes from a socket in. That these are few doesn't say that no more are there.
    pub fn fill(&mut self, from: SocketId, bytes_max: usize) -> io::Result<usize> {
        assert!(self.bytes.is_empty() && bytes_max > 0, "a pipe is filled when it is empty");
        if self.sim.chance.percent(FAILS) {
            self.sim.struck(Fault::PipeFails);
            return Err(ErrorKind::Unsupported.into());
        }
        let there = self.sim.unread_bytes(from).min(bytes_max);
        let piece = self.part_of(there);
        // Of what is there the socket is asked for no more, so it doesn't find itself drained.
        let mut bytes = vec![0; piece.max(1)];
        let moved = self.sim.read(from, &mut bytes)?;
        self.bytes.extend(&bytes[..moved]);
        Ok(moved)
    }

    /// Moves bytes out to a socket.
    pub fn drain(&mut self, to: SocketId) -> io::Result<usize> {
        assert!(!self.bytes.is_empty(), "a pipe is drained when something is inside");
        let (first, second) = self.bytes.as_slices();
        let moved = self.sim.write(to, &[IoSlice::new(first), IoSlice::new(second)])?;
        self.bytes.drain(..moved);
        Ok(moved)
    }

    fn part_of(&self, bytes: usize) -> usize {
        if bytes > 1 && self.sim.chance.percent(FALLS_SHORT) {
            self.sim.struck(Fault::PipeStopsShort);
            return 1 + self.sim.chance.index(bytes - 1);
        }
        bytes
    }
}

impl Pipe for SimPipe {
    fn len(&self) -> usize {
        self.bytes.len()
    }

    fn pour(&mut self, into: &mut [u8]) -> usize {
        let poured = self.part_of(self.bytes.len().min(into.len()));
        for (to, byte) in into.iter_mut().zip(self.bytes.drain(..poured)) {
            *to = byte;
        }
        poured
    }
}

impl Drop for SimPipe {
    fn drop(&mut self) {
        self.sim.pipes.set(self.sim.pipes.get() - 1);
    }
}
