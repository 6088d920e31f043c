//! What lives here: what is kept of clients: who may ask for how much, who is tied to whom, and who is trusted; beside `balance`, which
//! says who answers. Pure: it knows a clock that is handed in, keys that somebody else has made, and nothing else of the house.

mod clients;
mod networks;
mod rate;
mod rates;
mod recent;
mod tables;
mod ties;

pub use networks::Networks;
pub use rate::{Charge, Quota, Rate};
pub use rates::RateTable;
pub use tables::Tables;
pub use ties::Ties;
