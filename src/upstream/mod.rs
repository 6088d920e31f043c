//! What lives here: connections to backends: connecting, per-worker pools of idle ones, leases. It knows the runtime's
//! traits and the backends; it knows no HTTP.

mod connect;
mod pool;
mod sites;

pub use connect::{ConnectError, connect};
pub use pool::{Lease, Pools, Visit};
