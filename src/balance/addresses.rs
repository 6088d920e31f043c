//! Where a backend is to be reached: what its name resolved to last, and which of that is ill.

use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;

/// Addresses of one name that are kept.
const ADDRESSES_MAX: usize = 16;

/// A backend's addresses, replaced as a whole whenever one comes, goes, or changes its health.
#[derive(Debug, Default)]
pub struct Addresses(ArcSwap<Vec<Address>>);

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// Where it is.
    pub at: SocketAddr,
    /// Its own health checks fail: it is passed over as long as those of another one don't.
    pub ill: bool,
}

impl Addresses {
    /// All of them now.
    pub fn load(&self) -> Arc<Vec<Address>> {
        self.0.load_full()
    }

    /// Whether they are still what [`Self::load`] gave.
    pub fn are(&self, known: &Arc<Vec<Address>>) -> bool {
        Arc::ptr_eq(&self.0.load(), known)
    }

    /// Without what is known of their health.
    pub fn list(&self) -> Vec<SocketAddr> {
        self.0.load().iter().map(|address| address.at).collect()
    }

    /// There is none.
    pub fn is_empty(&self) -> bool {
        self.0.load().is_empty()
    }

    /// Takes in what the name resolves to; false if that changes nothing. Another order doesn't, since many a name server
    /// turns its answers round each time, nor does the same address in two ways of writing. Of more than are kept, those
    /// stay that are there already.
    pub fn set(&self, found: impl IntoIterator<Item = SocketAddr>) -> bool {
        let found: Vec<SocketAddr> = found.into_iter().map(canonical).collect();
        let renewed = |last: &Vec<Address>| {
            let mut next: Vec<Address> = last.iter().filter(|address| found.contains(&address.at)).copied().collect();
            for &at in &found {
                if next.len() < ADDRESSES_MAX && next.iter().all(|address| address.at != at) {
                    next.push(Address { at, ill: false });
                }
            }
            next
        };
        let same = *self.0.load_full() == renewed(&self.0.load());
        if !same {
            self.0.rcu(|last| renewed(last));
        }
        !same
    }

    /// Takes in what its health checks say of one of them.
    pub fn set_ill(&self, at: SocketAddr, ill: bool) {
        let differs = |address: &Address| address.at == at && address.ill != ill;
        if !self.0.load().iter().any(differs) {
            return;
        }
        self.0.rcu(|last| {
            let mut next = Vec::clone(last);
            next.iter_mut().filter(|address| address.at == at).for_each(|address| address.ill = ill);
            next
        });
    }
}

impl FromIterator<SocketAddr> for Addresses {
    fn from_iter<I: IntoIterator<Item = SocketAddr>>(found: I) -> Self {
        let addresses = Self::default();
        addresses.set(found);
        addresses
    }
}

/// An IPv4 address that is written as one of IPv6 is the same address.
fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        ip if ip == address.ip() => address,
        ip => SocketAddr::new(ip, address.port()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn another_order_a_double_and_another_way_of_writing_change_nothing() {
        let addresses: Addresses = some(&["10.0.0.1:80", "10.0.0.2:80", "10.0.0.1:80"]).into_iter().collect();
        assert_eq!(addresses.list(), some(&["10.0.0.1:80", "10.0.0.2:80"]));
        let before = addresses.load();
        for same in [
            &["10.0.0.2:80", "10.0.0.1:80"][..],
            &["[::ffff:10.0.0.2]:80", "10.0.0.1:80", "10.0.0.2:80"],
            &["10.0.0.1:80", "[::ffff:10.0.0.1]:80", "10.0.0.2:80"],
        ] {
            assert!(!addresses.set(some(same)), "{same:?}");
            assert!(addresses.are(&before));
        }
        assert!(addresses.set(some(&["10.0.0.2:80"])));
        assert!(!addresses.are(&before));
    }

    #[test]
    fn an_address_that_stays_keeps_its_health_and_one_that_comes_back_does_not() {
        let addresses: Addresses = some(&["10.0.0.1:80", "10.0.0.2:80"]).into_iter().collect();
        let ill = |addresses: &Addresses| addresses.load().iter().map(|address| address.ill).collect::<Vec<_>>();
        addresses.set_ill("10.0.0.2:80".parse().unwrap(), true);
        assert!(addresses.set(some(&["10.0.0.3:80", "10.0.0.2:80"])));
        assert_eq!(addresses.list(), some(&["10.0.0.2:80", "10.0.0.3:80"]));
        assert_eq!(ill(&addresses), [true, false]);
        addresses.set(some(&["10.0.0.3:80"]));
        addresses.set(some(&["10.0.0.3:80", "10.0.0.2:80"]));
        assert_eq!(ill(&addresses), [false, false]);
        let before = addresses.load();
        addresses.set_ill("10.0.0.9:80".parse().unwrap(), true);
        assert!(addresses.are(&before));
    }

    #[test]
    fn of_a_name_with_more_addresses_than_are_kept_the_known_ones_stay() {
        let many: Vec<SocketAddr> = (0..40).map(|n| SocketAddr::from(([10, 0, 0, n], 80))).collect();
        let addresses: Addresses = many.iter().copied().collect();
        assert_eq!(addresses.list(), many[..ADDRESSES_MAX]);
        assert!(!addresses.set(many.iter().rev().copied()), "the name server has turned its answer round");
        assert!(addresses.set(many[1..].iter().copied()));
        assert_eq!(addresses.list(), many[1..=ADDRESSES_MAX]);
    }
}
