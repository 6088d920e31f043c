//! An origin server as a scripted actor: it reads requests, records them, and answers as their exchange says.

use std::fmt::Write as _;
use std::rc::Rc;

use crate::net::{Connecting, Holder, Listener};
use crate::peer::{Peer, Unsent};
use crate::plan::{Afterwards, AnswerFraming, Answering, Book, Exchange, OriginMisdeed, Seen};
use crate::sim::{SECOND, Sim, Time};
use crate::wire::{Cut, Head, Pace, Wire};

/// How one origin behaves apart from what exchanges ask of it.
#[derive(Clone)]
pub struct Origin {
    pub number: usize,
    pub pace: Pace,
    /// How long it keeps a connection without a request.
    pub keeps_idle: Time,
    /// The longest piece that it sends at a time, with a rest of up to so long after each.
    pub piece: usize,
    pub rest: Time,
}

impl Origin {
    pub fn brisk(number: usize) -> Self {
        Self {
            number,
            pace: Pace { piece: 16_384, rest: 0, patience: 300 * SECOND },
            keeps_idle: 300 * SECOND,
            piece: 16_384,
            rest: 0,
        }
    }

    /// Takes connections as `outcome` says.
    pub fn listener(self, sim: &Sim, book: &Book, outcome: impl Fn() -> Connecting + 'static) -> Listener {
        let (sim, book, origin) = (sim.clone(), book.clone(), Rc::new(self));
        let accept = move |id, _| {
            let peer = Rc::new(Peer::new(&sim, id));
            let connection = Connection { origin: origin.clone(), book: book.clone(), peer };
            sim.spawn("origin", move || connection.serve());
        };
        Listener { outcome: Rc::new(outcome), accept: Rc::new(accept), holder: Holder::Actor }
    }
}

struct Connection {
    origin: Rc<Origin>,
    book: Book,
    peer: Rc<Peer>,
}

/// The connection is over.
struct Over;

impl From<Unsent> for Over {
    fn from(_: Unsent) -> Self {
        Self
    }
}

impl Connection {
    fn serve(self) {
        let mut wire = Wire::new(self.peer.clone(), self.origin.pace);
        while self.exchange(&mut wire).is_ok() {}
    }

    fn exchange(&self, wire: &mut Wire) -> Result<(), Over> {
        let patience = std::mem::replace(&mut wire.pace.patience, self.origin.keeps_idle);
        let begun = wire.begin();
        wire.pace.patience = patience;
        begun.map_err(|_| Over)?;
        let head = match wire.head() {
            Ok(head) => head,
            Err(Cut::Malformed(what)) => {
                self.peer.sim.fault(format!("an origin got {what}"));
                return Err(Over);
            }
            Err(_) => return Err(Over),
        };
        let id = head.field("x-sim-id").and_then(|id| id.parse().ok());
        let Some(exchange) = id.and_then(|id| self.book.exchange(id)) else {
            self.peer.sim.fault(format!("an origin got a request that nobody sent: {head:?}"));
            return Err(Over);
        };
        let attempt = self.book.times_seen(exchange.id);
        let answering = exchange.answering(attempt).clone();
        let place = self.record(&exchange, &head);
        if let OriginMisdeed::LeavesBeforeAnswer { rudely } = answering.misdeed {
            return self.leave(rudely);
        }
        if answering.early {
            self.answer(&exchange, &answering, attempt)?;
            self.read_body(wire, &head, place)?;
        } else {
            if head.lists("Expect", "100-continue") {
                self.send(b"HTTP/1.1 100 Continue\r\n\r\n")?;
            }
            self.read_body(wire, &head, place)?;
            self.answer(&exchange, &answering, attempt)?;
        }
        if answering.status == 101 {
            return self.echo(wire, place);
        }
        match answering.then {
            Afterwards::Stays if answering.framing != AnswerFraming::UntilClose => Ok(()),
            Afterwards::Stays | Afterwards::ClosesAsSaid => Err(Over),
            Afterwards::ClosesSilently(after) => {
                self.peer.sim.sleep(after);
                Err(Over)
            }
        }
    }

    fn record(&self, exchange: &Exchange, head: &Head) -> usize {
        let mut seen = self.book.seen.borrow_mut();
        seen.push(Seen {
            id: exchange.id,
            origin: self.origin.number,
            head: head.clone(),
            body: Vec::new(),
            trailers: Vec::new(),
            body_end: None,
            at: self.peer.sim.now(),
        });
        seen.len() - 1
    }

    fn read_body(&self, wire: &mut Wire, head: &Head, place: usize) -> Result<(), Over> {
        let mut body = Vec::new();
        let end = if head.lists("Transfer-Encoding", "chunked") {
            wire.chunked(&mut body)
        } else {
            let length = head.field("Content-Length").and_then(|length| length.parse().ok()).unwrap_or(0);
            wire.exactly(length, &mut body).map(|()| Vec::new())
        };
        let ok = end.is_ok();
        let mut seen = self.book.seen.borrow_mut();
        seen[place].body = body;
        seen[place].body_end = Some(end.map(|trailers| seen[place].trailers = trailers));
        if ok { Ok(()) } else { Err(Over) }
    }

    fn answer(&self, exchange: &Exchange, answering: &Answering, attempt: usize) -> Result<(), Over> {
        let sim = &self.peer.sim;
        if answering.delay > 0 {
            sim.sleep(answering.delay);
        }
        match answering.misdeed {
            OriginMisdeed::StallsBeforeAnswer => return self.stall(),
            OriginMisdeed::Babbles => {
                self.send(b"this is no answer at all\r\n\r\n")?;
                return Err(Over);
            }
            _ => {}
        }
        for status in &answering.informational {
            self.send(format!("HTTP/1.1 {status} Early\r\nx-sim-id: {}\r\n\r\n", exchange.id).as_bytes())?;
        }
        let head = answer_head(exchange, answering, attempt);
        if let OriginMisdeed::LeavesInHead { after, rudely } = answering.misdeed {
            self.send(&head[..after.min(head.len() - 1)])?;
            return self.leave(rudely);
        }
        if answering.status == 101 || exchange.method == "HEAD" || answering.framing == AnswerFraming::NoBody {
            return self.send(&head);
        }
        let mut bytes = head;
        let head_bytes = bytes.len();
        match answering.framing {
            AnswerFraming::Chunked => chunk(&answering.body, &mut bytes, &self.peer.sim),
            _ => bytes.extend_from_slice(&answering.body),
        }
        match answering.misdeed {
            OriginMisdeed::LeavesInBody { after, rudely } => {
                // At least one byte stays unsent.
                let end = (head_bytes + after).min(bytes.len() - 1).max(head_bytes);
                self.send(&bytes[..end])?;
                self.leave(rudely)
            }
            OriginMisdeed::StallsInBody { after } => {
                let end = (head_bytes + after).min(bytes.len() - 1).max(head_bytes);
                self.send(&bytes[..end])?;
                self.stall()
            }
            _ => self.send(&bytes),
        }
    }

    fn send(&self, bytes: &[u8]) -> Result<(), Over> {
        let sim = &self.peer.sim;
        for piece in bytes.chunks(self.origin.piece) {
            self.peer.send(piece, sim.now() + 300 * SECOND)?;
            if self.origin.rest > 0 {
                sim.sleep(sim.chance.below(self.origin.rest));
            }
        }
        Ok(())
    }

    fn leave(&self, rudely: bool) -> Result<(), Over> {
        if rudely {
            self.peer.reset_on_close();
        }
        Err(Over)
    }

    /// Says nothing more until the other side has gone.
    fn stall(&self) -> Result<(), Over> {
        let sim = &self.peer.sim;
        let until = sim.now() + 300 * SECOND;
        let mut rest = Vec::new();
        while let crate::peer::Got::Bytes(_) = self.peer.receive(&mut rest, 4_096, until) {
            rest.clear();
        }
        Err(Over)
    }

    /// After a 101: sends back what comes.
    fn echo(&self, wire: &mut Wire, place: usize) -> Result<(), Over> {
        let mut bytes = wire.held().to_vec();
        loop {
            self.send(&bytes)?;
            self.book.seen.borrow_mut()[place].body.append(&mut bytes);
            let got = self.peer.receive(&mut bytes, self.origin.pace.piece, self.peer.sim.now() + 300 * SECOND);
            if !matches!(got, crate::peer::Got::Bytes(_)) {
                return Err(Over);
            }
        }
    }
}

fn answer_head(exchange: &Exchange, answering: &Answering, attempt: usize) -> Vec<u8> {
    let mut head = format!("HTTP/1.1 {} Planned\r\nx-sim-id: {}\r\n", answering.status, exchange.id);
    let _ = write!(head, "x-sim-try: {attempt}\r\n");
    if answering.status == 101 {
        head.push_str("Connection: upgrade\r\nUpgrade: sim-echo\r\n");
    } else {
        match answering.framing {
            AnswerFraming::Length => {
                let _ = write!(head, "Content-Length: {}\r\n", answering.body.len());
            }
            AnswerFraming::Chunked => head.push_str("Transfer-Encoding: chunked\r\n"),
            AnswerFraming::UntilClose | AnswerFraming::NoBody => {}
        }
        let closes_unseen = answering.framing == AnswerFraming::UntilClose && exchange.method == "HEAD";
        if answering.then == Afterwards::ClosesAsSaid || closes_unseen {
            head.push_str("Connection: close\r\n");
        }
    }
    head.push_str("\r\n");
    head.into_bytes()
}

/// Appends `body` in chunks of any size.
pub fn chunk(body: &[u8], into: &mut Vec<u8>, sim: &Sim) {
    let mut rest = body;
    while !rest.is_empty() {
        let length = 1 + sim.chance.index(rest.len());
        into.extend_from_slice(format!("{length:x}\r\n").as_bytes());
        into.extend_from_slice(&rest[..length]);
        into.extend_from_slice(b"\r\n");
        rest = &rest[length..];
    }
    into.extend_from_slice(b"0\r\n\r\n");
}
