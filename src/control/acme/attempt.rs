//! One attempt to get a certificate: takes an order from step to step (`order.rs`) by requests to the authority.

use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, RecvTimeoutError};
use serde_json::{Value, json};

use super::cache::Cache;
use super::encoding::base64url;
use super::error::AcmeError;
use super::http::Answer;
use super::made::Csr;
use super::order::{OrderError, Progress, Step};
use super::session::Session;
use super::site::Site;
use super::wire::{Authorization, Order};
use crate::config::Acme as Settings;

/// How long an order may take, all in all.
const ORDER_MAX: Duration = Duration::from_secs(300);
/// From one look whether something has moved to the next: at first, and at most unless the authority asks for more.
const LOOK_MIN: Duration = Duration::from_millis(250);
const LOOK_MAX: Duration = Duration::from_secs(10);
/// What the authority can ask for.
const LOOK_ASKED_MAX: i64 = 60;

const JSON: &str = "application/json";
const CHAIN: &str = "application/pem-certificate-chain";

/// What an attempt needs.
pub(super) struct Attempt<'a> {
    pub(super) settings: &'a Settings,
    pub(super) cache: &'a Cache,
    pub(super) site: &'a Site,
    /// Disconnected, or sent to, when the process ends.
    pub(super) stop: &'a Receiver<()>,
}

/// What it got: a chain, as the authority wrote it, and its key.
#[derive(Debug)]
pub(super) struct Got {
    pub(super) key_pkcs8: Vec<u8>,
    pub(super) chain_pem: String,
}

/// When is looked again.
struct Pace {
    until: Instant,
    next: Duration,
    asked: Option<Duration>,
}

impl Attempt<'_> {
    /// Orders a certificate for `domain`, which `replaces` another one where the authority wants to know.
    pub(super) fn order(&self, domain: &str, replaces: Option<&str>) -> Result<Got, AcmeError> {
        let mut pace = Pace { until: Instant::now() + ORDER_MAX, next: LOOK_MIN, asked: None };
        let mut session = Session::begin(self.cache, &self.settings.directory, self.settings.email.as_deref())?;
        let answer = self.place(&mut session, domain, replaces)?;
        let url = answer.location.clone().ok_or_else(|| answer.unexpected("an order without a location"))?;
        let mut progress = Progress::of(answer.read::<Order>()?, self.settings.challenge)?;
        let csr = Csr::new(domain)?;
        let mut showing = None;
        loop {
            match progress.next()? {
                Step::Authorization { url, again } => {
                    if again {
                        pace.wait(self.stop)?;
                    }
                    let answer = session.get(&url, JSON)?;
                    pace.take(&answer);
                    let authorization: Authorization = answer.read()?;
                    if !authorization.identifier.value.eq_ignore_ascii_case(domain) {
                        return Err(OrderError::Nonsense("an authorization for another name").into());
                    }
                    progress.take_authorization(authorization)?;
                }
                Step::Answer(shown) => {
                    drop(showing.take());
                    let authorization = session.authorize(&shown.token);
                    showing = Some(self.site.show(self.settings.challenge, domain, &shown.token, &authorization)?);
                    pace.take(&session.send(&shown.url, &json!({}))?);
                    progress.has_answered();
                }
                Step::Order => {
                    pace.wait(self.stop)?;
                    let answer = session.get(&url, JSON)?;
                    pace.take(&answer);
                    progress.take_order(answer.read()?);
                }
                Step::Finalize { url } => {
                    drop(showing.take());
                    progress.finalizes();
                    let answer = session.send(&url, &json!({ "csr": base64url(&csr.der) }))?;
                    pace.take(&answer);
                    progress.take_order(answer.read()?);
                }
                Step::Download { url } => {
                    let answer = session.get(&url, CHAIN)?;
                    let chain = String::from_utf8(answer.body.clone());
                    let chain_pem = chain.map_err(|_| answer.unexpected("no text"))?;
                    return Ok(Got { key_pkcs8: csr.key_pkcs8, chain_pem });
                }
            }
        }
    }

    /// Places the order. What an authority may dislike for its own reasons is left out then, once each: that it replaces a
    /// certificate, and that the account is the one it was.
    fn place(&self, session: &mut Session, domain: &str, replaces: Option<&str>) -> Result<Answer, AcmeError> {
        let url = session.directory().new_order.clone();
        let mut replaces = replaces.filter(|_| session.directory().renewal_info.is_some());
        let mut is_new = false;
        loop {
            let mut payload = json!({ "identifiers": [{ "type": "dns", "value": domain }] });
            if let Some(id) = replaces {
                payload["replaces"] = Value::from(id);
            }
            match session.send(&url, &payload) {
                Err(error) if error.is("accountDoesNotExist") && !is_new => {
                    is_new = true;
                    let email = self.settings.email.iter();
                    session.register_again(self.cache, email.map(|email| format!("mailto:{email}")).collect())?;
                }
                // RFC 9773 §5; authorities that have forgotten the certificate call that by several names.
                Err(AcmeError::Refused { status: 400..=499, problem, .. })
                    if replaces.is_some() && !problem.is("rateLimited") =>
                {
                    log::info!("certificate for {domain}: ordered without what it replaces, since: {problem}");
                    replaces = None;
                }
                placed => return placed,
            }
        }
    }
}

impl Pace {
    fn take(&mut self, answer: &Answer) {
        let seconds = answer.retry_after.map(|seconds| seconds.clamp(0, LOOK_ASKED_MAX).unsigned_abs());
        self.asked = seconds.map(Duration::from_secs);
    }

    /// Waits until something may have moved.
    fn wait(&mut self, stop: &Receiver<()>) -> Result<(), AcmeError> {
        let wait = self.asked.take().unwrap_or_default().max(self.next);
        self.next = (self.next * 2).min(LOOK_MAX);
        if Instant::now() + wait > self.until {
            return Err(AcmeError::TooSlow { seconds: ORDER_MAX.as_secs() });
        }
        match stop.recv_timeout(wait) {
            Err(RecvTimeoutError::Timeout) => Ok(()),
            Ok(()) | Err(RecvTimeoutError::Disconnected) => Err(AcmeError::Stopped),
        }
    }
}
