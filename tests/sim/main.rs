//! The simulated world.

mod chance;
mod client;
mod coroutine;
mod net;
mod origin;
mod peer;
mod plan;
mod sim;
mod temper;
mod toy;
mod trace;
mod wire;
mod world;
