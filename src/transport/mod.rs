//! What lives here: the kinds of streams beneath the proxy. [`Layered`] is a world over a world, and gives the proxy streams of
//! any kind behind the same traits: the proxy knows nothing of records, this room nothing of requests. A plain stream costs
//! nothing here; one with TLS holds its session, and buffers only while bytes are on their way.
//!
//! `session.rs` alone speaks TLS, by rustls, and knows no socket; `certificate.rs` and `store.rs` have what it shows; `tls.rs`
//! joins it to a socket; `handshake.rs` begins handshakes, `places.rs` has who is let in and who is next, and `turns.rs` how many handshakes one turn of a worker is for.

mod alert;
mod certificate;
pub mod client;
mod client_certificate;
mod greeting;
mod handshake;
mod hello;
mod layer;
mod layered;
pub mod pem;
mod places;
mod provider;
mod server;
mod service;
mod session;
mod store;
#[cfg(test)]
mod tests;
mod tickets;
mod tls;
mod turns;
mod world;

pub use certificate::{Certificate, CertificateError, Source, Summary, Validity};
pub use handshake::TlsRules;
pub use layer::Layer;
pub use layered::LayeredService;
pub use provider::provider;
pub use server::{ClientRules, ClientRulesError, ServerSettings, TlsServer};
pub use store::{ACME_TLS_ALPN, CertificateStore, Certificates, Part};
pub use tickets::{TicketKey, TicketKeys, TicketKeysError};
pub use tls::Tls;
pub use world::{Layered, Stored};
