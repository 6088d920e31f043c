//! What authorities say (RFC 8555 §7.1, RFC 9773 §4.2), as far as it is made use of.

use std::fmt;

use serde::Deserialize;

/// Of a text that an authority sent, what is told at most.
const TOLD_CHARACTERS_MAX: usize = 500;
/// Of its subproblems.
const SUBPROBLEMS_MAX: usize = 10;
/// What problem types begin with.
const ERROR: &str = "urn:ietf:params:acme:error:";

/// Where what is.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Directory {
    pub(super) new_nonce: String,
    pub(super) new_account: String,
    pub(super) new_order: String,
    /// None: it says nothing about renewals.
    #[serde(default)]
    pub(super) renewal_info: Option<String>,
    #[serde(default)]
    pub(super) meta: Meta,
}

/// What it is like.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Meta {
    #[serde(default)]
    pub(super) terms_of_service: Option<String>,
    /// It takes only those whom it knows otherwise.
    #[serde(default)]
    pub(super) external_account_required: bool,
}

/// Where an order, an authorization or a challenge stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Status {
    Pending,
    Ready,
    Processing,
    Valid,
    Invalid,
    Deactivated,
    Expired,
    Revoked,
    #[serde(other)]
    Unknown,
}

/// An order for a certificate.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Order {
    pub(super) status: Status,
    #[serde(default)]
    pub(super) authorizations: Vec<String>,
    pub(super) finalize: String,
    #[serde(default)]
    pub(super) certificate: Option<String>,
    #[serde(default)]
    pub(super) error: Option<Problem>,
}

/// What shows that the account may have a certificate for a name.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Authorization {
    pub(super) status: Status,
    pub(super) identifier: Identifier,
    #[serde(default)]
    pub(super) challenges: Vec<Challenge>,
}

/// What a certificate is for.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Identifier {
    pub(super) value: String,
}

/// One way to show it.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Challenge {
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) url: String,
    pub(super) status: Status,
    #[serde(default)]
    pub(super) token: Option<String>,
    #[serde(default)]
    pub(super) error: Option<Problem>,
}

/// When a certificate should be renewed.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RenewalInfo {
    pub(super) suggested_window: SuggestedWindow,
    #[serde(default, rename = "explanationURL")]
    pub(super) explanation_url: Option<String>,
}

/// Both ends in RFC 3339.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct SuggestedWindow {
    pub(super) start: String,
    pub(super) end: String,
}

/// Why it doesn't (RFC 9457, RFC 8555 §6.7).
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub(super) struct Problem {
    #[serde(default, rename = "type")]
    kind: String,
    #[serde(default)]
    title: Option<String>,
    #[serde(default)]
    detail: Option<String>,
    #[serde(default)]
    instance: Option<String>,
    #[serde(default)]
    identifier: Option<SubjectOf>,
    #[serde(default)]
    subproblems: Vec<Problem>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct SubjectOf {
    value: String,
}

impl Problem {
    /// Whether it is of this type, which is named without what all of them begin with.
    pub(super) fn is(&self, name: &str) -> bool {
        self.kind.strip_prefix(ERROR) == Some(name)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(SubjectOf { value }) = &self.identifier {
            write!(f, "for {}: ", told(value))?;
        }
        let kind = self.kind.strip_prefix(ERROR).unwrap_or(&self.kind);
        f.write_str(&told(if kind.is_empty() { "a problem without a type" } else { kind }))?;
        for text in [&self.title, &self.detail].into_iter().flatten() {
            write!(f, ": {}", told(text))?;
        }
        if let Some(instance) = &self.instance {
            write!(f, " (see {})", told(instance))?;
        }
        for problem in self.subproblems.iter().take(SUBPROBLEMS_MAX) {
            write!(f, "; {problem}")?;
        }
        Ok(())
    }
}

/// What came from elsewhere, as it is fit for a line of the log.
pub(super) fn told(text: &str) -> String {
    let mut line: String =
        text.chars().take(TOLD_CHARACTERS_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().nth(TOLD_CHARACTERS_MAX).is_some() {
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read<T: for<'a> Deserialize<'a>>(text: &str) -> T {
        serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    #[test]
    fn examples_of_rfc_8555_are_read() {
        let directory: Directory = read(
            r#"{"newNonce": "https://example.com/acme/new-nonce", "newAccount": "https://example.com/acme/new-account",
            "newOrder": "https://example.com/acme/new-order", "newAuthz": "https://example.com/acme/new-authz",
            "revokeCert": "https://example.com/acme/revoke-cert", "keyChange": "https://example.com/acme/key-change",
            "meta": {"termsOfService": "https://example.com/acme/terms/2017-5-30", "website": "https://www.example.com/",
            "caaIdentities": ["example.com"], "externalAccountRequired": false}}"#,
        );
        assert!(directory.renewal_info.is_none() && !directory.meta.external_account_required);
        let order: Order = read(
            r#"{"status": "valid", "expires": "2016-01-20T14:09:07.99Z", "identifiers":
            [{"type": "dns", "value": "www.example.org"}], "notBefore": "2016-01-01T00:00:00Z",
            "authorizations": ["https://example.com/acme/authz/PAniVnsZcis"],
            "finalize": "https://example.com/acme/order/TOlocE8rfgo/finalize",
            "certificate": "https://example.com/acme/cert/mAt3xBGaobw"}"#,
        );
        assert_eq!((order.status, order.authorizations.len()), (Status::Valid, 1));
        let authorization: Authorization = read(
            r#"{"status": "pending", "expires": "2016-01-02T14:09:30Z", "identifier": {"type": "dns", "value": "www.example.org"},
            "challenges": [{"type": "http-01", "url": "https://example.com/acme/chall/prV_B7yEyA4", "status": "pending",
            "token": "DGyRejmCefe7v4NfDGDKfA"}, {"type": "dns-01", "url": "u", "status": "one of tomorrow's", "token": "t"}]}"#,
        );
        assert_eq!(authorization.challenges[0].token.as_deref(), Some("DGyRejmCefe7v4NfDGDKfA"));
        assert_eq!(authorization.challenges[1].status, Status::Unknown);
        let info: RenewalInfo = read(
            r#"{"suggestedWindow": {"start": "2025-01-02T04:00:00Z", "end": "2025-01-03T04:00:00Z"},
            "explanationURL": "https://acme.example.com/docs/ari"}"#,
        );
        assert!(info.explanation_url.is_some());
    }

    #[test]
    fn a_problem_is_told_in_full_on_one_line_of_bounded_length() {
        let problem: Problem = read(
            r#"{"type": "urn:ietf:params:acme:error:malformed", "detail": "Some of the identifiers\nrequested were rejected",
            "subproblems": [{"type": "urn:ietf:params:acme:error:rejectedIdentifier", "detail": "This CA will not issue",
            "identifier": {"type": "dns", "value": "_example.org"}}], "status": 403}"#,
        );
        assert!(problem.is("malformed") && !problem.is("badNonce"));
        assert_eq!(
            problem.to_string(),
            "malformed: Some of the identifiers requested were rejected; for _example.org: rejectedIdentifier: This CA will not issue"
        );
        let long = Problem { kind: "x".repeat(10_000), ..Problem::default() };
        assert_eq!(long.to_string().chars().count(), TOLD_CHARACTERS_MAX + 1);
        assert_eq!(Problem::default().to_string(), "a problem without a type");
    }
}
