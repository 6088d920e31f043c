//! A bounded pool of threads for jobs that block: probing a backend, resolving a name. Threads are started as the
//! jobs come, and stay.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{io, panic, thread};

use crossbeam::channel::{Receiver, Sender, unbounded};

type Job = Box<dyn FnOnce() + Send>;

/// Threads that take jobs off one queue. They end when the pool has been dropped and the queue is empty.
#[derive(Debug)]
pub(super) struct ThreadPool {
    name: &'static str,
    /// Threads at most.
    size_max: usize,
    stack_bytes: usize,
    size: usize,
    /// Jobs that wait or run.
    unfinished: Arc<AtomicUsize>,
    queue: Sender<Job>,
    takers: Receiver<Job>,
}

impl ThreadPool {
    /// A pool without a thread so far. `name` is what its threads are called (15 bytes are seen).
    pub(super) fn new(name: &'static str, size_max: usize, stack_bytes: usize) -> Self {
        let (queue, takers) = unbounded();
        Self { name, size_max, stack_bytes, size: 0, unfinished: Arc::default(), queue, takers }
    }

    /// Hands a job to the next free thread, a new one if there is none and the pool may grow. A job that panics ends
    /// alone. Fails only if there is no thread at all and none could be started; the job is dropped then.
    pub(super) fn submit(&mut self, job: impl FnOnce() + Send + 'static) -> io::Result<()> {
        if self.unfinished.load(Ordering::Acquire) >= self.size && self.size < self.size_max {
            match self.start_thread() {
                Ok(()) => self.size += 1,
                Err(error) if self.size == 0 => return Err(error),
                Err(_) => {} // the threads there are will get to it
            }
        }
        let unfinished = Finished::expect(&self.unfinished);
        let job: Job = Box::new(move || {
            let _finished = unfinished;
            job();
        });
        self.queue.send(job).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    fn start_thread(&self) -> io::Result<()> {
        let jobs = self.takers.clone();
        let work = move || {
            for job in jobs {
                // The panic's message has been printed by the hook; the thread goes on with the next job.
                let _ = panic::catch_unwind(panic::AssertUnwindSafe(job));
            }
        };
        thread::Builder::new().name(self.name.into()).stack_size(self.stack_bytes).spawn(work)?;
        Ok(())
    }
}

/// Counts a job as unfinished for as long as it lives, however it ends.
struct Finished(Arc<AtomicUsize>);

impl Finished {
    fn expect(unfinished: &Arc<AtomicUsize>) -> Self {
        unfinished.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(unfinished))
    }
}

impl Drop for Finished {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn jobs_run_side_by_side_up_to_the_pools_size_and_all_of_them_in_the_end() {
        let mut pool = ThreadPool::new("test-pool", 3, 64 * 1024);
        let (arrived, arrivals) = unbounded();
        let (go, gate) = unbounded::<()>();
        for number in 0..9 {
            let (arrived, gate) = (arrived.clone(), gate.clone());
            pool.submit(move || {
                arrived.send(number).unwrap();
                let _ = gate.recv();
            })
            .unwrap();
        }
        let soon = Duration::from_secs(10);
        let first: Vec<i32> = (0..3).map(|_| arrivals.recv_timeout(soon).unwrap()).collect();
        assert_eq!(pool.size, 3);
        assert!(arrivals.recv_timeout(Duration::from_millis(50)).is_err(), "a fourth ran beside {first:?}");
        drop(go);
        for _ in 3..9 {
            arrivals.recv_timeout(soon).unwrap();
        }
    }

    #[test]
    fn without_another_thread_a_job_waits_for_one_there_is_and_without_any_it_fails() {
        const TOO_MUCH: usize = 1 << 60;
        let mut pool = ThreadPool::new("test-pool", 2, TOO_MUCH);
        pool.submit(|| unreachable!("there is no thread")).unwrap_err();
        pool.stack_bytes = 64 * 1024;
        let (go, gate) = unbounded::<()>();
        pool.submit(move || assert!(gate.recv().is_err())).unwrap();
        pool.stack_bytes = TOO_MUCH;
        let (done, ends) = unbounded();
        pool.submit(move || done.send(()).unwrap()).unwrap();
        drop(go);
        ends.recv_timeout(Duration::from_secs(10)).unwrap();
    }

    #[test]
    fn a_job_that_panics_takes_no_thread_with_it() {
        let mut pool = ThreadPool::new("test-pool", 1, 64 * 1024);
        let (done, ends) = unbounded();
        pool.submit(|| panic::resume_unwind(Box::new("a job's panic"))).unwrap();
        pool.submit(move || done.send(()).unwrap()).unwrap();
        ends.recv_timeout(Duration::from_secs(10)).unwrap();
    }
}
