//! The simulated world.

mod chance;
mod client;
mod coroutine;
mod deadlines;
mod exchanges;
mod house;
mod net;
mod origin;
mod peer;
mod plan;
mod scenario;
mod sim;
mod temper;
mod toy;
mod trace;
mod verdict;
mod wire;
mod world;
