//! Requests to an authority, by `ureq`: each has a deadline, and its answer a bound.

use std::time::{Duration, SystemTime};

use serde::de::DeserializeOwned;
use ureq::http::{HeaderMap, Method, Request, Response, header};
use ureq::tls::{Certificate, RootCerts, TlsConfig, TlsProvider};
use ureq::{Agent, Body, Error};

use super::error::AcmeError;
use super::wire::{Problem, told};

const USER_AGENT: &str = concat!("maypole/", env!("CARGO_PKG_VERSION"), " (ACME)");
/// A request, with all that it takes to ask it.
const TIMEOUT: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A chain of certificates takes a few KiB.
const ANSWER_BYTES_MAX: u64 = 256 * 1024;
const ANSWER_HEAD_BYTES_MAX: usize = 16 * 1024;
/// Of what is asked for without a signature; what is signed goes to its URL alone.
const REDIRECTS_MAX: u32 = 3;
/// What is kept of a nonce, a URL.
const FIELD_BYTES_MAX: usize = 2048;

/// What the authority is asked with.
pub(super) struct Http {
    agent: Agent,
}

/// What it answered.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) url: String,
    pub(super) status: u16,
    /// For the next signed request.
    pub(super) nonce: Option<String>,
    pub(super) location: Option<String>,
    /// In seconds from now.
    pub(super) retry_after: Option<i64>,
    pub(super) body: Vec<u8>,
}

impl Http {
    /// For the authority of this directory: where that is encrypted, all is.
    ///
    /// # Errors
    /// The system has no certificate of an authority that could be trusted.
    pub(super) fn new(directory: &str) -> Result<Self, AcmeError> {
        let encrypted = directory.starts_with("https:");
        let roots = if encrypted { roots(directory)? } else { Vec::new() };
        let tls = TlsConfig::builder()
            .provider(TlsProvider::Rustls)
            .root_certs(RootCerts::from(roots))
            .unversioned_rustls_crypto_provider(crate::transport::provider())
            .build();
        let config = Agent::config_builder()
            .tls_config(tls)
            .https_only(encrypted)
            .http_status_as_error(false)
            .max_redirects_will_error(false)
            .timeout_global(Some(TIMEOUT))
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .max_response_header_size(ANSWER_HEAD_BYTES_MAX)
            .user_agent(USER_AGENT)
            .accept_encoding("identity")
            .build();
        Ok(Self { agent: config.new_agent() })
    }

    /// Asks without a signature.
    pub(super) fn get(&self, url: &str) -> Result<Answer, AcmeError> {
        self.send(Method::GET, url, REDIRECTS_MAX, None)
    }

    /// Asks for what stands in the head alone.
    pub(super) fn head(&self, url: &str) -> Result<Answer, AcmeError> {
        self.send(Method::HEAD, url, REDIRECTS_MAX, None)
    }

    /// Sends what is signed.
    pub(super) fn post(&self, url: &str, accept: &str, signed: String) -> Result<Answer, AcmeError> {
        self.send(Method::POST, url, 0, Some((accept, signed)))
    }

    fn send(
        &self,
        method: Method,
        url: &str,
        redirects_max: u32,
        signed: Option<(&str, String)>,
    ) -> Result<Answer, AcmeError> {
        let no_answer = |error: Error| AcmeError::NoAnswer { url: told(url), reason: explain(&error) };
        let request = Request::builder().method(method).uri(url);
        let answer = match signed {
            None => self.run(request.body(()), redirects_max),
            Some((accept, signed)) => {
                let request = request.header(header::CONTENT_TYPE, "application/jose+json");
                self.run(request.header(header::ACCEPT, accept).body(signed), redirects_max)
            }
        };
        read(url, answer.map_err(no_answer)?).map_err(no_answer)
    }

    fn run(
        &self,
        request: Result<Request<impl ureq::AsSendBody>, ureq::http::Error>,
        redirects_max: u32,
    ) -> Result<Response<Body>, Error> {
        let request = request.map_err(Error::Http)?;
        let request = self.agent.configure_request(request).max_redirects(redirects_max).build();
        self.agent.run(request)
    }
}

impl Answer {
    /// What it says, as what was asked for.
    pub(super) fn read<T: DeserializeOwned>(&self) -> Result<T, AcmeError> {
        let malformed = |error: serde_json::Error| self.unexpected(&format!("not what was asked for: {error}"));
        serde_json::from_slice(&self.body).map_err(malformed)
    }

    /// Itself, if it is of success.
    pub(super) fn succeeded(self) -> Result<Self, AcmeError> {
        match (self.status, serde_json::from_slice::<Problem>(&self.body)) {
            (200..=299, _) => Ok(self),
            (400.., Ok(problem)) if problem != Problem::default() => Err(AcmeError::Refused {
                url: self.url,
                status: self.status,
                problem: Box::new(problem),
                retry_after: self.retry_after,
            }),
            // A balancer in front of an authority, say.
            (429 | 503, _) => Err(AcmeError::Refused {
                url: self.url,
                status: self.status,
                problem: Box::default(),
                retry_after: self.retry_after,
            }),
            _ => {
                let text = String::from_utf8_lossy(&self.body);
                Err(self.unexpected(if text.is_empty() { "nothing that says why" } else { &text }))
            }
        }
    }

    pub(super) fn unexpected(&self, what: &str) -> AcmeError {
        AcmeError::Unexpected { url: self.url.clone(), status: self.status, what: told(what) }
    }
}

/// The certificates of the authorities that the system trusts; `SSL_CERT_FILE` and `SSL_CERT_DIR` name others.
fn roots(directory: &str) -> Result<Vec<Certificate<'static>>, AcmeError> {
    let found = rustls_native_certs::load_native_certs();
    if found.certs.is_empty() {
        let errors: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
        let reason = format!("the system trusts no authority by which it could be verified: {}", errors.join("; "));
        return Err(AcmeError::NoAnswer { url: told(directory), reason: told(&reason) });
    }
    Ok(found.certs.iter().map(|certificate| Certificate::from_der(certificate).to_owned()).collect())
}

fn read(url: &str, answer: Response<Body>) -> Result<Answer, Error> {
    let (head, mut body) = answer.into_parts();
    Ok(Answer {
        url: told(url),
        status: head.status.as_u16(),
        nonce: field(&head.headers, "replay-nonce"),
        location: field(&head.headers, "location"),
        retry_after: field(&head.headers, "retry-after").and_then(|text| seconds_until(&text, SystemTime::now())),
        body: body.with_config().limit(ANSWER_BYTES_MAX).read_to_vec()?,
    })
}

fn field(headers: &HeaderMap, name: &str) -> Option<String> {
    let value = headers.get(name)?.to_str().ok()?;
    (value.len() <= FIELD_BYTES_MAX).then(|| value.to_owned())
}

/// RFC 9110 §10.2.3: seconds, or a date.
fn seconds_until(text: &str, now: SystemTime) -> Option<i64> {
    if let Ok(seconds) = text.parse::<u32>() {
        return Some(i64::from(seconds));
    }
    let until = httpdate::parse_http_date(text).ok()?;
    Some(until.duration_since(now).map_or(0, |wait| i64::try_from(wait.as_secs()).unwrap_or(i64::MAX)))
}

fn explain(error: &Error) -> String {
    match error {
        Error::Timeout(_) => format!("it took longer than {TIMEOUT:?}"),
        Error::HostNotFound => "its name has no address".into(),
        Error::BodyExceedsLimit(_) => format!("it is longer than {ANSWER_BYTES_MAX} bytes"),
        Error::Io(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => "connection refused".into(),
        other => told(&other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn a_wait_is_asked_for_in_seconds_or_by_a_date() {
        let now = UNIX_EPOCH + Duration::from_secs(784_111_777);
        for (text, want) in [
            ("120", Some(120)),
            ("0", Some(0)),
            ("Sun, 06 Nov 1994 08:49:47 GMT", Some(10)),
            ("Sun, 06 Nov 1994 08:49:27 GMT", Some(0)),
            ("-1", None),
            ("99999999999", None),
            ("soon", None),
        ] {
            assert_eq!(seconds_until(text, now), want, "{text}");
        }
    }

    #[test]
    fn an_answer_that_is_no_success_says_why() {
        let told = |status, body: &str| {
            let body = body.as_bytes().to_vec();
            let answer = Answer { url: "u".into(), status, nonce: None, location: None, retry_after: Some(9), body };
            answer.succeeded().map_or_else(|error| (error.to_string(), error.retry_after()), |_| (String::new(), None))
        };
        assert_eq!(told(201, ""), (String::new(), None));
        let limited = r#"{"type": "urn:ietf:params:acme:error:rateLimited", "detail": "too many"}"#;
        assert_eq!(told(429, limited), ("u answered 429: rateLimited: too many".into(), Some(9)));
        assert_eq!(told(503, "<html>"), ("u answered 503: a problem without a type".into(), Some(9)));
        assert_eq!(told(302, ""), ("u answered 302: nothing that says why".into(), None));
        assert_eq!(told(404, "<html>\n"), ("u answered 404: <html> ".into(), None));
    }
}
