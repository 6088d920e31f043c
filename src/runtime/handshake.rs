//! Why a stream that is to be encrypted couldn't be: what a [`World`](super::world::World) says of it inside of an
//! [`io::Error`].

use std::error::Error;
use std::{fmt, io};

/// What went wrong in a handshake with a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandshakeFault {
    /// The server isn't known to be the one that was wanted: its certificate isn't accepted.
    Certificate,
    /// The server refused it with an alert.
    Alert,
    /// The server broke the protocol, or speaks another one, or left.
    Protocol,
}

impl HandshakeFault {
    /// The fault that an error holds.
    pub fn of(error: &io::Error) -> Option<Self> {
        error.get_ref()?.downcast_ref::<Self>().copied()
    }

    /// A few words for people.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Certificate => "backend certificate is not accepted",
            Self::Alert => "backend refused the TLS handshake",
            Self::Protocol => "TLS handshake with the backend failed",
        }
    }
}

impl fmt::Display for HandshakeFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason())
    }
}

impl Error for HandshakeFault {}

impl From<HandshakeFault> for io::Error {
    fn from(fault: HandshakeFault) -> Self {
        Self::other(fault)
    }
}
