//! The simulated world.
#![allow(clippy::struct_excessive_bools, reason = "a socket and a temper are lists of independent facts")]
#![allow(clippy::type_complexity, reason = "what an actor shares with its test is spelled out where it is made")]

mod away;
mod blame;
mod breakers;
mod campaign;
#[path = "../support/certificate.rs"]
mod certificate;
mod chance;
mod cipher;
mod client;
mod control;
mod coroutine;
mod deadlines;
mod door;
mod draw;
mod exchanges;
mod excuse;
mod flood;
mod house;
mod logins;
mod mutant;
mod net;
mod noting;
mod origin;
mod peer;
mod pipe;
mod places;
mod plan;
mod promptness;
mod quotas;
mod rates;
mod records;
mod regressions;
mod runners;
mod scenario;
mod secrecy;
mod sessions;
mod sim;
mod spoilt;
mod story;
mod stranger;
mod swaps;
mod tally;
mod temper;
mod tls;
mod toy;
mod trace;
mod trail;
mod turns;
mod verdict;
mod waits;
mod welcome;
mod wire;
mod world;
