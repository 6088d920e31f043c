//! The harness of the end-to-end tests: the real binary, origins that play a script, a client that sees raw bytes.
//!
//! Nothing here sleeps to synchronise: what has to happen is waited for, with a deadline that fails the test. Every
//! process that a test starts is ended by its own id when the test ends, however it ends.

// Each test binary compiles its own copy of this module and uses a part of it.
#![allow(dead_code, unused_imports)]

pub mod bridge;
pub mod client;
pub mod origin;
pub mod proxy;
pub mod secure;
pub mod tls;
pub mod tracer;
pub mod wire;

use std::io::Write;
use std::net::TcpStream;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

pub use client::{Client, curl};
pub use origin::{Exchange, Origin, ScriptFn};
pub use proxy::{Program, Proxy};
pub use tracer::Tracer;
pub use wire::Message;

/// How long anything may take before a test gives up on it.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Waits until `holds`; fails the test with `what` when it doesn't within [`PATIENCE`].
#[track_caller]
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Says past the test's capture why a test doesn't run: it shouldn't look as if it had.
pub fn skip(why: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED: {why}");
}

/// A loopback port on which nobody listens, never given twice in this process. Below the range that the system takes
/// the ports of outgoing connections from, so that no connection of a test running beside this one can take it.
pub fn free_port() -> u16 {
    static OFFSET: AtomicU16 = AtomicU16::new(0);
    const FIRST: u32 = 10_000;
    const COUNT: u32 = 22_000;
    let start = std::process::id().wrapping_mul(97);
    loop {
        let offset = u32::from(OFFSET.fetch_add(1, Ordering::Relaxed));
        let port = u16::try_from(FIRST + start.wrapping_add(offset) % COUNT).expect("below 32000");
        // Binding it to see would be a race: a child that is just being started holds a copy of every descriptor.
        if TcpStream::connect(("127.0.0.1", port)).is_err() {
            return port;
        }
    }
}

/// Holds whoever waits until it is opened: how a script keeps an exchange in flight for as long as a test needs it.
#[derive(Default)]
pub struct Gate {
    open: Mutex<bool>,
    changed: Condvar,
}

impl Gate {
    /// Lets everyone pass, now and later.
    pub fn open(&self) {
        *self.open.lock().expect("not poisoned") = true;
        self.changed.notify_all();
    }

    /// Returns once it is open. Gives up after three times [`PATIENCE`], so that no thread outlives a failed test long.
    pub fn wait(&self) {
        let open = self.open.lock().expect("not poisoned");
        drop(self.changed.wait_timeout_while(open, PATIENCE * 3, |open| !*open));
    }
}
