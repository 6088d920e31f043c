//! What a pick asks of a backend: whether its circuit breaker lets a request through. One word, read with one load;
//! without a breaker it never changes.
//!
//! ```text
//!             workers: too many failures
//!   Closed ───────────────────────────────▶ Avoided ◀──▶ Tolerated      control plane: panic mode or not
//!     ▲                                        │ ▲          │
//!     │ workers: enough trials passed          │ │          │           control plane: its stay is over
//!     └───────────────────────────── Trial ◀───┴─┼──────────┘
//!                                      └─────────┘ workers: a trial failed
//! ```
//!
//! Workers shut the gate themselves, so that the very next pick on any of them knows; how long it stays shut is the
//! control plane's to say. Each turn but those between Avoided and Tolerated begins a new epoch. A request remembers the
//! one that it began in: what comes of it later than that says nothing of the backend as it is now.

use std::sync::atomic::{AtomicU64, Ordering};

/// How much a backend is trusted with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Any request may be sent to it.
    Closed,
    /// Any request may be sent to it although it has failed: too many others have too. Nothing is held against it.
    Tolerated,
    /// No request is sent to it that has another choice.
    Avoided,
    /// A few requests may find out whether it works again.
    Trial,
}

/// What the control plane has decided about a backend that workers have shut the gate of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It stays out.
    Avoid,
    /// It failed, but is needed all the same.
    Tolerate,
    /// It is tried with a few requests.
    Try,
    /// It is needed, and tried with all that come.
    TryOnAll,
    /// There are no breakers any more: whatever was held against it is forgotten.
    Trust,
}

/// The standing with what belongs to it, in one atomic word. The default is closed.
#[derive(Debug, Default)]
pub(super) struct Gate(AtomicU64);

/// The parts of that word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Word {
    /// Counts turns.
    pub(super) epoch: u32,
    pub(super) standing: Standing,
    /// Requests that may still be sent on trial.
    pub(super) tokens: u8,
    /// So many requests are sent on trial, as the control plane decided when it began.
    pub(super) trials: u8,
    /// Trials that have passed.
    pub(super) passed: u8,
}

/// So many tokens never run out.
const UNLIMITED: u8 = u8::MAX;
/// The lowest byte is the standing; of these two all are let through.
const CLOSED: u64 = 0;
const TOLERATED: u64 = 1;
const AVOIDED: u64 = 2;

impl Gate {
    /// Whether a pick could take the backend now.
    #[inline]
    pub(super) fn is_open(&self) -> bool {
        let word = self.0.load(Ordering::Relaxed);
        lets_all_through(word) || Word::from(word).has_token()
    }

    /// Lets one request through, if it can. Between [`Self::is_open`] and this another worker may have been quicker.
    #[inline]
    pub(super) fn admit(&self) -> bool {
        lets_all_through(self.0.load(Ordering::Relaxed)) || self.take_token()
    }

    #[cold]
    fn take_token(&self) -> bool {
        let taken = self.change(|word| match word.standing {
            Standing::Closed | Standing::Tolerated => Some(word),
            Standing::Trial if word.tokens == UNLIMITED => Some(word),
            Standing::Trial if word.tokens > 0 => Some(Word { tokens: word.tokens - 1, ..word }),
            Standing::Trial | Standing::Avoided => None,
        });
        taken.is_some()
    }

    /// A request that was sent on trial in this epoch has come to nothing: another one may take its place.
    pub(super) fn give_token_back(&self, epoch: u32) {
        self.change(|word| {
            let missing = word.is(epoch, Standing::Trial) && word.tokens < word.trials;
            missing.then(|| Word { tokens: word.tokens + 1, ..word })
        });
    }

    /// As many may be tried again as at its beginning.
    pub(super) fn refill(&self) {
        self.change(|word| {
            let short = word.standing == Standing::Trial && word.tokens < word.trials;
            short.then_some(Word { tokens: word.trials, ..word })
        });
    }

    /// Does what was decided; a trial that begins is one of so many requests. Where workers have turned the standing
    /// meanwhile, they have told so, and nothing is done.
    pub(super) fn obey(&self, decision: Decision, trials: u8) {
        self.change(|word| {
            let is_out = matches!(word.standing, Standing::Avoided | Standing::Tolerated);
            let trial = Word { tokens: trials, trials, ..word.turned(Standing::Trial) };
            match decision {
                Decision::Avoid if is_out => Some(Word { standing: Standing::Avoided, ..word }),
                Decision::Tolerate if is_out => Some(Word { standing: Standing::Tolerated, ..word }),
                Decision::Try if is_out => Some(trial),
                Decision::TryOnAll if is_out => Some(Word { tokens: UNLIMITED, ..trial }),
                Decision::Try if word.standing == Standing::Trial && word.tokens == UNLIMITED => {
                    Some(Word { tokens: word.trials, ..word })
                }
                Decision::TryOnAll if word.standing == Standing::Trial => Some(Word { tokens: UNLIMITED, ..word }),
                Decision::Trust if word.standing != Standing::Closed => Some(word.turned(Standing::Closed)),
                _ => None,
            }
        });
    }

    /// What a worker makes of the word, and tells of: it stays as it was when that can't be told. `turned` says what
    /// becomes of it, if anything.
    pub(super) fn turn(&self, turned: impl Fn(Word) -> Option<Word>, tell: impl FnOnce() -> bool) {
        let Some((before, after)) = self.change(turned) else { return };
        if before.epoch != after.epoch && !tell() {
            let _ = self.0.compare_exchange(after.into(), before.into(), Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    #[inline]
    pub(super) fn epoch(&self) -> u32 {
        (self.0.load(Ordering::Relaxed) >> 32) as u32
    }

    #[inline]
    pub(super) fn word(&self) -> Word {
        self.0.load(Ordering::Relaxed).into()
    }

    /// What the word was and what it is, if it was to be changed.
    fn change(&self, to: impl Fn(Word) -> Option<Word>) -> Option<(Word, Word)> {
        let mut before = self.0.load(Ordering::Relaxed);
        loop {
            let after = to(before.into())?;
            match self.0.compare_exchange_weak(before, after.into(), Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Some((before.into(), after)),
                Err(now) => before = now,
            }
        }
    }
}

impl Word {
    pub(super) fn is(self, epoch: u32, standing: Standing) -> bool {
        self.epoch == epoch && self.standing == standing
    }

    /// The beginning of the next epoch.
    pub(super) fn turned(self, standing: Standing) -> Self {
        Self { epoch: self.epoch.wrapping_add(1), standing, tokens: 0, trials: 0, passed: 0 }
    }

    fn has_token(self) -> bool {
        self.standing == Standing::Trial && self.tokens > 0
    }
}

impl From<u64> for Word {
    #[inline]
    fn from(word: u64) -> Self {
        let [standing, tokens, passed, trials, ..] = word.to_le_bytes();
        let standing = match u64::from(standing) {
            CLOSED => Standing::Closed,
            TOLERATED => Standing::Tolerated,
            AVOIDED => Standing::Avoided,
            _ => Standing::Trial,
        };
        Self { epoch: (word >> 32) as u32, standing, tokens, trials, passed }
    }
}

impl From<Word> for u64 {
    fn from(word: Word) -> Self {
        let standing = match word.standing {
            Standing::Closed => CLOSED,
            Standing::Tolerated => TOLERATED,
            Standing::Avoided => AVOIDED,
            Standing::Trial => AVOIDED + 1,
        };
        let [tokens, passed, trials] = [word.tokens, word.passed, word.trials].map(Self::from);
        Self::from(word.epoch) << 32 | trials << 24 | passed << 16 | tokens << 8 | standing
    }
}

#[inline]
fn lets_all_through(word: u64) -> bool {
    word & 0xff <= TOLERATED
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shut(gate: &Gate) {
        gate.turn(|word| Some(word.turned(Standing::Avoided)), || true);
    }

    fn admitted(gate: &Gate) -> usize {
        (0..100).take_while(|_| gate.admit()).count()
    }

    #[test]
    fn a_gate_that_nobody_turns_lets_everybody_through() {
        let gate = Gate::default();
        assert!(gate.is_open());
        assert_eq!(admitted(&gate), 100);
        for decision in [Decision::Avoid, Decision::Tolerate, Decision::Try, Decision::TryOnAll] {
            gate.obey(decision, 1);
            assert_eq!(
                gate.word().standing,
                Standing::Closed,
                "workers have opened it, so {decision:?} comes too late"
            );
        }
    }

    #[test]
    fn decisions_say_who_is_let_through_a_gate_that_was_shut() {
        let gate = Gate::default();
        shut(&gate);
        assert!(!gate.is_open() && !gate.admit());
        for (decision, standing, let_through) in [
            (Decision::Tolerate, Standing::Tolerated, 100),
            (Decision::Avoid, Standing::Avoided, 0),
            (Decision::Try, Standing::Trial, 2),
            (Decision::Try, Standing::Trial, 0), // they are taken already
            (Decision::TryOnAll, Standing::Trial, 100),
            (Decision::Try, Standing::Trial, 2),
            (Decision::Avoid, Standing::Trial, 0), // a trial is ended by its outcome alone
        ] {
            gate.obey(decision, 2);
            assert_eq!((gate.word().standing, admitted(&gate)), (standing, let_through), "{decision:?}");
        }
        gate.refill();
        assert_eq!(admitted(&gate), 2);
    }

    #[test]
    fn a_token_comes_back_from_its_own_trial_only_and_never_one_too_many() {
        let gate = Gate::default();
        shut(&gate);
        gate.obey(Decision::Try, 1);
        let epoch = gate.epoch();
        gate.give_token_back(epoch);
        assert_eq!(admitted(&gate), 1);
        gate.give_token_back(epoch - 1);
        assert_eq!(admitted(&gate), 0);
        gate.give_token_back(epoch);
        assert_eq!(admitted(&gate), 1);
    }

    #[test]
    fn a_turn_that_cannot_be_told_is_taken_back() {
        let gate = Gate::default();
        gate.turn(|word| Some(word.turned(Standing::Avoided)), || false);
        assert_eq!(gate.word(), Word::from(0));
    }

    #[test]
    fn words_survive_their_packing() {
        for standing in [Standing::Closed, Standing::Tolerated, Standing::Avoided, Standing::Trial] {
            let word = Word { epoch: u32::MAX - 1, standing, tokens: 3, trials: 7, passed: 254 };
            assert_eq!(Word::from(u64::from(word)), word);
        }
    }
}
