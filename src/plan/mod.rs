//! What lives here: what configuration alone decides of how requests are served, made ready for use; and what outlives it
//! ([`Kept`]). Pure: a plan never changes, and is swapped whole. It knows `config`, `http1`, `balance` and `policy`, and no
//! socket.
//!
//! Settings are in the plan and state elsewhere, and nothing has both. What a plan needs of state (a pool, a table of
//! clients) it holds by an `Arc` out of what is kept, so that the next plan goes on with the same.

mod challenges;
mod kept;
mod pool;
mod rules;
mod sticky;
mod throttle;
mod via;

pub use challenges::Challenges;
pub use kept::{Kept, Room};
pub use pool::{PoolRules, policy, thresholds};
pub use rules::{ConnectionRules, RequestRules, RequestTimeouts, head_limits};
pub use sticky::{Stickiness, StickyCookie};
pub use throttle::Throttle;
pub use via::Via;

use std::sync::Arc;

use crate::balance::{Policy, Pool};
use crate::config::{AcmeChallenge, Config};

/// All that a configuration decides for the data plane.
#[derive(Debug)]
pub struct Plan {
    /// Tells it from every other plan of the process.
    pub generation: u64,
    /// What holds for clients' connections, whatever is asked on them.
    pub connections: ConnectionRules,
    /// What every request is served by.
    pub route: Route,
}

/// How requests are served.
#[derive(Debug)]
pub struct Route {
    /// Where they go.
    pub pool: Arc<Pool>,
    /// How one of its backends is picked, and judged.
    pub policy: Arc<Policy>,
    /// What holds for each request.
    pub rules: RequestRules,
    /// None without `rate_limit`: then no client is looked up.
    pub throttle: Option<Throttle>,
    /// None without `sticky`: then no request is looked at for a session.
    pub stickiness: Option<Stickiness>,
    /// None without `tls.acme` by `http-01`: then no request is looked at for a challenge.
    pub challenges: Option<Arc<Challenges>>,
}

impl Plan {
    /// The plan of this configuration, on top of what is kept.
    pub fn build(config: &Config, kept: &Kept) -> Self {
        Self {
            generation: kept.next_generation(),
            connections: ConnectionRules::new(config, &kept.room),
            route: Route {
                pool: Arc::clone(&kept.pool),
                policy: Arc::new(policy(config, &kept.session_key)),
                rules: RequestRules::new(config),
                throttle: config.rate_limit.as_ref().map(|limit| Throttle::new(limit, &kept.tables)),
                stickiness: config.sticky.as_ref().map(|sticky| Stickiness::new(sticky, &kept.tables)),
                challenges: is_asked_over_http(config).then(|| Arc::clone(&kept.challenges)),
            },
        }
    }
}

/// Whether authorities ask over HTTP whether names are ours.
fn is_asked_over_http(config: &Config) -> bool {
    let acme = config.tls.as_ref().and_then(|tls| tls.acme.as_ref());
    acme.is_some_and(|acme| acme.challenge == AcmeChallenge::Http01)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::Sessions;
    use crate::config::{RateKey, RateLimit, SameSite, Secure, Sticky};

    const ROOM: Room = Room { workers: 2, connections: 100, connections_max: 200, turned_away_max: 20 };

    #[test]
    fn each_plan_has_a_generation_of_its_own_and_the_pool_and_the_tables_of_the_one_before() {
        let mut config = Config::default();
        let limit = RateLimit {
            requests: 1,
            per: std::time::Duration::from_secs(1),
            burst: 1,
            key: RateKey::ClientIp,
            max_keys: 10,
            allow: Vec::new(),
        };
        config.rate_limit = Some(limit);
        let (kept, _reports) = Kept::new(ROOM);
        let plans = [Plan::build(&config, &kept), Plan::build(&config, &kept)];
        let [(first, used), (second, left)] = plans.each_ref().map(|plan| {
            let throttle = plan.route.throttle.as_ref().expect("a limit");
            (plan, throttle.table.charge(&throttle.rate, 7, 1_000_000_000).admits)
        });
        assert_ne!(first.generation, second.generation);
        assert!(Arc::ptr_eq(&first.route.pool, &second.route.pool));
        assert_eq!((used, left), (true, false), "what a client has used it has used under the next plan too");
    }

    #[test]
    fn there_are_as_many_connections_as_are_configured_and_fit() {
        for (configured, want) in [(0, 100), (50, 50), (150, 150), (300, 200)] {
            let mut config = Config::default();
            config.limits.connections = configured;
            let (kept, _reports) = Kept::new(ROOM);
            assert_eq!(Plan::build(&config, &kept).connections.seats.in_all_max, want, "{configured}");
        }
    }

    #[test]
    fn the_fewer_connections_are_configured_the_more_may_be_turned_away_at_a_time() {
        for (configured, want) in [(200, 10), (100, 60), (1, 109)] {
            let mut config = Config::default();
            config.limits.connections = configured;
            let (kept, _reports) = Kept::new(ROOM);
            assert_eq!(Plan::build(&config, &kept).connections.turned_away_max, want, "{configured}");
        }
    }

    #[test]
    fn cookies_without_a_secret_are_the_same_under_each_plan_of_a_process_and_others_in_another_one() {
        let cookie = crate::config::StickyCookie {
            name: "S".into(),
            ttl: None,
            secure: Secure::Auto,
            same_site: SameSite::Lax,
            secret: None,
        };
        let config = Config { sticky: Some(Sticky::Cookie(cookie)), ..Config::default() };
        let key = |kept: &Kept| match policy(&config, &kept.session_key).sessions {
            Sessions::ByName(key) => key,
            other => panic!("{other:?}"),
        };
        let (kept, _reports) = Kept::new(ROOM);
        let (another, _reports) = Kept::new(ROOM);
        assert_eq!(key(&kept), key(&kept));
        assert_ne!(key(&kept), key(&another));
    }
}
