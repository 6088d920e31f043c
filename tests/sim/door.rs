//! Where clients come in, by TLS if that is spoken there.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use rustls::ClientConfig;

use crate::cipher::Cipher;
use crate::peer::{Got, Peer};
use crate::secrecy::FRONT_HOST;
use crate::sim::{SECOND, Sim, Time};
use crate::tally::Fault;

/// How long a client waits for its handshake.
const PATIENCE: Time = 200 * SECOND;

#[derive(Clone)]
pub struct Door {
    pub address: SocketAddr,
    /// None: it speaks in clear.
    pub tls: Option<Arc<ClientConfig>>,
}

impl Door {
    /// Begins to connect.
    pub fn approach(&self, sim: &Sim, from: IpAddr) -> io::Result<Peer> {
        let cipher = self.tls.as_ref().map(|config| Cipher::of_client(config, FRONT_HOST));
        Peer::dial(sim, from, self.address, cipher)
    }

    /// Goes through what comes before the first request.
    pub fn enter(peer: &Peer) -> Result<(), Got> {
        peer.shake(peer.sim.now() + PATIENCE)?;
        if peer.is_resumed() {
            peer.sim.struck(Fault::ClientResumes);
        }
        Ok(())
    }
}
