//! The cryptography that all of the house has.

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};

/// That of `aws-lc-rs`, for those who ask over TLS by other means than this room's.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}
