//! What lives here: connections to backends: connecting, the idle ones of each worker, leases. It knows the runtime's
//! traits and the backends; it knows no HTTP.

mod connect;
mod endpoints;
mod idle;

pub use connect::{ConnectError, connect};
pub use idle::{IdleConnections, Lease, Visit};
