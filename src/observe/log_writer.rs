//! Lines on their way to a stream that may stand still: a bounded queue, and the one thread that writes. A thread that logs a
//! line never waits for the stream; what there is no room for is counted, and told once the stream gets on again.

use std::io::{self, ErrorKind, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, Sender, bounded};
use parking_lot::{Condvar, Mutex};

/// Lines that wait at most, and their bytes.
const WAITING_LINES_MAX: usize = 4096;
const WAITING_BYTES_MAX: usize = 1024 * 1024;
/// As long as lines go on being dropped, that is told no more often than this.
const TELL_INTERVAL: Duration = Duration::from_secs(1);
/// How long the thread rests when another process has made the stream one that doesn't block, and it is full.
const FULL_REST: Duration = Duration::from_millis(10);

/// The way in, for any number of threads.
#[derive(Debug)]
pub struct LogWriter {
    lines: Sender<Vec<u8>>,
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    waiting_bytes: AtomicUsize,
    /// Not told yet.
    dropped: AtomicU64,
    taken: AtomicU64,
    progress: Mutex<Progress>,
    got_on: Condvar,
}

#[derive(Debug, Default)]
struct Progress {
    /// Of the lines taken, those that have been written, or that the stream has refused.
    done: u64,
    /// What `done` was when it was last waited for in vain.
    stuck_at: Option<u64>,
}

impl LogWriter {
    /// Starts the thread. Fails if the system has no thread to give.
    pub fn start(thread_name: &str, stream: impl Write + Send + 'static) -> io::Result<Self> {
        let (lines, queue) = bounded(WAITING_LINES_MAX);
        let state = Arc::<State>::default();
        let writer = Writer { stream, queue, state: Arc::clone(&state), told_at: None };
        thread::Builder::new().name(thread_name.into()).spawn(move || writer.run())?;
        Ok(Self { lines, state })
    }

    /// Has a line written, its newline included, or drops it: in no case does this wait for the stream.
    pub fn push(&self, line: Vec<u8>) {
        let bytes = line.len();
        let room = |waiting: usize| Some(waiting + bytes).filter(|&all| all <= WAITING_BYTES_MAX);
        let fits = self.state.waiting_bytes.fetch_update(Ordering::AcqRel, Ordering::Acquire, room).is_ok();
        if fits && self.lines.try_send(line).is_ok() {
            self.state.taken.fetch_add(1, Ordering::AcqRel);
            return;
        }
        if fits {
            self.state.waiting_bytes.fetch_sub(bytes, Ordering::AcqRel);
        }
        self.state.dropped.fetch_add(1, Ordering::AcqRel);
    }

    /// Waits until what was pushed so far has been written, at most for so long; true if it has. Where that was waited for
    /// in vain before, and nothing has been written since, it isn't waited for again.
    pub fn flush(&self, wait: Duration) -> bool {
        let deadline = Instant::now() + wait;
        let taken = self.state.taken.load(Ordering::Acquire);
        let mut progress = self.state.progress.lock();
        while progress.done < taken {
            if progress.stuck_at == Some(progress.done) {
                return false;
            }
            if self.state.got_on.wait_until(&mut progress, deadline).timed_out() && progress.done < taken {
                progress.stuck_at = Some(progress.done);
                return false;
            }
        }
        true
    }
}

struct Writer<W> {
    stream: W,
    queue: Receiver<Vec<u8>>,
    state: Arc<State>,
    told_at: Option<Instant>,
}

impl<W: Write> Writer<W> {
    fn run(mut self) {
        while let Ok(line) = self.queue.recv() {
            if self.write(&line).is_err() {
                self.state.dropped.fetch_add(1, Ordering::AcqRel);
            }
            self.state.waiting_bytes.fetch_sub(line.len(), Ordering::AcqRel);
            self.tell_of_dropped();
            self.state.progress.lock().done += 1;
            self.state.got_on.notify_all();
        }
    }

    fn tell_of_dropped(&mut self) {
        let is_due = self.queue.is_empty() || self.told_at.is_none_or(|at| at.elapsed() >= TELL_INTERVAL);
        if !is_due || self.state.dropped.load(Ordering::Acquire) == 0 {
            return;
        }
        let dropped = self.state.dropped.swap(0, Ordering::AcqRel);
        let line = format!("maypole: {dropped} lines were dropped here, since they were not taken in time\n");
        self.told_at = Some(Instant::now());
        if self.write(line.as_bytes()).is_err() {
            self.state.dropped.fetch_add(dropped, Ordering::AcqRel);
        }
    }

    fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.stream.write(bytes) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(n) => bytes = &bytes[n..],
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(FULL_REST),
                Err(error) => return Err(error),
            }
        }
        self.stream.flush()
    }
}

#[cfg(test)]
mod tests;
