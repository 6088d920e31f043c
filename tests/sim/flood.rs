//! A client that pipelines requests without end, which the proxy answers itself once their rate is reached: work that never
//! waits for anybody.

use std::net::IpAddr;
use std::rc::Rc;

use crate::door::Door;
use crate::mutant::{OwnAnswers, count_own};
use crate::peer::Got;
use crate::sim::{SECOND, Sim};
use crate::tally::{Fault, Promise};

const PATIENCE: u64 = 200 * SECOND;
const REQUEST: &[u8] = b"GET /flood HTTP/1.1\r\nHost: front.example\r\n\r\n";
/// More than a turn has room for, many times over.
const REQUESTS: usize = 400;

/// Sends all its requests, and reads the answers meanwhile.
pub fn start(sim: &Sim, from: IpAddr, to: Door, counted: OwnAnswers) {
    let sim = sim.clone();
    sim.clone().spawn("flood", move || {
        let Ok(peer) = to.approach(&sim, from) else {
            return sim.wrong(Promise::Answered, "a client couldn't connect at all");
        };
        if Door::enter(&peer).is_err() {
            return;
        }
        sim.struck(Fault::ClientFloods);
        let peer = Rc::new(peer);
        let writer = Rc::clone(&peer);
        sim.spawn("flood's writer", move || {
            if writer.send(&REQUEST.repeat(REQUESTS), writer.sim.now() + PATIENCE).is_ok() {
                writer.finish();
            }
        });
        let mut got = Vec::new();
        let end = loop {
            match peer.receive(&mut got, 16_384, sim.now() + PATIENCE) {
                Got::Bytes(_) => {}
                end => break end,
            }
        };
        peer.close();
        sim.checked(Promise::Answered);
        if end == Got::Late {
            sim.wrong(Promise::Answered, "a flood's connection was left hanging");
        }
        counted.set(count_own(&got));
    });
}
