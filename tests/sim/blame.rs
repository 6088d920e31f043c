//! What is held against backends in runs where neither they nor the ways to them do anything wrong. Whatever clients do
//! there, how long they neither send nor read, and how their backends end it: it is nobody's failure and no slowness.

use std::time::Duration;

use maypole::balance::{Report, Turn};

use crate::control::Control;
use crate::plan::Book;
use crate::sim::Time;
use crate::tally::Promise;
use crate::verdict::Judge;

/// No origin takes so long for its answer, the slowest network included. Clients stall for longer.
const LATENCY_MAX: Duration = Duration::from_secs(6);

/// `reports` are all that workers have said of backends.
pub fn judge(judge: &mut Judge<'_>, control: &Control, book: &Book, reports: &[Report], now: Time) {
    for report in reports {
        // Failing statuses that were planned are all there is to hold against it.
        let own = |name: &str| {
            let answers = book.failing_answers.borrow();
            answers.iter().find(|(number, _)| format!("origin{number}") == name).map_or(0, |(_, times)| *times)
        };
        let (backend, held) = match report {
            Report::Refused(backend) | Report::Missed(backend) | Report::Unreachable(backend) => (backend, u64::MAX),
            Report::Turned(backend, Turn::TrippedInARow(times)) => (backend, u64::from(*times)),
            Report::Turned(backend, Turn::TrippedByShare { failed, .. }) => (backend, *failed),
            Report::Turned(backend, Turn::Relapsed) => (backend, 1),
            Report::Turned(_, Turn::Recovered) => continue,
        };
        judge.expect(Promise::ClientsBlamed, held <= own(&backend.name), || {
            format!(
                "{} of {}, which failed {} times of its own",
                turn_in_words(report),
                backend.name,
                own(&backend.name)
            )
        });
    }
    control.each_backend(|backend| {
        let (name, totals) = (&backend.name, backend.totals());
        judge.expect(Promise::ClientsBlamed, totals.failed == 0, || {
            format!("{} failures are counted of {name}, which had none", totals.failed)
        });
        let slowest = totals.latency.quantile(1.0).unwrap_or_default();
        judge.expect(Promise::ClientsBlamed, slowest <= LATENCY_MAX, || format!("{name} is said to take {slowest:?}"));
        let micros = backend.latency_estimate().and_then(|estimate| estimate.micros(now)).unwrap_or_default();
        let estimate = Duration::from_secs_f32(micros / 1e6);
        judge.expect(Promise::ClientsBlamed, estimate <= LATENCY_MAX, || {
            format!("{name} is taken for one of {estimate:?}")
        });
    });
}

fn turn_in_words(report: &Report) -> String {
    match report {
        Report::Refused(_) => "a refusal".to_owned(),
        Report::Missed(_) => "a missed address".to_owned(),
        Report::Unreachable(_) => "an unreachable address".to_owned(),
        Report::Turned(_, turn) => format!("{turn:?}"),
    }
}
