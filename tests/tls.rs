//! TLS towards clients, of the real binary, with the openssl client and curl.

mod support;

use std::path::Path;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use support::tls::{ANSWERED, ASK, Files, Scene, origin};
use support::{Proxy, eventually, free_port};

#[test]
fn versions_and_ciphers_are_those_of_today_and_the_older_one_can_be_left_out() {
    let (origin, files) = (origin(), Files::new());
    let scene = Scene::new(&origin, &files, &json!({}));
    for (version, cipher) in [("-tls1_2", "ECDHE-ECDSA-AES"), ("-tls1_3", "TLS_AES_")] {
        let said = scene.openssl(&[version, "-servername", "a.example"], ASK);
        assert!(said.contains(ANSWERED) && said.contains(&format!("Cipher is {cipher}")), "{said}");
    }
    let old = ["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"];
    assert!(!scene.openssl(&old, ASK).contains(ANSWERED));
    for weak in ["AES128-SHA", "ECDHE-ECDSA-AES128-SHA", "DHE-RSA-AES128-GCM-SHA256"] {
        let said = scene.openssl(&["-tls1_2", "-cipher", &format!("{weak}:@SECLEVEL=0")], ASK);
        assert!(said.contains("handshake failure") && !said.contains(ANSWERED), "{weak}: {said}");
    }
    for group in ["X25519", "P-256", "P-384"] {
        let said = scene.openssl(&["-groups", group, "-servername", "a.example"], ASK);
        assert!(said.contains(ANSWERED), "{group}: {said}");
    }
    let scene = Scene::new(&origin, &files, &json!({"min_version": "1.3"}));
    assert!(scene.openssl(&["-tls1_2"], ASK).contains("protocol version"));
    assert!(scene.openssl(&["-tls1_3"], ASK).contains(ANSWERED));
}

#[test]
fn a_name_picks_its_certificate_and_alpn_is_http_1_1_or_an_alert() {
    let (origin, files) = (origin(), Files::new());
    let scene = Scene::new(&origin, &files, &json!({}));
    for (name, want) in [("a.example", "a.example"), ("b.example", "b.example"), ("c.example", "a.example")] {
        let trusted = files.path(&format!("{want}.pem"));
        let arguments = ["-servername", name, "-CAfile", &trusted, "-verify_hostname", want, "-verify_return_error"];
        let ask = ASK.replace("a.example", name);
        let said = scene.openssl(&[&arguments[..], &["-alpn", "h2,http/1.1"]].concat(), &ask);
        assert!(said.contains(ANSWERED) && said.contains("ALPN protocol: http/1.1"), "{name}: {said}");
    }
    let said = scene.openssl(&["-servername", "a.example", "-alpn", "h2"], ASK);
    assert!(said.contains("no application protocol"), "{said}");
    let (_, answer) = scene.curl("a.example", &["-H", "Host: b.example"]);
    assert!(answer.starts_with("HTTP/1.1 421"), "{answer}");
    let scene = Scene::new(&origin, &files, &json!({"strict_sni": true}));
    let said = scene.openssl(&["-servername", "c.example"], ASK);
    assert!(said.contains("unrecognized name"), "{said}");
    let (_, answer) = scene.curl("a.example", &["-H", "Host: c.example"]);
    assert!(answer.starts_with("HTTP/1.1 421"), "{answer}");
    assert!(scene.curl("b.example", &[]).1.starts_with("HTTP/1.1 200"));
}

#[test]
fn a_session_is_resumed_over_workers_and_with_a_key_file_over_a_restart() {
    let (origin, files) = (origin(), Files::new());
    let (kept, keys) = (files.path("session"), files.ticket_keys());
    for version in ["-tls1_2", "-tls1_3"] {
        let scene = Scene::new(&origin, &files, &json!({"ticket_keys": &keys}));
        let asks = |scene: &Scene, how: &str| {
            let said = scene.openssl(&[version, "-servername", "a.example", how, &kept], ASK);
            assert!(said.contains(ANSWERED), "{said}");
            said.contains("\nReused, ")
        };
        assert!(!asks(&scene, "-sess_out"));
        // The kernel deals these connections out over both workers.
        assert!((0..8).all(|_| asks(&scene, "-sess_in")), "{version}");
        drop(scene);
        let scene = Scene::new(&origin, &files, &json!({"ticket_keys": &keys}));
        assert!(asks(&scene, "-sess_in"), "{version}: after a restart");
        drop(scene);
        let scene = Scene::new(&origin, &files, &json!({}));
        assert!(!asks(&scene, "-sess_in"), "{version}: without the file");
    }
}

#[test]
fn a_key_file_that_others_can_read_or_that_is_no_key_is_refused_with_its_place() {
    use std::os::unix::fs::PermissionsExt;
    let (origin, files) = (origin(), Files::new());
    let path = files.ticket_keys();
    let start = |want: &str| {
        let config = {
            let mut config = support::proxy::settings(&[origin.url()]);
            let tls = json!({"port": free_port(), "certificates": files.certificates(), "ticket_keys": &path});
            config["tls"] = tls;
            config
        };
        files.write("maypole.json", &config.to_string());
        let mut program = support::Program::start(&["--config", &files.path("maypole.json")]);
        assert_eq!(program.wait_for_exit(support::PATIENCE).code(), Some(2));
        let said = program.stderr();
        assert!(said.contains("tls.ticket_keys") && said.contains(&path) && said.contains(want), "{said}");
    };
    std::fs::set_permissions(Path::new(&path), PermissionsExt::from_mode(0o640)).expect("ours");
    start("found mode 0640, wanted 0600");
    std::fs::set_permissions(Path::new(&path), PermissionsExt::from_mode(0o600)).expect("ours");
    std::fs::write(&path, [5; 48]).expect("writable");
    start("found 48 bytes, wanted whole keys of 80 bytes each");
}

#[test]
fn a_handshake_that_does_not_end_is_closed_in_time() {
    let (origin, files) = (origin(), Files::new());
    let scene = Scene::new(&origin, &files, &json!({"handshake_timeout": "200ms"}));
    for begun in [&b""[..], &[22, 3, 1, 0, 200, 1, 0]] {
        let mut client = support::Client::connect(scene.port);
        client.send(begun);
        assert_eq!(client.rest(), b"", "{begun:?}");
    }
}

#[test]
fn how_handshakes_ended_is_counted_by_alert_and_told_at_debug() {
    let (origin, files) = (origin(), Files::new());
    let scene = Scene::logging(&origin, &files, &json!({"strict_sni": true}), "debug");
    let session = files.path("session");
    for kept in ["-sess_out", "-sess_in"] {
        let said = scene.openssl(&["-servername", "a.example", kept, &session], ASK);
        assert!(said.contains(ANSWERED), "{said}");
    }
    scene.openssl(&["-servername", "c.example"], ASK);
    scene.openssl(&["-servername", "c.example", "-tls1_2"], ASK);
    scene.openssl(&["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"], ASK);
    let trusted = files.path("b.example.pem");
    scene.openssl(&["-servername", "a.example", "-CAfile", &trusted, "-verify_return_error"], ASK);
    support::Client::connect(scene.port).send([22, 3, 1]);
    let mut client = support::Client::connect(scene.port);
    client.send(ASK);
    assert_eq!(client.answer_to("GET").status(), 400);
    let want = json!({
        // That of the scene, which looked whether somebody listens, has left too.
        "full": 1, "resumed": 1, "left": 2, "timed_out": 0, "crowded_out": 0, "in_clear": 1,
        "refused": {"unrecognized_name": 2, "handshake_failure": 1}, "declined": {"unknown_ca": 1},
    });
    let by_alert = |ended: &Value| ended.as_object().map_or(0, |ended| ended.values().filter_map(Value::as_u64).sum());
    let all = |ended: &Value| by_alert(ended) + by_alert(&ended["refused"]) + by_alert(&ended["declined"]);
    eventually("every handshake has ended", || all(&scene.proxy.status()["handshakes"]) == all(&want));
    assert_eq!(scene.proxy.status()["handshakes"], want);
    assert_eq!(scene.proxy.status()["connections"]["accepted"], all(&want) + 1, "the harness asked once in clear");
    for why in ["refused by unrecognized_name", "the client declined by unknown_ca", "the client doesn't speak TLS"] {
        let is_of_one = |line: &&str| line.contains("DEBUG") && line.contains("the TLS handshake of 127.0.0.1:");
        let end = format!("ended: {why}");
        let told = || scene.proxy.program.stderr();
        eventually(why, || told().lines().filter(is_of_one).any(|line| line.ends_with(&end)));
    }
    let scene = Scene::new(&origin, &files, &json!({"handshake_timeout": "200ms"}));
    assert_eq!(support::Client::connect(scene.port).rest(), b"");
    eventually("it is counted", || scene.proxy.status()["handshakes"]["timed_out"] == 1);
    assert!(!scene.proxy.program.stderr().contains("the TLS handshake of"), "it isn't told at info");
}

#[test]
fn renegotiation_is_refused() {
    let (origin, files) = (origin(), Files::new());
    let scene = Scene::new(&origin, &files, &json!({}));
    // A line of `R` has the client ask for it.
    let said = scene.openssl(&["-tls1_2", "-servername", "a.example"], "R\n");
    assert!(said.contains("RENEGOTIATING") && said.contains("no renegotiation"), "{said}");
    assert!(scene.openssl(&["-tls1_2"], ASK).contains(ANSWERED), "and others are served");
}

#[test]
fn a_client_is_refused_by_its_alert_and_backends_are_told_who_it_is() {
    let (origin, files) = (origin(), Files::new());
    let clients = json!({"client_ca": files.path("club.ca"), "client_header": "X-Client"});
    let scene = Scene::new(&origin, &files, &clients);
    let member = |of: &str| (files.path(&format!("{of}.member.pem")), files.path(&format!("{of}.member.key")));
    let (cert, key) = member("club");
    let (_, answer) = scene.curl("a.example", &["--cert", &cert, "--key", &key, "-H", "X-Client: root"]);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let told = origin.requests()[0].field("x-client").map(str::to_owned);
    assert_eq!(told.as_deref(), Some(r#"verified;subject="CN=member of club""#));
    // What comes in clear can't say it either.
    let mut plain = scene.proxy.client();
    plain.send("GET / HTTP/1.1\r\nHost: a\r\nX-Client: root\r\n\r\n");
    assert_eq!(plain.answer_to("GET").status(), 200);
    assert_eq!(origin.requests()[1].field("x-client"), None);

    let (cert, key) = member("others");
    for (version, without) in [("-tls1_2", "handshake failure"), ("-tls1_3", "certificate required")] {
        let said = scene.openssl(&[version, "-cert", &cert, "-key", &key], ASK);
        assert!(said.contains("unknown ca") && !said.contains(ANSWERED), "{said}");
        let said = scene.openssl(&[version], ASK);
        let refused =
            said.contains(without) || said.contains("certificate required") || said.contains("alert number 116");
        assert!(refused && !said.contains(ANSWERED), "{said}");
    }
}

#[test]
fn an_ocsp_staple_goes_out_as_it_is_in_its_file() {
    let (origin, files) = (origin(), Files::new());
    // An answer that says no more than that it is one.
    std::fs::write(files.folder.join("a.ocsp"), [0x30, 3, 0x0a, 1, 0]).expect("writable");
    let mut certificates = files.certificates();
    certificates[0]["ocsp"] = json!(files.path("a.ocsp"));
    let scene = Scene::new(&origin, &files, &json!({ "certificates": certificates }));
    for version in ["-tls1_2", "-tls1_3"] {
        let said = scene.openssl(&[version, "-servername", "a.example", "-status"], ASK);
        assert!(said.contains("OCSP response") && !said.contains("no response sent"), "{said}");
        let said = scene.openssl(&[version, "-servername", "b.example", "-status"], ASK);
        assert!(said.contains("no response sent"), "{said}");
    }
}

#[test]
fn http_in_clear_is_told_where_it_is_and_sent_on_from_the_plain_port() {
    let (origin, files) = (origin(), Files::new());
    let scene = Scene::new(&origin, &files, &json!({"redirect_http": true, "hsts": {"max_age": "1h"}}));
    let mut client = support::Client::connect(scene.port);
    client.send("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n");
    let answer = client.answer_to("GET");
    assert_eq!((answer.status(), answer.field("connection")), (400, Some("close")), "{answer:?}");
    assert!(answer.text().contains("https://"), "{answer:?}");
    let mut client = scene.proxy.client();
    client.send("GET /x?y HTTP/1.1\r\nHost: a.example:1\r\n\r\n");
    let answer = client.answer_to("GET");
    let place = format!("https://a.example:{}/x?y", scene.port);
    assert_eq!((answer.status(), answer.field("location")), (308, Some(place.as_str())), "{answer:?}");
    let (_, answer) = scene.curl("a.example", &[]);
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.contains("Strict-Transport-Security: max-age=3600"),
        "{answer}"
    );
    assert_eq!(scene.proxy.admin("GET", "/healthz", "").status(), 200, "the admin API isn't sent anywhere");
}

/// Whether this member is served on a new connection, with these arguments on top; else the alert that refused it is among these.
fn serves(scene: &Scene, files: &Files, of: &str, on_top: &[&str], alerts: &[&str]) -> bool {
    let (cert, key) = (files.path(&format!("{of}.member.pem")), files.path(&format!("{of}.member.key")));
    let said = scene.openssl(&[&["-cert", &cert, "-key", &key], on_top].concat(), ASK);
    let is_served = said.contains(ANSWERED);
    assert!(is_served || alerts.iter().any(|alert| said.contains(alert)), "{of}: {said}");
    is_served
}

#[test]
fn a_port_in_clear_that_others_reach_beside_one_that_asks_for_certificates_is_warned_of() {
    let (origin, files) = (origin(), Files::new());
    for (bind, redirects, is_told) in [("0.0.0.0", false, true), ("0.0.0.0", true, false), ("127.0.0.1", false, false)]
    {
        let tls = json!({"port": free_port(), "bind": "127.0.0.1", "certificates": files.certificates(),
            "client_ca": files.path("club.ca"), "redirect_http": redirects});
        let mut proxy = Proxy::with(&[&origin], json!({"bind": bind, "tls": tls}));
        proxy.program.signal("TERM");
        proxy.program.wait_for_exit(support::PATIENCE);
        let said = proxy.program.stderr();
        let warning = format!("{bind}:{} is in clear", proxy.port);
        let warns = |line: &str| line.contains("WARN") && line.contains(&warning) && line.contains("tls.redirect_http");
        assert_eq!(said.lines().any(warns), is_told, "{said}");
    }
}

#[test]
fn no_session_is_resumed_beyond_the_end_of_its_clients_certificate() {
    let (origin, files) = (origin(), Files::new());
    let scene = Scene::new(&origin, &files, &json!({"client_ca": files.path("club.ca")}));
    let session = files.path("session");
    for version in ["-tls1_2", "-tls1_3"] {
        // On a busy machine it may be over before its session was resumed twice.
        let resumed = [3, 5, 8].into_iter().any(|seconds| {
            let until = SystemTime::now() + Duration::from_secs(seconds);
            files.join_until("brief", until);
            let comes = |kept| serves(&scene, &files, "brief", &[version, kept, &session], &["certificate expired"]);
            let said = comes("-sess_out")
                && [(); 2].into_iter().all(|()| {
                    let before = scene.proxy.status()["handshakes"]["resumed"].as_u64();
                    let again = [version, "-sess_in", &session, "-sess_out", &session];
                    let is_served = serves(&scene, &files, "brief", &again, &["certificate expired"]);
                    is_served && scene.proxy.status()["handshakes"]["resumed"].as_u64() > before
                });
            eventually("the certificate is over", || SystemTime::now() > until + Duration::from_secs(1));
            assert!(!comes("-sess_in"), "{version}: its session goes on");
            said
        });
        assert!(resumed, "{version}");
    }
}

#[test]
fn another_authority_of_clients_ends_the_sessions_of_before() {
    let (origin, files) = (origin(), Files::new());
    files.put("now.ca", files.read("club.ca"));
    let scene = Scene::new(&origin, &files, &json!({"client_ca": files.path("now.ca")}));
    let alerts = ["unknown ca"];
    let kept = files.path("session");
    assert!(serves(&scene, &files, "club", &["-sess_out", &kept], &[]));
    assert!(scene.openssl(&["-sess_in", &kept], ASK).contains("\nReused, "), "who is known needs no certificate");
    assert!(!serves(&scene, &files, "others", &[], &alerts));

    files.put("now.ca", files.read("others.ca"));
    scene.look("the others come in", || serves(&scene, &files, "others", &[], &alerts));
    assert!(!serves(&scene, &files, "club", &["-sess_in", &kept], &alerts));

    files.put("now.ca", "-----BEGIN CERTIFICATE-----\n");
    scene.look_at_broken("tls.client_ca");
    assert!(serves(&scene, &files, "others", &[], &[]));
    assert!(!serves(&scene, &files, "club", &[], &alerts));
}

#[test]
fn who_is_revoked_is_refused_from_then_on_and_its_session_ends() {
    let (origin, files) = (origin(), Files::new());
    files.put("now.crl", files.read("club.nobody.crl"));
    let clients = json!({"client_ca": files.path("club.ca"), "crl": [files.path("now.crl")]});
    let scene = Scene::new(&origin, &files, &clients);
    let alerts = ["certificate revoked"];
    let kept = files.path("session");
    assert!(serves(&scene, &files, "club", &["-sess_out", &kept], &[]));

    files.put("now.crl", files.read("club.member.crl"));
    scene.look("it is revoked", || !serves(&scene, &files, "club", &[], &alerts));
    assert!(!serves(&scene, &files, "club", &["-sess_in", &kept], &alerts));

    files.put("now.crl", "nobody");
    scene.look_at_broken("tls.crl");
    assert!(!serves(&scene, &files, "club", &[], &alerts));

    files.put("now.crl", files.read("club.nobody.crl"));
    scene.look("it is let in again", || serves(&scene, &files, "club", &[], &alerts));
}

#[test]
fn a_list_of_another_authority_stays_out_since_it_would_keep_everybody_out() {
    let (origin, files) = (origin(), Files::new());
    files.put("now.crl", files.read("club.nobody.crl"));
    let clients = json!({"client_ca": files.path("club.ca"), "crl": [files.path("now.crl")]});
    let scene = Scene::new(&origin, &files, &clients);
    assert!(serves(&scene, &files, "club", &[], &[]));
    files.put("now.crl", files.read("others.nobody.crl"));
    scene.look_at_broken("tls.crl");
    assert!(serves(&scene, &files, "club", &[], &[]));
    // One list more is no harm.
    files.put("now.crl", [files.read("others.nobody.crl"), files.read("club.member.crl")].concat());
    scene.look("it is revoked", || !serves(&scene, &files, "club", &[], &["certificate revoked"]));
}

#[test]
fn a_list_whose_time_is_over_goes_on_saying_who_is_refused() {
    let (origin, files) = (origin(), Files::new());
    files.put("now.crl", files.read("club.nobody.old.crl"));
    let clients = json!({"client_ca": files.path("club.ca"), "crl": [files.path("now.crl")]});
    let scene = Scene::new(&origin, &files, &clients);
    assert!(serves(&scene, &files, "club", &[], &[]));
    files.put("now.crl", files.read("club.member.old.crl"));
    scene.look("it is revoked", || !serves(&scene, &files, "club", &[], &["certificate revoked"]));
}

#[test]
fn an_authority_without_a_list_beside_others_lists_is_told_of_by_check_and_by_a_start() {
    let files = Files::new();
    files.put("both.ca", [files.read("club.ca"), files.read("others.ca")].concat());
    let mut config = support::proxy::settings(&[]);
    let (authorities, list) = (files.path("both.ca"), files.path("club.nobody.crl"));
    let tls =
        json!({"port": free_port(), "certificates": files.certificates(), "client_ca": authorities, "crl": [list]});
    config["tls"] = tls;
    files.write("maypole.json", &config.to_string());
    let path = files.path("maypole.json");
    for arguments in [&["check", "--config", &path][..], &["--config", &path]] {
        let mut program = support::Program::start(arguments);
        assert_eq!(program.wait_for_exit(support::PATIENCE).code(), Some(2), "{arguments:?}");
        let said = program.stderr();
        assert!(said.contains("tls.crl: ") && said.contains("both.ca: found no list from CN=others, "), "{said}");
    }
}

#[test]
fn another_ocsp_answer_goes_out_once_it_is_in_its_file() {
    let (origin, files) = (origin(), Files::new());
    // Of success, and no more; then with something behind it that openssl can't read.
    files.put("a.ocsp", [0x30, 3, 0x0a, 1, 0]);
    let mut certificates = files.certificates();
    certificates[0]["ocsp"] = json!(files.path("a.ocsp"));
    let scene = Scene::new(&origin, &files, &json!({ "certificates": certificates }));
    let says = |word: &str| scene.openssl(&["-servername", "a.example", "-status"], ASK).contains(word);
    assert!(says("Response Status: successful"));
    files.put("a.ocsp", [0x30, 5, 0x0a, 1, 0, 5, 0]);
    scene.look("the other one goes out", || says("response parse error"));
    files.put("a.ocsp", "no answer");
    scene.look_at_broken("tls.certificates[0].ocsp");
    assert!(says("response parse error"));
}

#[test]
fn sessions_end_with_the_last_file_that_has_their_key() {
    let (origin, files) = (origin(), Files::new());
    let keys = files.ticket_keys();
    let scene = Scene::new(&origin, &files, &json!({ "ticket_keys": keys }));
    let kept = files.path("session");
    let goes_on = || {
        let said = scene.openssl(&["-servername", "a.example", "-sess_in", &kept], ASK);
        assert!(said.contains(ANSWERED), "{said}");
        said.contains("\nReused, ")
    };
    let swaps = |count: usize| {
        let log = scene.proxy.program.stderr();
        log.lines().filter(|line| line.contains("tls.ticket_keys: others are in use now")).count() == count
    };
    assert!(scene.openssl(&["-servername", "a.example", "-sess_out", &kept], ASK).contains(ANSWERED));
    files.put("tickets", [[6; 80], [5; 80]].concat());
    scene.look("both are in use", || swaps(1));
    assert!(goes_on(), "the older of two keys opens");
    files.put("tickets", [7; 79]);
    scene.look_at_broken("tls.ticket_keys");
    assert!(goes_on());
    files.put("tickets", [7; 80]);
    scene.look("another is in use", || swaps(2));
    assert!(!goes_on());
}
