//! Looks after the certificates of all domains: has what there is served, and gets each anew when it is due.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::FromDer;

use super::attempt::{Attempt, Got};
use super::cache::{Cache, DomainState};
use super::encoding::base64url;
use super::error::{AcmeError, OpenError};
use super::http::Http;
use super::made;
use super::renewal::{self, Concerns, Failures, Validity};
use super::site::Site;
use super::wire::{Directory, RenewalInfo, told};
use crate::config::Acme as Settings;
use crate::control::random::Random;
use crate::control::timestamp::rfc3339;
use crate::transport::{Certificate, Part, Source, pem};

/// At most so long is slept: the system's clock may be set.
const SLEEP_MAX: Duration = Duration::from_secs(600);
/// From one look whether another process has done with its order to the next.
const BUSY_SECONDS: i64 = 5;
/// Within so many seconds of a start the authority is asked for advice.
const FIRST_ADVICE_SECONDS: f64 = 60.0;

/// The certificates of one configuration. They are served from when it is opened; dropping what keeps them ends that no new
/// ones are got.
#[derive(Debug)]
pub struct Keeper {
    settings: Settings,
    cache: Cache,
    site: Site,
    domains: Vec<Domain>,
    random: Random,
}

/// A running one; ends when it is dropped.
#[derive(Debug)]
pub struct Keeping {
    _stop: Sender<()>,
}

#[derive(Debug)]
struct Domain {
    name: String,
    /// What is served for it.
    served: Arc<Certificate>,
    /// What is known of that, if an authority gave it.
    held: Option<Held>,
    /// It isn't ordered before, whatever is due.
    not_before: i64,
}

#[derive(Debug)]
struct Held {
    validity: Validity,
    /// What its authority calls it.
    id: Option<String>,
    /// Where within a window it is renewed: from 0 up to 1.
    chance: f64,
    /// When it is renewed.
    due: i64,
    /// When the authority is asked for advice on that.
    ask_at: i64,
}

impl Keeper {
    /// Has the certificates served that are in the cache, and for each domain without one a certificate that nobody signed.
    ///
    /// # Errors
    /// The cache can't be read or written, or no certificate can be made.
    pub fn open(settings: &Settings, site: Site) -> Result<Self, OpenError> {
        let cache = Cache::open(&settings.cache, &settings.directory)?;
        let mut random = Random::from_system();
        let mut domains = Vec::new();
        for name in &settings.domains {
            let mut domain = if let Some(certificate) = cache.certificate(name)? {
                Domain::holding(name, certificate, &mut random)
            } else {
                log::warn!("certificate for {name}: there is none yet, so one that no authority signed is served");
                let made = made::placeholder(name);
                Domain::without(name, made.map_err(|error| OpenError::NoPlaceholder(error.to_string()))?)
            };
            // A clock that was set back isn't waited for.
            let not_before = cache.domain_state(name)?.not_before;
            domain.not_before = if not_before < unix_seconds() + renewal::WAIT_MAX { not_before } else { 0 };
            domains.push(domain);
        }
        let keeper = Self { settings: settings.clone(), cache, site, domains, random };
        keeper.serve();
        Ok(keeper)
    }

    /// Begins to get certificates, on a thread of its own; to be called once challenges can be answered.
    ///
    /// # Errors
    /// The system has no thread to give.
    pub fn start(self) -> io::Result<Keeping> {
        let (stop, stopped) = bounded(0);
        thread::Builder::new().name("maypole-acme".into()).spawn(move || self.run(&stopped))?;
        Ok(Keeping { _stop: stop })
    }

    /// For tests, which don't wait for that.
    #[cfg(test)]
    pub(super) fn asks_for_advice_at_once(&mut self) {
        self.domains.iter_mut().filter_map(|domain| domain.held.as_mut()).for_each(|held| held.ask_at = 0);
    }

    /// What a thread does for a domain when it is due, for tests; false: it was stopped.
    #[cfg(test)]
    pub(super) fn attends(&mut self, nth: usize) -> bool {
        let (_stop, stopped) = bounded(0);
        self.attend(nth, unix_seconds(), &stopped).is_ok()
    }

    /// When something is due for a domain, for tests.
    #[cfg(test)]
    pub(super) fn next(&self, nth: usize) -> i64 {
        self.domains[nth].next()
    }

    fn serve(&self) {
        self.site.store.swap(Part::Acme, self.domains.iter().map(|domain| Arc::clone(&domain.served)).collect());
    }

    fn run(mut self, stop: &Receiver<()>) {
        loop {
            let now = unix_seconds();
            let next = self.domains.iter().enumerate().min_by_key(|(_, domain)| domain.next());
            let Some((nth, next)) = next.map(|(nth, domain)| (nth, domain.next())) else { return };
            if next <= now {
                match self.attend(nth, now, stop) {
                    Ok(()) => continue,
                    Err(Stopped) => return,
                }
            }
            if stop.recv_timeout(sleep_until(next, now)) != Err(RecvTimeoutError::Timeout) {
                return;
            }
        }
    }

    /// Does what is due for a domain. When it returns, nothing is due at once.
    fn attend(&mut self, nth: usize, now: i64, stop: &Receiver<()>) -> Result<(), Stopped> {
        let chance = self.random.fraction();
        let domain = &mut self.domains[nth];
        if let Some(held) = &mut domain.held
            && held.ask_at <= now
        {
            held.ask(&self.settings.directory, &domain.name, now);
            if held.due.max(domain.not_before) > now {
                return Ok(());
            }
        }
        let lock = match self.cache.lock() {
            Ok(Some(lock)) => lock,
            Ok(None) => {
                domain.not_before = now + BUSY_SECONDS;
                return Ok(());
            }
            Err(error) => {
                self.miss(nth, &error.into(), chance);
                return Ok(());
            }
        };
        match self.renew(nth, now, stop) {
            Ok(()) => {}
            Err(AcmeError::Stopped) => return Err(Stopped),
            Err(AcmeError::Spent { until }) => self.domains[nth].not_before = until,
            Err(error) => self.miss(nth, &error, chance),
        }
        drop(lock);
        Ok(())
    }

    /// Tells of a failure, and has it waited for.
    fn miss(&mut self, nth: usize, error: &AcmeError, chance: f64) {
        let wait = self.note(&self.domains[nth].name, error, chance);
        let domain = &mut self.domains[nth];
        domain.not_before = unix_seconds() + wait;
        domain.tell(error, wait);
    }

    /// Gets a certificate, unless another process has got one, or it isn't time.
    fn renew(&mut self, nth: usize, now: i64, stop: &Receiver<()>) -> Result<(), AcmeError> {
        let name = self.domains[nth].name.clone();
        if self.adopt(nth, now)? {
            return Ok(());
        }
        let mut account = self.cache.account_state()?;
        let not_before = account.not_before.max(self.cache.domain_state(&name)?.not_before);
        if not_before > now && not_before < now + renewal::WAIT_MAX {
            self.domains[nth].not_before = not_before;
            return Ok(());
        }
        account.spent_until = renewal::charge(account.spent_until, now).map_err(|until| AcmeError::Spent { until })?;
        self.cache.keep_account_state(account)?;
        let replaces = self.domains[nth].held.as_ref().and_then(|held| held.id.clone());
        let attempt = Attempt { settings: &self.settings, cache: &self.cache, site: &self.site, stop };
        let got = attempt.order(&name, replaces.as_deref())?;
        let certificate = self.examine(&name, &got)?;
        self.cache.keep_certificate(&name, &got.key_pkcs8, &got.chain_pem)?;
        account.failures = 0;
        account.not_before = 0;
        self.cache.keep_account_state(account)?;
        self.cache.keep_domain_state(&name, DomainState::default())?;
        self.install(nth, certificate, "got");
        Ok(())
    }

    /// Takes a certificate over that another process has put into the cache, if it has.
    fn adopt(&mut self, nth: usize, now: i64) -> Result<bool, AcmeError> {
        let domain = &self.domains[nth];
        let Some(certificate) = self.cache.certificate(&domain.name)? else { return Ok(false) };
        let is_known = certificate.fingerprint() == domain.served.fingerprint();
        let is_better =
            domain.held.as_ref().is_none_or(|held| validity(&certificate).not_after > held.validity.not_after);
        if is_known || !is_better || !validity(&certificate).contains(now) {
            return Ok(false);
        }
        self.install(nth, certificate, "got by another process");
        Ok(self.domains[nth].held.as_ref().is_some_and(|held| held.due > now))
    }

    /// Whether what the authority sent is what was ordered.
    fn examine(&self, name: &str, got: &Got) -> Result<Certificate, AcmeError> {
        let chain = pem::certificates(got.chain_pem.as_bytes()).map_err(AcmeError::Pem)?;
        let certificate = Certificate::of(chain, got.key_pkcs8.clone(), None).map_err(AcmeError::Certificate)?;
        if !certificate.covers(name) {
            return Err(AcmeError::NotAsOrdered("is for another name"));
        }
        if validity(&certificate).not_after <= unix_seconds() {
            return Err(AcmeError::NotAsOrdered("has expired already: is this machine's clock right?"));
        }
        Ok(certificate.with_source(Source::Acme { directory: self.settings.directory.clone() }))
    }

    fn install(&mut self, nth: usize, certificate: Certificate, how: &str) {
        let name = self.domains[nth].name.clone();
        let domain = Domain::holding(&name, certificate, &mut self.random);
        // Whatever the authority's advice for the new one is.
        let not_before = unix_seconds() + domain.held.as_ref().map_or(0, |held| renewal::pause(held.validity));
        self.domains[nth] = Domain { not_before, ..domain };
        self.serve();
        let domain = &self.domains[nth];
        let due = domain.held.as_ref().map_or(0, |held| held.due);
        log::info!(
            "certificate for {name}: {how}, from {}, good until {}, to be renewed at {}",
            told(domain.served.issuer()),
            rfc3339(domain.served.not_after()),
            rfc3339(at(due))
        );
    }

    /// Remembers a failure; how long is waited, in seconds.
    fn note(&self, name: &str, error: &AcmeError, chance: f64) -> i64 {
        // What can't be read is as if nothing had been remembered, and what can't be written is told by the error already.
        let mut account = self.cache.account_state().unwrap_or_default();
        let mut domain = self.cache.domain_state(name).unwrap_or_default();
        let concerns = error.concerns();
        let now = unix_seconds();
        if concerns != Concerns::Domain {
            account.failures = account.failures.saturating_add(1);
        }
        if concerns != Concerns::All {
            domain.failures = domain.failures.saturating_add(1);
        }
        let failures = Failures { of_domain: domain.failures, of_all: account.failures };
        let setback = renewal::setback(concerns, failures, error.retry_after(), chance);
        if concerns == Concerns::Domain {
            // The authority has answered.
            account.failures = 0;
        }
        account.not_before = account.not_before.max(now + setback.of_all);
        domain.not_before = now + setback.of_domain;
        let kept = self.cache.keep_account_state(account).and(self.cache.keep_domain_state(name, domain));
        if let (Err(unkept), false) = (kept, matches!(error, AcmeError::Cache(_))) {
            log::warn!("certificate for {name}: {unkept}");
        }
        // A second more than others, so that one that fails whatever it is doesn't come before them each time.
        setback.of_domain.max(setback.of_all) + 1
    }
}

/// The process ends.
struct Stopped;

impl Domain {
    fn holding(name: &str, certificate: Certificate, random: &mut Random) -> Self {
        let validity = validity(&certificate);
        let (chance, soon) = (random.fraction(), random.fraction());
        let held = Held {
            validity,
            id: certificate.chain().next().and_then(renewal_id),
            chance,
            due: renewal::due(validity, chance),
            ask_at: unix_seconds() + seconds(FIRST_ADVICE_SECONDS * soon),
        };
        Self { name: name.to_owned(), served: Arc::new(certificate), held: Some(held), not_before: 0 }
    }

    fn without(name: &str, placeholder: Certificate) -> Self {
        Self { name: name.to_owned(), served: Arc::new(placeholder), held: None, not_before: 0 }
    }

    /// When something is to be done for it.
    fn next(&self) -> i64 {
        match &self.held {
            Some(held) => held.due.max(self.not_before).min(held.ask_at),
            None => self.not_before,
        }
    }

    fn tell(&self, error: &AcmeError, wait: i64) {
        let name = &self.name;
        let meanwhile = match &self.held {
            Some(_) => format!("the one that is served is good until {}", rfc3339(self.served.not_after())),
            None => "one that no authority signed is served".to_owned(),
        };
        log::warn!("certificate for {name}: {error}; {meanwhile}; it is tried again in {wait} s");
    }
}

/// Until something is due that isn't yet.
fn sleep_until(due: i64, now: i64) -> Duration {
    Duration::from_secs((due - now).unsigned_abs()).min(SLEEP_MAX)
}

impl Held {
    /// Asks the authority when the certificate should be renewed. What doesn't work is no failure: it is renewed without advice.
    fn ask(&mut self, directory: &str, name: &str, now: i64) {
        let (advice, retry_after) = match self.advice(directory) {
            Ok(answered) => answered,
            Err(error) => {
                log::debug!("certificate for {name}: no advice on its renewal: {error}");
                (None, None)
            }
        };
        self.ask_at = now + renewal::advice_again(retry_after);
        let Some(advice) = advice else { return };
        let Some(due) = renewal::advised(&advice, self.validity, self.chance) else {
            log::warn!("certificate for {name}: the authority's advice on its renewal makes no sense: {advice:?}");
            return;
        };
        if due != self.due {
            let why = advice.explanation_url.as_deref().map_or(String::new(), |url| format!(", see {}", told(url)));
            log::info!("certificate for {name}: to be renewed at {}, as the authority says{why}", rfc3339(at(due)));
        }
        self.due = due;
    }

    fn advice(&self, directory: &str) -> Result<(Option<RenewalInfo>, Option<i64>), AcmeError> {
        let Some(id) = &self.id else { return Ok((None, None)) };
        let http = Http::new(directory)?;
        let directory: Directory = http.get(directory)?.succeeded()?.read()?;
        let Some(url) = directory.renewal_info else { return Ok((None, None)) };
        let answer = http.get(&format!("{}/{id}", url.trim_end_matches('/')))?.succeeded()?;
        Ok((Some(answer.read()?), answer.retry_after))
    }
}

/// What an authority calls a certificate when it is asked about its renewal (RFC 9773 §4.1); None where that doesn't say by
/// which key it was signed.
pub(super) fn renewal_id(der: &[u8]) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let authority = certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::AuthorityKeyIdentifier(authority) => authority.key_identifier.as_ref(),
        _ => None,
    })?;
    Some(format!("{}.{}", base64url(authority.0), base64url(certificate.raw_serial())))
}

fn validity(certificate: &Certificate) -> Validity {
    let seconds = |at: SystemTime| match at.duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        Err(before) => -i64::try_from(before.duration().as_secs()).unwrap_or(i64::MAX),
    };
    Validity { not_before: seconds(certificate.not_before()), not_after: seconds(certificate.not_after()) }
}

fn unix_seconds() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}

fn at(seconds: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0).min(u64::from(u32::MAX)))
}

fn seconds(fraction: f64) -> i64 {
    fraction as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_due_is_slept_for_and_the_clock_looked_at_now_and_then() {
        assert_eq!(sleep_until(1_000_030, 1_000_000), Duration::from_secs(30));
        assert_eq!(sleep_until(2_000_000, 1_000_000), SLEEP_MAX);
    }
}
