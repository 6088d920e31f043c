//! Requests that a proxy must refuse, each with the status that says so.

use crate::secrecy::{FRONT_HOST, OTHER_HOST};
use crate::sim::Sim;
use crate::tally::Fault;

/// What is wrong with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spoilt {
    /// It isn't HTTP.
    Babble,
    /// Its head breaks the grammar, in one of several ways.
    Malformed(usize),
    /// Its framing fields contradict each other or themselves, in one of several ways.
    Conflict(usize),
    /// Its first chunk is followed by something else than a chunk.
    BadChunk,
    /// It has a field of so many bytes.
    LongField(usize),
    /// It has so many more fields.
    ManyFields(usize),
    /// Its target has so many more bytes.
    LongTarget(usize),
    /// It speaks HTTP/1.2.
    Version,
    /// It wants to CONNECT.
    Connect,
    /// It is encoded in a way that isn't spoken.
    Coding,
    /// It has come by so many times already.
    Loop(usize),
    /// Its host is another than that of its connection's certificate.
    OtherHost,
}

/// Lines that spoil a head when they stand in it.
const MALFORMED: &[&str] = &[
    "x spaced: 1\r\n",
    "x-nul: a\0b\r\n",
    "x-bare: a\rb\r\n",
    "x-folded: a\r\n b\r\n",
    "no colon\r\n",
    "Host: other\r\n",
];
const CONFLICTS: &[&str] = &[
    "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
    "Content-Length: 5\r\nContent-Length: 6\r\n",
    "Content-Length: +5\r\n",
    "Transfer-Encoding: chunked, chunked\r\n",
    "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
    "Content-Length: 99999999999999999999\r\n",
];

impl Spoilt {
    /// Ways to break the grammar, and to contradict oneself.
    pub const MALFORMED: usize = MALFORMED.len();
    pub const CONFLICTS: usize = CONFLICTS.len();

    /// The status of its only proper answer.
    pub fn status(self) -> u16 {
        match self {
            Self::Babble | Self::Malformed(_) | Self::Conflict(_) | Self::BadChunk => 400,
            Self::LongField(_) | Self::ManyFields(_) => 431,
            Self::LongTarget(_) => 414,
            Self::Loop(_) => 508,
            Self::OtherHost => 421,
            Self::Version => 505,
            Self::Connect | Self::Coding => 501,
        }
    }

    /// Its head gives it away, so nothing of it may reach a backend.
    pub fn shows_in_head(self) -> bool {
        self != Self::BadChunk
    }

    /// Spoils a sound head of a request without a body.
    pub fn head(self, sound: &str) -> Vec<u8> {
        let fields = |fields: &str| sound.replacen("\r\n", &format!("\r\n{fields}"), 1);
        let head = match self {
            Self::Babble => "\x16\x03\x01 this is no request\r\n\r\n".to_owned(),
            Self::Malformed(which) => fields(MALFORMED[which]),
            Self::Conflict(which) => fields(CONFLICTS[which]),
            Self::BadChunk => fields("Transfer-Encoding: chunked\r\n") + "5\r\nfirst\r\nthis is no chunk\r\n",
            Self::LongField(bytes) => fields(&format!("x-long: {}\r\n", "l".repeat(bytes))),
            Self::ManyFields(count) => fields(&"a: 1\r\n".repeat(count)),
            Self::LongTarget(bytes) => sound.replacen("?a=1", &format!("?a={}", "1".repeat(bytes)), 1),
            Self::Version => sound.replacen("HTTP/1.1", "HTTP/1.2", 1),
            Self::Connect => format!("CONNECT{}", &sound[sound.find(' ').unwrap_or(0)..]),
            Self::Coding => fields("Transfer-Encoding: gzip, chunked\r\n"),
            Self::Loop(hops) => fields(&format!("Via: 1.0 before{}\r\n", ", 1.1 maypole".repeat(hops))),
            Self::OtherHost => sound.replacen(FRONT_HOST, OTHER_HOST, 1),
        };
        head.into_bytes()
    }

    pub fn strike(self, sim: &Sim) {
        sim.struck(match self {
            Self::Babble => Fault::ClientBabbles,
            Self::Malformed(_) => Fault::ClientMalforms,
            Self::Conflict(_) => Fault::ClientConflicts,
            Self::BadChunk => Fault::ClientBreaksChunks,
            Self::LongField(_) | Self::ManyFields(_) | Self::LongTarget(_) => Fault::ClientOverdoesHead,
            Self::Version | Self::Connect | Self::Coding => Fault::ClientAsksTooMuch,
            Self::Loop(_) => Fault::ClientLoops,
            Self::OtherHost => Fault::ClientMistakesHost,
        });
    }
}
