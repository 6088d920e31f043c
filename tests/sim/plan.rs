//! What the actors of a run are going to do: requests, and the answers that origins will give to them.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::rc::Rc;

use crate::logins::Login;
use crate::net::SocketId;
use crate::places::Places;
use crate::sessions::Claim;
use crate::sim::Time;
use crate::spoilt::Spoilt;

/// One request and what shall become of it. The `x-sim-id` field carries its number through the proxy and back.
#[derive(Clone, Debug)]
pub struct Exchange {
    pub id: u64,
    pub method: &'static str,
    /// HTTP/1.0 instead of 1.1.
    pub old: bool,
    pub body: Vec<u8>,
    pub framing: RequestFraming,
    /// Sends `Expect: 100-continue` and waits for it.
    pub expects: bool,
    /// Sends `Connection: close` (or leaves out HTTP/1.0's `keep-alive`).
    pub closes: bool,
    /// Its body is over the limit.
    pub too_large: bool,
    /// Offers to switch protocols behind its body, and what goes through the tunnel then.
    pub tunnel: Option<Vec<u8>>,
    /// What its cookie says of its session.
    pub claim: Option<Claim>,
    /// What it has of a login that belongs to the connection.
    pub login: Option<Login>,
    pub misdeed: ClientMisdeed,
    /// One for each try; the last one for all that follow.
    pub answers: Vec<Answering>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestFraming {
    NoBody,
    Length,
    Chunked,
    /// Asks for a tunnel; the body is what goes through it.
    Upgrade,
}

/// What a client does wrong, counted in bytes of its request as sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientMisdeed {
    Nothing,
    /// Sends no more, but stays.
    StallsAfter(usize),
    /// Closes its sending side, and still reads.
    FinishesAfter(usize),
    /// Closes its sending side and goes.
    LeavesAfter(usize),
    ResetsAfter(usize),
    /// Sends in a few pieces, with so long between them.
    Trickles(Time),
    /// Reads nothing for so long.
    ReadsLate(Time),
    /// Sends what must be refused.
    Sends(Spoilt),
    /// Sends a record that nobody can have sealed, and no more.
    CorruptsAfter(usize),
    /// Cuts its tunnel behind all that goes through it.
    CutsTunnel,
}

/// How an origin answers.
#[derive(Clone, Debug)]
pub struct Answering {
    pub status: u16,
    pub informational: Vec<u16>,
    pub body: Vec<u8>,
    pub framing: AnswerFraming,
    /// Answers when the request's head is there, and reads its body afterwards.
    pub early: bool,
    pub delay: Time,
    pub misdeed: OriginMisdeed,
    pub then: Afterwards,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnswerFraming {
    Length,
    Chunked,
    UntilClose,
    /// 204, 304: none at all.
    NoBody,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OriginMisdeed {
    Nothing,
    /// Goes when it has the request's head.
    LeavesBeforeAnswer {
        rudely: bool,
    },
    /// Goes after this many bytes of its answer's head.
    LeavesInHead {
        after: usize,
        rudely: bool,
    },
    /// Goes after this many bytes of its answer's body.
    LeavesInBody {
        after: usize,
        rudely: bool,
    },
    /// Never answers.
    StallsBeforeAnswer,
    /// Sends no more after this many bytes of its answer's body.
    StallsInBody {
        after: usize,
    },
    /// Answers with something else than HTTP.
    Babbles,
    /// Announces both a length and chunks.
    Conflicts,
    /// Sends something else than a chunk after this many bytes of its answer's body.
    BreaksChunks {
        after: usize,
    },
    /// Sends as many fields as this in its head, or one of as many bytes.
    OverdoesFields(usize),
    OverdoesBytes(usize),
    /// Sends this many interim answers.
    Floods(usize),
    /// Switches protocols unasked.
    Switches,
    /// Sends more bytes behind its answer.
    AddsBytes,
    /// Changes this many bytes of its answer's head at random, and closes behind it.
    Mutates(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Afterwards {
    Stays,
    /// Says `Connection: close` and does so.
    ClosesAsSaid,
    /// Closes after this long, unannounced.
    ClosesSilently(Time),
}

impl Answering {
    pub fn plain(body: impl Into<Vec<u8>>) -> Self {
        Self {
            status: 200,
            informational: Vec::new(),
            body: body.into(),
            framing: AnswerFraming::Length,
            early: false,
            delay: 0,
            misdeed: OriginMisdeed::Nothing,
            then: Afterwards::Stays,
        }
    }
}

impl Exchange {
    pub fn get(id: u64, answer: Answering) -> Self {
        Self {
            id,
            method: "GET",
            old: false,
            body: Vec::new(),
            framing: RequestFraming::NoBody,
            expects: false,
            closes: false,
            too_large: false,
            tunnel: None,
            claim: None,
            login: None,
            misdeed: ClientMisdeed::Nothing,
            answers: vec![answer],
        }
    }

    pub fn post(id: u64, body: impl Into<Vec<u8>>, framing: RequestFraming, answer: Answering) -> Self {
        Self { method: "POST", body: body.into(), framing, ..Self::get(id, answer) }
    }

    pub fn is_idempotent(&self) -> bool {
        !matches!(self.method, "POST" | "PATCH")
    }

    /// All that its origin gets of it behind its head, if it switches protocols.
    pub fn body_and_tunnel(&self) -> Vec<u8> {
        [&self.body[..], self.tunnel.as_deref().unwrap_or_default()].concat()
    }

    /// What its client sends through a tunnel.
    pub fn through_tunnel(&self) -> &[u8] {
        self.tunnel.as_deref().unwrap_or(&self.body)
    }

    /// How an origin answers the request's `attempt`-th arrival, counted from 0.
    pub fn answering(&self, attempt: usize) -> &Answering {
        &self.answers[attempt.min(self.answers.len() - 1)]
    }

    /// The target's path and query.
    pub fn target(&self) -> String {
        format!("/exchange/{}?a=1", self.id)
    }

    pub fn head_bytes(&self) -> Vec<u8> {
        let head = self.sound_head();
        match self.misdeed {
            ClientMisdeed::Sends(spoilt) => spoilt.head(&head),
            _ => head.into_bytes(),
        }
    }

    fn sound_head(&self) -> String {
        let version = if self.old { "1.0" } else { "1.1" };
        let mut head = format!("{} {} HTTP/{version}\r\n", self.method, self.target());
        let _ = write!(head, "x-sim-id: {}\r\nHost: front.example\r\n", self.id);
        if let Some(claim) = self.claim {
            let _ = write!(head, "Cookie: a=b; {}\r\n", claim.cookie());
        }
        head.push_str(self.login.map_or("", Login::request_fields));
        match self.framing {
            RequestFraming::NoBody | RequestFraming::Upgrade => {}
            RequestFraming::Length => {
                let _ = write!(head, "Content-Length: {}\r\n", self.body.len());
            }
            RequestFraming::Chunked => head.push_str("Transfer-Encoding: chunked\r\n"),
        }
        let offers = self.framing == RequestFraming::Upgrade || self.tunnel.is_some();
        if offers {
            head.push_str("Connection: upgrade\r\nUpgrade: sim-echo\r\n");
        }
        if self.expects {
            head.push_str("Expect: 100-continue\r\n");
        }
        if !offers {
            match (self.old, self.closes) {
                (false, true) => head.push_str("Connection: close, x-hop\r\nx-hop: 1\r\n"),
                (true, false) => head.push_str("Connection: keep-alive\r\n"),
                _ => {}
            }
        }
        head.push_str("\r\n");
        head
    }

    /// What makes it one to be refused, if anything does.
    pub fn spoilt(&self) -> Option<Spoilt> {
        match self.misdeed {
            ClientMisdeed::Sends(spoilt) => Some(spoilt),
            _ => None,
        }
    }

    /// Its answer may come with any of its head's bytes changed.
    pub fn is_answered_mutated(&self) -> bool {
        self.answers.iter().any(|answering| matches!(answering.misdeed, OriginMisdeed::Mutates(_)))
    }
}

/// All exchanges of a run by their number, and what came of them at the origins.
#[derive(Clone, Default)]
pub struct Book {
    pub exchanges: Rc<RefCell<BTreeMap<u64, Rc<Exchange>>>>,
    pub seen: Rc<RefCell<Vec<Seen>>>,
    /// Some requests come with bytes changed, and may reach an origin as requests that nobody planned.
    pub mutants: Rc<Cell<bool>>,
    /// Exchanges whose origin gave up on their client.
    pub given_up: Rc<RefCell<BTreeSet<u64>>>,
    /// How often each origin answered with a failing status as planned.
    pub failing_answers: Rc<RefCell<BTreeMap<usize, u64>>>,
    pub places: Rc<Places>,
}

/// A request as an origin saw it.
#[derive(Clone, Debug)]
pub struct Seen {
    pub id: u64,
    pub origin: usize,
    /// The proxy's end of the connection that it came by.
    pub way: Option<SocketId>,
    pub head: crate::wire::Head,
    pub body: Vec<u8>,
    pub trailers: Vec<(String, String)>,
    /// None while the body is still coming.
    pub body_end: Option<Result<(), crate::wire::Cut>>,
    /// What came through its tunnel was said to be all, as TLS has it.
    pub said_end: bool,
    pub at: Time,
}

impl Book {
    pub fn add(&self, exchange: Exchange) -> Rc<Exchange> {
        let exchange = Rc::new(exchange);
        self.exchanges.borrow_mut().insert(exchange.id, exchange.clone());
        exchange
    }

    pub fn exchange(&self, id: u64) -> Option<Rc<Exchange>> {
        self.exchanges.borrow().get(&id).cloned()
    }

    /// How often `id` has reached an origin.
    pub fn times_seen(&self, id: u64) -> usize {
        self.seen.borrow().iter().filter(|seen| seen.id == id).count()
    }
}
