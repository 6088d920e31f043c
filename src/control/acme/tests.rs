//! The client against an authority for tests, over real sockets; `tests/acme.rs` has it against a real one.

mod authority;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use self::authority::{Authority, Manners};
use super::cache::{Cache, DomainState};
use super::keeper::renewal_id;
use super::{Keeper, Keeping, Site, renewal};
use crate::config::{Acme as Settings, AcmeChallenge};
use crate::transport::{Certificate, Source, pem};

/// The tests share two cores.
const SOON: Duration = Duration::from_secs(30);

/// A folder of a test's own, which goes with it.
pub(super) struct Folder(pub(super) PathBuf);

impl Folder {
    pub(super) fn new() -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let nth = COUNT.fetch_add(1, Ordering::Relaxed);
        Self(std::env::temp_dir().join(format!("maypole-acme-{}-{nth}", std::process::id())))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A client, its authority, and what is shown.
struct Scene {
    authority: Authority,
    site: Site,
    folder: Folder,
    settings: Settings,
}

impl Scene {
    /// The authority looks for what is shown over HTTP, where a worker would.
    fn new(manners: Manners) -> Self {
        let (site, folder) = (Site::default(), Folder::new());
        let challenges = Arc::clone(&site.challenges);
        let authority = Authority::start(manners, move |_, token| {
            let shown = challenges.answer(format!("/.well-known/acme-challenge/{token}").as_bytes());
            shown.map(|shown| shown.to_string())
        });
        let settings = Settings {
            directory: authority.directory(),
            email: Some("admin@example.org".into()),
            domains: vec!["a.example".into()],
            cache: folder.0.clone(),
            challenge: AcmeChallenge::Http01,
        };
        Self { authority, site, folder, settings }
    }

    fn start(&self) -> Keeping {
        self.open().start().expect("a thread")
    }

    fn open(&self) -> Keeper {
        Keeper::open(&self.settings, self.site.clone()).expect("a cache")
    }

    fn served(&self, domain: &str) -> Arc<Certificate> {
        let now = self.site.store.now();
        Arc::clone(now.fitting(domain).next().expect("a certificate for it"))
    }

    /// The certificate of the authority, once it is served.
    fn wait_for(&self, domain: &str) -> Arc<Certificate> {
        let wanted = Source::Acme { directory: self.settings.directory.clone() };
        wait(|| *self.served(domain).source() == wanted);
        self.served(domain)
    }

    fn cache(&self) -> Cache {
        Cache::open(&self.folder.0, &self.settings.directory).expect("a cache")
    }

    /// Waits until a failure of this domain, or of all, is on record; how many there were.
    fn wait_for_failure(&self) -> (u32, u32) {
        let failures = || {
            let cache = self.cache();
            (cache.domain_state("a.example").unwrap().failures, cache.account_state().unwrap().failures)
        };
        wait(|| failures() != (0, 0));
        failures()
    }
}

fn wait(mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < SOON, "it doesn't come to be so");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// RFC 9773, appendix A.
const EXAMPLE: &str = "-----BEGIN CERTIFICATE-----
MIIBQzCB66ADAgECAgUAh2VDITAKBggqhkjOPQQDAjAVMRMwEQYDVQQDEwpFeGFt
cGxlIENBMCIYDzAwMDEwMTAxMDAwMDAwWhgPMDAwMTAxMDEwMDAwMDBaMBYxFDAS
BgNVBAMTC2V4YW1wbGUuY29tMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEeBZu
7cbpAYNXZLbbh8rNIzuOoqOOtmxA1v7cRm//AwyMwWxyHz4zfwmBhcSrf47NUAFf
qzLQ2PPQxdTXREYEnKMjMCEwHwYDVR0jBBgwFoAUaYhba4dGQEHhs3uEe6CuLN4B
yNQwCgYIKoZIzj0EAwIDRwAwRAIge09+S5TZAlw5tgtiVvuERV6cT4mfutXIlwTb
+FYN/8oCIClDsqBklhB9KAelFiYt9+6FDj3z4KGVelYM5MdsO3pK
-----END CERTIFICATE-----
";

#[test]
fn a_certificate_is_called_as_in_rfc_9773() {
    let example = pem::certificates(EXAMPLE.as_bytes()).unwrap().remove(0);
    assert_eq!(renewal_id(&example).as_deref(), Some("aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE"));
    assert_eq!(renewal_id(b"no certificate"), None);
}

#[test]
fn a_certificate_is_got_for_each_domain_and_after_a_restart_nothing_is_asked_for() {
    let mut scene = Scene::new(Manners { looks: 2, bad_nonces: 3, ..Manners::default() });
    scene.settings.domains.push("b.example".into());
    let keeping = scene.start();
    assert_eq!(*scene.served("a.example").source(), Source::Own, "until then, one that no authority signed is served");
    let [a, b] = ["a.example", "b.example"].map(|domain| scene.wait_for(domain));
    assert!(a.covers("a.example") && !a.covers("b.example") && b.covers("b.example"));
    assert_eq!(a.issuer(), "CN=Authority of the tests");
    assert_ne!(a.fingerprint(), b.fingerprint());
    drop(keeping);
    let asked = scene.authority.asked("POST /new-order");
    assert_eq!((asked, scene.authority.asked("POST /challenge/0"), scene.authority.contacts().len()), (2, 1, 1));
    scene.site.store.swap(crate::transport::Part::Acme, Vec::new());
    let _keeping = scene.start();
    assert_eq!(scene.served("a.example").fingerprint(), a.fingerprint(), "it is served at once");
    assert_eq!(scene.authority.asked("POST /new-order"), asked);
    assert!(scene.site.challenges.answer(b"/.well-known/acme-challenge/token-of-the-order-0").is_none());
}

#[test]
fn an_account_is_kept_changed_where_its_mail_is_and_asked_for_anew_where_it_was_forgotten() {
    let mut scene = Scene::new(Manners::default());
    let get = |scene: &Scene| {
        let keeping = scene.start();
        let domain = scene.settings.domains[0].clone();
        scene.wait_for(&domain);
        drop(keeping);
    };
    get(&scene);
    assert_eq!(scene.authority.contacts(), [serde_json::json!(["mailto:admin@example.org"])]);
    scene.settings.email = None;
    scene.settings.domains = vec!["b.example".into()];
    get(&scene);
    assert_eq!(scene.authority.contacts(), [serde_json::json!([])]);
    assert_eq!(scene.authority.asked("POST /new-account"), 1);
    scene.authority.forget_accounts();
    scene.settings.domains = vec!["c.example".into()];
    get(&scene);
    assert_eq!(scene.authority.asked("POST /new-account"), 2);
}

#[test]
fn what_the_authority_refuses_is_of_its_domain_and_a_restart_does_not_have_it_tried_sooner() {
    let scene = Scene::new(Manners { refuses: Some((403, "rejectedIdentifier", None)), ..Manners::default() });
    for _ in 0..3 {
        let mut keeper = scene.open();
        for _ in 0..3 {
            assert!(keeper.attends(0));
        }
        assert_eq!(scene.wait_for_failure(), (1, 0));
        assert_eq!(scene.authority.asked("POST /new-order"), 1);
        assert!(keeper.next(0) > now() + 30, "a minute is waited at least");
    }
    assert_eq!(*scene.served("a.example").source(), Source::Own);
}

#[test]
fn a_clock_that_was_set_back_is_not_waited_for() {
    let scene = Scene::new(Manners::default());
    let not_before = now() + renewal::WAIT_MAX + 3600;
    scene.cache().keep_domain_state("a.example", DomainState { failures: 1, not_before }).unwrap();
    assert!(scene.open().attends(0));
    assert_eq!(scene.authority.asked("POST /new-order"), 1);
}

#[test]
fn a_challenge_that_fails_is_of_its_domain() {
    let (site, folder) = (Site::default(), Folder::new());
    let authority = Authority::start(Manners::default(), |_, _| None);
    let settings = Settings {
        directory: authority.directory(),
        email: None,
        domains: vec!["a.example".into()],
        cache: folder.0.clone(),
        challenge: AcmeChallenge::TlsAlpn01,
    };
    let scene = Scene { authority, site, folder, settings };
    let _keeping = scene.start();
    assert_eq!(scene.wait_for_failure(), (1, 0));
}

#[test]
fn a_limit_holds_for_all_domains_for_as_long_as_the_authority_says() {
    let mut scene = Scene::new(Manners { refuses: Some((429, "rateLimited", Some(1800))), ..Manners::default() });
    scene.settings.domains.push("b.example".into());
    let begun = now();
    let mut keeper = scene.open();
    for nth in [0, 1, 0, 1] {
        assert!(keeper.attends(nth));
        assert!(keeper.next(nth) >= begun + 1800);
    }
    assert_eq!(scene.wait_for_failure(), (1, 1));
    assert_eq!(scene.authority.asked("POST /new-order"), 1);
}

#[test]
fn an_authority_that_wants_to_know_its_accounts_otherwise_is_not_asked_for_one() {
    let scene = Scene::new(Manners { external: true, ..Manners::default() });
    let _keeping = scene.start();
    assert_eq!(scene.wait_for_failure(), (0, 1));
    assert_eq!(scene.authority.asked("POST /new-account"), 0);
}

#[test]
fn an_authority_that_is_down_at_first_is_asked_again() {
    let mut scene = Scene::new(Manners::default());
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    scene.settings.directory = format!("http://{}/directory", free.local_addr().unwrap());
    drop(free);
    let _keeping = scene.start();
    assert_eq!(scene.wait_for_failure(), (0, 1));
    assert_eq!(*scene.served("a.example").source(), Source::Own);
}

#[test]
fn what_makes_no_sense_is_no_certificate() {
    type Change = fn(&mut Manners);
    let changes: [(Change, bool); 4] = [
        (|manners| manners.long = Some("/new-account"), false),
        (|manners| manners.long = Some("/new-order"), false),
        (|manners| manners.sends_another = true, true),
        (|manners| manners.bad_nonces = 100, false),
    ];
    for (nth, (change, is_of_domain)) in changes.into_iter().enumerate() {
        let scene = Scene::new(Manners::default());
        scene.authority.change(change);
        let _keeping = scene.start();
        let (of_domain, of_all) = scene.wait_for_failure();
        assert_eq!((of_domain > 0, of_all > 0), (is_of_domain, !is_of_domain), "{nth}");
        assert_eq!(*scene.served("a.example").source(), Source::Own, "{nth}");
    }
}

#[test]
fn a_certificate_is_renewed_when_the_authority_says_and_says_what_it_replaces() {
    for dislikes_replacing in [false, true] {
        let scene = Scene::new(Manners::default());
        let keeping = scene.start();
        let first = scene.wait_for("a.example");
        drop(keeping);
        // It is renewed once there is advice that says so, within the minute after a start.
        scene.authority.change(|manners| {
            (manners.window, manners.dislikes_replacing) = (Some((-86_400, -3600)), dislikes_replacing);
        });
        let cache = scene.cache();
        let held = cache.certificate("a.example").unwrap().expect("it is kept");
        assert_eq!(held.fingerprint(), first.fingerprint());
        let mut keeper = scene.open();
        keeper.asks_for_advice_at_once();
        let _keeping = keeper.start().unwrap();
        wait(|| scene.served("a.example").fingerprint() != first.fingerprint());
        let id = renewal_id(first.chain().next().unwrap());
        assert!(id.is_some());
        let want = if dislikes_replacing { None } else { id };
        assert_eq!(scene.authority.replaced(), [None, want]);
        assert_eq!(scene.authority.asked("POST /new-order"), if dislikes_replacing { 3 } else { 2 });
    }
}

#[test]
fn advice_is_asked_for_now_and_then() {
    let scene = Scene::new(Manners::default());
    let mut keeper = scene.open();
    assert!(keeper.attends(0));
    keeper.asks_for_advice_at_once();
    assert!(keeper.attends(0));
    assert!(keeper.next(0) > now());
}

#[test]
fn two_processes_on_one_cache_get_one_certificate() {
    let scene = Scene::new(Manners { looks: 1, ..Manners::default() });
    let other = Site { challenges: Arc::clone(&scene.site.challenges), ..Site::default() };
    let _one = scene.start();
    let _other = Keeper::open(&scene.settings, other.clone()).unwrap().start().unwrap();
    let got = scene.wait_for("a.example");
    wait(|| other.store.now().fitting("a.example").any(|certificate| certificate.fingerprint() == got.fingerprint()));
    assert_eq!(scene.authority.asked("POST /new-order"), 1);
}

fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    i64::try_from(since.as_secs()).unwrap()
}
