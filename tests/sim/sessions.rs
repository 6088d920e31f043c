//! Sticky sessions: what clients say of theirs, and what must hold of them after a run.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::IpAddr;

use maypole::balance::{Mark, MarkKey};
use maypole::config::{self, Config, Sticky};

use crate::chance::Chance;
use crate::control::Upset;
use crate::excuse::Circumstances;
use crate::plan::{Book, Seen};
use crate::sim::Time;
use crate::tally::Promise;
use crate::verdict::{Judge, Played, is_own};

const SECRET: &str = "known to every test of it";

/// What a request's cookie says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// That the client's session is at this origin.
    At(usize),
    /// Something that looks like it, and names nobody.
    Forged,
}

/// When which origins may serve no session, whatever the proxy makes of it.
#[derive(Default)]
pub struct Absences(RefCell<Vec<Absence>>);

#[derive(Clone, Copy)]
struct Absence {
    origin: usize,
    /// It isn't a backend; else its checks fail.
    removed: bool,
    from: Time,
    to: Time,
}

/// Sessions by cookie, by address, or none.
pub fn any_sticky(chance: &Chance) -> Option<Sticky> {
    let text = match chance.below(20) {
        0..3 => format!(r#"{{"sticky": {{"by": "cookie", "secret": "{SECRET}"}}}}"#),
        3 => r#"{"sticky": {"by": "ip"}}"#.to_owned(),
        _ => return None,
    };
    config::parse(&text).expect("a configuration").sticky
}

/// What the next request says, where sessions are by cookie.
pub fn any_claim(chance: &Chance, config: &Config, origins: usize) -> Option<Claim> {
    if !matches!(config.sticky, Some(Sticky::Cookie(_))) {
        return None;
    }
    match chance.below(10) {
        0..6 => Some(Claim::At(chance.index(origins))),
        6 => Some(Claim::Forged),
        _ => None,
    }
}

impl Claim {
    /// The cookie.
    pub fn cookie(self) -> String {
        match self {
            Self::At(origin) => cookie_of(origin),
            Self::Forged => "MAYPOLE=nobodyswantsthis".to_owned(),
        }
    }
}

fn cookie_of(origin: usize) -> String {
    let mark = Mark::of_name(&format!("origin{origin}"), &MarkKey::of_secret(SECRET.as_bytes()));
    format!("MAYPOLE={}", mark.text().escape_ascii())
}

impl Absences {
    /// Takes note of an upset at `now`.
    pub fn note(&self, upset: Upset, now: Time) {
        let mut all = self.0.borrow_mut();
        let lasts = |it: &&mut Absence, origin, removed| (it.origin, it.removed, it.to) == (origin, removed, Time::MAX);
        let mut end = |origin, removed| {
            let ended = all.iter_mut().filter(|it| lasts(it, origin, removed)).map(|it| it.to = now).count();
            ended > 0
        };
        let (origin, removed) = match upset {
            Upset::Remove(n) => (n, true),
            Upset::Down(n) => (n, false),
            Upset::Add(n) => {
                // It is a new backend, whose checks have told nothing yet.
                if end(n, true) {
                    end(n, false);
                }
                return;
            }
            Upset::Up(n) => {
                end(n, false);
                return;
            }
            _ => return,
        };
        all.push(Absence { origin, removed, from: now, to: Time::MAX });
    }

    fn any(&self, origin: usize, from: Time, to: Time) -> bool {
        self.0.borrow().iter().any(|it| it.origin == origin && it.from <= to && from <= it.to)
    }
}

/// Judges what became of the sessions of a run, where backends may have `are_bounded` room.
pub fn judge(
    judge: &mut Judge<'_>,
    circumstances: &Circumstances<'_>,
    are_bounded: bool,
    book: &Book,
    played: &[Played],
    absences: &Absences,
) {
    let config = circumstances.config;
    // Where every try reaches its backend, and none is left out for its answers or for want of room.
    let all_resolved = circumstances.stories.trail.all_resolved();
    let undisturbed =
        circumstances.stories.are_all_smooth() && all_resolved && config.circuit_breaker.is_none() && !are_bounded;
    let all_stayed = circumstances.stories.trail.stayed_as_it_was();
    // Who has waited for room, or for backends that refuse connections, may go elsewhere and stay bound.
    let may_wait = are_bounded || circumstances.stories.was_refused(0, Time::MAX);
    let seen = book.seen.borrow();
    let mut of_addresses: BTreeMap<IpAddr, usize> = BTreeMap::new();
    // A client that has logged in on a connection stays there, whatever its cookie says.
    let logs_in = |connection: &&Played| connection.exchanges.iter().any(|exchange| exchange.login.is_some());
    for connection in played.iter().filter(|connection| !logs_in(connection)) {
        judge_what_is_told(judge, circumstances, may_wait, connection, &seen);
        for exchange in connection.exchanges.iter().filter(|_| undisturbed) {
            let Some(first) = seen.iter().find(|seen| seen.id == exchange.id) else { continue };
            let at = first.origin;
            match (&config.sticky, exchange.claim) {
                (Some(Sticky::Cookie(_)), Some(Claim::At(origin))) => {
                    let absent = absences.any(origin, connection.log.started.get(), first.at);
                    judge.expect(Promise::SessionsStay, at == origin || absent, || {
                        format!("exchange {}: its session is at origin {origin}, it went to {at}", exchange.id)
                    });
                }
                (Some(Sticky::Ip { .. }), _) if all_stayed => {
                    let bound_to = *of_addresses.entry(connection.from).or_insert(at);
                    judge.expect(Promise::SessionsStay, at == bound_to, || {
                        format!("exchange {}: its client is at origin {bound_to}, it went to {at}", exchange.id)
                    });
                }
                _ => {}
            }
        }
    }
}

/// An answer sets the cookie if it comes from another origin than its client believes, and not otherwise.
fn judge_what_is_told(
    judge: &mut Judge<'_>,
    circumstances: &Circumstances<'_>,
    may_wait: bool,
    connection: &Played,
    seen: &[Seen],
) {
    let answers = connection.log.answers.borrow();
    for (exchange, answer) in connection.exchanges.iter().zip(answers.iter()) {
        let told: Vec<_> = answer.head.values("Set-Cookie").collect();
        let attempt = answer.head.field("x-sim-try").and_then(|attempt| attempt.parse::<usize>().ok());
        let want = match (&circumstances.config.sticky, attempt) {
            _ if exchange.is_answered_mutated() => continue,
            (Some(Sticky::Cookie(_)), Some(attempt)) if !is_own(answer) => {
                let mut tries = seen.iter().filter(|seen| seen.id == exchange.id);
                let Some(answered) = tries.nth(attempt) else { continue };
                let is_known = exchange.claim == Some(Claim::At(answered.origin));
                let secure = if circumstances.secrecy.clients { "; Secure" } else { "" };
                (!is_known).then(|| format!("{}; Path=/; HttpOnly; SameSite=Lax{secure}", cookie_of(answered.origin)))
            }
            _ => None,
        };
        let stays_bound = may_wait && told.is_empty() && matches!(exchange.claim, Some(Claim::At(_)));
        judge.expect(
            Promise::SessionsTold,
            stays_bound || told == want.as_deref().into_iter().collect::<Vec<_>>(),
            || format!("exchange {}: its answer sets {told:?}, not {want:?}", exchange.id),
        );
    }
}
