//! maypole: an HTTP load-balancing reverse proxy, one worker a core, on stackful coroutines.
//!
//! The map of the house. Arrows point one way: `cli → control, proxy → upstream, plan, balance, policy, http1, observe → runtime`;
//! `cli` puts `transport` between `proxy` and `runtime`, and `control` keeps its certificates; `transport` knows `observe` and
//! `runtime` alone;
//! `config` is read by all and reads none; `http1`, `balance` and `policy` import nothing of the house, and `plan` these three alone.

#[cfg(all(
    not(debug_assertions),
    any(
        feature = "sabotage-retry-post",
        feature = "sabotage-forget-decrement",
        feature = "sabotage-end-cut-body",
        feature = "sabotage-blame-backend",
        feature = "sabotage-keep-worker",
        feature = "sabotage-share-login",
        feature = "sabotage-share-rate",
        feature = "sabotage-keep-coroutine",
        feature = "sabotage-give-up-early",
        feature = "sabotage-spread-failure",
        feature = "sabotage-spread-crowding",
        feature = "sabotage-spread-absence",
        feature = "sabotage-spread-delay",
        feature = "sabotage-fin-is-the-end",
    )
))]
compile_error!("a build that is broken on purpose serves no traffic: the sabotage features are for ./x sabotage alone");

pub mod balance;
pub mod cli;
pub mod config;
pub mod control;
pub mod http1;
pub mod observe;
pub mod plan;
pub mod policy;
pub mod proxy;
pub mod runtime;
pub mod transport;
pub mod upstream;
