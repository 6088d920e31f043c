//! What outlives plans.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam::channel::Receiver;

use super::Challenges;
use crate::balance::{DEFAULT_POOL, MarkKey, Pool, Report};
use crate::policy::{Seats, Tables};

/// State that stays while plans are swapped: the connections of clients, what is known of clients, and the backends.
#[derive(Debug)]
pub struct Kept {
    /// What the machine allows.
    pub room: Room,
    /// The backends.
    pub pool: Arc<Pool>,
    /// The places of client connections.
    pub seats: Arc<Seats>,
    /// What is known of clients.
    pub tables: Tables,
    /// What cookies of sessions are made with where no secret is configured: random, and the same to the process's end.
    pub session_key: MarkKey,
    /// What authorities are answered that ask whether names are ours.
    pub challenges: Arc<Challenges>,
    /// Plans that were built.
    generations: AtomicU64,
}

/// What the machine allows, whatever is configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Worker threads.
    pub workers: usize,
    /// Client connections where no number is configured.
    pub connections: usize,
    /// Client connections at most.
    pub connections_max: usize,
    /// Those beyond that are told so, at a time.
    pub turned_away_max: usize,
}

impl Kept {
    /// Nothing is known of any client yet, and there is no backend. What workers will report of backends comes out at the
    /// receiver.
    pub fn new(room: Room) -> (Self, Receiver<Report>) {
        // The keys of the process's hashes are secret, and new at each start.
        let chance = RandomState::new();
        let session_key = MarkKey::new([chance.hash_one(0), chance.hash_one(1)]);
        let (pool, reports) = Pool::new(1, DEFAULT_POOL, room.workers);
        let kept = Self {
            room,
            pool: Arc::new(pool),
            seats: Arc::default(),
            tables: Tables::default(),
            session_key,
            challenges: Arc::default(),
            generations: AtomicU64::new(0),
        };
        (kept, reports)
    }

    pub(super) fn next_generation(&self) -> u64 {
        self.generations.fetch_add(1, Ordering::Relaxed) + 1
    }
}

impl Room {
    /// Room for so many connections, configured or not.
    pub const fn of(workers: usize, connections: usize) -> Self {
        Self { workers, connections, connections_max: connections, turned_away_max: connections / 16 }
    }
}
