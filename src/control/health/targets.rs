//! What is probed of each backend: every address of its name by itself. A backend is up as long as one of them is, and down
//! when all are; one whose name has no address is asked all the same, so that the reason is told.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use super::rise_fall::Health;
use crate::balance::Backend;

/// All backends, by their ids, and what is probed of them.
#[derive(Debug, Default)]
pub(super) struct Targets {
    watched: HashMap<u64, Watched>,
    /// The backend of each target.
    owners: HashMap<u64, u64>,
    ids_used: u64,
}

#[derive(Debug)]
struct Watched {
    backend: Arc<Backend>,
    /// As it was told last.
    health: Health,
    targets: Vec<Target>,
}

#[derive(Debug)]
struct Target {
    id: u64,
    /// None: the backend has no address.
    address: Option<SocketAddr>,
    health: Health,
}

/// How a backend's targets have changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Renewed {
    pub(super) gone: Vec<u64>,
    pub(super) new: Vec<u64>,
    pub(super) kept: Vec<u64>,
}

/// What a result of a target changes for its backend.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Effect {
    /// Its new health, if it changed.
    pub(super) changed: Option<Health>,
    /// The result speaks for the backend, not for one address of it alone.
    pub(super) speaks: bool,
}

impl Targets {
    /// Takes a backend in; its targets.
    pub(super) fn add(&mut self, backend: Arc<Backend>) -> Vec<u64> {
        let id = backend.id;
        self.watched.insert(id, Watched { backend, health: Health::Unknown, targets: Vec::new() });
        self.renew(id).new
    }

    /// Lets a backend go; what were its targets.
    pub(super) fn remove(&mut self, id: u64) -> Vec<u64> {
        let targets = self.watched.remove(&id).map(|watched| watched.targets).unwrap_or_default();
        for target in &targets {
            self.owners.remove(&target.id);
        }
        targets.into_iter().map(|target| target.id).collect()
    }

    /// Looks which addresses a backend has now.
    pub(super) fn renew(&mut self, id: u64) -> Renewed {
        let mut renewed = Renewed::default();
        let Some(watched) = self.watched.get_mut(&id) else { return renewed };
        let mut addresses: Vec<_> = watched.backend.addresses.list().into_iter().map(Some).collect();
        if addresses.is_empty() {
            addresses.push(None);
        }
        watched.targets.retain(|target| {
            let stays = addresses.contains(&target.address);
            if stays { &mut renewed.kept } else { &mut renewed.gone }.push(target.id);
            stays
        });
        for address in addresses {
            if watched.targets.iter().any(|target| target.address == address) {
                continue;
            }
            self.ids_used += 1;
            renewed.new.push(self.ids_used);
            self.owners.insert(self.ids_used, id);
            watched.targets.push(Target { id: self.ids_used, address, health: Health::Unknown });
        }
        for gone in &renewed.gone {
            self.owners.remove(gone);
        }
        renewed
    }

    /// The targets of a backend.
    pub(super) fn of(&self, id: u64) -> Vec<u64> {
        let targets = self.watched.get(&id).map(|watched| &*watched.targets).unwrap_or_default();
        targets.iter().map(|target| target.id).collect()
    }

    /// The backend of a target, and which of its addresses it is.
    pub(super) fn find(&self, target: u64) -> Option<(&Arc<Backend>, Option<SocketAddr>, Health)> {
        let watched = self.watched.get(self.owners.get(&target)?)?;
        let found = watched.targets.iter().find(|known| known.id == target)?;
        Some((&watched.backend, found.address, found.health))
    }

    /// Takes in a target's health, and tells workers of it.
    pub(super) fn turn(&mut self, target: u64, health: Health) {
        let Some(watched) = self.owners.get(&target).and_then(|id| self.watched.get_mut(id)) else { return };
        let Some(turned) = watched.targets.iter_mut().find(|known| known.id == target) else { return };
        turned.health = health;
        if let Some(address) = turned.address {
            watched.backend.addresses.set_ill(address, health == Health::Down);
        }
    }

    /// What a result means for the backend, once it has been taken in.
    pub(super) fn weigh(&mut self, target: u64, passed: bool) -> Option<Effect> {
        let watched = self.owners.get(&target).and_then(|id| self.watched.get_mut(id))?;
        let mut others = watched.targets.iter().filter(|known| known.id != target);
        let speaks = passed || others.all(|other| other.health == Health::Down);
        let now = watched.overall();
        let changed = (now != watched.health).then_some(now);
        watched.health = now;
        Some(Effect { changed, speaks })
    }

    /// Takes in that a backend refuses connections at all of its addresses: true if that is news.
    pub(super) fn refuse(&mut self, id: u64) -> bool {
        for target in self.of(id) {
            self.turn(target, Health::Down);
        }
        self.watched
            .get_mut(&id)
            .is_some_and(|watched| std::mem::replace(&mut watched.health, Health::Down) != Health::Down)
    }
}

impl Watched {
    /// Up as long as one address is, and down when all are; as long as one is unknown beside those that are down, nothing new.
    fn overall(&self) -> Health {
        let all = |health| self.targets.iter().all(|target| target.health == health);
        if self.targets.iter().any(|target| target.health == Health::Up) {
            Health::Up
        } else if all(Health::Down) {
            Health::Down
        } else {
            self.health
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::Origin;

    fn backend(addresses: &[&str]) -> Arc<Backend> {
        let origin = Origin {
            name: "a".into(),
            url: "http://a".into(),
            host: "a.example".into(),
            port: 80,
            base_path: String::new(),
        };
        let backend = Backend::new(7, 0, origin, 1);
        resolve(&backend, addresses);
        Arc::new(backend)
    }

    fn resolve(backend: &Backend, addresses: &[&str]) {
        backend.addresses.set(addresses.iter().map(|address| format!("{address}:80").parse().unwrap()));
    }

    fn ill(backend: &Backend) -> Vec<bool> {
        backend.addresses.load().iter().map(|address| address.ill).collect()
    }

    /// Feeds a result that changed its target's health.
    fn turn(targets: &mut Targets, target: u64, health: Health) -> Option<Health> {
        targets.turn(target, health);
        targets.weigh(target, health == Health::Up).unwrap().changed
    }

    #[test]
    fn a_backend_is_up_as_long_as_one_address_is_and_down_when_all_are() {
        let backend = backend(&["10.0.0.1", "10.0.0.2"]);
        let mut targets = Targets::default();
        let [first, second] = targets.add(Arc::clone(&backend))[..] else { panic!("two addresses") };
        assert_eq!(turn(&mut targets, first, Health::Down), None, "the other one isn't known yet");
        assert_eq!(ill(&backend), [true, false]);
        assert_eq!(turn(&mut targets, second, Health::Up), Some(Health::Up));
        assert_eq!(targets.weigh(first, false), Some(Effect { changed: None, speaks: false }));
        assert_eq!(turn(&mut targets, second, Health::Down), Some(Health::Down));
        assert_eq!(targets.weigh(first, false), Some(Effect { changed: None, speaks: true }));
        assert_eq!(turn(&mut targets, first, Health::Up), Some(Health::Up));
        assert_eq!(ill(&backend), [false, true]);
        assert!(targets.refuse(7) && !targets.refuse(7));
        assert_eq!(ill(&backend), [true, true]);
    }

    #[test]
    fn health_belongs_to_an_address_and_goes_with_it() {
        let backend = backend(&["10.0.0.1", "10.0.0.2"]);
        let mut targets = Targets::default();
        let [first, second] = targets.add(Arc::clone(&backend))[..] else { panic!("two addresses") };
        turn(&mut targets, first, Health::Up);
        turn(&mut targets, second, Health::Down);
        resolve(&backend, &["10.0.0.2", "10.0.0.3"]);
        let renewed = targets.renew(7);
        assert_eq!((renewed.gone, renewed.kept), (vec![first], vec![second]));
        let third = renewed.new[0];
        assert!(targets.find(first).is_none() && targets.weigh(first, true).is_none());
        assert_eq!(targets.weigh(second, false).unwrap().changed, None, "nothing is known of the new one");
        assert_eq!(turn(&mut targets, third, Health::Down), Some(Health::Down));
        assert_eq!(targets.remove(7).len(), 2);
        assert!(targets.owners.is_empty());
    }

    #[test]
    fn a_backend_without_an_address_is_asked_until_it_has_one() {
        let backend = backend(&[]);
        let mut targets = Targets::default();
        let nameless = targets.add(Arc::clone(&backend))[0];
        assert_eq!(targets.find(nameless).unwrap().1, None);
        assert_eq!(turn(&mut targets, nameless, Health::Down), Some(Health::Down));
        resolve(&backend, &["10.0.0.1"]);
        let renewed = targets.renew(7);
        assert_eq!((renewed.gone, renewed.new.len()), (vec![nameless], 1));
        assert_eq!(turn(&mut targets, renewed.new[0], Health::Up), Some(Health::Up));
    }
}
