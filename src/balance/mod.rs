//! What lives here: the backends, the snapshot of them that every worker reads, and the strategies that pick one.
//! Pure: it knows a clock and a random source that are handed in, and nothing else of the house.

mod addresses;
mod backend;
mod breaker;
mod budget;
mod cells;
mod ewma;
mod gate;
mod hash;
mod latency;
mod line;
mod maglev;
mod marked;
mod member;
mod pool;
mod rotation;
mod sessions;
mod snapshot;
mod strategy;
mod tier;

pub use addresses::{Address, Addresses};
pub use backend::{Backend, InFlight, Line, Origin, Place, Ticket};
pub use breaker::{Seen, Thresholds, Transition};
pub use budget::RetryCells;
pub use cells::{Outcome, Totals};
pub use ewma::PeakEwma;
pub use gate::{Decision, Standing};
pub use hash::{hash, hash_pieces};
pub use latency::Latency;
pub use line::{Call, QueueFull};
pub use member::Member;
pub use pool::{DEFAULT_POOL, Pool, Report};
pub use sessions::{Mark, MarkKey, Sessions};
pub use snapshot::Snapshot;
pub use strategy::{HashKey, Occasion, Policy, Strategy};
