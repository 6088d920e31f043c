//! The simulated world.

mod chance;
mod coroutine;
mod net;
mod peer;
mod sim;
mod temper;
mod toy;
mod trace;
mod world;
