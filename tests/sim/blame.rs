//! What is held against backends. A failure that is counted of one must be matched by what its origin, or the way there, did to
//! the very try that was under way. Whatever clients do, how long they neither send nor read, and how their backends end it:
//! it is nobody's failure and no slowness.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use maypole::balance::{Report, Transition};

use crate::control::Control;
use crate::excuse::Circumstances;
use crate::net::SocketId;
use crate::plan::Book;
use crate::sim::Time;
use crate::story::{Met, Stories, Try};
use crate::tally::Promise;
use crate::trail::{Counted, Moment};
use crate::verdict::{Judge, Played};

/// No origin takes so long for its answer, the slowest network included. Clients stall for longer.
const LATENCY_MAX: Duration = Duration::from_secs(6);

/// Matches each failure with the try that it was counted for.
pub fn judge_failures(judge: &mut Judge<'_>, circumstances: &Circumstances<'_>, played: &[Played]) {
    let stories = &circumstances.stories;
    let request_timeout = circumstances.config.request_timeout.as_nanos() as Time;
    let by_line = tries_by_line(stories, played);
    let mut told = BTreeSet::new();
    for counted in stories.trail.failures() {
        let Counted { moment, line, origin } = counted;
        // A name without an address is tried too, and leaves no trace.
        if stories.trail.was_called(moment, moment, |roll| roll.unresolved) {
            continue;
        }
        // Who sends requests that nobody planned, leaves no story: the origin must have done something at all.
        let Some(of_line) = by_line.get(&line) else {
            let did_any = stories.did_any_wrong(origin);
            judge.expect(Promise::ClientsBlamed, did_any, || format!("a failure of origin {origin}, which had none"));
            continue;
        };
        // A connection may have been asked for to see whether a backend is back, and be used only later.
        let last_step = |tried: &&Try| tried.offered.filter(|offered| *offered < moment).unwrap_or(tried.began);
        let tried = of_line.iter().filter(|tried| tried.began < moment).max_by_key(last_step);
        // Whoever is asked last has what the others have left of the time for an answer.
        let is_late = of_line.iter().any(|tried| tried.began.at + request_timeout <= moment.at);
        let is_its_own = tried.is_some_and(|tried| tried.origin == origin && (is_late || is_at_fault(tried)));
        judge.expect(Promise::ClientsBlamed, is_its_own, || {
            format!("at {:?} a failure of origin {origin} is counted for a try that met {tried:?}", moment.at)
        });
        let is_first = tried.is_none_or(|tried| told.insert((tried.way, tried.began)));
        judge.expect(Promise::ClientsBlamed, is_first, || {
            format!("at {:?} a second failure of origin {origin} is counted for one try, {tried:?}", moment.at)
        });
    }
}

/// What its origin or the network did to it came before anything that its client made them do.
fn is_at_fault(tried: &Try) -> bool {
    let mut met = tried.met.iter().filter(|met| !matches!(met, Met::NoPort | Met::NoDescriptor));
    met.next().is_some_and(|met| *met != Met::Impatience)
}

/// The tries for each client's connection, in order.
fn tries_by_line(stories: &Stories<'_>, played: &[Played]) -> BTreeMap<SocketId, Vec<Try>> {
    let line = |connection: &Played| stories.trail.line_of(connection.log.socket.get()?);
    played.iter().filter_map(|connection| Some((line(connection)?, connection.tries(stories)))).collect()
}

/// `reports` are all that workers have said of backends.
pub fn judge_reports(judge: &mut Judge<'_>, stories: &Stories<'_>, book: &Book, reports: &[Report]) {
    let failures = stories.trail.failures();
    let named = |name: &str, number: usize| format!("origin{number}") == name;
    // Failing statuses that were planned, and failures, each of which was looked at.
    let failed = |name: &str| {
        let answers = book.failing_answers.borrow();
        let answered = answers.iter().find(|(number, _)| named(name, **number)).map_or(0, |(_, times)| *times);
        answered + failures.iter().filter(|counted| named(name, counted.origin)).count() as u64
    };
    let unresolved = stories.trail.was_called(Moment::FIRST, Moment::NEVER, |roll| roll.unresolved);
    for report in reports {
        let (backend, holds) = match report {
            Report::Refused(backend) | Report::Missed(backend) => {
                (backend, stories.was_in_vain(|number| named(&backend.name, number)))
            }
            Report::Unreachable(backend) => {
                (backend, unresolved || stories.was_in_vain(|number| named(&backend.name, number)))
            }
            Report::Turned(backend, Transition::TrippedInARow(times)) => {
                (backend, u64::from(*times) <= failed(&backend.name))
            }
            Report::Turned(backend, Transition::TrippedByShare { failed: times, .. }) => {
                (backend, *times <= failed(&backend.name))
            }
            Report::Untrusted(backend) | Report::Turned(backend, Transition::Relapsed) => {
                (backend, failed(&backend.name) > 0)
            }
            Report::Turned(_, Transition::Recovered) => continue,
        };
        judge.expect(Promise::ClientsBlamed, holds, || {
            format!("{} of {}, which failed {} times", turn_in_words(report), backend.name, failed(&backend.name))
        });
    }
}

/// In runs where neither origins nor the ways to them do anything wrong. Answers are taken up at once, unless coroutines are `lacking`
/// which handshakes keep.
pub fn judge_of_the_blameless(judge: &mut Judge<'_>, control: &Control, now: Time, lacking: bool) {
    control.each_backend(|backend| {
        let (name, totals) = (&backend.name, backend.totals());
        judge.expect(Promise::ClientsBlamed, totals.failed == 0, || {
            format!("{} failures are counted of {name}, which had none", totals.failed)
        });
        let slowest = totals.latency.quantile(1.0).unwrap_or_default();
        judge.expect(Promise::ClientsBlamed, lacking || slowest <= LATENCY_MAX, || {
            format!("{name} is said to take {slowest:?}")
        });
        let micros = backend.latency_estimate().micros(now).unwrap_or_default();
        let estimate = Duration::from_secs_f32(micros / 1e6);
        judge.expect(Promise::ClientsBlamed, lacking || estimate <= LATENCY_MAX, || {
            format!("{name} is taken for one of {estimate:?}")
        });
    });
}

fn turn_in_words(report: &Report) -> String {
    match report {
        Report::Refused(_) => "a refusal".to_owned(),
        Report::Missed(_) => "a missed address".to_owned(),
        Report::Unreachable(_) => "an unreachable address".to_owned(),
        Report::Untrusted(_) => "a failed handshake".to_owned(),
        Report::Turned(_, turn) => format!("{turn:?}"),
    }
}
