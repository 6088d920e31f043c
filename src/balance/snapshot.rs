//! An immutable picture of the backends; a pick reads it without a lock.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use super::backend::{Backend, Place};
use super::line::{NoPlaceAtHome, Places};
use super::marked::Marked;
use super::member::Member;
use super::sessions::Mark;
use super::strategy::{Occasion, Policy};
use super::tier::Tier;

/// Backends of the proxy's own zone serve it alone as long as this part of their weight (in percent) can. With less
/// left they would have to bear half as much again as they are meant to, so all zones share then.
const ZONE_PERCENT_MIN: u64 = 70;

/// The backends as one mutation left them.
#[derive(Debug)]
pub struct Snapshot {
    /// Counts up with every swap.
    pub version: u64,
    members: Vec<Member>,
    policy: Arc<Policy>,
    /// Which backends are picked from first, and which if all of those have failed a request. None is empty.
    tiers: Vec<Tier>,
    marked: Marked,
}

impl Snapshot {
    /// `members` are all that are configured and not removed, in configured order; fewer than 65,535. This takes time
    /// (50 ms for 4,096 backends with a hash table), so that a pick doesn't.
    pub fn new(version: u64, members: Vec<Member>, policy: Arc<Policy>) -> Self {
        let tiers = tiers(&members, &policy);
        let marked = Marked::of(&members, &policy.sessions);
        Self { version, members, policy, tiers, marked }
    }

    /// Picks a backend for one request: O(1), but for least-conn and for a hash whose own backend is over its bound.
    /// `tried` holds the ids of backends that failed this request already: another one is preferred, and one of them
    /// is taken only when there is no other. One that its breaker has shut out is taken after those. One without room for a
    /// request more is never taken. None when no backend is eligible, or those that are have no room, or as many requests as
    /// they get on trial: [`Self::may_have_room`] tells which.
    #[inline]
    pub fn pick(&self, cursor: &AtomicUsize, tried: &[u64], occasion: &impl Occasion) -> Option<&Arc<Backend>> {
        if tried.is_empty()
            && let Some(backend) = self.tiers.first()?.pick(&self.policy, cursor, tried, occasion)
        {
            return Some(backend);
        }
        self.pick_further(cursor, tried, occasion)
    }

    /// One that hasn't failed the request; else one that has, if any has; else one that its breaker has shut out.
    #[cold]
    fn pick_further(&self, cursor: &AtomicUsize, tried: &[u64], occasion: &impl Occasion) -> Option<&Arc<Backend>> {
        let pick = |tried: &[u64]| {
            let mut able = self.tiers.iter().filter(|tier| tier.offers_other_than(tried));
            able.find_map(|tier| tier.pick(&self.policy, cursor, tried, occasion))
        };
        let other = pick(tried).or_else(|| if tried.is_empty() { None } else { pick(&[]) });
        other.or_else(|| self.shut_out()?.iter().find_map(|tier| tier.pick_avoided(occasion.random())))
    }

    /// The backend with this mark, if it may serve a session that is bound to it, is none of `tried`, has room, and its
    /// breaker lets the request through: O(log n).
    #[inline]
    pub fn bound(&self, mark: Mark, tried: &[u64]) -> Option<&Arc<Backend>> {
        let backend = &self.members[self.marked.find(mark)?].backend;
        (!tried.contains(&backend.id) && backend.has_room() && backend.admit()).then_some(backend)
    }

    /// The backend with this id, if it may serve the sessions that are bound to it, though it may have no room for the moment.
    pub fn home(&self, id: u64) -> Option<&Arc<Backend>> {
        let home = self.members.iter().find(|member| member.backend.id == id)?;
        (home.serves_sessions && home.backend.is_open()).then_some(&home.backend)
    }

    /// Whether a session is bound to a backend that serves it, though it may have no room for the moment.
    pub fn has_home(&self, mark: Mark, tried: &[u64]) -> bool {
        let home = self.marked.find(mark).map(|at| &self.members[at].backend);
        home.is_some_and(|backend| !tried.contains(&backend.id) && backend.is_open())
    }

    /// The tiers, if all that they have are shut out by their breakers: where others just have no room, a request
    /// that waits for them gets a better answer.
    fn shut_out(&self) -> Option<&[Tier]> {
        let any_open = self.tiers.iter().any(Tier::is_open);
        (!any_open).then_some(&self.tiers)
    }

    /// Whether a request for which no backend was found had better wait.
    pub fn may_have_room(&self) -> bool {
        self.tiers.iter().any(|tier| tier.is_open() || tier.has_avoided())
    }

    /// Whether a request for which no backend was found waits for those that refuse connections: all are away.
    pub fn is_away(&self) -> bool {
        let mut usable = self.tiers.iter().flat_map(Tier::usable).peekable();
        usable.peek().is_some() && usable.all(|backend| backend.is_away())
    }

    /// How its backends are picked and judged.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Publishes what is compared or looked at in a backend itself.
    pub(super) fn publish_to_backends(&self) {
        for Member { backend, max_connections, .. } in &self.members {
            let mark = self.policy.sessions.mark(backend.id, &backend.name);
            backend.publish(mark, *max_connections, self.policy.in_flight_max > 0);
        }
    }

    /// Whether a request that these have failed could be sent to another one now.
    pub fn offers_other_than(&self, tried: &[u64]) -> bool {
        self.tiers.iter().any(|tier| tier.offers_other_than(tried))
    }

    /// All backends, in configured order, whether they get traffic or not.
    pub fn backends(&self) -> impl Iterator<Item = &Arc<Backend>> {
        self.members.iter().map(|member| &member.backend)
    }

    /// Those that may get traffic now, in configured order.
    pub fn eligible(&self) -> impl Iterator<Item = &Arc<Backend>> {
        self.members.iter().filter(|member| member.eligible).map(|member| &member.backend)
    }
}

impl Places for Snapshot {
    type Place = Place;

    fn has_eligible(&self) -> bool {
        !self.tiers.is_empty()
    }

    fn has_other_than(&self, tried: &[u64]) -> bool {
        let mut usable = self.tiers.iter().flat_map(Tier::usable);
        usable.any(|backend| !tried.contains(&backend.id) && !backend.is_away())
    }

    /// At the least loaded backend that [`Self::pick`] could pick. One of `tried` isn't.
    fn take_place(&self, tried: &[u64]) -> Option<Place> {
        let place = self.tiers.iter().find_map(|tier| tier.take_place(tried));
        if place.is_some() || !tried.is_empty() {
            return place;
        }
        self.shut_out()?.iter().find_map(Tier::take_avoided_place)
    }

    fn take_home(&self, id: u64) -> Result<Place, NoPlaceAtHome> {
        let home = self.home(id).ok_or(NoPlaceAtHome::NotServing)?;
        Place::take(home, false).ok_or(NoPlaceAtHome::Full)
    }
}

/// The proxy's own zone, if there is enough of it; all but the backups; the backups.
fn tiers(members: &[Member], policy: &Policy) -> Vec<Tier> {
    let eligible = |backup: bool| members.iter().filter(move |member| member.eligible && member.backup == backup);
    let is_local = |member: &&Member| member.local && !member.backup;
    let able: u64 = eligible(false).filter(is_local).map(|member| u64::from(member.share())).sum();
    let meant: u64 = members.iter().filter(is_local).map(|member| u64::from(member.weight * 100)).sum();
    let has_others = eligible(false).any(|member| !member.local);
    let zone_suffices = has_others && able > 0 && able * 100 >= meant * ZONE_PERCENT_MIN;
    let tier = |members: &mut dyn Iterator<Item = &Member>| Tier::of(members, &policy.strategy);
    [
        zone_suffices.then(|| tier(&mut eligible(false).filter(is_local))).flatten(),
        tier(&mut eligible(false)),
        tier(&mut eligible(true)),
    ]
    .into_iter()
    .flatten()
    .collect()
}

#[cfg(test)]
mod tests;
