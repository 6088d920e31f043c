//! Who may connect: client connections are bounded in all, and by client.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::Shared;
use super::error::Failure;
use crate::config::Config;
use crate::policy::Networks;

/// So many that two workers seldom want the same one.
const SHARDS: usize = 64;

/// The places that client connections take, over all workers.
#[derive(Debug)]
pub(super) struct Seats {
    taken: AtomicUsize,
    by_client: ByClient,
}

/// How many there may be.
#[derive(Debug)]
pub(super) struct SeatRules {
    /// In all.
    pub(super) connections_max: usize,
    /// Of one client; 0: any number, and none is looked up.
    of_client_max: usize,
    /// Proxies, which connect for many clients.
    exempt: Networks,
}

/// One client connection's place, free again when this is dropped.
#[derive(Debug)]
pub(super) struct Seat {
    shared: Arc<Shared>,
    peer: IpAddr,
    /// It counts as one of its client's too.
    by_client: bool,
}

/// How many places each client has taken. One without any has no entry, so that there are never more entries than
/// connections.
#[derive(Debug)]
struct ByClient {
    /// Locked for the length of a look-up: at a connection's begin and end, never at a request.
    shards: Box<[Mutex<HashMap<Client, usize>>]>,
    hasher: RandomState,
}

/// What counts as one client. An IPv6 subscriber has at least a /64 to choose addresses from (RFC 7421 §2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Client {
    V4(Ipv4Addr),
    V6Slash64([u16; 4]),
}

impl Seat {
    /// A place for a connection from `peer`.
    ///
    /// # Errors
    /// The limit that is reached.
    pub(super) fn take(shared: &Arc<Shared>, peer: IpAddr) -> Result<Self, Failure> {
        let by_client = shared.seats.take(peer, &shared.seat_rules)?;
        Ok(Self { shared: Arc::clone(shared), peer, by_client })
    }

    /// Who sits there.
    pub(super) fn peer(&self) -> IpAddr {
        self.peer
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.shared.seats.leave(self.by_client.then(|| Client::of(self.peer)));
    }
}

impl SeatRules {
    /// `connections_max` bounds connections in all, the configuration those of one client.
    pub(super) fn new(config: &Config, connections_max: usize) -> Self {
        Self {
            connections_max,
            of_client_max: config.limits.connections_per_client,
            exempt: Networks::new(&config.trusted_proxies),
        }
    }

    /// Whether this peer's connections are those of one client, of which there may be only so many.
    fn counts(&self, peer: IpAddr) -> bool {
        self.of_client_max > 0 && !self.exempt.contains(peer.to_canonical())
    }
}

impl Seats {
    pub(super) fn new() -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Self { taken: AtomicUsize::new(0), by_client: ByClient { shards, hasher: RandomState::new() } }
    }

    pub(super) fn taken(&self) -> usize {
        self.taken.load(Ordering::Acquire)
    }

    /// Whether it is counted by client too.
    fn take(&self, peer: IpAddr, rules: &SeatRules) -> Result<bool, Failure> {
        let refused = if self.taken.fetch_add(1, Ordering::AcqRel) >= rules.connections_max {
            Failure::ConnectionLimit
        } else if !rules.counts(peer) {
            return Ok(false);
        } else if self.by_client.take(Client::of(peer), rules.of_client_max) {
            return Ok(true);
        } else {
            Failure::ClientConnectionLimit
        };
        self.taken.fetch_sub(1, Ordering::AcqRel);
        Err(refused)
    }

    fn leave(&self, client: Option<Client>) {
        if let Some(client) = client {
            self.by_client.leave(client);
        }
        self.taken.fetch_sub(1, Ordering::AcqRel);
    }
}

impl ByClient {
    /// False when this client has as many as it may.
    fn take(&self, client: Client, connections_max: usize) -> bool {
        let mut shard = self.shard(client).lock();
        let taken = shard.entry(client).or_default();
        let fits = *taken < connections_max;
        *taken += usize::from(fits);
        fits
    }

    fn leave(&self, client: Client) {
        let mut shard = self.shard(client).lock();
        if let Some(taken) = shard.get_mut(&client) {
            *taken -= 1;
            if *taken == 0 {
                shard.remove(&client);
            }
        }
    }

    fn shard(&self, client: Client) -> &Mutex<HashMap<Client, usize>> {
        &self.shards[self.hasher.hash_one(client) as usize % SHARDS]
    }
}

impl Client {
    fn of(peer: IpAddr) -> Self {
        match peer.to_canonical() {
            IpAddr::V4(address) => Self::V4(address),
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments();
                Self::V6Slash64([a, b, c, d])
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::{Fleet, Policy, Strategy};

    fn shared(connections_per_client: usize, trusted_proxies: &[&str], seats_max: usize) -> Arc<Shared> {
        let (fleet, _reports) = Fleet::new(Policy::of(Strategy::RoundRobin));
        let mut config = Config::default();
        config.limits.connections_per_client = connections_per_client;
        config.trusted_proxies = trusted_proxies.iter().map(|network| network.parse().unwrap()).collect();
        Shared::new(config, Arc::new(fleet), seats_max)
    }

    fn take(shared: &Arc<Shared>, peer: &str) -> Result<Seat, Failure> {
        Seat::take(shared, peer.parse().unwrap())
    }

    fn entries(shared: &Shared) -> usize {
        let shards = &shared.seats.by_client.shards;
        shards.iter().map(|shard| shard.lock().len()).sum()
    }

    #[test]
    fn seats_are_bounded_in_all_and_come_back() {
        let shared = shared(0, &[], 2);
        let first = take(&shared, "10.0.0.1").unwrap();
        let _second = take(&shared, "10.0.0.1").unwrap();
        assert_eq!(take(&shared, "10.0.0.2").unwrap_err(), Failure::ConnectionLimit);
        drop(first);
        assert_eq!(shared.connections(), 1);
        assert!(take(&shared, "10.0.0.2").is_ok());
    }

    #[test]
    fn a_client_has_its_seats_and_no_more_until_one_comes_back() {
        let shared = shared(2, &[], 100);
        let first = take(&shared, "10.0.0.1").unwrap();
        let second = take(&shared, "10.0.0.1").unwrap();
        assert_eq!(take(&shared, "10.0.0.1").unwrap_err(), Failure::ClientConnectionLimit);
        assert_eq!(shared.connections(), 2, "who was refused takes none of all seats");
        let other = take(&shared, "10.0.0.2").unwrap();
        drop(first);
        let third = take(&shared, "10.0.0.1").unwrap();
        assert_eq!(take(&shared, "10.0.0.1").unwrap_err(), Failure::ClientConnectionLimit);
        assert_eq!(entries(&shared), 2);
        drop((second, third, other));
        assert_eq!((entries(&shared), shared.connections()), (0, 0));
    }

    #[test]
    fn who_is_one_client() {
        for (first, second, same) in [
            ("10.0.0.1", "10.0.0.2", false),
            ("10.0.0.1", "::ffff:10.0.0.1", true),
            ("2001:db8::1", "2001:db8::2", true),
            ("2001:db8::1", "2001:db8:0:0:ffff:ffff:ffff:ffff", true),
            ("2001:db8::1", "2001:db8:0:1::1", false),
        ] {
            let shared = shared(1, &[], 100);
            let _seat = take(&shared, first).unwrap();
            assert_eq!(take(&shared, second).is_err(), same, "{first} and {second}");
        }
    }

    #[test]
    fn a_trusted_proxy_connects_for_many_clients() {
        let shared = shared(1, &["10.1.0.0/16"], 3);
        let _seats = [(); 3].map(|()| take(&shared, "::ffff:10.1.2.3").unwrap());
        assert_eq!(entries(&shared), 0);
        assert_eq!(take(&shared, "10.1.2.3").unwrap_err(), Failure::ConnectionLimit);
    }
}
