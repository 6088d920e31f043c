//! How many requests the origins have at once, as they see it themselves.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use crate::control::Site;
use crate::peer::Peer;
use crate::tally::Promise;

/// The requests that origins are busy with.
#[derive(Default)]
pub struct Places {
    taken: RefCell<BTreeMap<u64, (Rc<Site>, Rc<Peer>)>>,
    last_number: Cell<u64>,
    /// How many all origins may have together; 0: any number.
    bound_of_all: Cell<usize>,
}

/// One of them, until its answer is sent.
pub struct Busy<'p> {
    places: &'p Places,
    number: u64,
}

impl Places {
    pub fn bound_all(&self, bound: usize) {
        self.bound_of_all.set(bound);
    }

    /// A request is at an origin. What the proxy has given up doesn't count any more: an origin can't know of that yet.
    pub fn take(&self, site: &Rc<Site>, peer: &Rc<Peer>) -> Busy<'_> {
        let number = self.last_number.get() + 1;
        self.last_number.set(number);
        self.taken.borrow_mut().insert(number, (site.clone(), peer.clone()));
        let taken = self.taken.borrow();
        let open = || taken.values().filter(|(_, peer)| !peer.is_abandoned());
        let here = open().filter(|(other, _)| Rc::ptr_eq(other, site)).count();
        for (what, bound, count) in
            [("an origin", site.bound(), here), ("all", self.bound_of_all.get(), open().count())]
        {
            if bound > 0 {
                peer.sim.checked(Promise::Bounded);
            }
            if bound > 0 && count > bound {
                peer.sim.wrong(Promise::Bounded, format!("{what} had {count} requests at once, and may have {bound}"));
            }
        }
        Busy { places: self, number }
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.places.taken.borrow_mut().remove(&self.number);
    }
}
