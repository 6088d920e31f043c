//! Alerts (RFC 8446 §6): by which a session ended, and how one looks before there is a key.

use rustls::{AlertDescription, Error};

use crate::observe::HandshakeEnd;

/// For the name that a client asks for there is no certificate (RFC 6066 §3).
pub(super) const UNRECOGNIZED_NAME: u8 = 112;

/// A fatal one in clear: a record's head, its level, and which it is.
const IN_CLEAR: [u8; 6] = [21, 3, 3, 0, 2, 2];

/// The alert at the end of bytes that are on their way, if they end with one in clear.
pub(super) fn in_clear(bytes: &mut [u8]) -> Option<&mut u8> {
    let (head, alert) = bytes.last_chunk_mut::<7>()?.split_at_mut(6);
    if head == IN_CLEAR { alert.first_mut() } else { None }
}

/// How a handshake ended that failed so; `told` is the alert that was sent, as far as that can be seen.
pub(super) fn end_of(error: &Error, told: Option<u8>) -> HandshakeEnd {
    match error {
        Error::AlertReceived(alert) => HandshakeEnd::Declined(u8::from(*alert)),
        error => HandshakeEnd::Refused(told.unwrap_or_else(|| u8::from(alert_of(error)))),
    }
}

/// What rustls sends for it, behind the point from which nobody can see it.
fn alert_of(error: &Error) -> AlertDescription {
    match error {
        Error::InvalidCertificate(why) => AlertDescription::from(why.clone()),
        Error::NoCertificatesPresented => AlertDescription::CertificateRequired,
        Error::DecryptError => AlertDescription::BadRecordMac,
        Error::PeerSentOversizedRecord => AlertDescription::RecordOverflow,
        Error::InvalidMessage(_) => AlertDescription::DecodeError,
        Error::InappropriateMessage { .. } | Error::InappropriateHandshakeMessage { .. } => {
            AlertDescription::UnexpectedMessage
        }
        Error::PeerIncompatible(_) => AlertDescription::HandshakeFailure,
        Error::NoApplicationProtocol => AlertDescription::NoApplicationProtocol,
        Error::PeerMisbehaved(_) => AlertDescription::IllegalParameter,
        _ => AlertDescription::InternalError,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alert_in_clear_is_found_at_the_end_alone() {
        assert_eq!(in_clear(&mut [1, 2, 21, 3, 3, 0, 2, 2, 40]), Some(&mut 40));
        assert_eq!(in_clear(&mut [21, 3, 3, 0, 2, 2, 40, 1]), None);
        assert_eq!(in_clear(&mut [3, 3, 0, 2, 2, 40]), None);
    }

    #[test]
    fn what_was_seen_to_be_sent_counts_and_else_what_goes_with_the_failure() {
        let refused = Error::InvalidCertificate(rustls::CertificateError::Revoked);
        assert_eq!(end_of(&refused, None), HandshakeEnd::Refused(44));
        assert_eq!(end_of(&refused, Some(112)), HandshakeEnd::Refused(112));
        assert_eq!(end_of(&Error::NoCertificatesPresented, None), HandshakeEnd::Refused(116));
        assert_eq!(end_of(&Error::AlertReceived(AlertDescription::UnknownCA), Some(1)), HandshakeEnd::Declined(48));
    }
}
