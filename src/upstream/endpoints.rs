//! One worker's idle connections to one backend, by the address that each of them leads to. Requests take the addresses in
//! turn; those that are ill, or just took no connection, are passed over as long as there is another one. An address that
//! has left its name takes its connections along.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::balance::{Address, Addresses};
use crate::runtime::world::Instant;

/// Idle connections that a worker keeps to one address.
const IDLE_MAX: usize = 16_384;
/// How long an address that took no connection, where another one did, is asked last. Its health checks are told at once.
const AVOIDED_FOR: Duration = Duration::from_secs(10);

pub(super) struct Endpoints<S> {
    list: Vec<Endpoint<S>>,
    /// What `list` was made of.
    known: Arc<Vec<Address>>,
    /// Where the next request begins to look.
    turn: usize,
    numbers_used: u32,
    /// Of what connections are encrypted by.
    encryption: u32,
    /// The greatest number that was used before that changed.
    outdated: u32,
}

struct Endpoint<S> {
    /// Tells it from the same address before it left and came back.
    number: u32,
    at: SocketAddr,
    /// It is ill, and another one isn't.
    passed_over: bool,
    avoided_until: Option<Instant>,
    /// The most recently used last: the others age and are closed in order.
    idle: VecDeque<Idle<S>>,
}

pub(super) struct Idle<S> {
    pub(super) stream: S,
    since: Instant,
    /// When its server is about to close it; mostly never.
    until: Instant,
}

/// Which endpoint, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct EndpointId(u32);

impl<S> Endpoints<S> {
    /// None yet; `encryption` is the generation of what connections to them are encrypted by.
    pub(super) fn new(encryption: u32) -> Self {
        Self { list: Vec::new(), known: Arc::default(), turn: 0, numbers_used: 0, encryption, outdated: 0 }
    }

    /// The most recently used idle connection to the address whose turn it is. The clock is looked at only where servers say
    /// when they close.
    #[inline]
    pub(super) fn take_idle(&mut self, now: impl Fn() -> Instant) -> Option<(S, EndpointId)> {
        let at = if self.list.len() == 1 { 0 } else { self.next()? };
        let endpoint = &mut self.list[at];
        loop {
            let idle = endpoint.idle.pop_back()?;
            if idle.until == Instant::NEVER || now() < idle.until {
                self.turn = at + 1;
                return Some((idle.stream, EndpointId(endpoint.number)));
            }
        }
    }

    /// Keeps a connection that has become idle; it is closed where its address has left, or is passed over.
    #[inline]
    pub(super) fn keep(&mut self, stream: S, endpoint: EndpointId, since: Instant, until: Instant) {
        let Some(endpoint) = self.list.iter_mut().find(|known| known.number == endpoint.0) else { return };
        if endpoint.passed_over {
            return;
        }
        if endpoint.idle.len() == IDLE_MAX {
            endpoint.idle.pop_front();
        }
        endpoint.idle.push_back(Idle { stream, since, until });
    }

    /// The addresses to connect to, one after the other until one takes the connection. The turn goes on.
    pub(super) fn candidates(&mut self, addresses: &Addresses) -> Vec<(EndpointId, SocketAddr)> {
        self.follow(addresses);
        let count = self.list.len();
        let first = self.next().unwrap_or(0);
        self.turn = first + 1;
        let in_turn = (0..count).map(|n| &self.list[(first + n) % count]).filter(|endpoint| !endpoint.passed_over);
        let (asked_last, asked): (Vec<&Endpoint<S>>, Vec<_>) =
            in_turn.partition(|endpoint| endpoint.avoided_until.is_some());
        asked.into_iter().chain(asked_last).map(|endpoint| (EndpointId(endpoint.number), endpoint.at)).collect()
    }

    /// These took no connection, and another one did.
    pub(super) fn avoid(&mut self, missed: &[(EndpointId, SocketAddr)], now: Instant) {
        let was_missed = |number| missed.iter().any(|(id, _)| id.0 == number);
        for endpoint in self.list.iter_mut().filter(|endpoint| was_missed(endpoint.number)) {
            endpoint.avoided_until = Some(now + AVOIDED_FOR);
        }
    }

    /// Closes what has been idle for `keep_alive`, what isn't quiet, and what leads to an address that has left or is passed
    /// over.
    pub(super) fn sweep(
        &mut self,
        addresses: &Addresses,
        now: Instant,
        keep_alive: Duration,
        is_quiet: impl Fn(&S) -> bool,
    ) {
        self.follow(addresses);
        for endpoint in &mut self.list {
            endpoint.avoided_until = endpoint.avoided_until.filter(|&until| until > now);
            let fresh = |idle: &Idle<S>| now.since(idle.since) < keep_alive && now < idle.until;
            endpoint.idle.retain(|idle| fresh(idle) && is_quiet(&idle.stream));
        }
    }

    /// Connections are encrypted by what has this generation now. Where that is another one than before, those of before are as
    /// good as to addresses that have left: idle ones are closed, those in use when they are given back.
    pub(super) fn encrypt_by(&mut self, generation: u32) {
        if std::mem::replace(&mut self.encryption, generation) == generation {
            return;
        }
        self.outdated = self.numbers_used;
        for endpoint in &mut self.list {
            endpoint.number = next(&mut self.numbers_used);
            endpoint.idle.clear();
        }
    }

    /// Whether a connection to there is from before what connections are encrypted by has changed.
    pub(super) const fn is_outdated(&self, endpoint: EndpointId) -> bool {
        endpoint.0 <= self.outdated
    }

    /// Since when the connection has been idle that has been so for longest.
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.list.iter().filter_map(|endpoint| endpoint.idle.front()).map(|idle| idle.since).min()
    }

    /// Takes that one out.
    pub(super) fn take_oldest(&mut self) -> Option<Idle<S>> {
        let oldest = self.list.iter_mut().filter(|endpoint| !endpoint.idle.is_empty());
        let oldest = oldest.min_by_key(|endpoint| endpoint.idle.front().map(|idle| idle.since));
        oldest?.idle.pop_front()
    }

    /// Idle connections over all addresses.
    pub(super) fn idle(&self) -> usize {
        self.list.iter().map(|endpoint| endpoint.idle.len()).sum()
    }

    /// The place in the list of the address whose turn it is.
    fn next(&self) -> Option<usize> {
        let count = self.list.len();
        let in_turn = |n: usize| (self.turn + n) % count;
        let able = |at: &usize| !self.list[*at].passed_over;
        let liked = |at: &usize| able(at) && self.list[*at].avoided_until.is_none();
        (0..count).map(in_turn).find(liked).or_else(|| (0..count).map(in_turn).find(able))
    }

    /// Takes in what has become of the backend's addresses.
    fn follow(&mut self, addresses: &Addresses) {
        if addresses.are(&self.known) {
            return;
        }
        self.known = addresses.load();
        let any_well = self.known.iter().any(|address| !address.ill);
        let mut before = std::mem::take(&mut self.list);
        for address in self.known.iter() {
            let known = before.iter().position(|endpoint| endpoint.at == address.at);
            let mut endpoint =
                known.map_or_else(|| Endpoint::new(address.at, &mut self.numbers_used), |n| before.swap_remove(n));
            endpoint.passed_over = address.ill && any_well;
            if endpoint.passed_over {
                endpoint.idle.clear();
            }
            self.list.push(endpoint);
        }
    }
}

impl<S> Endpoint<S> {
    fn new(at: SocketAddr, numbers_used: &mut u32) -> Self {
        Self { number: next(numbers_used), at, passed_over: false, avoided_until: None, idle: VecDeque::new() }
    }
}

/// A name has 16 addresses at most, so that these numbers never run out.
const fn next(numbers_used: &mut u32) -> u32 {
    *numbers_used = numbers_used.wrapping_add(1);
    *numbers_used
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Instant = Instant(1_000_000_000);
    const KEEP_ALIVE: Duration = Duration::from_secs(30);

    fn at(last: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, last], 80))
    }

    fn addresses(lasts: &[u8]) -> Addresses {
        lasts.iter().map(|&last| at(last)).collect()
    }

    /// Where the next request is sent: over an idle connection, or over the new one that it makes.
    fn request(endpoints: &mut Endpoints<SocketAddr>, addresses: &Addresses) -> (SocketAddr, EndpointId) {
        endpoints.take_idle(|| NOW).unwrap_or_else(|| {
            let (endpoint, at) = endpoints.candidates(addresses)[0];
            (at, endpoint)
        })
    }

    /// Where so many requests are sent, one after the other.
    fn requests(endpoints: &mut Endpoints<SocketAddr>, addresses: &Addresses, count: usize) -> Vec<u8> {
        let one = |endpoints: &mut Endpoints<SocketAddr>| {
            let (at, endpoint) = request(endpoints, addresses);
            endpoints.keep(at, endpoint, NOW, Instant::NEVER);
            let SocketAddr::V4(at) = at else { panic!("of IPv4") };
            at.ip().octets()[3]
        };
        (0..count).map(|_| one(endpoints)).collect()
    }

    #[test]
    fn requests_one_after_the_other_take_all_addresses_in_turn_and_a_connection_each() {
        let (mut endpoints, addresses) = (Endpoints::new(0), addresses(&[1, 2, 3]));
        assert_eq!(requests(&mut endpoints, &addresses, 7), [1, 2, 3, 1, 2, 3, 1]);
        assert_eq!(endpoints.idle(), 3);
    }

    #[test]
    fn an_address_that_left_takes_its_connections_along_those_in_use_included() {
        let (mut endpoints, addresses) = (Endpoints::new(0), addresses(&[1, 2]));
        requests(&mut endpoints, &addresses, 2);
        let (in_use, endpoint) = request(&mut endpoints, &addresses);
        assert_eq!(in_use, at(1));
        addresses.set([at(2)]);
        endpoints.sweep(&addresses, NOW, KEEP_ALIVE, |_| true);
        endpoints.keep(in_use, endpoint, NOW, Instant::NEVER);
        assert_eq!((endpoints.idle(), requests(&mut endpoints, &addresses, 3)), (1, vec![2, 2, 2]));
        addresses.set([at(2), at(1)]);
        endpoints.sweep(&addresses, NOW, KEEP_ALIVE, |_| true);
        endpoints.keep(in_use, endpoint, NOW, Instant::NEVER);
        assert_eq!(endpoints.idle(), 1, "the address came back, not the connection");
    }

    #[test]
    fn what_was_encrypted_by_something_else_is_used_no_more_that_in_use_included() {
        let (mut endpoints, addresses) = (Endpoints::new(3), addresses(&[1, 2]));
        requests(&mut endpoints, &addresses, 2);
        endpoints.encrypt_by(3);
        assert_eq!(endpoints.idle(), 2, "nothing has changed");
        let (in_use, endpoint) = request(&mut endpoints, &addresses);
        assert!(!endpoints.is_outdated(endpoint));
        endpoints.encrypt_by(4);
        assert!(endpoints.is_outdated(endpoint) && endpoints.idle() == 0);
        endpoints.keep(in_use, endpoint, NOW, Instant::NEVER);
        assert_eq!(endpoints.idle(), 0);
        assert_eq!(requests(&mut endpoints, &addresses, 4), [2, 1, 2, 1]);
        let (_, endpoint) = request(&mut endpoints, &addresses);
        assert!(!endpoints.is_outdated(endpoint));
        endpoints.encrypt_by(4);
        assert_eq!(endpoints.idle(), 1);
    }

    #[test]
    fn what_is_new_is_connected_to_before_any_sweep() {
        let (mut endpoints, addresses) = (Endpoints::<SocketAddr>::new(0), addresses(&[1]));
        endpoints.candidates(&addresses);
        addresses.set([at(2)]);
        assert_eq!(endpoints.candidates(&addresses).iter().map(|(_, at)| *at).collect::<Vec<_>>(), [at(2)]);
    }

    #[test]
    fn an_ill_address_is_passed_over_as_long_as_another_one_is_well() {
        let (mut endpoints, addresses) = (Endpoints::new(0), addresses(&[1, 2, 3]));
        requests(&mut endpoints, &addresses, 3);
        addresses.set_ill(at(2), true);
        endpoints.sweep(&addresses, NOW, KEEP_ALIVE, |_| true);
        assert_eq!(requests(&mut endpoints, &addresses, 4), [1, 3, 1, 3]);
        assert_eq!(endpoints.idle(), 2);
        assert!(endpoints.candidates(&addresses).iter().all(|(_, address)| *address != at(2)));
        addresses.set_ill(at(1), true);
        addresses.set_ill(at(3), true);
        endpoints.sweep(&addresses, NOW, KEEP_ALIVE, |_| true);
        assert_eq!(endpoints.candidates(&addresses).len(), 3, "where all are ill, each is as good as the others");
    }

    #[test]
    fn an_address_that_took_no_connection_is_asked_last_for_a_while() {
        let (mut endpoints, addresses) = (Endpoints::new(0), addresses(&[1, 2]));
        let candidates = endpoints.candidates(&addresses);
        endpoints.avoid(&candidates[..1], NOW);
        assert_eq!(requests(&mut endpoints, &addresses, 3), [2, 2, 2]);
        let order: Vec<_> = endpoints.candidates(&addresses).iter().map(|(_, at)| *at).collect();
        assert_eq!(order, [at(2), at(1)]);
        endpoints.sweep(&addresses, NOW + AVOIDED_FOR, KEEP_ALIVE, |_| true);
        let mut seen = requests(&mut endpoints, &addresses, 2);
        seen.sort_unstable();
        assert_eq!(seen, [1, 2]);
    }

    #[test]
    fn what_its_server_is_about_to_close_is_not_used_and_goes_at_the_next_sweep() {
        let (mut endpoints, addresses) = (Endpoints::new(0), addresses(&[1]));
        let (at, endpoint) = request(&mut endpoints, &addresses);
        let until = NOW + Duration::from_secs(4);
        endpoints.keep(at, endpoint, NOW, until);
        assert!(endpoints.take_idle(|| NOW + Duration::from_secs(3)).is_some());
        endpoints.keep(at, endpoint, NOW, until);
        assert!(endpoints.take_idle(|| until).is_none());
        endpoints.keep(at, endpoint, NOW, until);
        endpoints.sweep(&addresses, until, KEEP_ALIVE, |_| true);
        assert_eq!(endpoints.idle(), 0);
    }

    #[test]
    fn what_has_been_idle_for_too_long_or_is_not_quiet_goes_and_the_oldest_first_when_descriptors_are_short() {
        let (mut endpoints, addresses) = (Endpoints::new(0), addresses(&[1, 2, 3]));
        let taken: Vec<_> = (0..3).map(|_| request(&mut endpoints, &addresses)).collect();
        for (n, (at, endpoint)) in (0..).zip(taken) {
            endpoints.keep(at, endpoint, NOW + Duration::from_secs(n), Instant::NEVER);
        }
        assert_eq!(endpoints.oldest(), Some(NOW));
        assert_eq!(endpoints.take_oldest().map(|idle| idle.stream), Some(at(1)));
        endpoints.sweep(&addresses, NOW + KEEP_ALIVE, KEEP_ALIVE, |stream| *stream != at(2));
        assert_eq!((endpoints.idle(), endpoints.oldest()), (1, Some(NOW + Duration::from_secs(2))));
        endpoints.sweep(&addresses, NOW + Duration::from_secs(2) + KEEP_ALIVE, KEEP_ALIVE, |_| true);
        assert_eq!(endpoints.idle(), 0);
    }
}
