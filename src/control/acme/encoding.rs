//! Bytes as texts: base64url without padding (RFC 7515 §2), and PEM (RFC 7468).

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

/// Characters of a line of PEM.
const LINE: usize = 64;

/// The bytes as base64url, without padding.
pub(super) fn base64url(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Whether a text is of that alphabet alone, as a challenge's token has to be (RFC 8555 §8.3).
pub(super) fn is_base64url(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

/// One block.
pub(super) fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let mut out = format!("-----BEGIN {label}-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, behind) = rest.split_at(rest.len().min(LINE));
        out.push_str(line);
        out.push('\n');
        rest = behind;
    }
    out.push_str("-----END ");
    out.push_str(label);
    out.push_str("-----\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport;

    #[test]
    fn a_block_is_written_in_lines_and_read_again() {
        assert_eq!(
            pem("PRIVATE KEY", b"0123456789"),
            "-----BEGIN PRIVATE KEY-----\nMDEyMzQ1Njc4OQ==\n-----END PRIVATE KEY-----\n"
        );
        for length in [1, 47, 48, 49, 96, 300] {
            let text = pem("CERTIFICATE", &vec![7; length]);
            assert!(text.lines().all(|line| line.len() <= LINE), "{text}");
            assert_eq!(transport::pem::certificates(text.as_bytes()), Ok(vec![vec![7; length]]));
        }
    }

    #[test]
    fn base64url_has_no_padding_and_its_own_two_characters() {
        // RFC 7515, appendix C.
        assert_eq!(base64url([3, 236, 255, 224, 193]), "A-z_4ME");
        assert!(is_base64url("A-z_4ME") && !is_base64url("") && !is_base64url("a/b") && !is_base64url("a="));
    }
}
