//! What must hold after every run, whatever happened in it.

use std::net::IpAddr;
use std::rc::Rc;

use crate::client::{Answer, Log};
use crate::net::Tap;
use crate::plan::{AnswerFraming, Answering, Book, ClientMisdeed, Exchange, OriginMisdeed, RequestFraming, Seen};
use crate::spoilt::Spoilt;
use crate::tally::{Promise, Tally, Wrong};
use crate::wire::Cut;

/// One client connection, planned and happened.
pub struct Played {
    pub from: IpAddr,
    pub exchanges: Vec<Rc<Exchange>>,
    pub log: Rc<Log>,
}

/// What a run may have had that excuses an answer of the proxy's own.
#[derive(Clone, Copy, Debug, Default)]
pub struct Excuses {
    /// Origins leave, babble, refuse, or close connections that wait in a pool: 502.
    pub origins_leave: bool,
    /// Origins or their networks say nothing: 504.
    pub origins_stall: bool,
    /// Origins crash and take every connection with them: 502, and answers that are cut.
    pub origins_crash: bool,
    /// The system lacks ports or descriptors towards backends: 502, 503.
    pub system_lacks: bool,
    /// There may be no backend that gets traffic: 503.
    pub no_backend: bool,
    /// There are more connections than allowed: 503.
    pub turns_away: bool,
    /// Circuit breakers have requests tried again whose answers are failures.
    pub breakers: bool,
    /// Clients may send only so many requests: 429.
    pub rate_limited: bool,
    /// Backends may have no room, so that requests go elsewhere or wait.
    pub bounded: bool,
    /// Requests may find no room, or wait for it in vain: 503.
    pub crowded: bool,
    /// The proxy was told to stop: connections may end instead of serving another request.
    pub drained: bool,
    /// Coroutines panic: their connections end.
    pub panics: bool,
    /// Tries that a request may take.
    pub tries_max: usize,
}

/// Judges a run.
pub struct Judge<'r> {
    book: &'r Book,
    taps: &'r [Tap],
    excuses: Excuses,
    tally: &'r mut Tally,
    /// Which exchange is being judged.
    about: Option<u64>,
    pub wrongs: Vec<Wrong>,
    /// Answers that the proxy made itself.
    pub own_answers: u64,
}

impl<'r> Judge<'r> {
    pub fn new(book: &'r Book, taps: &'r [Tap], excuses: Excuses, tally: &'r mut Tally) -> Self {
        Self { book, taps, excuses, tally, about: None, wrongs: Vec::new(), own_answers: 0 }
    }

    /// Counts a look at `promise`, and notes `what` unless it holds.
    pub fn expect(&mut self, promise: Promise, holds: bool, what: impl FnOnce() -> String) {
        self.tally.checked(promise, 1);
        if !holds {
            let what = match self.about {
                Some(id) => format!("exchange {id}: {}", what()),
                None => what(),
            };
            self.wrongs.push(Wrong::new(promise, what));
        }
    }

    pub fn judge(&mut self, played: &[Played]) {
        for connection in played {
            self.tally.exchanges += connection.log.begun.get() as u64;
            let answers = connection.log.answers.borrow();
            self.tally.answers += answers.len() as u64;
            for (exchange, answer) in connection.exchanges.iter().zip(answers.iter()) {
                self.about = Some(exchange.id);
                self.judge_answer(connection, exchange, answer);
            }
            self.about = None;
            self.judge_connection(connection, &answers);
            for (number, exchange) in connection.exchanges.iter().enumerate() {
                self.about = Some(exchange.id);
                self.judge_at_origins(connection, number, exchange, &answers);
            }
            self.about = None;
        }
    }

    fn judge_connection(&mut self, connection: &Played, answers: &[Answer]) {
        let stray = connection.log.stray.borrow();
        let end = connection.log.end.borrow();
        let ended = end.is_some();
        self.expect(Promise::Answered, ended, || "a client never came to an end".to_owned());
        let Some((end, _)) = &*end else { return };
        // Who stalls in mid-head hasn't been heard out, so the proxy doesn't know that it asked for no body.
        let last = answers.last().zip(connection.exchanges.get(answers.len().saturating_sub(1)));
        let unheard = last.is_some_and(|(answer, exchange)| {
            exchange.method == "HEAD" && is_own(answer) && (answer.status == 408 || exchange.spoilt().is_some())
        });
        let turned_away = last.is_some_and(|(answer, exchange)| {
            exchange.method == "HEAD" && is_own(answer) && answer.status == 503 && self.excuses.turns_away
        });
        let malformed = matches!(end, Cut::Malformed(_)) && !unheard && !turned_away;
        self.expect(Promise::WellFormed, !malformed, || {
            format!("a client got {end:?}, then '{}'", stray[..stray.len().min(60)].escape_ascii())
        });
        let Some(unanswered) = connection.exchanges.get(answers.len()) else { return };
        self.about = Some(unanswered.id);
        let begun = connection.log.begun.get() > answers.len();
        let said_close = answers.last().is_some_and(says_close);
        let was_cut = answers.last().is_some_and(|answer| answer.end.is_err());
        // The reset that tells of a cut body may overtake the answer's head, and whole answers before it.
        let mut later = connection.exchanges[answers.len()..].iter().flat_map(|exchange| &exchange.answers);
        let cuts = self.excuses.origins_crash || later.any(may_break_off);
        let cut_with_its_head = *end == Cut::Reset && cuts;
        // Of those over the limit only some are waited for; the others get what the network takes at once.
        let begins_refusal = stray.iter().zip(b"HTTP/1.1 503 ").all(|(came, refusal)| came == refusal);
        let turned_away_at_once = self.excuses.turns_away && answers.is_empty() && !stray.is_empty() && begins_refusal;
        let excused = self.excuses.drained || self.excuses.panics || cut_with_its_head || turned_away_at_once;
        let left = begun && !misbehaves(connection) && !said_close && !was_cut && !excused;
        self.expect(Promise::Answered, !left, || format!("no answer, the connection ended with {end:?}"));
        let hangs = *end == Cut::Late && begun && !said_close;
        self.expect(Promise::Answered, !hangs, || "its client was left waiting".to_owned());
    }

    fn judge_answer(&mut self, connection: &Played, exchange: &Exchange, answer: &Answer) {
        self.expect(Promise::Answered, answer.end != Err(Cut::Late), || "its answer was left hanging".to_owned());
        let malformed = matches!(answer.end, Err(Cut::Malformed(_)));
        self.expect(Promise::WellFormed, !malformed, || format!("its answer has {:?}", answer.end));
        let unasked = exchange.old && !answer.informational.is_empty();
        self.expect(Promise::Heads, !unasked, || "an HTTP/1.0 client got an interim answer".to_owned());
        if is_own(answer) {
            return self.judge_own_answer(connection, exchange, answer);
        }
        let spoilt_in_head = exchange.spoilt().is_some_and(Spoilt::shows_in_head);
        self.expect(Promise::RefusedStaysOut, !spoilt_in_head, || "a backend answered it".to_owned());
        // What was changed at random may have been what tells whose it is.
        if exchange.is_answered_mutated() {
            return;
        }
        let theirs = answer.head.field("x-sim-id") == Some(exchange.id.to_string().as_str());
        self.expect(Promise::AnswersBelong, theirs, || format!("got the answer of another: {:?}", answer.head));
        if !theirs {
            return;
        }
        let attempt = answer.head.field("x-sim-try").and_then(|attempt| attempt.parse().ok());
        self.expect(Promise::Heads, attempt.is_some(), || format!("its answer lost a field: {:?}", answer.head));
        if let Some(attempt) = attempt {
            self.judge_planned_answer(connection, exchange, answer, exchange.answering(attempt));
        }
    }

    fn judge_planned_answer(&mut self, connection: &Played, exchange: &Exchange, answer: &Answer, planned: &Answering) {
        self.expect(Promise::AnswersBelong, answer.status == planned.status, || {
            format!("planned {}, got {}", planned.status, answer.status)
        });
        let dated = answer.head.field("Date").is_some() || answer.status == 101;
        self.expect(Promise::Heads, dated, || "its answer has no Date".to_owned());
        let expected = expected_body(exchange, planned);
        let got = &answer.body;
        match &answer.end {
            Ok(()) => {
                // Who ends a connection hears no more of it, and takes that for its end.
                let left = connection.exchanges.iter().any(leaves);
                let looks_whole = is_cut(exchange, planned, expected) && !left;
                self.expect(Promise::CutAnswers, !looks_whole, || "a body that was cut looks whole".to_owned());
                // A tunnel has no framing that would show its end.
                let broken = may_break_off(planned) || misbehaves(connection) || self.excuses.origins_crash;
                let ends_anywhere = left || (planned.status == 101 && broken);
                let same = got == expected || (ends_anywhere && expected.starts_with(got));
                // What is right so far, but stops short, was cut.
                let promise = if expected.starts_with(got) { Promise::CutAnswers } else { Promise::AnswerBodies };
                self.expect(promise, same, || difference("its answer's body", got, expected));
                self.tally.checked(Promise::AnswerBodies, 1);
            }
            Err(cut) => {
                self.expect(Promise::AnswerBodies, expected.starts_with(got), || {
                    difference("the part of its answer's body", got, expected)
                });
                let excused = may_break_off(planned)
                    || misbehaves(connection)
                    || self.excuses.origins_crash
                    || self.excuses.panics;
                self.expect(Promise::Answered, excused, || {
                    format!("its answer broke off after {} bytes ({cut:?})", got.len())
                });
            }
        }
        let interim: Vec<u16> = answer.informational.iter().copied().filter(|status| *status != 100).collect();
        let as_planned = exchange.old || interim == planned.informational;
        self.expect(Promise::Heads, as_planned, || {
            format!("interim answers {interim:?}, planned {:?}", planned.informational)
        });
    }

    fn judge_own_answer(&mut self, connection: &Played, exchange: &Exchange, answer: &Answer) {
        self.own_answers += 1;
        let excuses = self.excuses;
        let spoilt = exchange.spoilt().map(Spoilt::status);
        let slow = matches!(
            exchange.misdeed,
            ClientMisdeed::StallsAfter(_) | ClientMisdeed::FinishesAfter(_) | ClientMisdeed::Trickles(_)
        );
        let allowed = match answer.status {
            408 => slow,
            413 => exchange.too_large,
            429 => excuses.rate_limited,
            502 => excuses.origins_leave || excuses.origins_crash || excuses.system_lacks,
            503 => excuses.turns_away || excuses.no_backend || excuses.system_lacks || excuses.crowded,
            504 => excuses.origins_stall,
            status => spoilt == Some(status),
        };
        let status = answer.head.field("Proxy-Status").unwrap_or_default();
        self.expect(Promise::OwnAnswers, allowed, || {
            format!("the proxy answered {} ({status}) without need", answer.status)
        });
        let turned_away = answer.status == 503 && excuses.turns_away && connection.exchanges[0].id == exchange.id;
        let broke_off = answer.end.is_err() && !misbehaves(connection) && !excuses.panics && !turned_away;
        self.expect(Promise::Answered, !broke_off, || format!("the proxy's own answer broke off: {:?}", answer.end));
    }

    fn judge_at_origins(&mut self, connection: &Played, number: usize, exchange: &Exchange, answers: &[Answer]) {
        let all = self.book.seen.borrow();
        let seen: Vec<&Seen> = all.iter().filter(|seen| seen.id == exchange.id).collect();
        let sent_whole = connection.log.sent_whole.get() > number;
        for seen in &seen {
            self.judge_seen(exchange, seen, sent_whole);
        }
        if exchange.spoilt().is_some_and(Spoilt::shows_in_head) {
            self.expect(Promise::RefusedStaysOut, seen.is_empty(), || "a backend saw it".to_owned());
        }
        let submitted = times_submitted(exchange.id, self.taps);
        if !exchange.is_idempotent() {
            self.expect(Promise::SubmittedOnce, submitted <= 1, || {
                format!("{} was submitted {submitted} times", exchange.method)
            });
        }
        let tries_max = self.excuses.tries_max;
        self.expect(Promise::TriesBounded, submitted <= tries_max, || {
            format!("{submitted} tries, allowed {tries_max}")
        });
        let answered = answers.get(number).is_some_and(|answer| !is_own(answer));
        self.expect(Promise::AnswersBelong, !answered || !seen.is_empty(), || {
            "answered, but no origin saw it".to_owned()
        });
        let troubled = self.excuses.origins_leave || self.excuses.origins_crash || self.excuses.breakers;
        self.expect(Promise::TriesBounded, troubled || seen.len() <= 1, || {
            format!("reached origins {} times without need", seen.len())
        });
    }

    fn judge_seen(&mut self, exchange: &Exchange, seen: &Seen, sent_whole: bool) {
        let line = format!("{} {} HTTP/1.1", exchange.method, exchange.target());
        self.expect(Promise::Heads, seen.head.line == line, || format!("reached its origin as {:?}", seen.head.line));
        let hops = seen.head.field("x-hop").is_some() || seen.head.lists("Connection", "x-hop");
        self.expect(Promise::Heads, !hops, || "a hop-by-hop field went through".to_owned());
        for name in ["Via", "X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Request-Id"] {
            let count = seen.head.values(name).count();
            self.expect(Promise::Heads, count == 1, || format!("{name} comes {count} times"));
        }
        if exchange.spoilt().is_some() {
            let whole = seen.body_end == Some(Ok(()));
            return self
                .expect(Promise::CutRequests, !whole, || "malformed chunks look whole to the origin".to_owned());
        }
        let whole = seen.body_end == Some(Ok(()));
        let is_tunnel = exchange.framing == RequestFraming::Upgrade;
        self.expect(Promise::RequestBodies, exchange.body.starts_with(&seen.body), || {
            difference("its body at the origin", &seen.body, &exchange.body)
        });
        let short = whole && !is_tunnel && seen.body.len() < exchange.body.len();
        self.expect(Promise::CutRequests, !short, || {
            format!("{} of {} body bytes look whole to the origin", seen.body.len(), exchange.body.len())
        });
        let unfinished = whole && !sent_whole && !exchange.body.is_empty() && !is_tunnel;
        self.expect(Promise::CutRequests, !unfinished, || {
            "a request that its client never finished looks whole to the origin".to_owned()
        });
        let malformed = matches!(seen.body_end, Some(Err(Cut::Malformed(_))));
        self.expect(Promise::WellFormed, !malformed, || {
            format!("its body reached the origin with {:?}", seen.body_end)
        });
    }
}

/// A client that leaves, or sends what can't be served, may have any answer of its connection cut.
fn misbehaves(connection: &Played) -> bool {
    connection.exchanges.iter().any(|exchange| exchange.misdeed != ClientMisdeed::Nothing || exchange.too_large)
}

fn leaves(exchange: &Rc<Exchange>) -> bool {
    matches!(exchange.misdeed, ClientMisdeed::LeavesAfter(_) | ClientMisdeed::ResetsAfter(_))
}

pub fn says_close(answer: &Answer) -> bool {
    let old = answer.head.line.starts_with("HTTP/1.0");
    answer.status == 101
        || answer.head.lists("Connection", "close")
        || (old && !answer.head.lists("Connection", "keep-alive"))
        || (answer.head.field("Content-Length").is_none()
            && !answer.head.lists("Transfer-Encoding", "chunked")
            && !matches!(answer.status, 204 | 304))
}

/// True when the proxy itself made the answer.
pub fn is_own(answer: &Answer) -> bool {
    answer.head.field("Proxy-Status").is_some()
}

/// Its backend ends it, or stops sending, before it is whole.
fn may_break_off(answering: &Answering) -> bool {
    use OriginMisdeed::{BreaksChunks, LeavesInBody, Mutates, StallsInBody};
    matches!(answering.misdeed, LeavesInBody { .. } | StallsInBody { .. } | BreaksChunks { .. } | Mutates(_))
}

/// Its backend never ends it properly, and its framing shows that.
fn is_cut(exchange: &Exchange, planned: &Answering, expected: &[u8]) -> bool {
    let has_body = exchange.method != "HEAD" && planned.framing != AnswerFraming::NoBody && planned.status != 101;
    let has_end = !expected.is_empty() || planned.framing != AnswerFraming::Length;
    has_body && has_end && may_break_off(planned)
}

fn expected_body<'e>(exchange: &'e Exchange, planned: &'e Answering) -> &'e [u8] {
    if planned.status == 101 {
        &exchange.body
    } else if exchange.method == "HEAD" || planned.framing == AnswerFraming::NoBody {
        &[]
    } else {
        &planned.body
    }
}

/// On how many connections any of the request was written.
fn times_submitted(id: u64, taps: &[Tap]) -> usize {
    let needle = format!("/exchange/{id}?");
    let times = |tap: &Tap| memchr::memmem::find_iter(&tap.written, needle.as_bytes()).count();
    taps.iter().map(times).sum()
}

fn difference(what: &str, got: &[u8], expected: &[u8]) -> String {
    let common = got.iter().zip(expected).take_while(|(left, right)| left == right).count();
    format!("{what} differs at byte {common}: {} bytes came, {} were sent", got.len(), expected.len())
}
