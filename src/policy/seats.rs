//! The places of client connections, which are bounded in all and by client.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::Networks;

/// So many that two workers seldom want the same one.
const SHARDS: usize = 64;

/// The places that client connections take, over all workers.
#[derive(Debug)]
pub struct Seats {
    taken: AtomicUsize,
    by_client: ByClient,
}

/// How many there may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeatRules {
    /// In all.
    pub in_all_max: usize,
    /// Of one client; 0: any number, and none is looked up.
    pub of_client_max: usize,
    /// Proxies, which connect for many clients.
    pub exempt: Networks,
}

/// One client connection's place, free again when this is dropped.
#[derive(Debug)]
pub struct Seat {
    seats: Arc<Seats>,
    peer: IpAddr,
    /// It counts as one of its client's too, whatever the rules say by now.
    by_client: bool,
}

/// The limit that leaves no place for a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoSeat {
    /// That of all connections.
    InAll,
    /// That of one client's.
    OfClient,
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
    pub fn take(seats: &Arc<Seats>, peer: IpAddr, rules: &SeatRules) -> Result<Self, NoSeat> {
        let by_client = seats.take(peer, rules)?;
        Ok(Self { seats: Arc::clone(seats), peer, by_client })
    }

    /// Where the connection comes from.
    pub fn peer(&self) -> IpAddr {
        self.peer
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.seats.leave(self.by_client.then(|| Client::of(self.peer)));
    }
}

impl SeatRules {
    /// Whether this peer's connections are those of one client, of which there may be only so many.
    fn counts(&self, peer: IpAddr) -> bool {
        self.of_client_max > 0 && !self.exempt.contains(peer.to_canonical())
    }
}

impl Default for Seats {
    /// All of them are free.
    fn default() -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Self { taken: AtomicUsize::new(0), by_client: ByClient { shards, hasher: RandomState::new() } }
    }
}

impl Seats {
    /// Client connections now.
    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::Acquire)
    }

    /// Whether it is counted by client too.
    fn take(&self, peer: IpAddr, rules: &SeatRules) -> Result<bool, NoSeat> {
        let refused = if self.taken.fetch_add(1, Ordering::AcqRel) >= rules.in_all_max {
            NoSeat::InAll
        } else if !rules.counts(peer) {
            return Ok(false);
        } else if self.by_client.take(Client::of(peer), rules.of_client_max) {
            return Ok(true);
        } else {
            NoSeat::OfClient
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

    struct House {
        seats: Arc<Seats>,
        rules: SeatRules,
    }

    impl House {
        fn new(of_client_max: usize, exempt: &[&str], in_all_max: usize) -> Self {
            let exempt: Vec<_> = exempt.iter().map(|network| network.parse().unwrap()).collect();
            let rules = SeatRules { in_all_max, of_client_max, exempt: Networks::new(&exempt) };
            Self { seats: Arc::default(), rules }
        }

        fn take(&self, peer: &str) -> Result<Seat, NoSeat> {
            Seat::take(&self.seats, peer.parse().unwrap(), &self.rules)
        }

        fn entries(&self) -> usize {
            self.seats.by_client.shards.iter().map(|shard| shard.lock().len()).sum()
        }
    }

    #[test]
    fn seats_are_bounded_in_all_and_come_back() {
        let house = House::new(0, &[], 2);
        let first = house.take("10.0.0.1").unwrap();
        let _second = house.take("10.0.0.1").unwrap();
        assert_eq!(house.take("10.0.0.2").unwrap_err(), NoSeat::InAll);
        drop(first);
        assert_eq!(house.seats.taken(), 1);
        assert!(house.take("10.0.0.2").is_ok());
    }

    #[test]
    fn a_client_has_its_seats_and_no_more_until_one_comes_back() {
        let house = House::new(2, &[], 100);
        let first = house.take("10.0.0.1").unwrap();
        let second = house.take("10.0.0.1").unwrap();
        assert_eq!(house.take("10.0.0.1").unwrap_err(), NoSeat::OfClient);
        assert_eq!(house.seats.taken(), 2, "a client that is refused takes none of all seats");
        let other = house.take("10.0.0.2").unwrap();
        drop(first);
        let third = house.take("10.0.0.1").unwrap();
        assert_eq!(house.take("10.0.0.1").unwrap_err(), NoSeat::OfClient);
        assert_eq!(house.entries(), 2);
        drop((second, third, other));
        assert_eq!((house.entries(), house.seats.taken()), (0, 0));
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
            let house = House::new(1, &[], 100);
            let _seat = house.take(first).unwrap();
            assert_eq!(house.take(second).is_err(), same, "{first} and {second}");
        }
    }

    #[test]
    fn a_trusted_proxy_connects_for_many_clients() {
        let house = House::new(1, &["10.1.0.0/16"], 3);
        let _seats = [(); 3].map(|()| house.take("::ffff:10.1.2.3").unwrap());
        assert_eq!(house.entries(), 0);
        assert_eq!(house.take("10.1.2.3").unwrap_err(), NoSeat::InAll);
    }

    #[test]
    fn a_seat_comes_back_as_what_it_was_counted_whatever_the_rules_say_by_then() {
        let mut house = House::new(0, &[], 100);
        let uncounted = house.take("10.0.0.1").unwrap();
        house.rules.of_client_max = 1;
        let counted = house.take("10.0.0.1").unwrap();
        drop(uncounted);
        assert_eq!(house.take("10.0.0.1").unwrap_err(), NoSeat::OfClient);
        house.rules.of_client_max = 0;
        drop(counted);
        assert_eq!((house.entries(), house.seats.taken()), (0, 0));
    }
}
