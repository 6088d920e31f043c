//! One probe of one backend, by `ureq`, on a thread that may block.

use std::io;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use ureq::config::Config as AgentConfig;
use ureq::http::{Method, Request, header};
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{Connector, NextTimeout, TcpConnector};
use ureq::{Agent, Error};

use super::answer::{Answer, AnswerConnector, Encrypted};
use crate::balance::Backend;
use crate::config::HealthCheck;
use crate::http1::{self, HeadLimits, ResponseFault};
use crate::transport::client::BackendTls;

const USER_AGENT: &str = concat!("maypole/", env!("CARGO_PKG_VERSION"), " (health check)");

/// Knows how to ask a backend for its health.
#[derive(Debug)]
pub(super) struct Probe {
    config: AgentConfig,
    limits: HeadLimits,
    /// What requests go by to backends that are reached by TLS.
    tls: Option<Arc<BackendTls>>,
    method: Method,
    path: String,
    host: Option<String>,
    timeout: Duration,
    expect: Vec<RangeInclusive<u16>>,
    body_contains: Option<String>,
}

/// What a probe came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ProbeResult {
    pub(super) passed: bool,
    /// Why, in words for an operator: `200`, `connection refused`.
    pub(super) reason: String,
    /// It failed of what this machine lacks (a descriptor, a local port, memory), which says nothing of the backend.
    pub(super) of_shortage: bool,
}

impl Probe {
    /// As the configuration says; `limits` are those of all answers' heads.
    pub(super) fn new(check: &HealthCheck, limits: HeadLimits, tls: Option<Arc<BackendTls>>) -> Self {
        let config = Agent::config_builder()
            .proxy(None) // else the environment would send probes to a proxy
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .allow_non_standard_methods(true)
            .timeout_global(Some(check.timeout))
            .max_idle_connections(0)
            .input_buffer_size(16 * 1024)
            .output_buffer_size(8 * 1024)
            .user_agent(USER_AGENT)
            .build();
        Self {
            config,
            limits,
            tls,
            // The configuration has been checked; what isn't a method after all is asked for as GET.
            method: Method::from_bytes(check.method.as_bytes()).unwrap_or(Method::GET),
            path: check.path.clone(),
            host: check.host.clone(),
            timeout: check.timeout,
            expect: check.expect.clone(),
            body_contains: check.body_contains.clone(),
        }
    }

    /// Asks the backend, at one of the addresses that requests go to as well. Blocks for up to the timeout.
    pub(super) fn run(&self, backend: &Backend, address: Option<SocketAddr>) -> ProbeResult {
        let method = http1::Method::of(self.method.as_str().as_bytes());
        let answer = Arc::new(Mutex::new(Answer::new(method, self.limits)));
        let outcome = self.ask(backend, address, &answer);
        let answer = answer.lock();
        let of_shortage = outcome.as_ref().is_err_and(is_of_shortage);
        let evaluated = match (outcome, answer.status()) {
            (outcome, Some(status)) => self.evaluate(status, &answer, outcome.is_ok()),
            (Err(error), None) => Err(self.explain(&error)),
            (Ok(()), None) => Err("no answer".into()),
        };
        let passed = evaluated.is_ok();
        ProbeResult { passed, reason: evaluated.unwrap_or_else(|reason| reason), of_shortage }
    }

    fn ask(&self, backend: &Backend, address: Option<SocketAddr>, answer: &Arc<Mutex<Answer>>) -> Result<(), Error> {
        let tls = self.tls.as_ref().filter(|_| backend.is_encrypted);
        let encrypted = tls.map(|tls| Encrypted { tls: Arc::clone(tls), host: backend.host.clone() });
        let (scheme, answer) = (if backend.is_encrypted { "https" } else { "http" }, Arc::clone(answer));
        let connector = ().chain(TcpConnector::default()).chain(AnswerConnector { answer, encrypted });
        // An agent for each probe: it keeps no connection, and its resolver answers for this backend alone.
        let agent = Agent::with_parts(self.config.clone(), connector, Known(address));
        let mut request = Request::builder()
            .method(&self.method)
            .uri(format!("{scheme}://{}{}{}", backend.authority, backend.base_path, self.path))
            .header(header::CONNECTION, "close");
        if let Some(host) = &self.host {
            request = request.header(header::HOST, host);
        }
        agent.run(request.body(()).map_err(Error::Http)?).map(drop)
    }

    /// What an answer says whose head was taken, and why. `in_time`: it came to its end.
    fn evaluate(&self, status: u16, answer: &Answer, in_time: bool) -> Result<String, String> {
        if !self.expect.iter().any(|range| range.contains(&status)) {
            return Err(format!("answered {status}, expected {}", ranges(&self.expect)));
        }
        match (&self.body_contains, answer.fault) {
            (_, Some(fault)) => Err(told(fault)),
            _ if !in_time => Err(format!("answered {status}, but not to its end within {:?}", self.timeout)),
            (Some(wanted), None) if memchr::memmem::find(&answer.body, wanted.as_bytes()).is_none() => {
                Err(format!("answered {status}, but its body doesn't contain {wanted:?}"))
            }
            _ => Ok(format!("answered {status}")),
        }
    }

    fn explain(&self, error: &Error) -> String {
        match error {
            Error::Timeout(_) => format!("no answer within {:?}", self.timeout),
            Error::HostNotFound => "its name has no address".into(),
            Error::Io(error) => explain_io(error),
            Error::Other(other) => match other.downcast_ref::<ResponseFault>() {
                Some(fault) => told(*fault),
                // That of TLS among them.
                None => other.to_string(),
            },
            other => other.to_string(),
        }
    }
}

/// The words that clients are told in `Proxy-Status` when they get such an answer.
fn told(fault: ResponseFault) -> String {
    match fault {
        ResponseFault::Head(_) | ResponseFault::Chunk(_) => format!("malformed answer: {fault}"),
        ResponseFault::UnaskedSwitch | ResponseFault::ClosedBeforeHead | ResponseFault::BodyCut => fault.to_string(),
    }
}

fn is_of_shortage(error: &Error) -> bool {
    let code = match error {
        Error::Io(error) => error.raw_os_error(),
        _ => None,
    };
    matches!(code, Some(libc::EMFILE | libc::ENFILE | libc::EADDRNOTAVAIL | libc::ENOBUFS | libc::ENOMEM))
}

fn explain_io(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".into(),
        io::ErrorKind::ConnectionReset => "connection reset".into(),
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => "no route to it".into(),
        _ => error.to_string(),
    }
}

fn ranges(expect: &[RangeInclusive<u16>]) -> String {
    let one = |range: &RangeInclusive<u16>| match (range.start(), range.end()) {
        (start, end) if start == end => start.to_string(),
        (start, end) => format!("{start}-{end}"),
    };
    expect.iter().map(one).collect::<Vec<_>>().join(",")
}

/// Answers with what the resolver thread has found: probes and requests go to the same addresses, and no prober ever
/// waits for a name server.
#[derive(Debug)]
struct Known(Option<SocketAddr>);

impl Resolver for Known {
    fn resolve(&self, _: &ureq::http::Uri, _: &AgentConfig, _: NextTimeout) -> Result<ResolvedSocketAddrs, Error> {
        let mut resolved = self.empty();
        resolved.push(self.0.ok_or(Error::HostNotFound)?);
        Ok(resolved)
    }
}
