//! What lives here: one client connection and its exchanges, from the listener to the log. It may know `config`,
//! `http1`, `balance`, `upstream`, `observe` and `runtime`, and sees the world only through `runtime`'s traits.

pub mod error;
mod error_answer;
pub mod forward;
