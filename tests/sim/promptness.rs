//! How long an exchange may stand still: no longer than its own peers, the way to them, and the queue make it.

use std::fmt;
use std::time::Duration;

use crate::plan::Exchange;
use crate::sim::{MILLISECOND, SECOND, Time};
use crate::story::{Stories, Story};
use crate::temper::Temper;

/// The longest that a network takes to take a connection.
const ACCEPTING: Time = 100 * MILLISECOND;
/// The longest that a client waits for a 100 before it sends its body all the same.
const EXPECTING: Time = 3 * SECOND;
/// How long a request waits for backends that refuse connections.
pub const AWAY_MAX: Time = SECOND;
/// The proxy's own part.
const OWN: Time = 100 * MILLISECOND;

/// How slow a run's ends are without any fault of theirs.
#[derive(Clone, Copy, Debug)]
pub struct Pauses {
    /// Of the network: there and back, until both ends know of it.
    network: Time,
    /// The longest rest of an origin between two pieces.
    origins: Time,
    /// Requests may have to wait for room.
    queue: bool,
    /// Connections may have to wait for a coroutine, for as long as others hold them: `runners.rs` has its own promises.
    few_coroutines: bool,
}

/// An exchange that was answered, and whose client did nothing wrong.
pub struct Answered<'a> {
    pub exchange: &'a Exchange,
    pub story: &'a Story,
    /// When something moved on its client's connection.
    pub client_moves: &'a [Time],
    /// The longest that its client rests between two pieces.
    pub client_rests: Time,
    /// When its client sent its first byte.
    pub begun_at: Time,
    /// The proxy made the answer itself.
    pub is_own: bool,
}

/// A time in which nothing moved.
#[derive(Clone, Copy)]
pub struct Standstill {
    from: Time,
    lasted: Time,
    longest: Time,
}

impl Pauses {
    pub fn new(temper: &Temper, origins: Time, queue: bool) -> Self {
        let network = 4 * (temper.latency.end() + temper.event_delay.end()) + temper.timer_slack;
        Self { network, origins, queue, few_coroutines: temper.coroutines < usize::MAX }
    }

    /// For how long nothing may move in it.
    fn longest(&self, answered: &Answered<'_>) -> Time {
        let exchange = answered.exchange;
        let thinking = exchange.answers.iter().map(|answering| answering.delay).max().unwrap_or_default();
        let expecting = if exchange.expects { EXPECTING } else { 0 };
        OWN + ACCEPTING + self.network + self.origins + answered.client_rests + thinking + expecting
    }

    /// The longest time in which nothing moved although none of its peers kept it waiting, if that was too long.
    pub fn standstill(&self, stories: &Stories<'_>, answered: &Answered<'_>) -> Option<Standstill> {
        let story = answered.story;
        if self.few_coroutines || story.met_silence() || (self.queue && answered.is_own) {
            return None;
        }
        let (begin, end) = (story.begin.at.max(answered.begun_at), story.end.at);
        let mut moves = answered.client_moves.to_vec();
        moves.extend([begin, end]);
        for tried in &story.tries {
            moves.push(tried.began.at);
            moves.extend(stories.moves_of(tried));
        }
        moves.retain(|at| (begin..=end).contains(at));
        moves.sort_unstable();
        // Who has to wait for room waits before a try.
        let last_try = story.tries.last().map_or(begin, |last| last.began.at);
        let is_queued = |to: Time| self.queue && to <= last_try;
        let longest = self.longest(answered);
        // Nor does a request find a backend while all that are left refuse connections.
        let is_away = |from: Time, to: Time| {
            (to <= last_try || answered.is_own) && stories.was_refused(from.saturating_sub(AWAY_MAX), to)
        };
        let gaps = moves.windows(2).filter(|pair| !is_queued(pair[1])).map(|pair| (pair[0], pair[1]));
        let overlong = gaps.filter(|&(from, to)| {
            let allowed = if is_away(from, to) { longest + AWAY_MAX } else { longest };
            to - from > allowed
        });
        let (from, to) = overlong.max_by_key(|(from, to)| to - from)?;
        Some(Standstill { from, lasted: to - from, longest })
    }
}

impl fmt::Display for Standstill {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [from, lasted, longest] = [self.from, self.lasted, self.longest].map(Duration::from_nanos);
        write!(f, "from {from:?} on nothing moved for {lasted:?}, and no more than {longest:?} were needed")
    }
}
