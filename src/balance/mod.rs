//! What lives here: the backends, the snapshot of them that every worker reads, and the strategies that pick one.
//! Pure: it knows a clock and a random source that are handed in, and nothing else of the house.

mod backend;
mod fleet;
mod snapshot;

pub use backend::{Backend, InFlight, Outcome};
pub use fleet::{Fleet, Report};
pub use snapshot::{Snapshot, Strategy};
