//! Clients that never get through their handshake: what can be said of them is that their connection ends, and that they are told
//! in their own words where they speak another protocol.

use std::net::IpAddr;
use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};

use crate::chance::Chance;
use crate::cipher::Cipher;
use crate::door::Door;
use crate::peer::{Got, Peer};
use crate::secrecy::{FRONT_HOST, provider};
use crate::sim::{SECOND, Sim};
use crate::tally::{Fault, Promise};

/// Longer than any deadline of a handshake.
const PATIENCE: u64 = 200 * SECOND;

/// What one does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stranger {
    /// Sends HTTP in clear.
    SpeaksClear,
    /// Sends what is neither.
    Babbles,
    /// Sends no more than so many bytes of its hello.
    Stalls(usize),
    Leaves(usize),
    /// Doesn't trust what it is shown.
    Distrusts,
}

impl Stranger {
    pub fn any(chance: &Chance) -> Self {
        let bytes = chance.index(200);
        chance.pick(&[Self::SpeaksClear, Self::Babbles, Self::Stalls(bytes), Self::Leaves(bytes), Self::Distrusts])
    }

    /// What it sends, and what that is called. `hello` is what is sent by others.
    fn bytes(self, hello: &[u8]) -> (Fault, Vec<u8>) {
        match self {
            Self::SpeaksClear => (Fault::ClientSpeaksClear, b"GET / HTTP/1.1\r\nHost: front.example\r\n\r\n".to_vec()),
            Self::Babbles => (Fault::ClientBreaksHandshake, vec![22, 3, 1, 0, 4, 9, 9, 9, 9]),
            Self::Stalls(bytes) => (Fault::ClientStallsHandshake, hello[..bytes.min(hello.len())].to_vec()),
            Self::Leaves(bytes) => (Fault::ClientLeavesHandshake, hello[..bytes.min(hello.len())].to_vec()),
            Self::Distrusts => (Fault::ClientDistrusts, Vec::new()),
        }
    }

    /// Comes, and stays until the connection ends.
    pub fn start(self, sim: &Sim, from: IpAddr, door: &Door) {
        let (sim, door) = (sim.clone(), door.clone());
        sim.clone().spawn("stranger", move || {
            let Some(config) = &door.tls else { return };
            if self == Self::Distrusts {
                let door = Door { tls: Some(distrustful()), ..door };
                let Ok(peer) = door.approach(&sim, from) else { return };
                sim.struck(Fault::ClientDistrusts);
                peer.provoke();
                let _ = peer.shake(sim.now() + PATIENCE);
                return;
            }
            let (fault, bytes) = self.bytes(&Cipher::of_client(config, FRONT_HOST).due());
            let Ok(peer) = (Door { tls: None, ..door.clone() }).approach(&sim, from) else { return };
            sim.struck(fault);
            if peer.send(&bytes, sim.now() + PATIENCE).is_ok() && !matches!(self, Self::Leaves(_)) {
                self.stay(&peer);
            }
        });
    }

    fn stay(self, peer: &Peer) {
        let sim = &peer.sim;
        let mut got = Vec::new();
        let end = loop {
            match peer.receive(&mut got, 16_384, sim.now() + PATIENCE) {
                Got::Bytes(_) => {}
                end => break end,
            }
        };
        sim.checked(Promise::Answered);
        if end == Got::Late {
            sim.wrong(Promise::Answered, "a handshake that leads nowhere was left hanging");
        }
        sim.checked(Promise::WellFormed);
        if self == Self::SpeaksClear && !got.starts_with(&b"HTTP/1.1 400 "[..got.len().min(13)]) {
            let excerpt = got[..got.len().min(40)].escape_ascii();
            sim.wrong(Promise::WellFormed, format!("one who speaks in clear was answered with '{excerpt}'"));
        }
    }
}

/// A client that knows no authority.
fn distrustful() -> Arc<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
    let builder = builder.expect("versions");
    Arc::new(builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth())
}
