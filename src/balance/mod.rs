//! What lives here: the backends, the snapshot of them that every worker reads, and the strategies that pick one.
//! Pure: it knows a clock and a random source that are handed in, and nothing else of the house.

mod addresses;
mod backend;
mod breaker;
mod budget;
mod cells;
mod ewma;
mod fleet;
mod gate;
mod latency;
mod maglev;
mod queue;
mod rotation;
mod sessions;
mod snapshot;
mod strategy;
mod tier;

pub use addresses::{Address, Addresses};
pub use backend::{Backend, InFlight, Origin, Place};
pub use breaker::{Seen, Thresholds, Turn};
pub use budget::RetryCells;
pub use cells::{Outcome, Totals};
pub use ewma::PeakEwma;
pub use fleet::{Fleet, Report};
pub use gate::{Decision, Standing};
pub use latency::Latency;
pub use queue::{Call, Queue, QueueFull, Ticket};
pub use sessions::{Mark, MarkKey, Sessions};
pub use snapshot::{Member, Snapshot};
pub use strategy::{HashKey, Occasion, Policy, Strategy, hash, hash_pieces};
