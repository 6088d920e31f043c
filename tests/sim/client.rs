//! A client as a scripted actor: one connection, its requests in random pieces, one after the other or pipelined, and
//! all that comes back.

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::rc::Rc;

use crate::door::Door;
use crate::net::SocketId;
use crate::origin::chunk;
use crate::peer::{Peer, Unsent};
use crate::plan::{ClientMisdeed, Exchange, RequestFraming};
use crate::sim::{SECOND, Signal, Sim, Time};
use crate::tally::{Fault, Promise};
use crate::wire::{Cut, Head, Pace, Wire};

/// Pieces in which a request trickles in.
const TRICKLES: usize = 6;

/// One connection of a client.
pub struct Client {
    pub from: IpAddr,
    pub to: Door,
    pub exchanges: Vec<Rc<Exchange>>,
    /// Sends requests without waiting for answers.
    pub pipelines: bool,
    /// The longest piece that it sends at a time, with a rest of up to so long after each.
    pub piece: usize,
    pub rest: Time,
    /// A rest of up to so long before each request but the first.
    pub think: Time,
    pub pace: Pace,
    /// How long it stays after its last answer, unless the proxy closes first.
    pub lingers: Time,
}

/// What a connection came to.
#[derive(Default)]
pub struct Log {
    pub answers: RefCell<Vec<Answer>>,
    /// Requests that were sent to their last byte.
    pub sent_whole: Cell<usize>,
    /// Requests of which at least one byte was sent.
    pub begun: Cell<usize>,
    /// When each request's first byte was, and its last.
    pub begun_at: RefCell<Vec<Time>>,
    pub sent_at: RefCell<Vec<Time>>,
    pub started: Cell<Time>,
    /// Its end of the connection.
    pub socket: Cell<Option<SocketId>>,
    /// Its handshake came to nothing.
    pub shut_out: Cell<bool>,
    /// How the connection ended, and when.
    pub end: RefCell<Option<(Cut, Time)>>,
    /// What came where nothing was due.
    pub stray: RefCell<Vec<u8>>,
}

/// A final response as it came.
#[derive(Debug)]
pub struct Answer {
    pub head: Head,
    pub status: u16,
    pub informational: Vec<u16>,
    pub body: Vec<u8>,
    /// Whole by its framing, or why not.
    pub end: Result<(), Cut>,
    /// When its head was there.
    pub head_at: Time,
    pub at: Time,
    /// How many bytes had come on the connection at its end.
    pub through: usize,
}

impl Client {
    pub fn brisk(from: IpAddr, to: Door, exchanges: Vec<Rc<Exchange>>) -> Self {
        Self {
            from,
            to,
            exchanges,
            pipelines: false,
            piece: 16_384,
            rest: 0,
            think: 0,
            pace: Pace { piece: 16_384, rest: 0, patience: 200 * SECOND },
            lingers: 0,
        }
    }

    /// Begins now; the log fills as the run goes.
    pub fn start(self, sim: &Sim, log: &Rc<Log>) {
        log.started.set(sim.now());
        let session = Session {
            client: self,
            log: log.clone(),
            final_head: Cell::new(0),
            gone: Cell::new(false),
            switched: Cell::new(false),
            news: Signal::default(),
        };
        let sim = sim.clone();
        sim.clone().spawn("client", move || {
            let peer = session.client.to.approach(&sim, session.client.from);
            let Ok(peer) = peer else {
                return sim.wrong(Promise::Answered, "a client couldn't connect at all");
            };
            session.log.socket.set(Some(peer.id()));
            if let Some(Err(cut)) = Door::enter(&peer).err().map(Cut::unless_bytes) {
                session.log.shut_out.set(true);
                *session.log.end.borrow_mut() = Some((cut, sim.now()));
                return;
            }
            let (peer, session) = (Rc::new(peer), Rc::new(session));
            let (writer, line) = (session.clone(), peer.clone());
            sim.spawn("client's writer", move || writer.write(&line));
            session.read(peer);
        });
    }
}

struct Session {
    client: Client,
    log: Rc<Log>,
    /// Final heads seen, 100s counted as half of one: what a writer waits for.
    final_head: Cell<usize>,
    gone: Cell<bool>,
    /// A 101 has come.
    switched: Cell<bool>,
    /// Raised when something came that a writer may wait for.
    news: Signal,
}

/// The writer stops here.
struct Stop;

impl From<Unsent> for Stop {
    fn from(_: Unsent) -> Self {
        Self
    }
}

impl Session {
    fn write(&self, peer: &Rc<Peer>) {
        for (number, exchange) in self.client.exchanges.iter().enumerate() {
            if !self.client.pipelines && !self.answered(peer, number) {
                return;
            }
            if self.log.answers.borrow().len() < number {
                peer.sim.struck(Fault::ClientPipelines);
            }
            if self.client.think > 0 && number > 0 {
                peer.sim.sleep(peer.sim.chance.below(self.client.think));
            }
            if self.gone.get() || self.write_request(peer, number, exchange).is_err() {
                return;
            }
            self.log.sent_whole.set(number + 1);
            self.log.sent_at.borrow_mut().push(peer.sim.now());
            if let Some(tunnel) = &exchange.tunnel {
                return self.write_through_tunnel(peer, number, tunnel);
            }
        }
    }

    /// Behind its body: once the answer is a 101, sends what goes through the tunnel, and closes its side.
    fn write_through_tunnel(&self, peer: &Rc<Peer>, number: usize, bytes: &[u8]) {
        let deadline = peer.sim.now() + 300 * SECOND;
        while self.final_head.get() < 2 * number + 2 && peer.sim.now() < deadline && !self.gone.get() {
            self.news.wait(&peer.sim, deadline);
        }
        if self.switched.get() && self.write_all(peer, bytes, ClientMisdeed::Nothing).is_ok() {
            end_tunnel(peer, self.client.exchanges[number].misdeed);
        }
    }

    /// Waits until `number` answers are there; false when there will be no more.
    fn answered(&self, peer: &Peer, number: usize) -> bool {
        while self.log.answers.borrow().len() < number && !self.gone.get() {
            self.news.wait(&peer.sim, peer.sim.now() + 600 * SECOND);
        }
        !self.gone.get()
    }

    fn write_request(&self, peer: &Rc<Peer>, number: usize, exchange: &Exchange) -> Result<(), Stop> {
        let mut head = exchange.head_bytes();
        let mut body = Vec::new();
        match exchange.framing {
            RequestFraming::NoBody | RequestFraming::Upgrade => {}
            RequestFraming::Length => body.extend_from_slice(&exchange.body),
            RequestFraming::Chunked => chunk(&exchange.body, &mut body, &peer.sim),
        }
        self.log.begun.set(number + 1);
        self.log.begun_at.borrow_mut().push(peer.sim.now());
        if let Some(spoilt) = exchange.spoilt() {
            spoilt.strike(&peer.sim);
        }
        if exchange.too_large {
            peer.sim.struck(Fault::ClientOverdoesBody);
        }
        if exchange.expects {
            self.write_pieces(peer, &head, exchange, 0)?;
            let deadline = peer.sim.now() + 3 * SECOND;
            while self.final_head.get() < 2 * number + 1 && peer.sim.now() < deadline && !self.gone.get() {
                self.news.wait(&peer.sim, deadline);
            }
            if self.final_head.get() >= 2 * number + 2 {
                // Answered without its body, which needn't be sent any more; nor can anything else.
                return Err(Stop);
            }
            return self.write_pieces(peer, &body, exchange, head.len());
        }
        head.append(&mut body);
        self.write_pieces(peer, &head, exchange, 0)
    }

    fn write_pieces(&self, peer: &Rc<Peer>, bytes: &[u8], exchange: &Exchange, before: usize) -> Result<(), Stop> {
        let (last, fault) = match exchange.misdeed {
            ClientMisdeed::StallsAfter(bytes) => (bytes, Fault::ClientStalls),
            ClientMisdeed::FinishesAfter(bytes) => (bytes, Fault::ClientHalfCloses),
            ClientMisdeed::LeavesAfter(bytes) => (bytes, Fault::ClientLeaves),
            ClientMisdeed::ResetsAfter(bytes) => (bytes, Fault::ClientResets),
            ClientMisdeed::CorruptsAfter(bytes) => (bytes, Fault::ClientCorrupts),
            _ => return self.write_all(peer, bytes, exchange.misdeed),
        };
        let last = last.saturating_sub(before);
        self.write_all(peer, &bytes[..last.min(bytes.len())], exchange.misdeed)?;
        if last > bytes.len() {
            return Ok(());
        }
        if last == bytes.len() {
            self.log.sent_whole.set(self.log.begun.get());
            self.log.sent_at.borrow_mut().push(peer.sim.now());
        }
        peer.sim.struck(fault);
        match exchange.misdeed {
            ClientMisdeed::FinishesAfter(_) => {
                tears(peer);
                peer.finish();
            }
            ClientMisdeed::LeavesAfter(_) => {
                self.gone.set(true);
                tears(peer);
                peer.close();
            }
            ClientMisdeed::CorruptsAfter(_) => peer.corrupt(peer.sim.now() + 300 * SECOND),
            ClientMisdeed::ResetsAfter(_) => {
                self.gone.set(true);
                peer.reset_on_close();
                peer.close();
            }
            _ => {}
        }
        Err(Stop)
    }

    fn write_all(&self, peer: &Rc<Peer>, bytes: &[u8], misdeed: ClientMisdeed) -> Result<(), Stop> {
        let (piece, trickles) = match misdeed {
            ClientMisdeed::Trickles(rest) => (bytes.len() / TRICKLES + 1, Some(rest)),
            _ => (self.client.piece, None),
        };
        if trickles.is_some() {
            peer.sim.struck(Fault::ClientTrickles);
        } else if bytes.len() > piece {
            peer.sim.struck(Fault::ClientSplits);
        }
        for piece in bytes.chunks(piece) {
            peer.send(piece, peer.sim.now() + 300 * SECOND)?;
            if let Some(rest) = trickles {
                peer.sim.sleep(rest);
            } else if self.client.rest > 0 {
                peer.sim.sleep(peer.sim.chance.below(self.client.rest));
            }
        }
        Ok(())
    }

    fn read(&self, peer: Rc<Peer>) {
        let sim = peer.sim.clone();
        if let Some(late) = self.client.exchanges.iter().find_map(|exchange| match exchange.misdeed {
            ClientMisdeed::ReadsLate(late) => Some(late),
            _ => None,
        }) {
            sim.struck(Fault::ClientReadsNothing);
            sim.sleep(late);
        }
        let mut wire = Wire::new(peer, self.client.pace);
        let end = self.read_answers(&mut wire);
        self.gone.set(true);
        self.news.raise(&sim);
        self.log.stray.borrow_mut().extend_from_slice(wire.held());
        *self.log.end.borrow_mut() = Some((end, sim.now()));
    }

    /// Reads until the connection ends or there is nothing more to wait for ([`Cut::Late`]).
    fn read_answers(&self, wire: &mut Wire) -> Cut {
        for (number, exchange) in self.client.exchanges.iter().enumerate() {
            match self.read_answer(wire, number, exchange) {
                Ok(true) => {}
                Ok(false) => break,
                Err(cut) => return cut,
            }
        }
        wire.pace.patience = self.client.lingers;
        match wire.begin() {
            Ok(()) => Cut::Malformed("more bytes than answers".to_owned()),
            Err(cut) => cut,
        }
    }

    /// True when another answer may follow on this connection.
    fn read_answer(&self, wire: &mut Wire, number: usize, exchange: &Exchange) -> Result<bool, Cut> {
        let mut informational = Vec::new();
        let (head, status) = loop {
            wire.begin()?;
            let head = wire.head()?;
            let status = head.status().ok_or_else(|| Cut::Malformed(head.line.clone()))?;
            if status >= 200 || status == 101 {
                break (head, status);
            }
            if status == 100 {
                self.final_head.set(2 * number + 1);
                self.news.raise(&wire.peer.sim);
            }
            informational.push(status);
        };
        self.switched.set(status == 101);
        self.final_head.set(2 * number + 2);
        self.news.raise(&wire.peer.sim);
        let head_at = wire.peer.sim.now();
        let mut body = Vec::new();
        let (end, reusable) = self.read_body(wire, exchange, &head, status, &mut body);
        let closing = head.lists("Connection", "close")
            || (head.line.starts_with("HTTP/1.0") && !head.lists("Connection", "keep-alive"));
        let failed = end.clone().err();
        let (at, through) = (wire.peer.sim.now(), wire.consumed());
        self.log.answers.borrow_mut().push(Answer { head, status, informational, body, end, head_at, at, through });
        self.news.raise(&wire.peer.sim);
        match failed {
            Some(cut) => Err(cut),
            None => Ok(reusable && !closing),
        }
    }

    /// How the body ended, and whether its end left the connection usable.
    fn read_body(
        &self,
        wire: &mut Wire,
        exchange: &Exchange,
        head: &Head,
        status: u16,
        body: &mut Vec<u8>,
    ) -> (Result<(), Cut>, bool) {
        if status == 101 {
            return (self.tunnel(wire, exchange, body), false);
        }
        if exchange.method == "HEAD" || status == 204 || status == 304 {
            return (Ok(()), true);
        }
        if head.lists("Transfer-Encoding", "chunked") {
            return (wire.chunked(body).map(drop), true);
        }
        if let Some(length) = head.field("Content-Length") {
            return match length.parse() {
                Ok(length) => (wire.exactly(length, body), true),
                Err(_) => (Err(Cut::Malformed(format!("Content-Length: {length}"))), false),
            };
        }
        match wire.until_end(body) {
            Cut::End => (Ok(()), false),
            cut => (Err(cut), false),
        }
    }

    /// Sends the exchange's body through the tunnel, closes its side, and reads to the end.
    fn tunnel(&self, wire: &mut Wire, exchange: &Exchange, body: &mut Vec<u8>) -> Result<(), Cut> {
        let (peer, piece, bytes) = (wire.peer.clone(), self.client.piece, exchange.body.clone());
        let misdeed = exchange.misdeed;
        // Where there is a body too, its writer goes on when that has left.
        if exchange.tunnel.is_none() {
            peer.sim.clone().spawn("client's tunnel", move || {
                for piece in bytes.chunks(piece) {
                    if peer.send(piece, peer.sim.now() + 300 * SECOND).is_err() {
                        return;
                    }
                }
                end_tunnel(&peer, misdeed);
            });
        }
        match wire.until_end(body) {
            Cut::End => Ok(()),
            cut => Err(cut),
        }
    }
}

/// What a client does once it has sent all that goes through its tunnel.
fn end_tunnel(peer: &Peer, misdeed: ClientMisdeed) {
    let sim = &peer.sim;
    match misdeed {
        ClientMisdeed::StallsAfter(_) => sim.struck(Fault::TunnelStalls),
        ClientMisdeed::CutsTunnel => {
            sim.struck(Fault::TunnelIsCut);
            match if peer.is_encrypted() { sim.chance.below(3) } else { 0 } {
                0 => {
                    peer.reset_on_close();
                    peer.close();
                }
                1 => {
                    peer.tear();
                    peer.finish();
                }
                _ => peer.corrupt(sim.now() + 300 * SECOND),
            }
        }
        _ => {
            sim.struck(Fault::TunnelHalfCloses);
            peer.finish();
        }
    }
}

/// Some end without a word of it, where one is due.
fn tears(peer: &Peer) {
    if peer.is_encrypted() && peer.sim.chance.percent(40) {
        peer.sim.struck(Fault::ClientTears);
        peer.tear();
    }
}
