//! How an origin takes part in a handshake, and what it does wrong there.

use std::sync::Arc;

use rustls::ServerConfig;

use crate::chance::Chance;
use crate::cipher::Cipher;
use crate::peer::{Got, Peer};
use crate::secrecy::untrusted;
use crate::sim::SECOND;
use crate::tally::Fault;
use crate::trail::Deed;

/// Longer than a handshake may take.
const PATIENCE: u64 = 300 * SECOND;
/// `handshake_failure`, in clear.
const REFUSAL: &[u8] = &[21, 3, 3, 0, 2, 2, 40];

/// What an origin may do wrong.
#[derive(Clone, Copy, Debug, Default)]
pub struct Manners {
    pub rude: bool,
    pub silent: bool,
}

/// How one connection is welcomed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Welcome {
    Sound,
    /// With a certificate that nobody trusts.
    Untrusted,
    /// With an alert.
    Refuses,
    /// With what isn't TLS.
    Babbles,
    Leaves,
    Stalls,
}

impl Welcome {
    pub fn any(chance: &Chance, manners: Manners) -> Self {
        if manners.rude && chance.percent(10) {
            return chance.pick(&[Self::Untrusted, Self::Refuses, Self::Babbles, Self::Leaves]);
        }
        if manners.silent && chance.percent(5) { Self::Stalls } else { Self::Sound }
    }

    /// Its side of a session; none where it gets to none.
    pub fn cipher(self, config: &Arc<ServerConfig>) -> Option<Cipher> {
        match self {
            Self::Sound => Some(Cipher::of_server(config)),
            Self::Untrusted => Some(Cipher::of_server(untrusted())),
            Self::Refuses | Self::Babbles | Self::Leaves | Self::Stalls => None,
        }
    }

    /// Goes through what comes before the first request, if there is such; false where there will be none.
    pub fn greet(self, peer: &Peer) -> bool {
        let sim = &peer.sim;
        let until = sim.now() + PATIENCE;
        let wrong = |fault, deed| {
            sim.struck(fault);
            peer.note(deed);
        };
        match self {
            Self::Sound => {
                let is_met = peer.shake(until).is_ok();
                if is_met && peer.is_resumed() {
                    sim.struck(Fault::BackendResumes);
                }
                return is_met;
            }
            Self::Untrusted => {
                wrong(Fault::BackendUntrusted, Deed::ShowsBadCertificate);
                peer.provoke();
                let _ = peer.shake(until);
                return false;
            }
            _ => {}
        }
        if !matches!(peer.receive(&mut Vec::new(), 10_000, until), Got::Bytes(_)) {
            return false;
        }
        match self {
            Self::Refuses => wrong(Fault::BackendRefuses, Deed::Refuses),
            Self::Babbles => wrong(Fault::BackendSpeaksClear, Deed::BreaksHandshake),
            Self::Leaves => wrong(Fault::BackendLeavesHandshake, Deed::BreaksHandshake),
            _ => wrong(Fault::BackendStallsHandshake, Deed::Stalls),
        }
        let _ = match self {
            Self::Refuses => peer.send(REFUSAL, until),
            Self::Babbles => peer.send(b"HTTP/1.1 400 Speak up\r\n\r\n", until),
            Self::Leaves => return false,
            _ => Ok(()),
        };
        // Closed with bytes unread, it would be reset.
        while let Got::Bytes(_) = peer.receive(&mut Vec::new(), 10_000, until) {}
        false
    }
}
