//! Why an attempt to get a certificate has come to nothing.

use std::fmt;
use std::path::PathBuf;

use super::order::OrderError;
use super::renewal::Concerns;
use super::wire::Problem;
use crate::transport::CertificateError;
use crate::transport::pem::PemError;

/// Why it has. What an authority said is told in full.
#[derive(Debug)]
pub(super) enum AcmeError {
    /// No answer: refused, not found, not verified, too slow, cut.
    NoAnswer { url: String, reason: String },
    /// An answer that isn't what was asked for.
    Unexpected { url: String, status: u16, what: String },
    /// The authority says why it doesn't.
    Refused { url: String, status: u16, problem: Box<Problem>, retry_after: Option<i64> },
    /// The authority takes only those whom it knows otherwise.
    NeedsExternalAccount,
    /// The order has come to nothing.
    Order(OrderError),
    /// It took longer than is waited for.
    TooSlow { seconds: u64 },
    /// What the authority calls a certificate can't be served.
    Pem(PemError),
    /// The same.
    Certificate(CertificateError),
    /// It isn't for the name that was ordered, or isn't valid now.
    NotAsOrdered(&'static str),
    /// The cache can't be read or written.
    Cache(CacheError),
    /// No key, or no signature, is to be had.
    NoSignature,
    /// What can't be made, and why.
    NotMade(String),
    /// The account has sent as many orders as it should for now.
    Spent { until: i64 },
    /// The process ends.
    Stopped,
}

/// What is wrong with the cache.
#[derive(Debug)]
pub struct CacheError {
    /// Where.
    pub path: PathBuf,
    /// What was to be done, such as `write`.
    pub doing: &'static str,
    /// The system's reason.
    pub reason: String,
}

/// Why certificates can't be looked after.
#[derive(Debug)]
pub enum OpenError {
    /// The cache can't be read or written.
    Cache(CacheError),
    /// No certificate can be made to be served until there is a better one.
    NoPlaceholder(String),
}

impl CacheError {
    /// The same without its place.
    pub fn because(&self) -> String {
        format!("can't {} it: {}", self.doing, self.reason)
    }
}

impl AcmeError {
    /// What it has to do with, as far as how long is waited is concerned.
    pub(super) fn concerns(&self) -> Concerns {
        match self {
            Self::Refused { problem, .. } if problem.is("rateLimited") => Concerns::Limit,
            Self::Refused { status: 429, .. } => Concerns::Limit,
            Self::Refused { status: 500.., .. }
            | Self::NoAnswer { .. }
            | Self::Unexpected { .. }
            | Self::NeedsExternalAccount
            | Self::Cache(_)
            | Self::NoSignature
            | Self::Spent { .. }
            | Self::Stopped => Concerns::All,
            Self::Refused { problem, .. } => {
                let of_account = ["accountDoesNotExist", "userActionRequired", "badNonce", "unsupportedContact"];
                let is_any = of_account.iter().any(|name| problem.is(name));
                if is_any || problem.is("invalidContact") { Concerns::All } else { Concerns::Domain }
            }
            Self::Order(_)
            | Self::TooSlow { .. }
            | Self::Pem(_)
            | Self::Certificate(_)
            | Self::NotAsOrdered(_)
            | Self::NotMade(_) => Concerns::Domain,
        }
    }

    /// How long the authority asks to wait, in seconds.
    pub(super) fn retry_after(&self) -> Option<i64> {
        match self {
            Self::Refused { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// Whether the authority gave this type of problem.
    pub(super) fn is(&self, name: &str) -> bool {
        matches!(self, Self::Refused { problem, .. } if problem.is(name))
    }
}

impl fmt::Display for AcmeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoAnswer { url, reason } => write!(f, "no answer from {url}: {reason}"),
            Self::Unexpected { url, status, what } => write!(f, "{url} answered {status}: {what}"),
            Self::Refused { url, status, problem, .. } => write!(f, "{url} answered {status}: {problem}"),
            Self::NeedsExternalAccount => f.write_str(
                "this authority takes only accounts that it has given a key to (external account binding), which isn't supported",
            ),
            Self::Order(error) => error.fmt(f),
            Self::TooSlow { seconds } => write!(f, "the order hasn't come to an end within {seconds} s"),
            Self::Pem(error) => write!(f, "the authority's certificate: {error}"),
            Self::Certificate(error) => write!(f, "the authority's certificate can't be served: {error}"),
            Self::NotAsOrdered(what) => write!(f, "the authority's certificate {what}"),
            Self::Cache(error) => error.fmt(f),
            Self::NoSignature => f.write_str("no key or signature is to be had"),
            Self::NotMade(what) => f.write_str(what),
            Self::Spent { .. } => f.write_str("as many orders were sent as an account should, for now"),
            Self::Stopped => f.write_str("the process ends"),
        }
    }
}

impl fmt::Display for CacheError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "can't {} {}: {}", self.doing, self.path.display(), self.reason)
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cache(error) => error.fmt(f),
            Self::NoPlaceholder(reason) => f.write_str(reason),
        }
    }
}

impl std::error::Error for AcmeError {}

impl std::error::Error for OpenError {}

impl From<CacheError> for OpenError {
    fn from(error: CacheError) -> Self {
        Self::Cache(error)
    }
}

impl std::error::Error for CacheError {}

impl From<CacheError> for AcmeError {
    fn from(error: CacheError) -> Self {
        Self::Cache(error)
    }
}

impl From<OrderError> for AcmeError {
    fn from(error: OrderError) -> Self {
        Self::Order(error)
    }
}

impl From<super::jose::NoSignature> for AcmeError {
    fn from(_: super::jose::NoSignature) -> Self {
        Self::NoSignature
    }
}
