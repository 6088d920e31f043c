//! What lives here: what maypole counts and tells of itself. On the way of a request a worker writes only cells of its own;
//! what reads them adds them up. No thread waits for a log's reader. It knows no other room.

mod failures;
mod handshakes;
mod log_writer;
mod reason;

pub use failures::FailureCounts;
pub use handshakes::{HandshakeCounts, HandshakeEnd, HandshakeTotals};
pub use log_writer::LogWriter;
pub use reason::Reason;

/// What has been counted since the start, over all workers. Each number is exact; what happens meanwhile may be in
/// one of them and not yet in another.
#[derive(Clone, Debug)]
pub struct Counts {
    /// Client connections that are open now.
    pub connections_open: usize,
    /// Client connections accepted.
    pub accepted: u64,
    /// Client connections that could not be accepted, or not be served or kept once they were: no descriptor, no
    /// memory, or too many of them busy at once.
    pub accept_errors: u64,
    /// Exchanges that failed, by reason: in the order of [`Reason::ALL`].
    pub failures: Vec<(Reason, u64)>,
    /// Requests that wait for room now, and those that have had to.
    pub queue: (usize, u64),
    /// Requests that were sent again, and those that weren't for want of budget. Not those whose kept connection turned out to
    /// be closed.
    pub retries: (u64, u64),
    /// How handshakes with clients ended, where TLS is spoken with them.
    pub handshakes: Option<HandshakeTotals>,
    /// Defects in maypole itself, each of which ended one connection.
    pub panics: u64,
}
