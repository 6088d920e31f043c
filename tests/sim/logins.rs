//! Logins that belong to a connection: who asks for them, and what must hold of them after a run.

use std::collections::BTreeMap;

use crate::chance::Chance;
use crate::excuse::Circumstances;
use crate::net::SocketId;
use crate::plan::{Afterwards, AnswerFraming, Book, Exchange, Seen};
use crate::sim::Time;
use crate::tally::Promise;
use crate::trail::Deed;
use crate::verdict::{Judge, Played};

/// How an exchange makes its connection its client's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Login {
    /// The request says who it is.
    Says,
    /// The answer asks who it is, in one of these ways.
    IsAsked(usize),
}

const ASKS: &[&str] = &[
    "WWW-Authenticate: NTLM\r\n",
    "www-authenticate: Basic realm=\"a, b\"\r\nWWW-AUTHENTICATE: Digest nonce=x,nEGOTIATE\r\n",
    "Proxy-Authenticate: Negotiate YII=\r\n",
];

/// One login in so many exchanges.
pub fn any_login(chance: &Chance) -> Option<Login> {
    match chance.below(30) {
        0 => Some(Login::Says),
        1 => Some(Login::IsAsked(chance.index(ASKS.len()))),
        _ => None,
    }
}

impl Login {
    /// What the request has of it.
    pub fn request_fields(self) -> &'static str {
        match self {
            Self::Says => "Authorization: Negotiate YII=\r\n",
            Self::IsAsked(_) => "",
        }
    }

    /// What an answer has of it.
    pub fn answer_fields(self) -> &'static str {
        match self {
            Self::Says => "",
            Self::IsAsked(how) => ASKS[how],
        }
    }
}

/// Judges where the requests behind a login went.
pub fn judge(
    judge: &mut Judge<'_>,
    circumstances: &Circumstances<'_>,
    are_bounded: bool,
    book: &Book,
    played: &[Played],
) {
    let seen = book.seen.borrow();
    let clients: BTreeMap<u64, usize> = (0..)
        .zip(played)
        .flat_map(|(number, connection)| connection.exchanges.iter().map(move |exchange| (exchange.id, number)))
        .collect();
    let mut owners: BTreeMap<SocketId, usize> = BTreeMap::new();
    for seen in seen.iter() {
        let (Some(exchange), Some(&client)) = (book.exchange(seen.id), clients.get(&seen.id)) else { continue };
        let Some(way) = seen.way else { continue };
        if let Some(&owner) = owners.get(&way) {
            judge.expect(Promise::LoginsAreOnes, owner == client, || {
                format!("exchange {}: it was sent on a connection that another client has logged in on", seen.id)
            });
        }
        // What came of a changed head, nobody knows.
        if exchange.login.is_some() && !exchange.is_answered_mutated() {
            owners.entry(way).or_insert(client);
        }
    }
    let Circumstances { config, stories, .. } = circumstances;
    // Where its backend stays without room a client begins anew elsewhere.
    let calm = !are_bounded
        && stories.are_all_smooth()
        && stories.trail.stayed_as_it_was()
        && stories.trail.held_anew().is_empty()
        && config.circuit_breaker.is_none();
    let ways = stories.trail.ways();
    let ended_by_origin = |way: SocketId, by: Time| {
        let deeds = stories.trail.way_of(way).map_or(&[][..], |at| &ways[at].deeds);
        deeds.iter().any(|(moment, deed)| moment.at <= by && matches!(deed, Deed::Closes | Deed::Resets))
    };
    for connection in played.iter().filter(|_| calm) {
        judge_stay(judge, connection, &seen, ended_by_origin);
    }
}

/// Where neither side has ended it, a client stays on the connection that it has logged in on.
fn judge_stay(
    judge: &mut Judge<'_>,
    connection: &Played,
    seen: &[Seen],
    ended_by_origin: impl Fn(SocketId, Time) -> bool,
) {
    let mut home = None;
    for exchange in &connection.exchanges {
        let first = seen.iter().find(|seen| seen.id == exchange.id);
        let Some((at, seen_at)) = first.and_then(|seen| Some((seen.way?, seen.at))) else { continue };
        if let Some(home) = home.filter(|home| !ended_by_origin(*home, seen_at)) {
            judge.expect(Promise::LoginsStay, at == home, || {
                format!("exchange {}: its client has logged in on another connection", exchange.id)
            });
        }
        home = (stays(exchange) && (home == Some(at) || exchange.login.is_some())).then_some(at);
    }
}

/// Its backend's connection can be used again.
fn stays(exchange: &Exchange) -> bool {
    let answering = exchange.answering(0);
    answering.then == Afterwards::Stays
        && answering.framing != AnswerFraming::UntilClose
        && answering.status != 101
        && !answering.early
}
