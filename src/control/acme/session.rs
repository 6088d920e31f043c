//! Signed requests to an authority: its directory, its nonces, and the account that they are signed for.

use serde_json::json;

use super::cache::{Account, Cache};
use super::error::AcmeError;
use super::http::{Answer, Http};
use super::jose::{AccountKey, Signer};
use super::wire::Directory;

/// How often a request is signed anew because its nonce wasn't good (RFC 8555 §6.5).
const BAD_NONCES_MAX: u32 = 8;

/// An authority, as one account of it sees it.
pub(super) struct Session {
    http: Http,
    directory: Directory,
    key: AccountKey,
    /// Its URL; None: the authority doesn't know it yet.
    account: Option<String>,
    nonce: Option<String>,
}

impl Session {
    /// Asks for the directory, and for an account where there is none yet. The terms of service are agreed to.
    pub(super) fn begin(cache: &Cache, directory: &str, email: Option<&str>) -> Result<Self, AcmeError> {
        let http = Http::new(directory)?;
        let directory: Directory = http.get(directory)?.succeeded()?.read()?;
        let key = if let Some(key) = cache.account_key()? {
            key
        } else {
            let (key, pkcs8) = AccountKey::generate()?;
            cache.keep_account_key(&pkcs8)?;
            // It was another key's.
            cache.forget_account()?;
            key
        };
        let mut session = Self { http, directory, key, account: None, nonce: None };
        let contact: Vec<String> = email.map(|email| format!("mailto:{email}")).into_iter().collect();
        match cache.account()? {
            Some(account) if account.contact == contact => session.account = Some(account.url),
            Some(account) => {
                session.account = Some(account.url.clone());
                session.change_contact(cache, Account { contact, ..account })?;
            }
            None => session.register(cache, contact)?,
        }
        Ok(session)
    }

    pub(super) const fn directory(&self) -> &Directory {
        &self.directory
    }

    /// What a challenge shows.
    pub(super) fn authorize(&self, token: &str) -> String {
        self.key.authorize(token)
    }

    /// Asks for what is at `url`.
    pub(super) fn get(&mut self, url: &str, accept: &str) -> Result<Answer, AcmeError> {
        self.post(url, accept, "")
    }

    /// Sends JSON to `url`, and gets an answer of success.
    pub(super) fn send(&mut self, url: &str, payload: &serde_json::Value) -> Result<Answer, AcmeError> {
        self.post(url, "application/json", &payload.to_string())
    }

    /// A new account, or the one that the key had already: an authority answers with that (RFC 8555 §7.3.1).
    fn register(&mut self, cache: &Cache, contact: Vec<String>) -> Result<(), AcmeError> {
        if self.directory.meta.external_account_required {
            return Err(AcmeError::NeedsExternalAccount);
        }
        let mut payload = json!({ "termsOfServiceAgreed": true });
        if !contact.is_empty() {
            payload["contact"] = contact.clone().into();
        }
        let answer = self.send(&self.directory.new_account.clone(), &payload)?;
        let url = answer.location.clone().ok_or_else(|| answer.unexpected("an account without a location"))?;
        if let Some(terms) = &self.directory.meta.terms_of_service {
            log::info!("ACME: account {url}; its terms of service are agreed to: {}", super::wire::told(terms));
        }
        cache.keep_account(&Account { url: url.clone(), contact })?;
        self.account = Some(url);
        Ok(())
    }

    fn change_contact(&mut self, cache: &Cache, account: Account) -> Result<(), AcmeError> {
        match self.send(&account.url, &json!({ "contact": account.contact })) {
            Ok(_) => Ok(cache.keep_account(&account)?),
            Err(error) if error.is("accountDoesNotExist") => self.register_again(cache, account.contact),
            Err(error) => Err(error),
        }
    }

    /// For an authority that has forgotten the account.
    pub(super) fn register_again(&mut self, cache: &Cache, contact: Vec<String>) -> Result<(), AcmeError> {
        log::warn!("ACME: the authority doesn't know the account any more: a new one is asked for");
        self.account = None;
        cache.forget_account()?;
        self.register(cache, contact)
    }

    fn post(&mut self, url: &str, accept: &str, payload: &str) -> Result<Answer, AcmeError> {
        let mut bad_nonces = 0;
        loop {
            let nonce = match self.nonce.take() {
                Some(nonce) => nonce,
                None => self.new_nonce()?,
            };
            let signer = self.account.as_deref().map_or(Signer::New, Signer::Account);
            let body = self.key.sign(signer, url, &nonce, payload)?;
            let answer = self.http.post(url, accept, body)?;
            self.nonce.clone_from(&answer.nonce);
            match answer.succeeded() {
                Err(error) if error.is("badNonce") && bad_nonces < BAD_NONCES_MAX => bad_nonces += 1,
                answered => return answered,
            }
        }
    }

    fn new_nonce(&self) -> Result<String, AcmeError> {
        let answer = self.http.head(&self.directory.new_nonce)?;
        answer.nonce.clone().ok_or_else(|| answer.unexpected("no nonce"))
    }
}
