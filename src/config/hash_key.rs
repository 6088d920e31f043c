//! What a request is told apart by: `hash_key`, and `rate_limit.key`.

use super::checked::HashKey;
use super::values::{NAME_BYTES_MAX, is_token};

/// None where the text is no key.
pub(super) fn hash_key(text: &str) -> Option<HashKey> {
    let parameter = |name: &&str| {
        let fits = |byte: u8| byte.is_ascii_graphic() && !b"&=#".contains(&byte);
        (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(fits)
    };
    match text.split_once(':') {
        None if text == "client-ip" => Some(HashKey::ClientIp),
        None if text == "path" => Some(HashKey::Path),
        Some(("header", name)) => Some(name).filter(is_token).map(|name| HashKey::Header(name.to_owned())),
        Some(("cookie", name)) => Some(name).filter(is_token).map(|name| HashKey::Cookie(name.to_owned())),
        Some(("query", name)) => Some(name).filter(parameter).map(|name| HashKey::Query(name.to_owned())),
        _ => None,
    }
}
