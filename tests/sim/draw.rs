//! The pieces of a run as chance makes them: origins, requests, answers, and what is wrong with them.

use std::io::ErrorKind;

use maypole::config::Limits;

use crate::chance::Chance;
use crate::logins::any_login;
use crate::net::Connecting;
use crate::origin::Origin;
use crate::plan::{Afterwards, AnswerFraming, Answering, ClientMisdeed, Exchange, OriginMisdeed, RequestFraming};
use crate::scenario::Trouble;
use crate::secrecy::Secrecy;
use crate::sim::{MILLISECOND, SECOND};
use crate::spoilt::Spoilt;
use crate::temper::Temper;
use crate::welcome::Manners;
use crate::wire::Pace;

/// An origin, and what may become of attempts to connect to each of its addresses.
pub fn any_origin(chance: &Chance, number: usize, temper: &Temper, trouble: Trouble) -> (Origin, Vec<Vec<Connecting>>) {
    let mut origin = Origin::brisk(number);
    let piece = |chance: &Chance| chance.pick(&[40, 1_000, 16_384]).max(temper.body_bytes_max() / 200);
    origin.pace = Pace { piece: piece(chance), rest: chance.pick(&[0, 0, 10 * MILLISECOND]), patience: 300 * SECOND };
    origin.piece = piece(chance);
    origin.rest = chance.pick(&[0, 0, 5 * MILLISECOND]);
    if trouble.clients {
        // Longer than the slowest of networks takes, and than a client here rests between two pieces.
        origin.gives_up = chance.pick(&[8 * SECOND, 20 * SECOND, 300 * SECOND]);
    }
    origin.manners = Manners { rude: trouble.leaving, silent: trouble.stalling };
    if trouble.leaving {
        origin.keeps_idle = chance.pick(&[*temper.latency.end(), 100 * MILLISECOND, 3 * SECOND, 300 * SECOND]);
    }
    let addresses = chance.pick(&[1, 1, 2]);
    (origin, (0..addresses).map(|_| any_outcomes(chance, trouble)).collect())
}

fn any_outcomes(chance: &Chance, trouble: Trouble) -> Vec<Connecting> {
    let mut outcomes = vec![Connecting::Accepted(0), Connecting::Accepted(0), Connecting::Accepted(100 * MILLISECOND)];
    if trouble.leaving && chance.percent(30) {
        outcomes.push(Connecting::Refused(0));
        outcomes.push(Connecting::Impossible(libc::ENETUNREACH));
        outcomes.push(Connecting::Fails(ErrorKind::HostUnreachable, 3 * MILLISECOND));
        outcomes.push(Connecting::Impossible(libc::EACCES));
    }
    if trouble.stalling && chance.percent(30) {
        outcomes.push(Connecting::BlackHole);
    }
    if trouble.lacking {
        outcomes.push(Connecting::Impossible(libc::EMFILE));
        outcomes.push(Connecting::Impossible(libc::EADDRNOTAVAIL));
    }
    outcomes
}

pub fn any_exchange(chance: &Chance, id: u64, budget: &mut usize, trouble: Trouble, limits: &Limits) -> Exchange {
    let method = chance.pick(&["GET", "GET", "GET", "HEAD", "POST", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"]);
    let mut framing = match method {
        "POST" | "PUT" | "PATCH" => chance.pick(&[RequestFraming::Length, RequestFraming::Chunked]),
        "GET" if chance.percent(6) => RequestFraming::Upgrade,
        "GET" | "DELETE" if chance.percent(10) => RequestFraming::Length,
        _ => RequestFraming::NoBody,
    };
    let old = chance.percent(8) && framing != RequestFraming::Upgrade;
    if old && framing == RequestFraming::Chunked {
        framing = RequestFraming::Length;
    }
    let body = match framing {
        RequestFraming::NoBody => Vec::new(),
        _ => any_body(chance, budget),
    };
    let tries = 1 + chance.index(3);
    let answers = (0..tries).map(|_| any_answering(chance, method, framing, budget, trouble, limits)).collect();
    let mut exchange = Exchange {
        id,
        method,
        old,
        expects: !old
            && matches!(framing, RequestFraming::Length | RequestFraming::Chunked)
            && !body.is_empty()
            && chance.percent(10),
        body,
        framing,
        closes: chance.percent(10),
        too_large: false,
        tunnel: None,
        claim: None,
        login: any_login(chance),
        misdeed: ClientMisdeed::Nothing,
        answers,
    };
    if exchange.expects {
        // Its origin would wait for a body that nobody sends once the answer has come.
        for answering in exchange.answers.iter_mut().filter(|answering| answering.framing == AnswerFraming::UntilClose)
        {
            answering.early = false;
        }
    }
    if trouble.limits && chance.percent(15) {
        let spoilt = [
            Spoilt::LongField(limits.head_bytes),
            Spoilt::ManyFields(limits.headers),
            Spoilt::LongTarget(limits.uri_bytes),
        ];
        spoil(&mut exchange, chance.pick(&spoilt));
    } else if trouble.clients && chance.percent(25) {
        misbehave(chance, &mut exchange, limits);
    }
    let has_body = matches!(exchange.framing, RequestFraming::Length | RequestFraming::Chunked);
    exchange.too_large = has_body && limits.body_bytes > 0 && exchange.body.len() as u64 > limits.body_bytes;
    if has_body && !old && exchange.misdeed == ClientMisdeed::Nothing && !exchange.expects && !exchange.too_large {
        may_switch(&mut exchange, trouble);
    }
    exchange
}

/// Has some requests offer to switch protocols behind their body, and most of their answers do so, many before that is through.
/// Their body itself decides, so that no other draw depends on it.
fn may_switch(exchange: &mut Exchange, trouble: Trouble) {
    let Some(bytes) = exchange.body.first_chunk() else { return };
    let chance = Chance::new(u64::from_le_bytes(*bytes));
    if !chance.percent(10) {
        return;
    }
    exchange.tunnel = Some(chance.bytes(chance.index(2_000)));
    exchange.closes = false;
    for answering in &mut exchange.answers {
        // One that means to switch unasked would do what it is asked for.
        if chance.percent(20) && answering.misdeed != OriginMisdeed::Switches {
            continue;
        }
        let body = chance.bytes(chance.index(300));
        *answering =
            Answering { status: 101, early: chance.percent(70), delay: answering.delay, ..Answering::plain(body) };
        if trouble.leaving && chance.percent(30) {
            answering.misdeed = OriginMisdeed::LeavesInBody { after: chance.index(300), rudely: chance.percent(50) };
        }
    }
}

/// Has some of what goes wrong go wrong as it does over TLS. Its draws are its own, so that no other depends on them.
pub fn encrypt(chance: &Chance, exchange: &mut Exchange, secrecy: Secrecy, trouble: Trouble) {
    use ClientMisdeed::{CorruptsAfter, CutsTunnel, LeavesAfter, Nothing, ResetsAfter, StallsAfter};
    exchange.misdeed = match exchange.misdeed {
        StallsAfter(usize::MAX) if chance.percent(50) => CutsTunnel,
        Nothing if exchange.tunnel.is_some() && trouble.clients && chance.percent(30) => CutsTunnel,
        LeavesAfter(after) | ResetsAfter(after) | StallsAfter(after) if secrecy.clients && chance.percent(30) => {
            CorruptsAfter(after)
        }
        misdeed => misdeed,
    };
    if secrecy.clients && trouble.clients && exchange.misdeed == Nothing && chance.percent(5) {
        spoil(exchange, Spoilt::OtherHost);
    }
    for answering in exchange.answers.iter_mut().filter(|_| secrecy.backends) {
        // A FIN alone tells too that a body is cut which lasts until the close.
        if let OriginMisdeed::LeavesInBody { rudely, .. } = &mut answering.misdeed {
            *rudely &= chance.percent(50);
        }
    }
}

fn misbehave(chance: &Chance, exchange: &mut Exchange, limits: &Limits) {
    let bytes = exchange.head_bytes().len() + exchange.body.len();
    let after = 1 + chance.index(bytes + 10);
    exchange.misdeed = match chance.below(10) {
        0 | 1 => ClientMisdeed::StallsAfter(after),
        2 | 3 => ClientMisdeed::FinishesAfter(after),
        4 => ClientMisdeed::LeavesAfter(after),
        5 => ClientMisdeed::ResetsAfter(after),
        6 => ClientMisdeed::Trickles(chance.pick(&[SECOND, 4 * SECOND])),
        7 => ClientMisdeed::ReadsLate(chance.pick(&[25 * SECOND, 100 * SECOND])),
        _ => return spoil(exchange, any_spoilt(chance, limits)),
    };
    if exchange.framing == RequestFraming::Upgrade && chance.percent(30) {
        // All is said, and nobody closes.
        exchange.misdeed = ClientMisdeed::StallsAfter(usize::MAX);
    }
}

fn any_spoilt(chance: &Chance, limits: &Limits) -> Spoilt {
    match chance.below(8) {
        0 => Spoilt::Babble,
        1 => Spoilt::Malformed(chance.index(Spoilt::MALFORMED)),
        2 => Spoilt::Conflict(chance.index(Spoilt::CONFLICTS)),
        3 => Spoilt::BadChunk,
        4 => Spoilt::Version,
        5 => Spoilt::Connect,
        6 => Spoilt::Loop(limits.hops),
        _ => Spoilt::Coding,
    }
}

/// Makes of an exchange one whose only fault is this one.
pub fn spoil(exchange: &mut Exchange, spoilt: Spoilt) {
    exchange.misdeed = ClientMisdeed::Sends(spoilt);
    exchange.framing = RequestFraming::NoBody;
    exchange.body.clear();
    exchange.expects = false;
    exchange.old = false;
    exchange.answers.retain(|answering| answering.status != 101);
    if exchange.answers.is_empty() {
        exchange.answers.push(Answering::plain("never"));
    }
}

fn any_body(chance: &Chance, budget: &mut usize) -> Vec<u8> {
    let most = (*budget).max(10);
    let length = match chance.below(4) {
        0 => chance.index(3),
        1 => chance.index(200),
        _ => chance.index(most / 2),
    };
    let length = length.min(most);
    *budget = budget.saturating_sub(length);
    chance.bytes(length)
}

fn any_answering(
    chance: &Chance,
    method: &str,
    request: RequestFraming,
    budget: &mut usize,
    trouble: Trouble,
    limits: &Limits,
) -> Answering {
    if request == RequestFraming::Upgrade && chance.percent(80) {
        let mut answering = Answering { status: 101, ..Answering::plain("") };
        if trouble.leaving && chance.percent(30) {
            answering.misdeed = OriginMisdeed::LeavesInBody { after: chance.index(300), rudely: chance.percent(50) };
        }
        return answering;
    }
    let framing = chance.pick(&[
        AnswerFraming::Length,
        AnswerFraming::Length,
        AnswerFraming::Chunked,
        AnswerFraming::Chunked,
        AnswerFraming::UntilClose,
        AnswerFraming::NoBody,
    ]);
    let status = match framing {
        AnswerFraming::NoBody => chance.pick(&[204, 304]),
        _ => chance.pick(&[200, 200, 201, 302, 404, 500]),
    };
    let mut answering = Answering {
        status,
        framing,
        informational: if chance.percent(10) { vec![103] } else { Vec::new() },
        body: if method == "HEAD" { Vec::new() } else { any_body(chance, budget) },
        early: chance.percent(10) && request != RequestFraming::Upgrade,
        delay: chance.pick(&[0, 0, MILLISECOND, 300 * MILLISECOND]),
        misdeed: OriginMisdeed::Nothing,
        then: Afterwards::Stays,
    };
    if chance.percent(10) && framing != AnswerFraming::UntilClose {
        answering.then = Afterwards::ClosesAsSaid;
    }
    if trouble.leaving && chance.percent(30) {
        leave(chance, &mut answering);
    } else if trouble.leaving && chance.percent(15) {
        send_what_it_must_not(chance, &mut answering, request, trouble, limits);
    }
    if trouble.stalling && chance.percent(20) {
        let after = chance.index(answering.body.len() + 1);
        answering.misdeed = match chance.below(2) {
            0 => OriginMisdeed::StallsBeforeAnswer,
            _ => OriginMisdeed::StallsInBody { after },
        };
    }
    answering
}

fn leave(chance: &Chance, answering: &mut Answering) {
    let rudely = chance.percent(50);
    // Only a reset tells a body that lasts until the close from one that was cut.
    let rudely_in_body = rudely || answering.framing == AnswerFraming::UntilClose;
    let after = chance.index(answering.body.len() + 1);
    match chance.below(4) {
        0 => answering.misdeed = OriginMisdeed::LeavesBeforeAnswer { rudely },
        1 => answering.misdeed = OriginMisdeed::LeavesInHead { after: chance.index(80), rudely },
        2 => answering.misdeed = OriginMisdeed::LeavesInBody { after, rudely: rudely_in_body },
        _ => answering.then = Afterwards::ClosesSilently(chance.below(50 * MILLISECOND)),
    }
}

fn send_what_it_must_not(
    chance: &Chance,
    answering: &mut Answering,
    request: RequestFraming,
    trouble: Trouble,
    limits: &Limits,
) {
    let after = chance.index(answering.body.len() + 1);
    answering.misdeed = match chance.below(if trouble.limits { 9 } else { 7 }) {
        0 => OriginMisdeed::Babbles,
        1 => OriginMisdeed::Conflicts,
        2 if answering.framing == AnswerFraming::Chunked => OriginMisdeed::BreaksChunks { after },
        2 | 3 => OriginMisdeed::Floods(40),
        4 if request != RequestFraming::Upgrade => OriginMisdeed::Switches,
        5 if answering.framing != AnswerFraming::UntilClose => OriginMisdeed::AddsBytes,
        4..7 => OriginMisdeed::Mutates(1 + chance.index(3)),
        7 => OriginMisdeed::OverdoesFields(limits.headers),
        _ => OriginMisdeed::OverdoesBytes(limits.head_bytes),
    };
}
