//! A client before its handshake has begun: of one that is silent, or half heard, its place and its bytes are kept, and no
//! session, which is much larger.

use std::io;

use super::handshake::Handshake;
use super::session::{Shelves, shrink, speaks_in_clear};
use super::tls::Tls;
use crate::runtime::buffer::Buffer;
use crate::runtime::world::{PeerState, Stream};

/// The type of a record that holds a message of a handshake, and the first byte of its version (RFC 8446 §5.1).
const HANDSHAKE: [u8; 2] = [22, 3];
/// Type, version and length of a record.
const HEAD_BYTES: usize = 5;
/// The most that a record in clear may hold.
const RECORD_BYTES_MAX: usize = 1 << 14;

/// Who is on the way to being a client.
pub(super) enum Guest<S: Stream> {
    /// Nobody has heard a hello of it yet, only these bytes.
    Unheard(S, Option<Buffer>),
    /// It has a session.
    Heard(Tls<S>),
}

/// What is kept of one that is parked before its hello has come.
#[derive(Debug)]
pub struct Unheard {
    pub(super) handshake: Handshake,
    pub(super) bytes: Option<Buffer>,
}

impl<S: Stream> Guest<S> {
    pub(super) fn socket(&self) -> &S {
        match self {
            Self::Unheard(socket, _) => socket,
            Self::Heard(tls) => tls.socket(),
        }
    }

    /// Nothing can come of it any more. One that has said its last may still be told that it doesn't speak TLS.
    pub(super) fn is_gone(&self) -> bool {
        let speaks_in_clear = match self {
            Self::Unheard(_, bytes) => speaks_in_clear(bytes.as_ref().map_or(&[], Buffer::filled)),
            Self::Heard(tls) => tls.speaks_in_clear(),
        };
        match self.socket().peer_state() {
            PeerState::Open => false,
            PeerState::HalfClosed => !speaks_in_clear,
            PeerState::Reset => true,
        }
    }

    pub(super) fn has_outbound(&self) -> bool {
        match self {
            Self::Unheard(..) => false,
            Self::Heard(tls) => tls.has_outbound(),
        }
    }

    /// See [`Tls::settle`].
    pub(super) fn settle(&self) {
        if let Self::Heard(tls) = self {
            tls.settle();
        }
    }
}

impl Unheard {
    /// No more than its bytes are kept of it.
    pub(super) fn new(handshake: Handshake, mut bytes: Option<Buffer>) -> Self {
        bytes.iter_mut().for_each(shrink);
        Self { handshake, bytes }
    }
}

/// Takes in what has come of a hello. Whether a session has to see it: a record is whole, or can't become one. It may have to
/// wait for its turn, so it holds no more than its bytes then.
///
/// # Errors
/// Nothing has come, or the client is gone.
pub(super) fn hear<S: Stream>(socket: &S, bytes: &mut Option<Buffer>, shelves: &Shelves) -> io::Result<bool> {
    let buffer = shelves.roomy(bytes);
    let received = socket.try_read(buffer.spare());
    buffer.fill(*received.as_ref().unwrap_or(&0));
    let is_due = is_due(buffer.filled());
    if is_due {
        shrink(buffer);
    }
    bytes.take_if(|bytes| bytes.is_empty());
    if received? == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(is_due) }
}

fn is_due(bytes: &[u8]) -> bool {
    if bytes.iter().zip(HANDSHAKE).any(|(&byte, wanted)| byte != wanted) {
        return true;
    }
    let Some((&[.., high, low], message)) = bytes.split_first_chunk::<HEAD_BYTES>() else { return false };
    let record_bytes = usize::from(u16::from_be_bytes([high, low]));
    record_bytes > RECORD_BYTES_MAX || message.len() >= record_bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_due_when_a_record_is_whole_or_cant_become_one() {
        for waits in
            [&[][..], &[22], &[22, 3], &[22, 3, 1, 0], &[22, 3, 1, 0, 2], &[22, 3, 1, 0, 2, 1], &[22, 3, 9, 64, 0, 1]]
        {
            assert!(!is_due(waits), "{waits:?}");
        }
        let mut longest = vec![0; HEAD_BYTES + RECORD_BYTES_MAX];
        longest[..HEAD_BYTES].copy_from_slice(&[22, 3, 3, 64, 0]);
        assert!(is_due(&longest) && !is_due(&longest[..longest.len() - 1]));
        let due = [
            &b"G"[..],
            &[23],
            &[128, 3],
            &[22, 2],
            &[22, 3, 1, 64, 1],
            &[22, 3, 1, 0, 0],
            &[22, 3, 1, 0, 1, 1],
            &[22, 3, 1, 0, 1, 1, 2],
        ];
        for due in due {
            assert!(is_due(due), "{due:?}");
        }
    }
}
