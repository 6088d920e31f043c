//! What lives here: rules of who may ask for how much, beside `balance`, which says who answers. Pure: it knows a clock
//! that is handed in, keys that somebody else has made, and nothing else of the house.

mod limiter;
mod rate;
mod recent;

pub use limiter::RateLimiter;
pub use rate::{Charge, Quota, Rate};
