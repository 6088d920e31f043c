//! Certificates from an authority, by ACME (RFC 8555) and with its advice on renewals (RFC 9773): one for each domain, got and
//! renewed by a thread of its own, while whatever there is is served.
//!
//! Pure are what is signed (`jose.rs`), how an order goes (`order.rs`), and when something is due (`renewal.rs`); `session.rs`
//! and `attempt.rs` ask the authority, through `http.rs`; `cache.rs` keeps what must outlive the process; `keeper.rs` looks after
//! it all.

mod attempt;
mod cache;
mod encoding;
mod error;
mod http;
mod jose;
mod keeper;
mod made;
mod moment;
mod order;
mod renewal;
mod session;
mod site;
#[cfg(test)]
mod tests;
mod wire;

pub use error::{CacheError, OpenError};
pub use keeper::{Keeper, Keeping};
pub use site::Site;

use crate::config::Acme;

/// Whether the cache of this configuration can be used; makes nothing that stays.
///
/// # Errors
/// It can't, and why.
pub fn check(settings: &Acme) -> Result<(), CacheError> {
    cache::Cache::check(&settings.cache, &settings.directory)
}
