//! An authority for tests: it speaks as much of RFC 8555 and RFC 9773 as is asked of one, is strict in what the client has to
//! keep to, and does what no real one can be made to do.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use parking_lot::Mutex;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, PublicKeyData};
use serde_json::{Value, json};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;

use crate::control::acme::encoding::pem;
use crate::control::timestamp::rfc3339;

/// What it does beside what it should.
#[derive(Clone, Default)]
pub(in super::super) struct Manners {
    /// So many signed requests are told that their nonce is bad.
    pub(in super::super) bad_nonces: u32,
    /// Orders are refused with this status, type of problem, and `Retry-After`.
    pub(in super::super) refuses: Option<(u16, &'static str, Option<u32>)>,
    /// Orders that replace another are refused.
    pub(in super::super) dislikes_replacing: bool,
    /// Certificates should be renewed within so many seconds from now; None: it has no advice.
    pub(in super::super) window: Option<(i64, i64)>,
    /// How many looks at an authorization find it pending.
    pub(in super::super) looks: u32,
    /// It wants to know its accounts otherwise.
    pub(in super::super) external: bool,
    /// Its answers to this path are that long, and nothing else.
    pub(in super::super) long: Option<&'static str>,
    /// It sends the certificate of another key.
    pub(in super::super) sends_another: bool,
}

type Validate = Box<dyn Fn(&str, &str) -> Option<String> + Send>;

struct State {
    manners: Manners,
    nonces: BTreeSet<String>,
    nonces_made: u64,
    /// By URL: the key, and where its owner is written to.
    accounts: BTreeMap<String, (Value, Value)>,
    orders: Vec<Ordered>,
    /// What was asked, such as `POST /order`.
    asked: Vec<String>,
    validate: Validate,
}

struct Ordered {
    domain: String,
    replaces: Option<String>,
    looks: u32,
    is_answered: bool,
    failed: bool,
    chain: Option<String>,
}

/// A running one. Its thread ends with the process.
#[derive(Clone)]
pub(in super::super) struct Authority {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    issuer: Arc<(Issuer<'static, KeyPair>, String)>,
}

struct Answer {
    status: u16,
    kind: &'static str,
    fields: Vec<(&'static str, String)>,
    body: String,
}

/// The key of a request for a certificate.
struct Asked(Vec<u8>);

impl PublicKeyData for Asked {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl Authority {
    /// One that gets what is shown for a domain and a token by `validate`.
    pub(in super::super) fn start(
        manners: Manners,
        validate: impl Fn(&str, &str) -> Option<String> + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("params");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, "Authority of the tests");
        let root = pem("CERTIFICATE", params.self_signed(&key).expect("a root").der());
        let state = State {
            manners,
            nonces: BTreeSet::new(),
            nonces_made: 0,
            accounts: BTreeMap::new(),
            orders: Vec::new(),
            asked: Vec::new(),
            validate: Box::new(validate),
        };
        let address = listener.local_addr().expect("an address");
        let issuer = Arc::new((Issuer::new(params, key), root));
        let authority = Self { address, state: Arc::new(Mutex::new(state)), issuer };
        let serving = authority.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let authority = serving.clone();
                thread::spawn(move || authority.serve(client));
            }
        });
        authority
    }

    pub(in super::super) fn directory(&self) -> String {
        self.url("/directory")
    }

    pub(in super::super) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(in super::super) fn change(&self, change: impl FnOnce(&mut Manners)) {
        change(&mut self.state.lock().manners);
    }

    pub(in super::super) fn forget_accounts(&self) {
        self.state.lock().accounts.clear();
    }

    /// How often that was asked, such as `POST /new-order`.
    pub(in super::super) fn asked(&self, what: &str) -> usize {
        self.state.lock().asked.iter().filter(|asked| asked.as_str() == what).count()
    }

    /// What the orders said that they replace.
    pub(in super::super) fn replaced(&self) -> Vec<Option<String>> {
        self.state.lock().orders.iter().map(|order| order.replaces.clone()).collect()
    }

    /// Where the accounts are written to.
    pub(in super::super) fn contacts(&self) -> Vec<Value> {
        self.state.lock().accounts.values().map(|(_, contact)| contact.clone()).collect()
    }

    fn serve(&self, mut client: TcpStream) {
        let Ok(reading) = client.try_clone() else { return };
        let mut reader = BufReader::new(reading);
        let (mut first, mut length) = (String::new(), 0);
        let _ = reader.read_line(&mut first);
        loop {
            let mut line = String::new();
            match reader.read_line(&mut line) {
                Ok(n) if n > 2 => {}
                _ => break,
            }
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse().unwrap_or(0);
            }
        }
        let mut body = vec![0; length];
        if reader.read_exact(&mut body).is_err() {
            return;
        }
        let mut words = first.split(' ');
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let answer = self.answer(method, path, &body);
        let mut head = format!("HTTP/1.1 {} X\r\nContent-Type: {}\r\n", answer.status, answer.kind);
        for (name, value) in &answer.fields {
            let _ = write!(head, "{name}: {value}\r\n");
        }
        let _ = write!(head, "Content-Length: {}\r\nConnection: close\r\n\r\n", answer.body.len());
        let body = if method == "HEAD" { "" } else { &answer.body };
        let _ = client.write_all((head + body).as_bytes());
    }

    fn answer(&self, method: &str, path: &str, body: &[u8]) -> Answer {
        let mut state = self.state.lock();
        state.asked.push(format!("{method} {path}"));
        let mut answer = if state.manners.long == Some(path) {
            json_answer(200, &Value::from("x".repeat(300_000)))
        } else {
            match (method, path) {
                ("GET", "/directory") => json_answer(200, &self.directory_of(&state.manners)),
                ("HEAD", "/new-nonce") => json_answer(200, &Value::Null),
                ("GET", path) if path.starts_with("/advice/") => self.advice(&state.manners),
                ("POST", path) => match verified(&mut state, &self.url(path), body) {
                    Ok((account, payload)) => self.act(&mut state, path, &account, &payload),
                    Err(refusal) => refusal,
                },
                _ => problem(404, "malformed", "no such place"),
            }
        };
        if method != "GET" {
            state.nonces_made += 1;
            let nonce = format!("nonce-{}", state.nonces_made);
            state.nonces.insert(nonce.clone());
            answer.fields.push(("Replay-Nonce", nonce));
        }
        answer
    }

    fn directory_of(&self, manners: &Manners) -> Value {
        let mut directory = json!({
            "newNonce": self.url("/new-nonce"), "newAccount": self.url("/new-account"), "newOrder": self.url("/new-order"),
            "meta": { "termsOfService": "data:text/plain,none", "externalAccountRequired": manners.external },
        });
        if manners.window.is_some() {
            directory["renewalInfo"] = self.url("/advice").into();
        }
        directory
    }

    fn advice(&self, manners: &Manners) -> Answer {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
        let moment = |offset: i64| rfc3339(UNIX_EPOCH + Duration::from_secs(now.saturating_add_signed(offset)));
        let (start, end) = manners.window.unwrap_or_default();
        let window = json!({ "start": moment(start), "end": moment(end) });
        let mut answer = json_answer(200, &json!({ "suggestedWindow": window, "explanationURL": self.url("/why") }));
        answer.fields.push(("Retry-After", "21600".into()));
        answer
    }

    /// `account` is the key of a new one, or the URL of one.
    fn act(&self, state: &mut State, path: &str, account: &Value, payload: &[u8]) -> Answer {
        let payload: Value = serde_json::from_slice(payload).unwrap_or_default();
        let (place, nth) = path.rsplit_once('/').unwrap_or_default();
        let nth: usize = nth.parse().unwrap_or(usize::MAX);
        if path == "/new-account" {
            assert_eq!(payload["termsOfServiceAgreed"], true);
            let url = self.url(&format!("/account/{}", state.accounts.len()));
            let known = state.accounts.iter().find(|(_, (key, _))| key == account).map(|(url, _)| url.clone());
            let status = if known.is_some() { 200 } else { 201 };
            let url = known.unwrap_or(url);
            state.accounts.insert(url.clone(), (account.clone(), payload["contact"].clone()));
            return located(status, url);
        }
        if place == "/account" {
            let known = account.as_str().and_then(|url| state.accounts.get_mut(url));
            known.expect("it was verified").1 = payload["contact"].clone();
            return json_answer(200, &json!({ "status": "valid" }));
        }
        if path == "/new-order" {
            return self.order(state, &payload);
        }
        let domain = state.orders[nth].domain.clone();
        match place {
            "/order" => json_answer(200, &self.order_of(state, nth)),
            "/authorization" => self.authorization(state, nth),
            "/challenge" => {
                assert_eq!(payload, json!({}));
                let shown = (state.validate)(&domain, &token(nth));
                let order = &mut state.orders[nth];
                assert!(!order.is_answered, "a challenge was answered twice");
                order.is_answered = true;
                order.failed = !shown.is_some_and(|shown| shown.starts_with(&format!("{}.", token(nth))));
                json_answer(200, &json!({ "type": "http-01", "url": "u", "status": "processing", "token": token(nth) }))
            }
            "/finalize" => {
                let csr = URL_SAFE_NO_PAD.decode(payload["csr"].as_str().expect("a request")).expect("base64url");
                state.orders[nth].chain = Some(self.sign(&csr, &domain, state.manners.sends_another));
                json_answer(200, &self.order_of(state, nth))
            }
            "/certificate" => Answer {
                status: 200,
                kind: "application/pem-certificate-chain",
                fields: Vec::new(),
                body: state.orders[nth].chain.clone().expect("it is valid"),
            },
            _ => problem(404, "malformed", "no such place"),
        }
    }

    fn order(&self, state: &mut State, payload: &Value) -> Answer {
        if let Some((status, kind, retry_after)) = state.manners.refuses {
            let mut refusal = problem(status, kind, "as it was told to");
            refusal.fields.extend(retry_after.map(|seconds| ("Retry-After", seconds.to_string())));
            return refusal;
        }
        let replaces = payload["replaces"].as_str().map(str::to_owned);
        if replaces.is_some() && state.manners.dislikes_replacing {
            return problem(409, "alreadyReplaced", "it was replaced already");
        }
        let nth = state.orders.len();
        let domain = payload["identifiers"][0]["value"].as_str().expect("a name").to_owned();
        let looks = state.manners.looks;
        state.orders.push(Ordered { domain, replaces, looks, is_answered: false, failed: false, chain: None });
        let mut answer = json_answer(201, &self.order_of(state, nth));
        answer.fields.push(("Location", self.url(&format!("/order/{nth}"))));
        answer
    }

    fn order_of(&self, state: &State, nth: usize) -> Value {
        let order = &state.orders[nth];
        let status = match order {
            Ordered { failed: true, .. } => "invalid",
            Ordered { chain: Some(_), .. } => "valid",
            Ordered { is_answered: true, looks: 0, .. } => "ready",
            _ => "pending",
        };
        let mut told = json!({
            "status": status, "finalize": self.url(&format!("/finalize/{nth}")),
            "authorizations": [self.url(&format!("/authorization/{nth}"))],
            "identifiers": [{ "type": "dns", "value": order.domain }],
        });
        if order.chain.is_some() {
            told["certificate"] = self.url(&format!("/certificate/{nth}")).into();
        }
        told
    }

    fn authorization(&self, state: &mut State, nth: usize) -> Answer {
        let order = &mut state.orders[nth];
        let (status, of_challenge) = match order {
            Ordered { failed: true, .. } => ("invalid", "invalid"),
            Ordered { is_answered: true, looks: 0, .. } => ("valid", "valid"),
            Ordered { is_answered: true, looks, .. } => {
                *looks -= 1;
                ("pending", "processing")
            }
            _ => ("pending", "pending"),
        };
        let challenge = |kind: &str| {
            let mut challenge = json!({
                "type": kind, "url": self.url(&format!("/challenge/{nth}")), "status": of_challenge, "token": token(nth),
            });
            if of_challenge == "invalid" {
                challenge["error"] = json!({
                    "type": "urn:ietf:params:acme:error:unauthorized", "detail": "it wasn't shown what it should be",
                });
            }
            challenge
        };
        json_answer(
            200,
            &json!({
                "status": status, "identifier": { "type": "dns", "value": order.domain },
                "challenges": [challenge("http-01"), challenge("tls-alpn-01")],
            }),
        )
    }

    fn sign(&self, csr: &[u8], domain: &str, sends_another: bool) -> String {
        let (_, request) = X509CertificationRequest::from_der(csr).expect("a request");
        let mut params = CertificateParams::new([domain.to_owned()]).expect("params");
        params.use_authority_key_identifier_extension = true;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
        let begin = rcgen::date_time_ymd(1970, 1, 1) + now;
        params.not_before = begin;
        params.not_after = begin + Duration::from_secs(90 * 24 * 3600);
        let key = request.certification_request_info.subject_pki.subject_public_key.data.to_vec();
        let (issuer, root) = &*self.issuer;
        let signed = if sends_another {
            params.signed_by(&KeyPair::generate().expect("a key"), issuer)
        } else {
            params.signed_by(&Asked(key), issuer)
        };
        pem("CERTIFICATE", signed.expect("a certificate").der()) + root
    }
}

/// The key of a new account, or the URL of one, and what it sent.
fn verified(state: &mut State, url: &str, body: &[u8]) -> Result<(Value, Vec<u8>), Answer> {
    let body: Value = serde_json::from_slice(body).map_err(|_| problem(400, "malformed", "no JSON"))?;
    let text = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
    let decoded = |name: &str| URL_SAFE_NO_PAD.decode(text(name)).expect("base64url");
    let protected: Value = serde_json::from_slice(&decoded("protected")).expect("JSON");
    assert_eq!((&protected["alg"], &protected["url"]), (&"ES256".into(), &url.into()));
    let (account, key) = match (&protected["jwk"], &protected["kid"]) {
        (Value::Null, Value::String(kid)) => match state.accounts.get(kid) {
            Some((key, _)) => (kid.clone().into(), key.clone()),
            None => return Err(problem(400, "accountDoesNotExist", "there is none of that URL")),
        },
        (key @ Value::Object(_), Value::Null) => {
            assert!(url.ends_with("/new-account"), "{url} by its key");
            (key.clone(), key.clone())
        }
        neither => panic!("who signed? {neither:?}"),
    };
    let coordinate = |name: &str| URL_SAFE_NO_PAD.decode(key[name].as_str().expect("a coordinate")).expect("base64url");
    let point = [vec![4], coordinate("x"), coordinate("y")].concat();
    let input = format!("{}.{}", text("protected"), text("payload"));
    let verifier = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point);
    verifier.verify(input.as_bytes(), &decoded("signature")).expect("a good signature");
    let nonce = protected["nonce"].as_str().unwrap_or_default();
    assert!(state.nonces.remove(nonce), "a nonce that it wasn't given, or has used: {nonce:?}");
    if state.manners.bad_nonces > 0 {
        state.manners.bad_nonces -= 1;
        return Err(problem(400, "badNonce", "as it was told to"));
    }
    Ok((account, decoded("payload")))
}

fn token(nth: usize) -> String {
    format!("token-of-the-order-{nth}")
}

fn json_answer(status: u16, body: &Value) -> Answer {
    Answer { status, kind: "application/json", fields: Vec::new(), body: body.to_string() }
}

fn located(status: u16, url: String) -> Answer {
    let mut answer = json_answer(status, &json!({ "status": "valid" }));
    answer.fields.push(("Location", url));
    answer
}

fn problem(status: u16, kind: &str, detail: &str) -> Answer {
    let body = json!({ "type": format!("urn:ietf:params:acme:error:{kind}"), "detail": detail });
    Answer { kind: "application/problem+json", ..json_answer(status, &body) }
}
