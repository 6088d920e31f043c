//! What has become of each request, as the proxy has written it down: once, and as its client and the counts tell it.

use std::cell::RefCell;
use std::rc::Rc;

use maypole::observe::{FailureCounts, Reason};
use maypole::proxy::{End, Record, TRIES_MAX};

use crate::plan::Book;
use crate::tally::Promise;
use crate::verdict::{Judge, Played};

/// All of a run's.
pub type Records = Rc<RefCell<Vec<Record>>>;

/// Of `unrecorded` requests nothing may be written down.
pub fn judge(
    judge: &mut Judge<'_>,
    (records, unrecorded): (&[Record], u64),
    counts: &FailureCounts,
    book: &Book,
    played: &[Played],
) {
    for record in records {
        let wrong = wrong_with(record);
        judge.expect(Promise::Recorded, wrong.is_none(), || format!("{}: {record:?}", wrong.unwrap_or_default()));
    }
    for (reason, counted) in counts.all() {
        let recorded = records.iter().filter(|record| record.end == End::Failed(reason)).count() as u64;
        // A connection that is turned away has no request.
        let turns_away = matches!(reason, Reason::ConnectionLimit | Reason::ClientConnectionLimit);
        let holds = if turns_away { recorded == 0 } else { recorded == counted };
        judge.expect(Promise::Recorded, holds, || format!("{recorded} of {reason:?}, {counted} counted"));
    }
    let turned_away = counts.of(Reason::ConnectionLimit) + counts.of(Reason::ClientConnectionLimit);
    for status in 100..600 {
        let answers = played
            .iter()
            .map(|each| each.log.answers.borrow().iter().filter(|answer| answer.status == status).count() as u64);
        let (seen, without) = (answers.sum::<u64>(), if status == 503 { turned_away } else { 0 });
        let recorded = records.iter().filter(|record| record.status == Some(status)).count() as u64;
        let holds = seen <= recorded + without + unrecorded;
        judge.expect(Promise::Recorded, holds, || format!("{seen} answers of {status}, {recorded} recorded"));
    }
    if !book.mutants.get() {
        let begun: usize = played.iter().map(|each| each.log.begun.get()).sum();
        let count = records.len();
        judge.expect(Promise::Recorded, count <= begun, || format!("{begun} requests, {count} records"));
    }
}

/// What can't be so.
fn wrong_with(record: &Record) -> Option<&'static str> {
    let tries: Vec<_> = record.tries().collect();
    let moments: Vec<_> = [record.begun, record.leased, record.answered, record.moved].into_iter().flatten().collect();
    let last_missed = tries.last().is_some_and(|(_, missed)| missed.is_some());
    let is_whole = record.end == End::Whole;
    [
        (!moments.is_sorted(), "its moments aren't in order"),
        (tries.len() > TRIES_MAX, "it was tried too often"),
        (tries.iter().any(|(id, _)| *id == 0), "a try went nowhere"),
        (tries.iter().rev().skip(1).any(|(_, missed)| missed.is_none()), "it was sent again after a try that was fine"),
        (is_whole && last_missed, "its last try failed, and it did not"),
        (is_whole && record.status.is_none() && record.answered.is_some(), "its answer has no status"),
        (record.answered.is_some() && tries.is_empty(), "it was answered untried"),
        // What moved before a panic is not counted.
        (record.answered.is_some() && record.up_bytes == 0 && record.end != End::Defect, "it was answered unasked"),
        (is_whole && record.status.is_some() && record.down_bytes == 0, "its answer has no byte"),
        (
            record.answered.is_none() && record.status.is_some() && record.down_bytes == 0,
            "the proxy's answer has no byte",
        ),
        (record.status.is_none() && record.answered.is_some(), "it was answered with nothing"),
    ]
    .into_iter()
    .find_map(|(is_so, wrong)| is_so.then_some(wrong))
}
