//! Which backend each of many clients is tied to, over all workers.

use std::time::Duration;

use super::clients::Clients;

/// Remembers the backend that each client was tied to last, as long as there is room for it.
#[derive(Debug)]
pub struct Ties {
    clients: Clients<Tie>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Tie {
    /// 0: to none.
    to: u64,
    used_ns: u64,
}

impl Ties {
    /// Ties of at most `keys_max` clients (at least 1), of which those leave first that came the longest ago.
    pub fn new(keys_max: usize) -> Self {
        Self { clients: Clients::new(keys_max) }
    }

    /// What the client is tied to that comes at `now_ns`, on a clock that all workers share; nothing any more if it hasn't come
    /// for longer than `idle_max` (None: however long). `key` is a hash of the client with a secret.
    pub fn of(&self, key: u64, now_ns: u64, idle_max: Option<Duration>) -> Option<u64> {
        self.clients.with(key, |tie| {
            let idle = Duration::from_nanos(now_ns.saturating_sub(tie.used_ns));
            let kept = tie.to != 0 && idle_max.is_none_or(|idle_max| idle <= idle_max);
            tie.used_ns = now_ns;
            if !kept {
                tie.to = 0;
            }
            kept.then_some(tie.to)
        })
    }

    /// Ties the client to `to`, which isn't 0, instead of what it was tied to before.
    pub fn tie(&self, key: u64, to: u64, now_ns: u64) {
        self.clients.with(key, |tie| *tie = Tie { to, used_ns: now_ns });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_client_stays_tied_while_it_comes_in_time() {
        let ties = Ties::new(100);
        let of = |now_ns| ties.of(1, now_ns, Some(Duration::from_secs(10)));
        assert_eq!(of(SECOND), None);
        ties.tie(1, 7, SECOND);
        for now in [11, 12, 22] {
            assert_eq!(of(now * SECOND), Some(7), "{now}");
        }
        assert_eq!(of(22 * SECOND - 1), Some(7), "another worker's clock was read before");
        assert_eq!(of(32 * SECOND + 1), None);
        assert_eq!(of(32 * SECOND + 1), None, "it isn't tied again by having been looked at");
    }

    #[test]
    fn clients_are_tied_each_to_its_own_and_anew_to_another() {
        let ties = Ties::new(100);
        ties.tie(1, 7, 0);
        ties.tie(2, 8, 0);
        ties.tie(1, 9, 0);
        let of = |key| ties.of(key, u64::MAX, None);
        assert_eq!((of(1), of(2), of(3)), (Some(9), Some(8), None));
    }

    #[test]
    fn the_client_that_came_the_longest_ago_leaves_when_there_is_no_room() {
        let ties = Ties::new(2);
        ties.tie(1, 7, 0);
        ties.tie(2, 7, 1);
        assert_eq!(ties.of(1, 2, None), Some(7));
        ties.tie(3, 7, 3);
        assert_eq!((ties.of(2, 4, None), ties.of(3, 5, None)), (None, Some(7)));
    }
}
