//! What happened in a run, as a hash (the same seed must give the same one), and as text when a person asks for it
//! with `MAYPOLE_SIM_TRACE=1`.

use std::cell::Cell;

use crate::sim::Time;

pub struct Trace {
    hash: Cell<u64>,
    events: Cell<u64>,
    spoken: bool,
}

impl Trace {
    pub fn new() -> Self {
        let spoken = std::env::var_os("MAYPOLE_SIM_TRACE").is_some();
        Self { hash: Cell::new(0xcbf2_9ce4_8422_2325), events: Cell::new(0), spoken }
    }

    /// Adds an event; `words` is only called when the trace is spoken.
    pub fn note(&self, now: Time, what: &'static str, numbers: &[u64], words: impl FnOnce() -> String) {
        self.mix(now);
        for byte in what.bytes().take(4) {
            self.mix(u64::from(byte));
        }
        for number in numbers {
            self.mix(*number);
        }
        self.events.set(self.events.get() + 1);
        if self.spoken {
            let (seconds, nanos) = (now / 1_000_000_000, now % 1_000_000_000);
            eprintln!("{seconds:4}.{nanos:09} {what:10} {numbers:?} {}", words());
        }
    }

    /// Adds content.
    pub fn note_bytes(&self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.mix(u64::from_le_bytes(*word));
        }
        for byte in rest {
            self.mix(u64::from(*byte));
        }
    }

    fn mix(&self, word: u64) {
        let mixed = (self.hash.get() ^ word).wrapping_mul(0x0000_0100_0000_01b3);
        self.hash.set(mixed ^ (mixed >> 29));
    }

    pub fn hash(&self) -> u64 {
        self.hash.get()
    }

    pub fn events(&self) -> u64 {
        self.events.get()
    }
}
