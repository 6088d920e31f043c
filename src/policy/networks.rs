//! Sets of networks, asked for each address that a request brings along.

use std::net::IpAddr;

use ipnet::IpNet;

/// Networks as ranges in order, so that a look-up takes as many steps as their number has digits in base two. An IPv4
/// address that is written as an IPv6 one is the same address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks {
    v4: Box<[(u32, u32)]>,
    v6: Box<[(u128, u128)]>,
}

impl Networks {
    /// The set of these.
    pub fn new(networks: &[IpNet]) -> Self {
        let v4 = networks.iter().filter_map(|network| match network {
            IpNet::V4(network) => Some((network.network().to_bits(), network.broadcast().to_bits())),
            IpNet::V6(_) => None,
        });
        let v6 = networks.iter().filter_map(|network| match network {
            IpNet::V6(network) => Some((network.network().to_bits(), network.broadcast().to_bits())),
            IpNet::V4(_) => None,
        });
        Self { v4: ranges(v4.collect()), v6: ranges(v6.collect()) }
    }

    /// There is none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }

    /// Is this address in one of them?
    pub fn contains(&self, address: IpAddr) -> bool {
        match address.to_canonical() {
            IpAddr::V4(address) => holds(&self.v4, address.to_bits()),
            IpAddr::V6(address) => holds(&self.v6, address.to_bits()),
        }
    }
}

/// In order, and those that overlap as one.
fn ranges<N: Copy + Ord>(mut all: Vec<(N, N)>) -> Box<[(N, N)]> {
    all.sort_unstable();
    let mut apart: Vec<(N, N)> = Vec::with_capacity(all.len());
    for (first, last) in all {
        match apart.last_mut() {
            Some(before) if before.1 >= first => before.1 = before.1.max(last),
            _ => apart.push((first, last)),
        }
    }
    apart.into_boxed_slice()
}

fn holds<N: Copy + Ord>(ranges: &[(N, N)], address: N) -> bool {
    let after = ranges.partition_point(|range| range.0 <= address);
    after.checked_sub(1).is_some_and(|at| ranges[at].1 >= address)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn an_address_is_found_in_whichever_network_it_is() {
        let set = Networks::new(&networks(&[
            "10.0.0.0/8",
            "10.1.0.0/16",
            "192.168.1.7/32",
            "192.168.1.8/31",
            "::1/128",
            "fd00::/8",
            "255.255.255.255/32",
        ]));
        for (address, want) in [
            ("10.0.0.0", true),
            ("10.255.255.255", true),
            ("11.0.0.0", false),
            ("9.255.255.255", false),
            ("192.168.1.6", false),
            ("192.168.1.7", true),
            ("192.168.1.9", true),
            ("192.168.1.10", false),
            ("255.255.255.255", true),
            ("0.0.0.0", false),
            ("::ffff:10.2.3.4", true),
            ("::1", true),
            ("::2", false),
            ("fdff::", true),
            ("fe00::", false),
        ] {
            assert_eq!(set.contains(address.parse().unwrap()), want, "{address}");
        }
        assert!(!set.is_empty() && Networks::default().is_empty());
        assert!(!Networks::new(&networks(&["::/0"])).contains("10.0.0.1".parse().unwrap()));
        assert!(Networks::new(&networks(&["0.0.0.0/0"])).contains("255.0.0.1".parse().unwrap()));
    }

    #[test]
    fn the_set_says_of_any_address_what_its_networks_say() {
        let all = networks(&["0.0.0.0/2", "64.0.0.0/3", "100.0.0.0/6", "128.0.0.0/1", "96.0.0.0/5"]);
        let set = Networks::new(&all);
        for high in 0..=255 {
            for low in [0, 1, 255] {
                let address = IpAddr::from([high, low, low, low]);
                assert_eq!(set.contains(address), all.iter().any(|network| network.contains(&address)), "{address}");
            }
        }
    }
}
