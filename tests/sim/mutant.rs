//! A client that sends a sound request with some of its bytes changed. Nobody can say what it means then; what can be
//! said is that it gets well-formed HTTP or nothing, that its connection ends, and that an origin sees nothing malformed.

use std::cell::Cell;
use std::net::IpAddr;
use std::rc::Rc;

use crate::chance::Chance;
use crate::door::Door;
use crate::peer::Got;
use crate::sim::{SECOND, Sim};
use crate::tally::{Fault, Promise};

/// Longer than any deadline of the configuration.
const PATIENCE: u64 = 200 * SECOND;

/// What comes back to a mutant: how many answers of the proxy's own.
pub type OwnAnswers = Rc<Cell<u64>>;

/// A sound request with one to four bytes changed, dropped or doubled. All of it stays ASCII, since the origins here
/// read nothing else.
pub fn mutate(chance: &Chance) -> Vec<u8> {
    let body = "b".repeat(chance.index(40));
    let framing = match chance.below(3) {
        0 => "\r\n".to_owned(),
        1 => format!("Content-Length: {}\r\n\r\n{body}", body.len()),
        _ => format!("Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n", body.len().max(1)),
    };
    let method = chance.pick(&["GET", "POST", "HEAD"]);
    let mut bytes =
        format!("{method} /mutant?a=1 HTTP/1.1\r\nHost: front.example\r\nx-a: 1, 2\r\n{framing}").into_bytes();
    for _ in 0..=chance.below(4) {
        let at = chance.index(bytes.len());
        match chance.below(4) {
            0 => drop(bytes.remove(at)),
            1 => bytes.insert(at, bytes[at]),
            2 => bytes[at] = chance.pick(b"\r\n\0 :,;/0159aAfF\t\x7f"),
            _ => bytes[at] = chance.below(128) as u8,
        }
    }
    bytes
}

/// Sends `bytes`, and reads what comes until the connection ends.
pub fn start(sim: &Sim, from: IpAddr, to: Door, bytes: Vec<u8>, counted: OwnAnswers) {
    let sim = sim.clone();
    sim.clone().spawn("mutant", move || {
        let Ok(peer) = to.approach(&sim, from) else {
            return sim.wrong(Promise::Answered, "a client couldn't connect at all");
        };
        if Door::enter(&peer).is_err() {
            return;
        }
        sim.struck(Fault::ClientMutates);
        if peer.send(&bytes, sim.now() + PATIENCE).is_err() {
            return;
        }
        let mut got = Vec::new();
        let end = loop {
            match peer.receive(&mut got, 16_384, sim.now() + PATIENCE) {
                Got::Bytes(_) => {}
                end => break end,
            }
        };
        sim.checked(Promise::Answered);
        if end == Got::Late {
            sim.wrong(Promise::Answered, "a mutated request's connection was left hanging");
        }
        sim.checked(Promise::WellFormed);
        if !got.is_empty() && !got.starts_with(&b"HTTP/1.1 "[..got.len().min(9)]) {
            let excerpt = got[..got.len().min(40)].escape_ascii();
            sim.wrong(Promise::WellFormed, format!("a mutated request was answered with '{excerpt}'"));
        }
        counted.set(count_own(&got));
    });
}

/// How many answers of the proxy's own there are among these.
pub fn count_own(answers: &[u8]) -> u64 {
    memchr::memmem::find_iter(answers, b"\r\nProxy-Status: ").count() as u64
}
