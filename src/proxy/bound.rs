//! A worker's own view of the plan. The plan is swapped for all workers at once, and each takes the new one up at the next
//! head that it reads: it compares one number. A request keeps the view that it began with to its end, by a count that
//! no other worker touches.

use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;

use crate::plan::Plan;
use crate::runtime::buffer::Buffers;

/// The buffer for a long body.
pub(super) const BODY_BUFFER_BYTES: usize = 64 * 1024;
/// Head buffers that a worker keeps however long they are unused: 5 MiB.
pub(super) const HEAD_BUFFERS_KEPT: usize = 256;
/// Room in a head buffer beyond the largest head: what comes right behind a head often fits.
const BEHIND_HEAD_BYTES: usize = 4096;

/// A plan, and what a worker has made for it.
#[derive(Debug)]
pub(super) struct Bound {
    plan: Arc<Plan>,
    /// Each has room for a head.
    pub(super) buffers: Buffers,
}

impl Bound {
    /// `lists` are those of other plans, and of this one from now on.
    pub(super) fn new(plan: Arc<Plan>, lists: &mut Vec<Buffers>) -> Rc<Self> {
        let buffer_bytes = plan.connections.head_limits.head_bytes + BEHIND_HEAD_BYTES;
        let known = lists.iter().find(|list| list.buffer_bytes() == buffer_bytes).cloned();
        let buffers = known.unwrap_or_else(|| {
            let list = Buffers::new(buffer_bytes, HEAD_BUFFERS_KEPT);
            lists.push(list.clone());
            list
        });
        Rc::new(Self { plan, buffers })
    }
}

impl Deref for Bound {
    type Target = Plan;

    #[inline]
    fn deref(&self) -> &Plan {
        &self.plan
    }
}
