//! When the proxy may answer for itself: by what this one exchange met, and by what was the case while it lasted.

use std::time::Duration;

use maypole::config::Config;

use crate::client::Answer;
use crate::plan::{ClientMisdeed, Exchange, RequestFraming};
use crate::promptness::{AWAY_MAX, Pauses};
use crate::quotas::Quotas;
use crate::secrecy::Secrecy;
use crate::sim::Time;
use crate::spoilt::Spoilt;
use crate::story::{Met, Stories, Story};
use crate::trail::{Line, Moment, Roll, State};

/// An origin has no more addresses than this, each of which has its part of the time to connect.
const ADDRESSES_MAX: u32 = 2;

/// What is known of a run apart from what its exchanges met.
pub struct Circumstances<'r> {
    pub config: &'r Config,
    /// Client connections that are served at once, of all clients.
    pub connections_max: usize,
    pub secrecy: Secrecy,
    pub stories: Stories<'r>,
    pub pauses: Pauses,
    /// Where clients' rates are limited.
    pub quotas: Option<Quotas>,
    /// Retries for which there was no budget.
    pub retries_denied: u64,
}

/// An exchange that the proxy has answered for itself.
pub struct Case<'c> {
    pub exchange: &'c Exchange,
    pub answer: &'c Answer,
    pub story: &'c Story,
    pub line: Option<&'c Line>,
    /// It is its connection's first.
    pub is_first: bool,
    /// When its client sent its first byte.
    pub begun_at: Time,
}

impl Circumstances<'_> {
    /// Whether there was need for an answer of the proxy's own, and for this one.
    pub fn excuse(&self, case: &Case<'_>) -> bool {
        let last = case.story.met_last();
        match case.answer.status {
            408 => matches!(
                case.exchange.misdeed,
                ClientMisdeed::StallsAfter(_) | ClientMisdeed::FinishesAfter(_) | ClientMisdeed::Trickles(_)
            ),
            413 => case.exchange.too_large,
            429 => self.quotas.as_ref().is_some_and(|quotas| quotas.may_be_used_up(case.line, case.exchange.id)),
            502 => match case.details() {
                "backend certificate is not accepted" => last.contains(&Met::Distrust),
                "backend refused the TLS handshake" => last.contains(&Met::Refusal),
                "TLS handshake with the backend failed" => {
                    last.iter().any(|met| matches!(met, Met::Breach | Met::Departure))
                }
                _ => {
                    let fails = |met: &Met| matches!(met, Met::NoWay | Met::NoPort | Met::Departure | Met::Babble);
                    last.iter().any(fails) || self.was_called(case, |roll| roll.unresolved)
                }
            },
            503 => match case.details() {
                "no healthy backend" => self.lacks_backends(case),
                "no backend takes connections" => {
                    let is_crowded = case.was_ever(|state| state.waiting >= self.config.queue.size);
                    case.was_ever(|state| !state.has_room) && (is_crowded || case.elapsed() >= AWAY_MAX)
                }
                "too many requests at once" => {
                    case.was_ever(|state| !state.has_room && state.waiting >= self.config.queue.size)
                }
                "too many requests at once, waited for too long" => {
                    case.was_ever(|state| !state.has_room) && case.elapsed() >= nanoseconds(self.config.queue.timeout)
                }
                "too many connections" | "too many connections from this address" => {
                    self.is_turned_away(case.story, case.line, case.is_first)
                }
                "no file descriptor left to connect with" => last.contains(&Met::NoDescriptor),
                _ => false,
            },
            504 => self.is_late(case),
            status => case.exchange.spoilt().map(Spoilt::status) == Some(status),
        }
    }

    /// Whether a failure was told though the request might have been tried again.
    pub fn gave_up_early(&self, case: &Case<'_>) -> bool {
        let (exchange, retries) = (case.exchange, &self.config.retries);
        let Some(last) = case.story.tries.last() else { return false };
        // Whose name has no address is tried too, and leaves no trace.
        let all_counted = !self.was_called(case, |roll| roll.unresolved) && !exchange.is_answered_mutated();
        let may_be_repeated = if last.offered.is_some() {
            let is_whole = exchange.framing == RequestFraming::NoBody && exchange.spoilt().is_none();
            let has_begun = exchange.answers.iter().any(|answering| !answering.informational.is_empty());
            let closed = case.told("error=").starts_with("connection_terminated")
                && last.met.iter().all(|met| *met == Met::Departure);
            retries.on_reset && closed && exchange.is_idempotent() && is_whole && !has_begun
        } else {
            retries.on_connect && !last.met.contains(&Met::NoDescriptor)
        };
        let in_budget = self.retries_denied == 0;
        let few = case.story.tries.len() < retries.attempts as usize;
        case.answer.status == 502 && few && all_counted && may_be_repeated && in_budget
    }

    /// Whether an answer of this status has a request tried again.
    pub fn is_failing(&self, status: u16) -> bool {
        let breaker = self.config.circuit_breaker.as_ref();
        self.config.retries.is_on(status)
            || breaker.is_some_and(|breaker| breaker.on.iter().any(|on| on.contains(&status)))
    }

    fn was_called(&self, case: &Case<'_>, like: impl Fn(&Roll) -> bool) -> bool {
        self.stories.trail.was_called(case.story.begin, case.story.end, like)
    }

    /// At some moment of its life nobody was there to be asked.
    fn lacks_backends(&self, case: &Case<'_>) -> bool {
        case.was_ever(|state| !state.may_have_room) || self.was_called(case, |roll| roll.eligible.is_empty())
    }

    /// There were as many client connections as may be, in all or of this client, when its own came.
    pub fn is_turned_away(&self, story: &Story, line: Option<&Line>, is_first: bool) -> bool {
        let of_client_max = self.config.limits.connections_per_client;
        let of_client = |moment| line.map_or(0, |line| self.stories.trail.lines_at(moment, line.from));
        // It has no seat itself, though its line is there.
        let too_many = |(moment, state): &(Moment, State)| {
            state.seated >= self.connections_max || (of_client_max > 0 && of_client(*moment) > of_client_max)
        };
        is_first && story.tries.is_empty() && story.states.iter().any(too_many)
    }

    /// Its backends, or the way to them, had the whole time that there is for an answer.
    fn is_late(&self, case: &Case<'_>) -> bool {
        let timeouts = &self.config.timeouts;
        let silent = case.story.met_silence();
        let of_address = timeouts.connect / ADDRESSES_MAX;
        let waited = |least: Duration| case.since_first_try() >= nanoseconds(least);
        waited(self.config.request_timeout)
            || (silent && waited(of_address.min(timeouts.body_idle).min(self.config.request_timeout)))
    }
}

impl Case<'_> {
    /// Whether it was so at any time that the proxy wrote to its client.
    fn was_ever(&self, so: impl Fn(State) -> bool) -> bool {
        self.story.states.iter().any(|(_, state)| so(*state))
    }

    fn elapsed(&self) -> Time {
        self.story.end.at.saturating_sub(self.story.begin.at.max(self.begun_at))
    }

    fn since_first_try(&self) -> Time {
        self.story.tries.first().map_or(0, |first| self.story.end.at.saturating_sub(first.began.at))
    }

    /// What the proxy says of the reason.
    fn details(&self) -> &str {
        self.told("details=").trim_matches('"')
    }

    fn told(&self, parameter: &str) -> &str {
        let status = self.answer.head.field("Proxy-Status").unwrap_or_default();
        status.split(parameter).nth(1).unwrap_or_default()
    }
}

fn nanoseconds(time: Duration) -> Time {
    time.as_nanos() as Time
}
