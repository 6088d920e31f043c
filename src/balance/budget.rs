//! How many requests may be sent again: without a bound, retries double the load on backends that are failing of it.

use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam::utils::CachePadded;

use super::cells::bump;

/// Requests and retries of so many seconds count.
const WINDOW_SECONDS: usize = 10;
/// Retries that are allowed in each of them however few requests there are.
const RETRIES_PER_SECOND_MIN: u64 = 3;
const NANOSECONDS: u64 = 1_000_000_000;

/// Retries of all workers and the requests of the last 10 s, against a part of which they are held. Each worker writes to a
/// cell of its own, so that a request costs no shared cache line; only a request that wants to be sent again reads them all.
#[derive(Debug)]
pub struct RetryCells {
    cells: Box<[CachePadded<Cell>]>,
}

/// One worker's.
#[derive(Debug, Default)]
struct Cell {
    seconds: [Second; WINDOW_SECONDS],
    sent: AtomicU64,
    denied: AtomicU64,
}

/// What happened in one second.
#[derive(Debug, Default)]
struct Second {
    /// Which one, on the clock that is handed in; the others' place is taken every 10 s.
    number: AtomicU64,
    requests: AtomicU64,
    retries: AtomicU64,
}

impl RetryCells {
    /// For workers `0..workers`.
    pub fn new(workers: usize) -> Self {
        Self { cells: (0..workers).map(|_| CachePadded::default()).collect() }
    }

    /// Counts a request, however often it is sent. Only `worker`'s own thread may call it with its number. `now_ns` is any
    /// clock that doesn't go back, in nanoseconds.
    #[inline]
    pub fn note_request(&self, worker: usize, now_ns: u64) {
        if let Some(cell) = self.cells.get(worker) {
            bump(&cell.second(now_ns).requests);
        }
    }

    /// Takes one retry out of a budget of `percent` of the requests, and 3 a second in any case; false when there is none left.
    /// `worker` and `now_ns` as in [`Self::note_request`].
    pub fn withdraw(&self, percent: u32, worker: usize, now_ns: u64) -> bool {
        let since = (now_ns / NANOSECONDS).saturating_sub(WINDOW_SECONDS as u64 - 1);
        let (mut requests, mut retries) = (0, 0);
        for second in self.cells.iter().flat_map(|cell| &cell.seconds) {
            if second.number.load(Ordering::Relaxed) >= since {
                requests += second.requests.load(Ordering::Relaxed);
                retries += second.retries.load(Ordering::Relaxed);
            }
        }
        let allowed = (requests * u64::from(percent) / 100).max(RETRIES_PER_SECOND_MIN * WINDOW_SECONDS as u64);
        let granted = retries < allowed;
        if let Some(cell) = self.cells.get(worker) {
            if granted {
                bump(&cell.second(now_ns).retries);
            }
            bump(if granted { &cell.sent } else { &cell.denied });
        }
        granted
    }

    /// Retries since the start: those that were granted, and those that weren't.
    pub fn totals(&self) -> (u64, u64) {
        let sum =
            |count: fn(&Cell) -> &AtomicU64| self.cells.iter().map(|cell| count(cell).load(Ordering::Relaxed)).sum();
        (sum(|cell| &cell.sent), sum(|cell| &cell.denied))
    }
}

impl Cell {
    fn second(&self, now_ns: u64) -> &Second {
        let number = now_ns / NANOSECONDS;
        let second = &self.seconds[(number % WINDOW_SECONDS as u64) as usize];
        if second.number.load(Ordering::Relaxed) != number {
            second.requests.store(0, Ordering::Relaxed);
            second.retries.store(0, Ordering::Relaxed);
            second.number.store(number, Ordering::Relaxed);
        }
        second
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn granted(cells: &RetryCells, worker: usize, now_ns: u64, wanted: usize) -> usize {
        (0..wanted).filter(|_| cells.withdraw(20, worker, now_ns)).count()
    }

    #[test]
    fn without_requests_three_a_second_are_granted() {
        let cells = RetryCells::new(2);
        assert_eq!(granted(&cells, 0, 0, 100), 30);
        assert_eq!(granted(&cells, 1, 9 * NANOSECONDS, 100), 0, "all workers have one budget");
        assert_eq!(granted(&cells, 1, 10 * NANOSECONDS, 100), 30);
        assert_eq!(cells.totals(), (60, 240));
    }

    #[test]
    fn a_part_of_the_requests_of_ten_seconds_is_granted() {
        let cells = RetryCells::new(2);
        for n in 0..1000 {
            cells.note_request(n % 2, n as u64 % 10 * NANOSECONDS);
        }
        assert_eq!(granted(&cells, 0, 9 * NANOSECONDS, 1000), 200);
        // The first second's hundred are gone; the retries of the last one aren't.
        assert_eq!(granted(&cells, 0, 10 * NANOSECONDS, 1000), 0);
        assert_eq!(granted(&cells, 1, 30 * NANOSECONDS, 1000), 30);
    }

    #[test]
    fn a_worker_without_a_cell_is_never_counted() {
        let cells = RetryCells::new(1);
        cells.note_request(7, 0);
        assert!(cells.withdraw(100, 7, 0));
        assert_eq!(cells.totals(), (0, 0));
    }
}
