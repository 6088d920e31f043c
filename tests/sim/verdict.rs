//! What must hold after every run, whatever happened in it.

use std::rc::Rc;

use crate::client::{Answer, Log};
use crate::net::Tap;
use crate::plan::{AnswerFraming, Answering, Book, ClientMisdeed, Exchange, OriginMisdeed, RequestFraming, Seen};
use crate::wire::Cut;

/// One client connection, planned and happened.
pub struct Played {
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
    /// There are more connections than allowed: 503.
    pub turns_away: bool,
    /// The proxy was told to stop: connections may end instead of serving another request.
    pub drained: bool,
    /// Tries that a request may take.
    pub tries_max: usize,
}

/// Everything that is wrong with a run, in words.
pub fn judge(played: &[Played], book: &Book, taps: &[Tap], excuses: Excuses) -> Vec<String> {
    let mut wrongs = Vec::new();
    for connection in played {
        judge_connection(connection, excuses, &mut wrongs);
        for (number, exchange) in connection.exchanges.iter().enumerate() {
            let mut complaints = Vec::new();
            judge_at_origins(connection, number, exchange, book, taps, excuses, &mut complaints);
            wrongs.extend(complaints.into_iter().map(|what| format!("exchange {}: {what}", exchange.id)));
        }
    }
    wrongs
}

fn judge_connection(connection: &Played, excuses: Excuses, wrongs: &mut Vec<String>) {
    let answers = connection.log.answers.borrow();
    for (exchange, answer) in connection.exchanges.iter().zip(answers.iter()) {
        let mut complaints = Vec::new();
        judge_answer(connection, exchange, answer, excuses, &mut complaints);
        wrongs.extend(complaints.into_iter().map(|what| format!("exchange {}: {what}", exchange.id)));
    }
    let stray = connection.log.stray.borrow();
    let end = connection.log.end.borrow();
    let Some((end, _)) = &*end else {
        return wrongs.push("a client never came to an end".to_owned());
    };
    // Who stalls in mid-head hasn't been heard out, so the proxy doesn't know that it asked for no body.
    let unheard = answers.last().zip(connection.exchanges.get(answers.len().saturating_sub(1)));
    let unheard = unheard.is_some_and(|(answer, exchange)| answer.status == 408 && exchange.method == "HEAD");
    if let Cut::Malformed(what) = end
        && !unheard
    {
        let rest = stray[..stray.len().min(60)].escape_ascii();
        wrongs.push(format!("a client got {what}, then '{rest}'"));
    }
    let Some(unanswered) = connection.exchanges.get(answers.len()) else {
        return;
    };
    let misbehaved = misbehaves(connection);
    let said_close = answers.last().is_some_and(says_close);
    let was_cut = answers.last().is_some_and(|answer| answer.end.is_err());
    let begun = connection.log.begun.get() > answers.len();
    let drained = excuses.drained;
    // The reset that tells of a cut body may overtake the answer's head.
    let cut_with_its_head = *end == Cut::Reset && unanswered.answers.iter().any(breaks_off_in_body);
    if begun && !misbehaved && !said_close && !was_cut && !drained && !cut_with_its_head {
        wrongs.push(format!("exchange {}: no answer, the connection ended with {end:?}", unanswered.id));
    }
    if *end == Cut::Late && begun && !said_close {
        wrongs.push(format!("exchange {}: its client was left waiting", unanswered.id));
    }
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

fn judge_answer(connection: &Played, exchange: &Exchange, answer: &Answer, excuses: Excuses, wrongs: &mut Vec<String>) {
    if answer.end == Err(Cut::Late) {
        wrongs.push("its answer was left hanging".to_owned());
    }
    if let Err(Cut::Malformed(what)) = &answer.end {
        wrongs.push(format!("its answer has {what}"));
    }
    if exchange.old && !answer.informational.is_empty() {
        wrongs.push("an HTTP/1.0 client got an interim answer".to_owned());
    }
    if is_own(answer) {
        return judge_own_answer(connection, exchange, answer, excuses, wrongs);
    }
    if answer.head.field("x-sim-id") != Some(exchange.id.to_string().as_str()) {
        return wrongs.push(format!("got the answer of another: {:?}", answer.head));
    }
    let Some(attempt) = answer.head.field("x-sim-try").and_then(|attempt| attempt.parse().ok()) else {
        return wrongs.push(format!("its answer lost a field: {:?}", answer.head));
    };
    let planned = exchange.answering(attempt);
    if answer.status != planned.status {
        wrongs.push(format!("planned {}, got {}", planned.status, answer.status));
    }
    if answer.head.field("Date").is_none() && answer.status != 101 {
        wrongs.push("its answer has no Date".to_owned());
    }
    let expected = expected_body(exchange, planned);
    let may_have_body = exchange.method != "HEAD" && planned.framing != AnswerFraming::NoBody;
    let has_end = !expected.is_empty() || planned.framing != AnswerFraming::Length;
    let breaks_off = (may_have_body && has_end) && breaks_off_in_body(planned);
    match &answer.end {
        Ok(()) if breaks_off => wrongs.push("a body that was cut looks whole".to_owned()),
        Ok(()) if answer.body != expected => wrongs.push(difference("its answer's body", &answer.body, expected)),
        Err(_) if !expected.starts_with(&answer.body) => {
            wrongs.push(difference("the part of its answer's body", &answer.body, expected));
        }
        Err(cut) if !breaks_off && !misbehaves(connection) => {
            wrongs.push(format!("its answer broke off after {} bytes ({cut:?})", answer.body.len()));
        }
        _ => {}
    }
    let interim: Vec<u16> = answer.informational.iter().copied().filter(|status| *status != 100).collect();
    if !exchange.old && interim != planned.informational {
        wrongs.push(format!("interim answers {interim:?}, planned {:?}", planned.informational));
    }
}

fn breaks_off_in_body(answering: &Answering) -> bool {
    matches!(answering.misdeed, OriginMisdeed::LeavesInBody { .. } | OriginMisdeed::StallsInBody { .. })
}

/// A client that leaves may cut any answer of its connection.
fn misbehaves(connection: &Played) -> bool {
    connection.exchanges.iter().any(|exchange| exchange.misdeed != ClientMisdeed::Nothing)
}

fn judge_own_answer(
    connection: &Played,
    exchange: &Exchange,
    answer: &Answer,
    excuses: Excuses,
    wrongs: &mut Vec<String>,
) {
    let allowed = match answer.status {
        502 => excuses.origins_leave,
        503 => excuses.turns_away,
        504 => excuses.origins_stall,
        400 | 408 => exchange.misdeed != ClientMisdeed::Nothing,
        _ => false,
    };
    if !allowed {
        let status = answer.head.field("Proxy-Status").unwrap_or_default();
        wrongs.push(format!("the proxy answered {} ({status}) without need", answer.status));
    }
    if answer.end.is_err() && !misbehaves(connection) {
        wrongs.push(format!("the proxy's own answer broke off: {:?}", answer.end));
    }
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

fn judge_at_origins(
    connection: &Played,
    number: usize,
    exchange: &Exchange,
    book: &Book,
    taps: &[Tap],
    excuses: Excuses,
    wrongs: &mut Vec<String>,
) {
    let all = book.seen.borrow();
    let seen: Vec<&Seen> = all.iter().filter(|seen| seen.id == exchange.id).collect();
    let sent_whole = connection.log.sent_whole.get() > number;
    for seen in &seen {
        judge_seen(exchange, seen, sent_whole, wrongs);
    }
    let submitted = times_submitted(exchange.id, taps);
    if !exchange.is_idempotent() && submitted > 1 {
        wrongs.push(format!("{} was submitted {submitted} times", exchange.method));
    }
    if submitted > excuses.tries_max {
        wrongs.push(format!("{submitted} tries, allowed {}", excuses.tries_max));
    }
    let answers = connection.log.answers.borrow();
    let answered_by_origin = answers.get(number).is_some_and(|answer| !is_own(answer));
    if answered_by_origin && seen.is_empty() {
        wrongs.push("answered, but no origin saw it".to_owned());
    }
    if !excuses.origins_leave && seen.len() > 1 {
        wrongs.push(format!("reached origins {} times without need", seen.len()));
    }
}

fn judge_seen(exchange: &Exchange, seen: &Seen, sent_whole: bool, wrongs: &mut Vec<String>) {
    let line = format!("{} {} HTTP/1.1", exchange.method, exchange.target());
    if seen.head.line != line {
        wrongs.push(format!("reached its origin as {:?}", seen.head.line));
    }
    if seen.head.field("x-hop").is_some() || seen.head.lists("Connection", "x-hop") {
        wrongs.push("a hop-by-hop field went through".to_owned());
    }
    for name in ["Via", "X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Request-Id"] {
        if seen.head.values(name).count() != 1 {
            wrongs.push(format!("{name} comes {} times", seen.head.values(name).count()));
        }
    }
    let whole = seen.body_end == Some(Ok(()));
    let is_tunnel = exchange.framing == RequestFraming::Upgrade;
    if !exchange.body.starts_with(&seen.body) {
        wrongs.push(difference("its body at the origin", &seen.body, &exchange.body));
    } else if whole && !is_tunnel && seen.body.len() < exchange.body.len() {
        wrongs.push(format!("{} of {} body bytes look whole to the origin", seen.body.len(), exchange.body.len()));
    }
    if whole && !sent_whole && !exchange.body.is_empty() && !is_tunnel {
        wrongs.push("a request that its client never finished looks whole to the origin".to_owned());
    }
    if let Some(Err(Cut::Malformed(what))) = &seen.body_end {
        wrongs.push(format!("its body reached the origin with {what}"));
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
