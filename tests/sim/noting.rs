//! A world over the layer, which is the proxy's here: what it writes and reads is noted as it sees it, since beneath the layer it
//! may be encrypted.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::task::Waker;

use maypole::proxy::{Parked, Proxy};
use maypole::runtime::world::{Arrival, Instant, Need, PeerState, Service, Stream, Wake, Watch, World};
use maypole::transport::{Layer, Layered, LayeredService, Stored};

use crate::net::SocketId;
use crate::pipe::SimPipe;
use crate::sim::Sim;
use crate::world::{SimStream, SimWorld};

/// What lies beneath the proxy: the layer that lies there in earnest, over a simulated network.
pub type Beneath = SimWorld<Stored<Parked>>;
pub type Served = LayeredService<Beneath, Hearing>;

#[derive(Clone)]
pub struct Noting {
    layered: Layered<Beneath>,
    sim: Sim,
}

/// A stream of any kind, and the socket that it goes by.
pub struct Noted {
    stream: Layer<SimStream>,
    sim: Sim,
    id: SocketId,
}

/// The proxy, as the layer calls it.
pub struct Hearing {
    proxy: Proxy<Noting>,
    sim: Sim,
}

impl Noting {
    pub fn new(layered: Layered<Beneath>, sim: &Sim) -> Self {
        Self { layered, sim: sim.clone() }
    }

    fn dialled(&self, stream: Layer<SimStream>) -> Noted {
        Noted { stream, sim: self.sim.clone(), id: self.sim.trail.last_dialled() }
    }
}

impl Hearing {
    pub fn new(proxy: Proxy<Noting>, sim: &Sim) -> Self {
        Self { proxy, sim: sim.clone() }
    }

    pub fn proxy(&self) -> &Proxy<Noting> {
        &self.proxy
    }

    /// The running task is there for this stream's client.
    fn noted(&self, stream: Layer<SimStream>) -> Noted {
        let served = self.sim.trail.served_by(self.sim.running.get());
        let id = served.expect("each connection is served by a task");
        Noted { stream, sim: self.sim.clone(), id }
    }
}

impl Service<Layered<Beneath>> for Hearing {
    fn accepted(&self, stream: Layer<SimStream>, arrival: Arrival) {
        self.proxy.accepted(self.noted(stream), arrival);
    }

    fn resumed(&self, stream: Layer<SimStream>, parked: Parked, wake: Wake) {
        self.proxy.resumed(self.noted(stream), parked, wake);
    }

    fn spare_descriptor(&self) -> bool {
        self.proxy.spare_descriptor()
    }

    fn tick(&self) {
        self.proxy.tick();
    }

    fn sweep(&self) -> bool {
        self.proxy.sweep()
    }
}

impl World for Noting {
    type Stream = Noted;
    type Parked = Parked;

    fn now(&self) -> Instant {
        self.layered.now()
    }

    fn unix_seconds(&self) -> u64 {
        self.layered.unix_seconds()
    }

    fn random(&self) -> u64 {
        self.layered.random()
    }

    fn worker(&self) -> usize {
        self.layered.worker()
    }

    fn connect(&self, address: SocketAddr) -> io::Result<Noted> {
        self.layered.connect(address).map(|stream| self.dialled(stream))
    }

    fn connect_encrypted(&self, address: SocketAddr, host: &str) -> io::Result<Noted> {
        self.layered.connect_encrypted(address, host).map(|stream| self.dialled(stream))
    }

    fn encryption_generation(&self) -> u32 {
        self.layered.encryption_generation()
    }

    fn wait(&self, on: &Noted, also: Option<(&Noted, Watch)>, deadline: Instant) -> Wake {
        self.layered.wait(&on.stream, also.map(|(also, watch)| (&also.stream, watch)), deadline)
    }

    fn yield_now(&self, on: &Noted) {
        self.layered.yield_now(&on.stream);
    }

    fn take_turns(&self, on: &Noted) {
        self.layered.take_turns(&on.stream);
    }

    fn wait_long(&self, on: &Noted, also: Option<(&Noted, Watch)>, deadline: Instant) -> Wake {
        self.layered.wait_long(&on.stream, also.map(|(also, watch)| (&also.stream, watch)), deadline)
    }

    fn waker(&self, on: &Noted) -> Waker {
        self.layered.waker(&on.stream)
    }

    fn park(&self, stream: Noted, parked: Parked, deadline: Instant) {
        self.layered.park(stream.stream, parked, deadline);
    }

    fn park_for(&self, need: Need, stream: Noted, parked: Parked, deadline: Instant) {
        self.layered.park_for(need, stream.stream, parked, deadline);
    }

    fn tie(&self, stream: &Noted, also: &Noted) -> bool {
        self.layered.tie(&stream.stream, &also.stream)
    }

    fn resume_parked(&self) {
        self.layered.resume_parked();
    }
}

impl Noted {
    /// The proxy wanted to write this, of which so many bytes were taken.
    fn has_written(&self, from: &[IoSlice<'_>], taken: usize) {
        let Self { sim, id, .. } = self;
        let first = from.first().map_or(&[][..], |piece| piece);
        sim.trail.written(sim.now(), sim.running.get(), *id, first, taken);
        let mut left = taken;
        for piece in from {
            let part = &piece[..piece.len().min(left)];
            left -= part.len();
            sim.trace.note_bytes(part);
            sim.net.tap(*id, part);
        }
    }
}

impl Stream for Noted {
    type Pipe = SimPipe;

    fn try_read(&self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.stream.try_read(into)?;
        self.sim.trace.note_bytes(&into[..read]);
        Ok(read)
    }

    fn try_write(&self, from: &[IoSlice<'_>]) -> io::Result<usize> {
        let written = self.stream.try_write(from);
        self.has_written(from, *written.as_ref().unwrap_or(&0));
        written
    }

    fn is_readable(&self) -> bool {
        self.stream.is_readable()
    }

    fn is_writable(&self) -> bool {
        self.stream.is_writable()
    }

    fn is_encrypted(&self) -> bool {
        self.stream.is_encrypted()
    }

    fn peer_identity(&self) -> Option<&str> {
        self.stream.peer_identity()
    }

    fn stands_for(&self, host: &str) -> bool {
        self.stream.stands_for(host)
    }

    fn peer_state(&self) -> PeerState {
        self.stream.peer_state()
    }

    fn is_quiet(&self, thorough: bool) -> bool {
        self.stream.is_quiet(thorough)
    }

    fn take_connect_error(&self) -> io::Result<()> {
        self.stream.take_connect_error()
    }

    fn room(&self) -> usize {
        self.stream.room()
    }

    fn unsent(&self) -> usize {
        self.stream.unsent()
    }

    fn takes_pipe(&self) -> bool {
        self.stream.takes_pipe()
    }

    fn pipe(&self, body_bytes: u64) -> Option<SimPipe> {
        self.stream.pipe(body_bytes)
    }

    fn try_fill(&self, pipe: &mut SimPipe, bytes_max: usize) -> io::Result<usize> {
        self.stream.try_fill(pipe, bytes_max)
    }

    /// Bytes in a pipe are of a body alone, so that they name no request.
    fn try_drain(&self, pipe: &mut SimPipe) -> io::Result<usize> {
        let written = self.stream.try_drain(pipe);
        self.sim.trail.written(self.sim.now(), self.sim.running.get(), self.id, &[], *written.as_ref().unwrap_or(&0));
        written
    }

    fn shutdown_write(&self) {
        self.stream.shutdown_write();
    }

    fn ends_at_once(&self) -> bool {
        self.stream.ends_at_once()
    }

    fn end_unsaid(&self) {
        self.stream.end_unsaid();
    }

    fn reset_on_close(&self) {
        self.stream.reset_on_close();
    }
}
