//! What lives here: what is kept of clients: how much each may ask for, which backend it is tied to, how many connections it
//! has, and whether it is trusted; beside `balance`, which picks what answers. Pure: it knows a clock that is handed in, keys
//! that are made elsewhere, and nothing else of the house.

mod clients;
mod lru;
mod networks;
mod rate;
mod rates;
mod seats;
mod tables;
mod ties;

pub use networks::Networks;
pub use rate::{Charge, Quota, Rate};
pub use rates::RateTable;
pub use seats::{NoSeat, Seat, SeatRules, Seats};
pub use tables::Tables;
pub use ties::Ties;
