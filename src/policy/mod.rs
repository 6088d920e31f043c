//! What lives here: what is kept of clients: who may ask for how much, who is tied to whom, and who is trusted; beside `balance`, which
//! says who answers. Pure: it knows a clock that is handed in, keys that somebody else has made, and nothing else of the house.

mod clients;
mod limiter;
mod networks;
mod rate;
mod recent;
mod ties;

pub use limiter::RateLimiter;
pub use networks::Networks;
pub use rate::{Charge, Quota, Rate};
pub use ties::Ties;
