//! The simulated world.

mod chance;
mod coroutine;
mod net;
mod sim;
mod temper;
mod trace;
mod world;
