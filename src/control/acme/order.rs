//! How an order comes to a certificate (RFC 8555 §7.1.6), without any of its requests.
//!
//! ```text
//!              each authorization: look, answer its challenge, look again until it is valid
//! pending ───────────────────────────────────────────────────────────────────────────────▶ ready
//!                                   finalize: the request for the certificate             │
//! valid ◀─────────────────────────────────────────────────────────────────── processing ◀─┘
//!   └─▶ download                     look again until it is
//! ```
//!
//! Whatever an authority answers, an order takes a bounded number of steps, each challenge is answered once, and the order is
//! finalized once.

use std::fmt;

use super::encoding::is_base64url;
use super::wire::{Authorization, Challenge, Order, Problem, Status, told};
use crate::config::AcmeChallenge;

/// An order for one name has one authorization; some more do no harm.
const AUTHORIZATIONS_MAX: usize = 10;
/// How often is looked whether something has moved, all of an order together.
const LOOKS_MAX: u32 = 100;
/// A token is of 22 characters at least (RFC 8555 §8.3); this is as much as is kept of one.
const TOKEN_BYTES_MAX: usize = 256;

/// What is to be done next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Ask for the authorization, after a while where it was asked for before.
    Authorization { url: String, again: bool },
    /// Show what this challenge asks for, and say so.
    Answer(Shown),
    /// Ask for the order, after a while.
    Order,
    /// Send the request for the certificate.
    Finalize { url: String },
    /// Get the certificate.
    Download { url: String },
}

/// A challenge that is to be answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shown {
    pub(super) url: String,
    pub(super) token: String,
}

/// Why an order comes to nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum OrderError {
    /// The authority's reason, if it gave one; what failed, in words.
    Failed(&'static str, Option<Box<Problem>>),
    /// It offers no challenge of the wanted kind.
    NoChallenge { wanted: &'static str, offered: Vec<String> },
    /// It says what makes no sense.
    Nonsense(&'static str),
    /// It doesn't come to an end.
    TooLong,
}

/// An order on its way.
#[derive(Debug)]
pub(super) struct Progress {
    kind: AcmeChallenge,
    order: Order,
    /// Authorizations that aren't known to be valid; the last one is looked after.
    open: Vec<String>,
    /// What the last of them has come to.
    at: At,
    is_finalized: bool,
    looks: u32,
}

/// Where an authorization stands.
#[derive(Clone, Debug, PartialEq, Eq)]
enum At {
    Unknown,
    Challenged(Shown),
    Answered,
}

impl Progress {
    pub(super) fn of(order: Order, kind: AcmeChallenge) -> Result<Self, OrderError> {
        if order.authorizations.len() > AUTHORIZATIONS_MAX {
            return Err(OrderError::Nonsense("more authorizations than it can need"));
        }
        let open = order.authorizations.clone();
        Ok(Self { kind, order, open, at: At::Unknown, is_finalized: false, looks: 0 })
    }

    /// What is to be done next; has no effect.
    pub(super) fn next(&self) -> Result<Step, OrderError> {
        if self.looks > LOOKS_MAX {
            return Err(OrderError::TooLong);
        }
        match self.order.status {
            Status::Pending => Ok(match (self.open.last(), &self.at) {
                (Some(_), At::Challenged(shown)) => Step::Answer(shown.clone()),
                (Some(url), at) => Step::Authorization { url: url.clone(), again: *at == At::Answered },
                (None, _) => Step::Order,
            }),
            Status::Ready if !self.is_finalized => Ok(Step::Finalize { url: self.order.finalize.clone() }),
            Status::Ready | Status::Processing => Ok(Step::Order),
            Status::Valid => match &self.order.certificate {
                Some(url) => Ok(Step::Download { url: url.clone() }),
                None => Err(OrderError::Nonsense("a valid order without a certificate")),
            },
            _ => Err(OrderError::Failed("the order", self.order.error.clone().map(Box::new))),
        }
    }

    /// The order was asked for, or is what finalizing has come to.
    pub(super) fn take_order(&mut self, order: Order) {
        self.looks += 1;
        self.order.status = order.status;
        self.order.error = order.error;
        if order.certificate.is_some() {
            self.order.certificate = order.certificate;
        }
    }

    /// The request for the certificate is on its way.
    pub(super) fn finalizes(&mut self) {
        self.is_finalized = true;
    }

    /// An authorization was asked for.
    pub(super) fn take_authorization(&mut self, authorization: Authorization) -> Result<(), OrderError> {
        self.looks += 1;
        let mut challenges = authorization.challenges;
        let ours = challenges.iter().position(|challenge| challenge.kind == name_of(self.kind));
        let ours = ours.map(|at| challenges.swap_remove(at));
        match authorization.status {
            Status::Valid => {
                self.open.pop();
                self.at = At::Unknown;
                Ok(())
            }
            Status::Pending | Status::Processing => match ours {
                // Whatever the authorization says: nothing more will come of it.
                Some(challenge) if challenge.status == Status::Invalid => Err(failed(challenge.error)),
                Some(challenge) if challenge.status == Status::Pending && self.at == At::Unknown => {
                    self.at = At::Challenged(shown(challenge)?);
                    Ok(())
                }
                // It is being looked at.
                Some(_) => {
                    self.at = At::Answered;
                    Ok(())
                }
                None => Err(OrderError::NoChallenge {
                    wanted: name_of(self.kind),
                    offered: challenges.into_iter().map(|challenge| told(&challenge.kind)).collect(),
                }),
            },
            _ => {
                let error = ours.and_then(|challenge| challenge.error);
                Err(failed(error.or_else(|| challenges.into_iter().find_map(|challenge| challenge.error))))
            }
        }
    }

    /// A challenge is shown, and the authority was told so.
    pub(super) fn has_answered(&mut self) {
        self.at = At::Answered;
    }
}

/// What a challenge is called (RFC 8555 §9.7.8).
pub(super) const fn name_of(kind: AcmeChallenge) -> &'static str {
    match kind {
        AcmeChallenge::Http01 => "http-01",
        AcmeChallenge::TlsAlpn01 => "tls-alpn-01",
    }
}

fn failed(problem: Option<Problem>) -> OrderError {
    OrderError::Failed("the challenge", problem.map(Box::new))
}

fn shown(challenge: Challenge) -> Result<Shown, OrderError> {
    match challenge.token {
        Some(token) if is_base64url(&token) && token.len() <= TOKEN_BYTES_MAX => {
            Ok(Shown { url: challenge.url, token })
        }
        _ => Err(OrderError::Nonsense("a challenge without a token as it has to be")),
    }
}

impl fmt::Display for OrderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(what, Some(problem)) => write!(f, "{what} failed: {problem}"),
            Self::Failed(what, None) => write!(f, "{what} failed, and the authority doesn't say why"),
            Self::NoChallenge { wanted, offered } => {
                write!(f, "the authority doesn't offer {wanted}, but: {}", offered.join(", "))
            }
            Self::Nonsense(what) => write!(f, "the authority sent {what}"),
            Self::TooLong => write!(f, "it hasn't come to an end after {LOOKS_MAX} looks"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn order(status: Status, authorizations: usize) -> Order {
        Order {
            status,
            authorizations: (0..authorizations).map(|nth| format!("authorization/{nth}")).collect(),
            finalize: "finalize".into(),
            certificate: (status == Status::Valid).then(|| "certificate".into()),
            error: None,
        }
    }

    fn authorization(status: Status, of_challenge: Status) -> Authorization {
        let challenge = |kind: &str| Challenge {
            kind: kind.into(),
            url: format!("{kind}/url"),
            status: of_challenge,
            token: Some("token".into()),
            error: (of_challenge == Status::Invalid).then(Problem::default),
        };
        let challenges = vec![challenge("dns-01"), challenge("http-01"), challenge("tls-alpn-01")];
        Authorization { status, identifier: super::super::wire::Identifier { value: "a.example".into() }, challenges }
    }

    fn answer_to(kind: &str) -> Step {
        Step::Answer(Shown { url: format!("{kind}/url"), token: "token".into() })
    }

    #[test]
    fn an_order_goes_from_step_to_step_until_its_certificate_is_there() {
        for (kind, name) in [(AcmeChallenge::Http01, "http-01"), (AcmeChallenge::TlsAlpn01, "tls-alpn-01")] {
            let mut progress = Progress::of(order(Status::Pending, 1), kind).unwrap();
            let look = |again| Step::Authorization { url: "authorization/0".into(), again };
            assert_eq!(progress.next(), Ok(look(false)));
            progress.take_authorization(authorization(Status::Pending, Status::Pending)).unwrap();
            assert_eq!(progress.next(), Ok(answer_to(name)));
            progress.has_answered();
            for of_challenge in [Status::Pending, Status::Processing] {
                assert_eq!(progress.next(), Ok(look(true)));
                progress.take_authorization(authorization(Status::Pending, of_challenge)).unwrap();
            }
            progress.take_authorization(authorization(Status::Valid, Status::Valid)).unwrap();
            assert_eq!(progress.next(), Ok(Step::Order));
            progress.take_order(order(Status::Ready, 1));
            assert_eq!(progress.next(), Ok(Step::Finalize { url: "finalize".into() }));
            progress.finalizes();
            progress.take_order(order(Status::Processing, 1));
            assert_eq!(progress.next(), Ok(Step::Order));
            progress.take_order(order(Status::Valid, 1));
            assert_eq!(progress.next(), Ok(Step::Download { url: "certificate".into() }));
        }
    }

    #[test]
    fn what_the_authority_knows_already_is_not_shown_again() {
        let ready = Progress::of(order(Status::Ready, 1), AcmeChallenge::Http01).unwrap();
        assert_eq!(ready.next(), Ok(Step::Finalize { url: "finalize".into() }));
        let mut reused = Progress::of(order(Status::Pending, 2), AcmeChallenge::Http01).unwrap();
        reused.take_authorization(authorization(Status::Valid, Status::Valid)).unwrap();
        assert_eq!(reused.next(), Ok(Step::Authorization { url: "authorization/0".into(), again: false }));
    }

    #[test]
    fn why_it_comes_to_nothing_is_told() {
        let begun = || Progress::of(order(Status::Pending, 1), AcmeChallenge::TlsAlpn01).unwrap();
        let told = |result: Result<(), OrderError>| result.unwrap_err().to_string();
        assert_eq!(
            told(begun().take_authorization(authorization(Status::Invalid, Status::Invalid))),
            "the challenge failed: a problem without a type"
        );
        assert_eq!(
            told(begun().take_authorization(authorization(Status::Expired, Status::Pending))),
            "the challenge failed, and the authority doesn't say why"
        );
        let mut other = authorization(Status::Pending, Status::Pending);
        other.challenges.pop();
        assert_eq!(
            told(begun().take_authorization(other)),
            "the authority doesn't offer tls-alpn-01, but: dns-01, http-01"
        );
        for token in [None, Some(String::new()), Some("../../x".into()), Some("x".repeat(257))] {
            let mut bad = authorization(Status::Pending, Status::Pending);
            bad.challenges[2].token = token;
            assert!(told(begun().take_authorization(bad)).contains("without a token as it has to be"));
        }
        assert!(Progress::of(order(Status::Pending, 11), AcmeChallenge::Http01).is_err());
        let mut valid = order(Status::Valid, 0);
        valid.certificate = None;
        assert!(Progress::of(valid, AcmeChallenge::Http01).unwrap().next().is_err());
    }

    fn any_status() -> impl Strategy<Value = Status> {
        prop_oneof![
            4 => Just(Status::Pending),
            2 => Just(Status::Ready),
            2 => Just(Status::Processing),
            2 => Just(Status::Valid),
            1 => Just(Status::Invalid),
            1 => Just(Status::Deactivated),
            1 => Just(Status::Expired),
            1 => Just(Status::Revoked),
            1 => Just(Status::Unknown),
        ]
    }

    proptest! {
        /// Whatever an authority answers.
        #[test]
        fn an_order_ends_and_says_nothing_twice(
            authorizations in 0usize..4,
            answers in proptest::collection::vec((any_status(), any_status()), 1..60),
        ) {
            let mut answers = answers.iter().cycle();
            let begun = Progress::of(order(Status::Pending, authorizations), AcmeChallenge::Http01);
            let mut progress = begun.unwrap();
            let (mut answered, mut finalized, mut steps) = (0, 0, 0);
            while let Ok(step) = progress.next() {
                steps += 1;
                prop_assert!(steps <= 2 * LOOKS_MAX + 10, "it goes on");
                let (status, of_challenge) = *answers.next().unwrap();
                match step {
                    Step::Authorization { .. } => {
                        if progress.take_authorization(authorization(status, of_challenge)).is_err() {
                            break;
                        }
                    }
                    Step::Answer(_) => {
                        answered += 1;
                        progress.has_answered();
                    }
                    Step::Order => progress.take_order(order(status, authorizations)),
                    Step::Finalize { .. } => {
                        finalized += 1;
                        progress.finalizes();
                        progress.take_order(order(status, authorizations));
                    }
                    Step::Download { .. } => break,
                }
            }
            prop_assert!(answered <= authorizations && finalized <= 1, "{answered} answers, finalized {finalized} times");
        }
    }
}
