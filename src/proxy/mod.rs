//! What lives here: the data plane. Connections of clients, and the exchange: one request from its head to the last
//! byte of its answer. It sees sockets, time, chance, coroutines and waking only through the traits of
//! `runtime::world`, and never blocks its thread.
//!
//! Read `exchange.rs` first.

mod answer;
mod aside;
mod bound;
mod challenge_answer;
mod client;
mod closing;
mod connection;
mod course;
mod encrypted;
pub mod error;
mod error_answer;
mod exchange;
mod facts;
pub mod forward;
mod forwarded;
mod half_head;
mod holdup;
mod lease;
mod long_wait;
mod occasion;
mod outcome;
mod pace;
mod parked;
mod pinned;
mod pump;
mod queue;
mod record;
mod request_id;
mod respond;
mod service;
mod shared;
mod spread;
mod state;
mod sticky;
mod stillness;
mod throttle;
mod transfer;
mod tunnel;
mod wait;
mod worker;

pub use error_answer::{Fate, OwnAnswer, Representation, in_clear};
pub use parked::Parked;
pub use record::{End, Missed, Record, TRIES_MAX};
pub use shared::Shared;
pub use sticky::SessionCookie;
pub use throttle::Allowance;
pub use worker::Proxy;
