//! How long certificates still are valid, and when somebody has to be told.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::control::timestamp::rfc3339;
use crate::transport::Certificate;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Before their end. Those that are made for a short time are told of in the last third and tenth of it.
const SOON: Duration = Duration::from_secs(14 * 24 * 60 * 60);
const VERY_SOON: Duration = Duration::from_secs(3 * 24 * 60 * 60);

/// Where a certificate is in its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Age {
    NotYetValid,
    Valid,
    /// For 14 days at most.
    Expiring,
    /// For 3 days at most.
    AboutToExpire,
    Expired,
}

impl Age {
    pub(super) fn of(certificate: &Certificate, now: SystemTime) -> Self {
        let (from, to) = (certificate.not_before(), certificate.not_after());
        if now < from {
            return Self::NotYetValid;
        }
        let whole = to.duration_since(from).unwrap_or_default();
        match to.duration_since(now) {
            Err(_) => Self::Expired,
            Ok(left) if left <= VERY_SOON.min(whole / 10) => Self::AboutToExpire,
            Ok(left) if left <= SOON.min(whole / 3) => Self::Expiring,
            Ok(_) => Self::Valid,
        }
    }

    /// Whether clients take it.
    pub(super) const fn is_valid(self) -> bool {
        !matches!(self, Self::NotYetValid | Self::Expired)
    }

    /// As the admin API has it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::NotYetValid => "not_yet_valid",
            Self::Valid => "valid",
            Self::Expiring | Self::AboutToExpire => "expiring",
            Self::Expired => "expired",
        }
    }

    /// What is to be told of one that isn't valid, or not for long.
    pub(super) fn told(self, certificate: &Certificate) -> String {
        let to = rfc3339(certificate.not_after());
        match self {
            Self::NotYetValid => {
                format!(
                    "found a certificate that is valid from {} on, wanted one that is now",
                    rfc3339(certificate.not_before())
                )
            }
            Self::Expired => format!("found a certificate that expired at {to}, wanted one that is valid now"),
            Self::Valid | Self::Expiring | Self::AboutToExpire => format!("the certificate expires at {to}"),
        }
    }
}

/// What has been told, of which certificate (by its fingerprint), and when.
#[derive(Debug, Default)]
pub(super) struct Warnings(HashMap<[u8; 32], (Age, SystemTime)>);

impl Warnings {
    /// What is to be told now: of each that isn't valid, or not for long, when that begins and each day.
    pub(super) fn due(&mut self, shown: &[Arc<Certificate>], now: SystemTime) -> Vec<String> {
        self.0.retain(|fingerprint, _| shown.iter().any(|one| one.fingerprint() == fingerprint));
        let mut lines = Vec::new();
        for certificate in shown {
            let age = Age::of(certificate, now);
            let told = self.0.get(certificate.fingerprint());
            let is_news = |(before, at): &(Age, SystemTime)| {
                *before != age || now.duration_since(*at).is_ok_and(|since| since >= DAY)
            };
            if age != Age::Valid && told.is_none_or(is_news) {
                self.0.insert(*certificate.fingerprint(), (age, now));
                lines.push(line(certificate, age));
            }
        }
        lines
    }
}

fn line(certificate: &Certificate, age: Age) -> String {
    let names: Vec<_> = certificate.names().take(3).collect();
    let served = if age.is_valid() { "" } else { "; it is served all the same, and clients will refuse it" };
    format!("the certificate of {} {}: {}{served}", names.join(", "), from(certificate), age.told(certificate))
}

/// Where it is from, for people.
fn from(certificate: &Certificate) -> String {
    use crate::transport::Source;
    match certificate.source() {
        Source::Files { cert, .. } => format!("in {}", cert.display()),
        Source::Acme { directory } => format!("from {directory}"),
        Source::Own => "made here".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    /// One that is valid for so many days from the start of the epoch on.
    fn valid_for(days: u64) -> Arc<Certificate> {
        let mut parameters = rcgen::CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
        let day = |day: u64| (UNIX_EPOCH + DAY * u32::try_from(day).unwrap()).into();
        (parameters.not_before, parameters.not_after) = (day(0), day(days));
        let key = rcgen::KeyPair::generate().unwrap();
        let made = parameters.self_signed(&key).unwrap();
        Arc::new(Certificate::of(vec![made.der().to_vec()], key.serialize_der(), None).unwrap())
    }

    fn at(hours: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(hours * 3600)
    }

    #[test]
    fn an_end_is_near_at_14_and_at_3_days_and_sooner_for_the_short_lived() {
        let long = valid_for(90);
        for (hours, want) in [
            (0, Age::Valid),
            (76 * 24 - 1, Age::Valid),
            (76 * 24, Age::Expiring),
            (87 * 24 - 1, Age::Expiring),
            (87 * 24, Age::AboutToExpire),
            (90 * 24, Age::AboutToExpire),
            (90 * 24 + 1, Age::Expired),
        ] {
            assert_eq!(Age::of(&long, at(hours)), want, "{hours}");
        }
        assert_eq!(Age::of(&long, UNIX_EPOCH - DAY), Age::NotYetValid);
        let short = valid_for(6);
        assert_eq!(
            [1, 4 * 24 + 1, 6 * 24 - 1].map(|hours| Age::of(&short, at(hours))),
            [Age::Valid, Age::Expiring, Age::AboutToExpire]
        );
    }

    #[test]
    fn each_stage_is_told_of_once_a_day() {
        let shown = [valid_for(90)];
        let mut warnings = Warnings::default();
        let mut told = |hours| warnings.due(&shown, at(hours)).len();
        assert_eq!([75 * 24, 76 * 24, 76 * 24 + 1, 77 * 24 - 1, 77 * 24].map(&mut told), [0, 1, 0, 0, 1]);
        assert_eq!([87 * 24, 87 * 24 + 1, 90 * 24 + 1, 90 * 24 + 2].map(&mut told), [1, 0, 1, 0]);
        let lines = Warnings::default().due(&shown, at(91 * 24));
        let want = "the certificate of a.example made here: found a certificate that expired at 1970-04-01T00:00:00.000Z, wanted one that is valid now; it is served all the same, and clients will refuse it";
        assert_eq!(lines, [want]);
    }
}
