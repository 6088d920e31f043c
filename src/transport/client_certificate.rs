//! What a client's certificate says of its owner, as text that fits into a field and can't be mistaken.

use std::fmt::Write;

use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

/// Of a client that may do without one, and does.
pub(super) const NONE: &str = "none";

/// Types of attributes that have a short name (RFC 4514 §3, and what is seen beside them).
const SHORT_NAMES: &[(&str, &str)] = &[
    ("2.5.4.3", "CN"),
    ("2.5.4.5", "serialNumber"),
    ("2.5.4.6", "C"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.9", "STREET"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("0.9.2342.19200300.100.1.1", "UID"),
    ("1.2.840.113549.1.9.1", "emailAddress"),
];

/// The verdict and the subject of a certificate, in DER, that was verified: `verified;subject="CN=a,O=b"`. A token with a
/// parameter (RFC 9651 §3.3) whose string is the name as RFC 4514 writes it, in visible ASCII.
pub(super) fn verified(der: &[u8]) -> String {
    let mut text = "verified;subject=\"".to_owned();
    if let Ok((_, certificate)) = X509Certificate::from_der(der) {
        for byte in distinguished_name(certificate.subject()).bytes() {
            if matches!(byte, b'"' | b'\\') {
                text.push('\\');
            }
            text.push(char::from(byte));
        }
    }
    text.push('"');
    text
}

/// RFC 4514 §2.1: the last comes first.
fn distinguished_name(name: &X509Name<'_>) -> String {
    let parts: Vec<_> = name.iter_rdn().map(|part| part.iter().map(attribute).collect::<Vec<_>>().join("+")).collect();
    parts.into_iter().rev().collect::<Vec<_>>().join(",")
}

fn attribute(attribute: &AttributeTypeAndValue<'_>) -> String {
    let kind = attribute.attr_type().to_id_string();
    let short = SHORT_NAMES.iter().find(|(id, _)| *id == kind).map(|(_, short)| *short);
    match (short, attribute.as_str()) {
        (Some(short), Ok(value)) => format!("{short}={}", escaped(value)),
        // RFC 4514 §2.4: what isn't known as text is written as its bytes.
        (short, value) => {
            let bytes = value.map_or_else(|_| attribute.attr_value().data, str::as_bytes);
            let mut text = format!("{}=#", short.unwrap_or(&kind));
            for byte in bytes {
                push_hex(&mut text, *byte);
            }
            text
        }
    }
}

/// RFC 4514 §2.4, and as hex whatever isn't visible ASCII, so that a name can't end its field or its line.
fn escaped(value: &str) -> String {
    let last = value.len().saturating_sub(1);
    let mut text = String::with_capacity(value.len());
    for (at, byte) in value.bytes().enumerate() {
        match byte {
            b'"' | b'+' | b',' | b';' | b'<' | b'=' | b'>' | b'\\' => text.extend(['\\', char::from(byte)]),
            b' ' | b'#' if at == 0 => text.extend(['\\', char::from(byte)]),
            b' ' if at == last => text.push_str("\\ "),
            b' '..=b'~' => text.push(char::from(byte)),
            _ => {
                text.push('\\');
                push_hex(&mut text, byte);
            }
        }
    }
    text
}

fn push_hex(text: &mut String, byte: u8) {
    // Writing to a string can't fail.
    let _ = write!(text, "{byte:02X}");
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};

    use super::*;

    fn shown(parts: &[(DnType, &str)]) -> String {
        let mut name = DistinguishedName::new();
        for (kind, value) in parts {
            name.push(kind.clone(), *value);
        }
        let mut params = CertificateParams::default();
        params.distinguished_name = name;
        let key = KeyPair::generate().expect("a key");
        verified(params.self_signed(&key).expect("a certificate").der())
    }

    #[test]
    fn a_name_is_written_as_rfc_4514_has_it_the_last_part_first() {
        let parts = [(DnType::OrganizationName, "Example"), (DnType::CommonName, "alice")];
        assert_eq!(shown(&parts), r#"verified;subject="CN=alice,O=Example""#);
        assert_eq!(shown(&[]), r#"verified;subject="""#);
        assert_eq!(shown(&[(DnType::CustomDnType(vec![1, 2, 3]), "ab")]), r#"verified;subject="1.2.3=#6162""#);
    }

    #[test]
    fn a_name_can_not_be_mistaken_for_another_nor_end_its_field() {
        let parts = [(DnType::CommonName, "a\",O=Root\r\nX-Admin: 1")];
        assert_eq!(
            shown(&parts),
            r#"verified;subject="CN=a\\\",O\\=Root\\0D\\0AX-Admin: 1""#.replace("\",O", "\"\\\\,O")
        );
        assert_eq!(shown(&[(DnType::CommonName, " #é ")]), r#"verified;subject="CN=\\ #\\C3\\A9\\ ""#);
        assert_eq!(verified(b"no certificate"), r#"verified;subject="""#);
    }
}
