//! What lives here: the backends, the snapshot of them that every worker reads, and the strategies that pick one.
//! Pure: it knows a clock and a random source that are handed in, and nothing else of the house.

mod backend;
mod cells;
mod fleet;
mod latency;
mod snapshot;

pub use backend::{Backend, InFlight, Origin};
pub use cells::{Outcome, Totals};
pub use fleet::{Fleet, Report};
pub use latency::Latency;
pub use snapshot::{Snapshot, Strategy};
