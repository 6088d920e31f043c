//! An origin server as a scripted actor: it reads requests, records them, and answers as their exchange says.

use std::fmt::Write as _;
use std::rc::Rc;
use std::sync::Arc;

use rustls::ServerConfig;

use crate::chance::Chance;
use crate::control::Site;
use crate::logins::Login;
use crate::net::{Connecting, Holder, Listener};
use crate::peer::{Got, Peer, Unsent};
use crate::plan::{Afterwards, AnswerFraming, Answering, Book, Exchange, OriginMisdeed, Seen};
use crate::sim::{SECOND, Sim, Time};
use crate::tally::{Fault, Promise};
use crate::trail::Deed;
use crate::welcome::{Manners, Welcome};
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
    /// How long it waits for a client that neither sends nor reads.
    pub gives_up: Time,
    pub site: Rc<Site>,
    /// None: it speaks in clear.
    pub tls: Option<Arc<ServerConfig>>,
    /// What it does wrong where it speaks TLS.
    pub manners: Manners,
}

impl Origin {
    pub fn brisk(number: usize) -> Self {
        Self {
            number,
            pace: Pace { piece: 16_384, rest: 0, patience: 300 * SECOND },
            keeps_idle: 300 * SECOND,
            piece: 16_384,
            rest: 0,
            gives_up: 300 * SECOND,
            site: Rc::default(),
            tls: None,
            manners: Manners::default(),
        }
    }

    /// Takes connections as `outcome` says, unless its site is down.
    pub fn listener(self, sim: &Sim, book: &Book, outcome: impl Fn() -> Connecting + 'static) -> Listener {
        let (sim, book, site, origin) = (sim.clone(), book.clone(), self.site.clone(), Rc::new(self));
        let outcome = move || if site.is_down() { Connecting::Refused(0) } else { outcome() };
        let accept = move |id, _| {
            let welcome = origin.tls.as_ref().map(|_| Welcome::any(&sim.chance, origin.manners));
            let cipher = origin.tls.as_ref().zip(welcome).and_then(|(config, welcome)| welcome.cipher(config));
            let peer = Rc::new(Peer::new(&sim, id, cipher));
            if origin.site.is_down() {
                return peer.reset_on_close();
            }
            origin.site.hold(&peer);
            let connection = Connection { origin: origin.clone(), book: book.clone(), peer };
            sim.spawn("origin", move || {
                if welcome.is_none_or(|welcome| welcome.greet(&connection.peer)) {
                    connection.serve();
                }
            });
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
        self.end();
    }

    /// Says that nothing more is said, where there is a way to say it, and then may wait for the other side's end.
    fn end(&self) {
        let (peer, sim) = (&self.peer, &self.peer.sim);
        match peer.say_end(self.origin.gives_up) {
            Ok(true) => {
                peer.note(Deed::Closes);
                if sim.chance.percent(20) {
                    sim.struck(Fault::BackendEndsAndStays);
                    let until = sim.now() + 5 * SECOND;
                    while let Got::Bytes(_) = peer.receive(&mut Vec::new(), 4_096, until) {}
                }
            }
            Err(Unsent::Late) => {
                peer.note(Deed::GivesUp);
                peer.reset_on_close();
            }
            Ok(false) | Err(Unsent::Gone) => {}
        }
    }

    fn exchange(&self, wire: &mut Wire) -> Result<(), Over> {
        let patience = std::mem::replace(&mut wire.pace.patience, self.origin.keeps_idle);
        let begun = wire.begin();
        wire.pace.patience = patience;
        begun.map_err(|_| Over)?;
        let head = match wire.head() {
            Ok(head) => head,
            Err(Cut::Malformed(what)) => {
                self.peer.sim.wrong(Promise::WellFormed, format!("an origin got {what}"));
                return Err(Over);
            }
            Err(_) => return Err(Over),
        };
        self.peer.sim.checked(Promise::WellFormed);
        let id = head.field("x-sim-id").and_then(|id| id.parse().ok());
        let Some(exchange) = id.and_then(|id| self.book.exchange(id)) else {
            if self.book.mutants.get() && id.is_none() {
                return self.answer_mutant(wire, &head);
            }
            let what = format!("an origin got a request that nobody sent: {head:?}");
            self.peer.sim.wrong(Promise::RequestBodies, what);
            return Err(Over);
        };
        let attempt = self.book.times_seen(exchange.id);
        let answering = exchange.answering(attempt).clone();
        let place = self.record(&exchange, &head);
        // The proxy may be through with it before its origin is: an answer with bytes changed may look shorter than it is, and
        // who stalls before a byte of nothing has sent all there is.
        let ends_early = match answering.misdeed {
            OriginMisdeed::Mutates(_) => true,
            OriginMisdeed::StallsInBody { .. } => answering.body.is_empty(),
            _ => false,
        };
        let mut busy = (!ends_early).then(|| self.book.places.take(&self.origin.site, &self.peer));
        if let OriginMisdeed::LeavesBeforeAnswer { rudely } = answering.misdeed {
            return self.leave(rudely, false);
        }
        if answering.early {
            let switches = answering.status == 101;
            let fault = if switches { Fault::BackendSwitchesEarly } else { Fault::BackendAnswersEarly };
            self.peer.sim.struck(fault);
            self.answer_whole(&exchange, &answering, attempt)?;
            busy = None;
            // It has said all it had to say.
            self.note_body(wire, &head, place).map_err(|_| Over)?;
        } else {
            if head.lists("Expect", "100-continue") {
                self.send(b"HTTP/1.1 100 Continue\r\n\r\n")?;
            }
            match self.note_body(wire, &head, place) {
                Ok(()) => {}
                Err(Cut::Late) => return self.give_up(&exchange, attempt),
                Err(_) => return Err(Over),
            }
            self.answer_whole(&exchange, &answering, attempt)?;
        }
        if answering.status == 101 {
            return self.echo(wire, place, answering.misdeed);
        }
        drop(busy);
        match answering.misdeed {
            OriginMisdeed::AddsBytes => self.add_bytes()?,
            OriginMisdeed::Mutates(_) => {
                self.peer.note(Deed::Babbles);
                return Err(Over);
            }
            _ => {}
        }
        if answering.then == Afterwards::ClosesAsSaid || answering.framing == AnswerFraming::UntilClose {
            self.peer.note(Deed::SaysClose);
        }
        match answering.then {
            Afterwards::Stays if answering.framing != AnswerFraming::UntilClose => Ok(()),
            Afterwards::Stays | Afterwards::ClosesAsSaid => Err(Over),
            Afterwards::ClosesSilently(after) => {
                self.peer.sim.struck(Fault::BackendClosesIdle);
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
            way: self.peer.opposite(),
            head: head.clone(),
            body: Vec::new(),
            trailers: Vec::new(),
            body_end: None,
            said_end: false,
            at: self.peer.sim.now(),
        });
        seen.len() - 1
    }

    /// Reads a request's body, and notes what came of it.
    fn note_body(&self, wire: &mut Wire, head: &Head, place: usize) -> Result<(), Cut> {
        let mut body = Vec::new();
        let patience = std::mem::replace(&mut wire.pace.patience, self.origin.gives_up);
        let end = read_body(wire, head, &mut body);
        wire.pace.patience = patience;
        let cut = end.clone().map(drop);
        let mut seen = self.book.seen.borrow_mut();
        seen[place].body = body;
        seen[place].body_end = Some(end.map(|trailers| seen[place].trailers = trailers));
        cut
    }

    /// Ends an exchange whose client sends no more, as servers do.
    fn give_up(&self, exchange: &Exchange, attempt: usize) -> Result<(), Over> {
        let sim = &self.peer.sim;
        sim.struck(Fault::BackendGivesUpReading);
        self.peer.note(Deed::GivesUp);
        self.book.given_up.borrow_mut().insert(exchange.id);
        match sim.chance.below(4) {
            0 => {}
            1 => self.peer.reset_on_close(),
            _ => {
                let status = sim.chance.pick(&[408, 500, 503]);
                let then = Afterwards::ClosesAsSaid;
                let answering = Answering { status, then, ..Answering::plain("") };
                self.send(&answer_head(exchange, &answering, attempt))?;
            }
        }
        Err(Over)
    }

    /// A request that came out of one whose bytes were changed: sound, or it wouldn't be here.
    fn answer_mutant(&self, wire: &mut Wire, head: &Head) -> Result<(), Over> {
        match read_body(wire, head, &mut Vec::new()) {
            Ok(_) if head.line.starts_with("HEAD ") => self.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"),
            Ok(_) => self.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
            Err(Cut::Malformed(what)) => {
                self.peer.sim.wrong(Promise::WellFormed, format!("a mutated request's body came with {what}"));
                Err(Over)
            }
            Err(_) => Err(Over),
        }
    }

    /// Answers as planned; Ok only where nothing of the answer is missing.
    fn answer_whole(&self, exchange: &Exchange, answering: &Answering, attempt: usize) -> Result<(), Over> {
        self.answer(exchange, answering, attempt)?;
        if matches!(answering.misdeed, OriginMisdeed::Nothing | OriginMisdeed::AddsBytes) && answering.status != 101 {
            self.peer.note(Deed::Answers);
        }
        Ok(())
    }

    fn answer(&self, exchange: &Exchange, answering: &Answering, attempt: usize) -> Result<(), Over> {
        let sim = &self.peer.sim;
        // What was changed at random may have become a failing status.
        if answering.status >= 500 || matches!(answering.misdeed, OriginMisdeed::Mutates(_)) {
            *self.book.failing_answers.borrow_mut().entry(self.origin.number).or_default() += 1;
        }
        if answering.delay > 0 {
            sim.sleep(answering.delay);
        }
        match answering.misdeed {
            OriginMisdeed::StallsBeforeAnswer => return self.stall(),
            OriginMisdeed::Babbles => {
                self.babble(Fault::BackendBabbles);
                self.send(b"this is no answer at all\r\n\r\n")?;
                return Err(Over);
            }
            OriginMisdeed::Switches => {
                self.babble(Fault::BackendSwitches);
                self.send(b"HTTP/1.1 101 Unasked\r\nConnection: upgrade\r\nUpgrade: sim-echo\r\n\r\n")?;
                return Err(Over);
            }
            OriginMisdeed::Floods(times) => {
                self.babble(Fault::BackendFloods);
                (0..times).try_for_each(|_| self.send(b"HTTP/1.1 102 Still here\r\n\r\n"))?;
                return self.stall();
            }
            _ => {}
        }
        for status in &answering.informational {
            self.send(format!("HTTP/1.1 {status} Early\r\nx-sim-id: {}\r\n\r\n", exchange.id).as_bytes())?;
        }
        let mut head = answer_head(exchange, answering, attempt);
        self.spoil(answering.misdeed, &mut head);
        if let OriginMisdeed::LeavesInHead { after, rudely } = answering.misdeed {
            self.send(&head[..after.min(head.len() - 1)])?;
            return self.leave(rudely, false);
        }
        if answering.status == 101 {
            // The tunnel's first bytes, while the rest of the request may still be under way.
            head.extend_from_slice(&answering.body);
            return self.send(&head);
        }
        if exchange.method == "HEAD" || answering.framing == AnswerFraming::NoBody {
            return self.send(&head);
        }
        let mut bytes = head;
        let head_bytes = bytes.len();
        if let OriginMisdeed::BreaksChunks { after } = answering.misdeed {
            self.babble(Fault::BackendBreaksChunks);
            let part = &answering.body[..after.min(answering.body.len())];
            if !part.is_empty() {
                bytes.extend_from_slice(format!("{:x}\r\n", part.len()).as_bytes());
                bytes.extend_from_slice(part);
                bytes.extend_from_slice(b"\r\n");
            }
            bytes.extend_from_slice(b"this is no chunk\r\n");
            self.send(&bytes)?;
            return self.stall();
        }
        match answering.framing {
            AnswerFraming::Chunked => chunk(&answering.body, &mut bytes, sim),
            _ => bytes.extend_from_slice(&answering.body),
        }
        // At least one byte stays unsent.
        let cut_at = |after: usize| (head_bytes + after).min(bytes.len() - 1).max(head_bytes);
        match answering.misdeed {
            OriginMisdeed::LeavesInBody { after, rudely } => {
                self.send(&bytes[..cut_at(after)])?;
                self.leave(rudely, answering.framing == AnswerFraming::UntilClose)
            }
            OriginMisdeed::StallsInBody { after } => {
                self.send(&bytes[..cut_at(after)])?;
                self.stall()
            }
            _ => self.send(&bytes).inspect_err(|_| {
                // Only a reset tells a body that lasts until the close from one that was cut.
                if answering.framing == AnswerFraming::UntilClose {
                    self.peer.reset_on_close();
                }
            }),
        }
    }

    /// Makes of a sound head what `misdeed` wants it to be.
    fn spoil(&self, misdeed: OriginMisdeed, head: &mut Vec<u8>) {
        let sim = &self.peer.sim;
        let fields = match misdeed {
            OriginMisdeed::Conflicts => {
                self.babble(Fault::BackendConflicts);
                "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n".to_owned()
            }
            OriginMisdeed::OverdoesFields(count) => {
                self.babble(Fault::BackendOverdoesHead);
                "a: 1\r\n".repeat(count)
            }
            OriginMisdeed::OverdoesBytes(bytes) => {
                self.babble(Fault::BackendOverdoesHead);
                format!("x-long: {}\r\n", "l".repeat(bytes))
            }
            OriginMisdeed::Mutates(changes) => {
                self.babble(Fault::BackendMutates);
                return mutate_head(&sim.chance, head, changes);
            }
            _ => return,
        };
        let end = head.len() - 2;
        head.splice(end..end, fields.into_bytes());
    }

    /// Sends what nobody asked for.
    fn add_bytes(&self) -> Result<(), Over> {
        self.send(b"and one more thing")?;
        self.babble(Fault::BackendAddsBytes);
        Ok(())
    }

    /// What is sent is none of an answer's.
    fn babble(&self, fault: Fault) {
        self.peer.sim.struck(fault);
        self.peer.note(Deed::Babbles);
    }

    fn send(&self, bytes: &[u8]) -> Result<(), Over> {
        let sim = &self.peer.sim;
        if bytes.len() > self.origin.piece {
            sim.struck(Fault::BackendSplits);
        }
        for (number, piece) in bytes.chunks(self.origin.piece).enumerate() {
            if self.origin.rest > 0 && number > 0 {
                sim.sleep(sim.chance.below(self.origin.rest));
            }
            self.peer.send_patiently(piece, self.origin.gives_up).inspect_err(|unsent| {
                if *unsent == Unsent::Late {
                    sim.struck(Fault::BackendGivesUpWriting);
                    self.peer.note(Deed::GivesUp);
                    if sim.chance.percent(50) {
                        self.peer.reset_on_close();
                    }
                }
            })?;
        }
        Ok(())
    }

    /// Goes in the middle of what is `unframed` or not: its end in good order would end that too.
    fn leave(&self, rudely: bool, unframed: bool) -> Result<(), Over> {
        let (peer, sim) = (&self.peer, &self.peer.sim);
        sim.struck(if rudely { Fault::BackendResets } else { Fault::BackendCloses });
        if rudely {
            peer.reset_on_close();
        }
        if !peer.is_encrypted() {
            return Err(Over);
        }
        let until = sim.now() + self.origin.gives_up;
        if !rudely && (unframed || sim.chance.percent(50)) {
            sim.struck(Fault::BackendTears);
            peer.tear();
        } else if rudely && sim.chance.percent(30) {
            sim.struck(Fault::BackendCorrupts);
            peer.note(Deed::Babbles);
            peer.corrupt(until);
        } else if rudely && sim.chance.percent(30) && peer.refuse(until) {
            sim.struck(Fault::BackendRefusesLate);
            peer.note(Deed::Refuses);
        }
        Err(Over)
    }

    /// Says nothing more until the other side has gone.
    fn stall(&self) -> Result<(), Over> {
        let sim = &self.peer.sim;
        sim.struck(Fault::BackendStalls);
        self.peer.note(Deed::Stalls);
        let until = sim.now() + 300 * SECOND;
        let mut rest = Vec::new();
        while let Got::Bytes(_) = self.peer.receive(&mut rest, 4_096, until) {
            rest.clear();
        }
        Err(Over)
    }

    /// After a 101: sends back what comes.
    fn echo(&self, wire: &mut Wire, place: usize, misdeed: OriginMisdeed) -> Result<(), Over> {
        let mut bytes = wire.held().to_vec();
        let mut echoed = 0;
        loop {
            if let OriginMisdeed::LeavesInBody { after, rudely } = misdeed
                && echoed + bytes.len() >= after
            {
                self.peer.sim.struck(Fault::TunnelEndsAtBackend);
                self.send(&bytes[..after - echoed])?;
                return self.leave(rudely, false);
            }
            echoed += bytes.len();
            self.send(&bytes)?;
            self.book.seen.borrow_mut()[place].body.append(&mut bytes);
            let got = self.peer.receive(&mut bytes, self.origin.pace.piece, self.peer.sim.now() + 300 * SECOND);
            if !matches!(got, Got::Bytes(_)) {
                self.book.seen.borrow_mut()[place].said_end = self.peer.was_told_the_end();
                return Err(Over);
            }
        }
    }
}

/// Moves a request's body into `body`; the result has its trailers.
fn read_body(wire: &mut Wire, head: &Head, body: &mut Vec<u8>) -> Result<Vec<(String, String)>, Cut> {
    if head.lists("Transfer-Encoding", "chunked") {
        return wire.chunked(body);
    }
    let length = head.field("Content-Length").and_then(|length| length.parse().ok()).unwrap_or(0);
    wire.exactly(length, body).map(|()| Vec::new())
}

/// Changes bytes at random, but not in the fields that name the exchange: an answer to another one is always wrong.
fn mutate_head(chance: &Chance, head: &mut [u8], changes: usize) {
    let named = memchr::memmem::find(head, b"x-sim-id").unwrap_or(0)
        ..memchr::memmem::rfind(head, b"x-sim-try").unwrap_or(0) + 20;
    for _ in 0..changes {
        let at = chance.index(head.len());
        if !named.contains(&at) {
            head[at] =
                if chance.percent(50) { chance.pick(b"\r\n\0 :,;/0159aAfF\t\x7f") } else { chance.below(128) as u8 };
        }
    }
}

fn answer_head(exchange: &Exchange, answering: &Answering, attempt: usize) -> Vec<u8> {
    let mut head = format!("HTTP/1.1 {} Planned\r\nx-sim-id: {}\r\n", answering.status, exchange.id);
    let _ = write!(head, "x-sim-try: {attempt}\r\n");
    head.push_str(exchange.login.map_or("", Login::answer_fields));
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
