//! What must hold after every run, whatever happened in it.

use std::net::IpAddr;
use std::rc::Rc;

use crate::client::{Answer, Log};
use crate::excuse::{Case, Circumstances};
use crate::net::Tap;
use crate::plan::{
    Afterwards, AnswerFraming, Answering, Book, ClientMisdeed, Exchange, OriginMisdeed, RequestFraming, Seen,
};
use crate::promptness::Answered;
use crate::sim::Time;
use crate::spoilt::Spoilt;
use crate::story::{Stories, Story, Try};
use crate::tally::{Promise, Tally, Wrong};
use crate::trail::{Line, Moment};
use crate::wire::Cut;

/// One client connection, planned and happened.
pub struct Played {
    pub from: IpAddr,
    pub exchanges: Vec<Rc<Exchange>>,
    /// The longest that it rests between two pieces.
    pub rests: Time,
    pub log: Rc<Log>,
}

/// One client connection, and what the network saw of it.
struct Life<'p> {
    played: &'p Played,
    exchanges: &'p [Rc<Exchange>],
    line: Option<Line>,
    /// One for each exchange.
    stories: Vec<Story>,
}

/// Judges a run.
pub struct Judge<'r> {
    book: &'r Book,
    taps: &'r [Tap],
    circumstances: &'r Circumstances<'r>,
    tally: &'r mut Tally,
    /// Which exchange is being judged.
    about: Option<u64>,
    pub wrongs: Vec<Wrong>,
    /// Answers that the proxy made itself.
    pub own_answers: u64,
}

impl<'r> Judge<'r> {
    pub fn new(book: &'r Book, taps: &'r [Tap], circumstances: &'r Circumstances<'r>, tally: &'r mut Tally) -> Self {
        Self { book, taps, circumstances, tally, about: None, wrongs: Vec::new(), own_answers: 0 }
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
            let (proxys_end, stories) = connection.stories(&self.circumstances.stories);
            let life = Life { played: connection, exchanges: &connection.exchanges, line: proxys_end, stories };
            for (number, answer) in answers.iter().enumerate() {
                self.about = Some(life.exchanges[number].id);
                self.judge_answer(&life, number, answer);
                self.judge_waits(&life, number, answer);
            }
            self.about = None;
            self.judge_connection(&life, &answers);
            for (number, exchange) in life.exchanges.iter().enumerate() {
                self.about = Some(exchange.id);
                self.judge_at_origins(&life, number, &answers);
            }
            self.about = None;
        }
    }

    fn judge_connection(&mut self, life: &Life<'_>, answers: &[Answer]) {
        let connection = life.played;
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
            exchange.method == "HEAD" && is_own(answer) && answer.status == 503 && self.is_turned_away(life)
        });
        let malformed = matches!(end, Cut::Malformed(_)) && !unheard && !turned_away;
        self.expect(Promise::WellFormed, !malformed, || {
            format!("a client got {end:?}, then '{}'", stray[..stray.len().min(60)].escape_ascii())
        });
        // Of those over the limit only some are waited for; the others get what the network takes at once, which may be less than a
        // record.
        let begins_refusal = stray.iter().zip(b"HTTP/1.1 503 ").all(|(came, refusal)| came == refusal);
        let some_came = !stray.is_empty() || self.circumstances.secrecy.clients;
        let turned_away_at_once = answers.is_empty() && some_came && begins_refusal && self.is_turned_away(life);
        self.judge_session(life, end, turned_away_at_once);
        let Some(unanswered) = connection.exchanges.get(answers.len()) else { return };
        self.about = Some(unanswered.id);
        let begun = connection.log.begun.get() > answers.len();
        let said_close = answers.last().is_some_and(says_close);
        let was_cut = answers.last().is_some_and(|answer| answer.end.is_err());
        // The reset that tells of a cut body may overtake the answer's head, and whole answers before it.
        let cuts = life.stories[answers.len()..].iter().any(Story::met_any);
        let cut_with_its_head = *end == Cut::Reset && cuts;
        let drained = life.stories[answers.len()].end >= self.circumstances.stories.trail.drained_at();
        let excused = drained || life.panicked() || cut_with_its_head || turned_away_at_once;
        let left = begun && !misbehaves(life.exchanges) && !said_close && !was_cut && !excused;
        self.expect(Promise::Answered, !left, || format!("no answer, the connection ended with {end:?}"));
        let hangs = *end == Cut::Late && begun && !said_close;
        self.expect(Promise::Answered, !hangs, || "its client was left waiting".to_owned());
    }

    /// Where TLS is spoken: its handshake succeeds, and its end is said, unless it is cut.
    fn judge_session(&mut self, life: &Life<'_>, end: &Cut, turned_away_at_once: bool) {
        let log = &life.played.log;
        let closed = life.line.as_ref().and_then(|line| line.closed).unwrap_or(Moment::FIRST);
        let drained = closed >= self.circumstances.stories.trail.drained_at();
        let excused = life.panicked() || drained || turned_away_at_once;
        let shut_out = log.shut_out.get() && !excused;
        self.expect(Promise::Answered, !shut_out, || format!("a handshake came to nothing, it ended with {end:?}"));
        let cut = log.answers.borrow().iter().any(|answer| answer.end.is_err());
        let torn = *end == Cut::Torn && !cut && !misbehaves(life.exchanges) && !log.shut_out.get() && !excused;
        self.expect(Promise::TlsEnds, !torn, || "its connection ended without close_notify".to_owned());
    }

    /// Nobody may wait for what others do.
    fn judge_waits(&mut self, life: &Life<'_>, number: usize, answer: &Answer) {
        let (log, circumstances) = (&life.played.log, self.circumstances);
        let trail = circumstances.stories.trail;
        let Some(socket) = log.socket.get().and_then(|socket| trail.line_of(socket)) else {
            return;
        };
        if misbehaves(life.exchanges) || life.panicked() {
            return;
        }
        let answered = Answered {
            exchange: &life.exchanges[number],
            story: &life.stories[number],
            client_moves: &trail.moves_of(socket),
            client_rests: life.played.rests,
            begun_at: log.begun_at.borrow()[number],
            is_own: is_own(answer),
        };
        let standstill = circumstances.pauses.standstill(&circumstances.stories, &answered);
        self.tally.checked(Promise::Prompt, 1);
        if let Some(standstill) = standstill {
            self.expect(Promise::Prompt, false, || format!("{standstill}, {}", answered.story));
        }
    }

    /// Nobody had a seat for it.
    fn is_turned_away(&self, life: &Life<'_>) -> bool {
        self.circumstances.is_turned_away(&life.stories[0], life.line.as_ref(), true)
    }

    fn judge_answer(&mut self, life: &Life<'_>, number: usize, answer: &Answer) {
        let exchange = &life.exchanges[number];
        self.expect(Promise::Answered, answer.end != Err(Cut::Late), || "its answer was left hanging".to_owned());
        let malformed = matches!(answer.end, Err(Cut::Malformed(_)));
        self.expect(Promise::WellFormed, !malformed, || format!("its answer has {:?}", answer.end));
        let unasked = exchange.old && !answer.informational.is_empty();
        self.expect(Promise::Heads, !unasked, || "an HTTP/1.0 client got an interim answer".to_owned());
        if is_own(answer) {
            return self.judge_own_answer(life, number, answer);
        }
        let spoilt_in_head = exchange.spoilt().is_some_and(Spoilt::shows_in_head);
        self.expect(Promise::RefusedStaysOut, !spoilt_in_head, || "a backend answered it".to_owned());
        // What was changed at random may have been what tells whose it is. An origin that gave up on its client said so.
        if exchange.is_answered_mutated() || self.gave_up_on(exchange) {
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
            self.judge_planned_answer(life, number, answer, attempt);
        }
    }

    fn judge_planned_answer(&mut self, life: &Life<'_>, number: usize, answer: &Answer, attempt: usize) {
        let exchange = &life.exchanges[number];
        let planned = exchange.answering(attempt);
        let met_any = self.met_any(life, number, attempt);
        self.expect(Promise::AnswersBelong, answer.status == planned.status, || {
            format!("planned {}, got {}", planned.status, answer.status)
        });
        let dated = answer.head.field("Date").is_some() || answer.status == 101;
        self.expect(Promise::Heads, dated, || "its answer has no Date".to_owned());
        let expected = &expected_body(exchange, planned)[..];
        let got = &answer.body;
        match &answer.end {
            Ok(()) => {
                // Who ends a connection hears no more of it, and takes that for its end.
                let left = life.exchanges.iter().any(leaves);
                let looks_whole = is_cut(exchange, planned, expected) && !left;
                self.expect(Promise::CutAnswers, !looks_whole, || "a body that was cut looks whole".to_owned());
                // A tunnel has no framing that would show its end.
                let broken = met_any || misbehaves(life.exchanges);
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
                let excused = met_any || misbehaves(life.exchanges) || life.panicked();
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

    /// Its origin gave up on its client.
    fn gave_up_on(&self, exchange: &Exchange) -> bool {
        self.book.given_up.borrow().contains(&exchange.id)
    }

    /// Whether that try met anything whose request was the `attempt`-th of its exchange to reach an origin.
    fn met_any(&self, life: &Life<'_>, number: usize, attempt: usize) -> bool {
        let seen = self.book.seen.borrow();
        let this = seen.iter().filter(|seen| seen.id == life.exchanges[number].id).nth(attempt);
        this.is_some_and(|this| self.circumstances.stories.met_any(&life.stories[number], this.way))
    }

    fn judge_own_answer(&mut self, life: &Life<'_>, number: usize, answer: &Answer) {
        self.own_answers += 1;
        let log = &life.played.log;
        let case = Case {
            exchange: &life.exchanges[number],
            answer,
            story: &life.stories[number],
            line: life.line.as_ref(),
            is_first: number == 0,
            begun_at: log.begun_at.borrow().get(number).copied().unwrap_or_default(),
        };
        let allowed = self.circumstances.excuse(&case);
        let status = answer.head.field("Proxy-Status").unwrap_or_default();
        self.expect(Promise::OwnAnswers, allowed, || {
            format!("the proxy answered {} ({status}) without need, {}", answer.status, case.story)
        });
        let gave_up = self.circumstances.gave_up_early(&case);
        self.expect(Promise::OwnAnswers, !gave_up, || {
            format!("the proxy answered {} ({status}) too early, {}", answer.status, case.story)
        });
        let turned_away = answer.status == 503 && number == 0 && self.is_turned_away(life);
        let broke_off = answer.end.is_err() && !misbehaves(life.exchanges) && !life.panicked() && !turned_away;
        self.expect(Promise::Answered, !broke_off, || format!("the proxy's own answer broke off: {:?}", answer.end));
    }

    fn judge_at_origins(&mut self, life: &Life<'_>, number: usize, answers: &[Answer]) {
        let exchange = &life.exchanges[number];
        let all = self.book.seen.borrow();
        let seen: Vec<&Seen> = all.iter().filter(|seen| seen.id == exchange.id).collect();
        let sent_whole = life.played.log.sent_whole.get() > number;
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
        let tries_max = self.circumstances.config.retries.attempts as usize;
        self.expect(Promise::TriesBounded, submitted <= tries_max, || {
            format!("{submitted} tries, allowed {tries_max}")
        });
        if let (Some(last), Some(answer)) = (seen.last(), answers.get(number))
            && sent_whole
            && self.upload_goes_on(life, number, seen.len() - 1, answer)
        {
            self.expect(Promise::RequestBodies, last.body_end == Some(Ok(())), || {
                format!("answered early, {} of {} body bytes came", last.body.len(), exchange.body.len())
            });
        }
        let answered = answers.get(number).is_some_and(|answer| !is_own(answer));
        self.expect(Promise::AnswersBelong, !answered || !seen.is_empty(), || {
            "answered, but no origin saw it".to_owned()
        });
        let tries = &life.stories[number].tries;
        // Whoever waits for backends that refuse connections looks for all that wait whether one takes them again.
        let looks = |tried: &Try| tried.offered.is_none() && tried.met.is_empty();
        let needless = tries.iter().rev().skip(1).filter(|tried| !looks(tried));
        let needless = needless.filter(|tried| !self.is_tried_again(exchange, tried)).count();
        self.expect(Promise::TriesBounded, needless == 0, || {
            format!("{needless} of its tries had no reason, {}", life.stories[number])
        });
    }

    /// Its origin answered before the request's end without closing, and nothing kept either side from the rest.
    fn upload_goes_on(&self, life: &Life<'_>, number: usize, attempt: usize, answer: &Answer) -> bool {
        let (exchange, story) = (&life.exchanges[number], &life.stories[number]);
        let planned = exchange.answering(attempt);
        let reads_on = planned.early
            && planned.then == Afterwards::Stays
            && planned.misdeed == OriginMisdeed::Nothing
            && planned.framing != AnswerFraming::UntilClose;
        let drained = story.end >= self.circumstances.stories.trail.drained_at();
        let stays = !misbehaves(life.exchanges) && !exchange.expects && !says_close(answer) && answer.end.is_ok();
        reads_on && stays && !is_own(answer) && !story.met_any() && !life.panicked() && !drained
    }

    /// Whether there was need to try again after this try.
    fn is_tried_again(&self, exchange: &Exchange, tried: &Try) -> bool {
        let seen = self.book.seen.borrow();
        let mut of_exchange = seen.iter().filter(|seen| seen.id == exchange.id);
        let of_try =
            |seen: &&Seen| seen.way.and_then(|way| self.circumstances.stories.trail.way_of(way)) == Some(tried.way);
        let attempt = of_exchange.position(|seen| of_try(&seen));
        let status = attempt.map(|attempt| exchange.answering(attempt).status);
        !tried.met.is_empty() || status.is_some_and(|status| self.circumstances.is_failing(status))
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
        let (scheme, told) =
            (if self.circumstances.secrecy.clients { "https" } else { "http" }, seen.head.field("X-Forwarded-Proto"));
        self.expect(Promise::Heads, told == Some(scheme), || {
            format!("it came by {scheme}, its origin is told {told:?}")
        });
        if exchange.spoilt().is_some() {
            let whole = seen.body_end == Some(Ok(()));
            return self
                .expect(Promise::CutRequests, !whole, || "malformed chunks look whole to the origin".to_owned());
        }
        let whole = seen.body_end == Some(Ok(()));
        let is_tunnel = exchange.framing == RequestFraming::Upgrade;
        let sent = exchange.body_and_tunnel();
        self.expect(Promise::RequestBodies, sent.starts_with(&seen.body), || {
            difference("its body at the origin", &seen.body, &sent)
        });
        let short = whole && !is_tunnel && seen.body.len() < exchange.body.len();
        self.expect(Promise::CutRequests, !short, || {
            format!("{} of {} body bytes look whole to the origin", seen.body.len(), exchange.body.len())
        });
        let unfinished = whole && !sent_whole && !exchange.body.is_empty() && !is_tunnel;
        self.expect(Promise::CutRequests, !unfinished, || {
            "a request that its client never finished looks whole to the origin".to_owned()
        });
        let cut = exchange.misdeed == ClientMisdeed::CutsTunnel;
        self.expect(Promise::CutRequests, !(cut && seen.said_end), || {
            "a tunnel that its client has cut looks whole to the origin".to_owned()
        });
        let malformed = matches!(seen.body_end, Some(Err(Cut::Malformed(_))));
        self.expect(Promise::WellFormed, !malformed, || {
            format!("its body reached the origin with {:?}", seen.body_end)
        });
    }
}

impl Played {
    /// The proxy's end of it, and the stories of its exchanges.
    pub fn stories(&self, stories: &Stories<'_>) -> (Option<Line>, Vec<Story>) {
        let (ids, ends) = self.ids_and_ends();
        stories.of(self.log.socket.get(), &ids, &ends)
    }

    /// See [`Stories::tries_of`].
    pub fn tries(&self, stories: &Stories<'_>) -> Vec<Try> {
        let (ids, ends) = self.ids_and_ends();
        stories.tries_of(self.log.socket.get(), &ids, &ends)
    }

    fn ids_and_ends(&self) -> (Vec<u64>, Vec<usize>) {
        let ids = self.exchanges.iter().map(|exchange| exchange.id).collect();
        (ids, self.log.answers.borrow().iter().map(|answer| answer.through).collect())
    }
}

impl Life<'_> {
    /// Its coroutine was unwound.
    fn panicked(&self) -> bool {
        self.line.as_ref().is_some_and(|line| line.panicked.is_some())
    }
}

/// A client that leaves, or sends what can't be served, may have any answer of its connection cut.
fn misbehaves(exchanges: &[Rc<Exchange>]) -> bool {
    exchanges.iter().any(|exchange| exchange.misdeed != ClientMisdeed::Nothing || exchange.too_large)
}

fn leaves(exchange: &Rc<Exchange>) -> bool {
    use ClientMisdeed::{CutsTunnel, LeavesAfter, ResetsAfter};
    matches!(exchange.misdeed, LeavesAfter(_) | ResetsAfter(_) | CutsTunnel)
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

fn expected_body(exchange: &Exchange, planned: &Answering) -> Vec<u8> {
    if planned.status == 101 {
        [&planned.body[..], exchange.through_tunnel()].concat()
    } else if exchange.method == "HEAD" || planned.framing == AnswerFraming::NoBody {
        Vec::new()
    } else {
        planned.body.clone()
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
