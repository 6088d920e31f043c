//! What all workers' proxies share: the plan in force, what outlives it, and what is counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arc_swap::ArcSwap;

use crate::observe::FailureCounts;
use crate::plan::{Kept, Plan};

/// Made once, read by all.
#[derive(Debug)]
pub struct Shared {
    plan: ArcSwap<Plan>,
    /// The plan's, to be compared without a look at the plan.
    generation: AtomicU64,
    /// What stays when the plan is swapped.
    pub kept: Kept,
    /// Exchanges that failed, by reason.
    pub failures: FailureCounts,
    draining: AtomicBool,
}

impl Shared {
    /// With `plan` in force, which was built on what is `kept`.
    pub fn new(plan: Plan, kept: Kept) -> Arc<Self> {
        let workers = kept.room.workers;
        Arc::new(Self {
            generation: AtomicU64::new(plan.generation),
            plan: ArcSwap::from_pointee(plan),
            kept,
            failures: FailureCounts::new(workers),
            draining: AtomicBool::new(false),
        })
    }

    /// The plan in force.
    pub fn plan(&self) -> Arc<Plan> {
        self.plan.load_full()
    }

    /// Puts another plan in force: each worker goes by it from the next head that it reads, and requests that have begun end
    /// under the plan that they began with. One call at a time: the generation has to be the plan's.
    pub fn swap(&self, plan: Plan) {
        // The number first: until the plan is there too, workers look for it at each head. The other way round one worker could
        // go by the new plan, and a request that comes after its answer, at another worker, still by the old one.
        self.generation.store(plan.generation, Ordering::SeqCst);
        self.plan.store(Arc::new(plan));
    }

    #[inline]
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Client connections now.
    pub fn connections(&self) -> usize {
        self.kept.seats.taken()
    }

    /// From now on each answer ends its connection, and idle connections end as they are found.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }
}
