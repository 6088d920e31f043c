//! How long certificates still are valid, and when somebody has to be told.

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::control::timestamp::rfc3339;
use crate::transport::{Certificate, Source, Summary, Validity};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Before their end. Those that are made for a short time are told of in the last third and tenth of it.
const SOON: Duration = Duration::from_secs(14 * 24 * 60 * 60);
const VERY_SOON: Duration = Duration::from_secs(3 * 24 * 60 * 60);
/// No end of its own takes the trust from an authority that is named.
const TAKEN: &str = "; what it vouches for is taken all the same";

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
    pub(super) fn of(validity: Validity, now: SystemTime) -> Self {
        let Validity { not_before: from, not_after: to } = validity;
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

    /// Whether whoever looks at it takes it.
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
    pub(super) fn told(self, validity: Validity) -> String {
        let to = rfc3339(validity.not_after);
        match self {
            Self::NotYetValid => {
                let from = rfc3339(validity.not_before);
                format!("found a certificate that is valid from {from} on, wanted one that is now")
            }
            Self::Expired => format!("found a certificate that expired at {to}, wanted one that is valid now"),
            Self::Valid | Self::Expiring | Self::AboutToExpire => format!("the certificate expires at {to}"),
        }
    }
}

/// A certificate in use whose time is looked at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dated<'c> {
    who: Who<'c>,
    peers: Peers,
    fingerprint: &'c [u8; 32],
    validity: Validity,
}

/// Who is on the other side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Peers {
    Clients,
    Backends,
}

/// What a certificate is for.
#[derive(Clone, Copy, Debug)]
enum Who<'c> {
    /// It is shown.
    Shown(&'c Certificate),
    /// It goes with one that is shown.
    Issuer(&'c Summary, &'c Certificate),
    /// What it has signed is trusted; and the file that it is in.
    Authority(&'c Summary, &'c Path),
}

impl<'c> Dated<'c> {
    /// A chain that these are shown.
    pub(super) fn chain(certificate: &'c Certificate, peers: Peers) -> impl Iterator<Item = Self> {
        let validity = certificate.validity();
        let own = Self { who: Who::Shown(certificate), peers, fingerprint: certificate.fingerprint(), validity };
        let issuer = move |summary| Self::with(summary, Who::Issuer(summary, certificate), peers);
        [own].into_iter().chain(certificate.issuers().iter().map(issuer))
    }

    /// One of those in `file` by whom these are vouched for.
    pub(super) fn authority(summary: &'c Summary, file: &'c Path, peers: Peers) -> Self {
        Self::with(summary, Who::Authority(summary, file), peers)
    }

    fn with(summary: &'c Summary, who: Who<'c>, peers: Peers) -> Self {
        Self { who, peers, fingerprint: &summary.fingerprint, validity: summary.validity }
    }

    /// Its place: the same certificate may have several.
    fn place(&self) -> Place {
        let role = match self.who {
            Who::Shown(_) => 0,
            Who::Issuer(..) => 1,
            Who::Authority(..) => 2,
        };
        (self.peers, role, *self.fingerprint)
    }

    /// What is wrong with it now, if anything is.
    pub(super) fn fault(&self, now: SystemTime) -> Option<String> {
        let age = Age::of(self.validity, now);
        (!age.is_valid()).then(|| match self.who {
            Who::Shown(_) => age.told(self.validity),
            Who::Issuer(issuer, _) => format!("the certificate of {:?}: {}", issuer.subject, age.told(self.validity)),
            Who::Authority(authority, _) => {
                format!("the authority {:?}: {}{TAKEN}", authority.subject, age.told(self.validity))
            }
        })
    }

    fn line(&self, age: Age) -> String {
        let (what, comes_of_it) = match (self.who, self.peers) {
            (Who::Shown(own), Peers::Clients) => {
                (shown(own), "; it is served all the same, and clients will refuse it")
            }
            (Who::Shown(own), Peers::Backends) => {
                (shown(own), "; it is shown all the same, and backends will refuse it")
            }
            (Who::Issuer(issuer, own), Peers::Clients) => {
                (behind(issuer, own), "; it is served all the same, and clients will refuse what it vouches for")
            }
            (Who::Issuer(issuer, own), Peers::Backends) => {
                (behind(issuer, own), "; it is shown all the same, and backends will refuse what it vouches for")
            }
            (Who::Authority(authority, file), _) => {
                let what = format!("the authority {:?} in {}", authority.subject, file.display());
                (what, TAKEN)
            }
        };
        let comes_of_it = if age.is_valid() { "" } else { comes_of_it };
        format!("{what}: {}{comes_of_it}", age.told(self.validity))
    }
}

/// By whom, as what, and its fingerprint.
type Place = (Peers, u8, [u8; 32]);

/// What has been told, of which certificate, and when.
#[derive(Debug, Default)]
pub(super) struct Warnings(HashMap<Place, (Age, SystemTime)>);

impl Warnings {
    /// What is to be told now: of each that isn't valid, or not for long, when that begins and each day.
    pub(super) fn due(&mut self, used: &[Dated], now: SystemTime) -> Vec<String> {
        let mut before = std::mem::take(&mut self.0);
        let mut lines = Vec::new();
        for dated in used {
            let (place, age) = (dated.place(), Age::of(dated.validity, now));
            if age == Age::Valid || self.0.contains_key(&place) {
                continue;
            }
            let is_old = |(told, at): &(Age, SystemTime)| {
                *told == age && !now.duration_since(*at).is_ok_and(|since| since >= DAY)
            };
            let told = before.remove(&place).filter(is_old).unwrap_or_else(|| {
                lines.push(dated.line(age));
                (age, now)
            });
            self.0.insert(place, told);
        }
        lines
    }
}

fn shown(certificate: &Certificate) -> String {
    format!("the certificate of {} {}", owner(certificate), from(certificate))
}

fn behind(issuer: &Summary, certificate: &Certificate) -> String {
    format!("the certificate of {:?} behind that of {} {}", issuer.subject, owner(certificate), from(certificate))
}

fn owner(certificate: &Certificate) -> String {
    let names: Vec<_> = certificate.names().take(3).collect();
    if names.is_empty() { format!("{:?}", certificate.subject()) } else { names.join(", ") }
}

/// Where it is from, for people.
fn from(certificate: &Certificate) -> String {
    match certificate.source() {
        Source::Files { cert, .. } => format!("in {}", cert.display()),
        Source::Acme { directory } => format!("from {directory}"),
        Source::Own => "made here".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
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
            assert_eq!(Age::of(long.validity(), at(hours)), want, "{hours}");
        }
        assert_eq!(Age::of(long.validity(), UNIX_EPOCH - DAY), Age::NotYetValid);
        let short = valid_for(6);
        assert_eq!(
            [1, 4 * 24 + 1, 6 * 24 - 1].map(|hours| Age::of(short.validity(), at(hours))),
            [Age::Valid, Age::Expiring, Age::AboutToExpire]
        );
    }

    #[test]
    fn each_stage_is_told_of_once_a_day() {
        let certificate = valid_for(90);
        let shown: Vec<_> = Dated::chain(&certificate, Peers::Clients).collect();
        let mut warnings = Warnings::default();
        let mut told = |hours| warnings.due(&shown, at(hours)).len();
        assert_eq!([75 * 24, 76 * 24, 76 * 24 + 1, 77 * 24 - 1, 77 * 24].map(&mut told), [0, 1, 0, 0, 1]);
        assert_eq!([87 * 24, 87 * 24 + 1, 90 * 24 + 1, 90 * 24 + 2].map(&mut told), [1, 0, 1, 0]);
        let lines = Warnings::default().due(&shown, at(91 * 24));
        let want = "the certificate of a.example made here: found a certificate that expired at 1970-04-01T00:00:00.000Z, wanted one that is valid now; it is served all the same, and clients will refuse it";
        assert_eq!(lines, [want]);
    }
}
