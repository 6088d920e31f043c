use serde_json::json;

use super::*;
use crate::config::parse;

#[test]
fn a_backend_from_the_admin_api_is_read_by_the_same_rules() {
    let good = parse_backend(r#"{"url": "http://Localhost:8085/", "name": "five"}"#).expect("it is right");
    assert_eq!((good.name.as_str(), good.url.normalized.as_str()), ("five", "http://localhost:8085"));
    let full = r#"{"url": "http://a", "weight": 0, "backup": true, "max_connections": 7, "zone": "eu-1"}"#;
    let full = parse_backend(full).expect("it is right");
    assert_eq!((full.weight, full.backup, full.max_connections, full.zone.as_str()), (0, true, 7, "eu-1"));
    let alone = parse_backend(r#"{"url": "http://[::1]:8085"}"#).expect("it is right");
    assert_eq!(alone.name, "[::1]:8085");

    let cases = [
        ("null", "found null, wanted an object with the backend's \"url\""),
        ("[]", "found a list, wanted an object with the backend's \"url\""),
        (r#""http://a""#, "found \"http://a\", wanted an object with the backend's \"url\""),
        ("{}", "url: missing, wanted the backend's URL"),
        (r#"{"url": 7}"#, "url: found 7, wanted a URL such as \"http://localhost:8082\""),
        (
            r#"{"url": "ftp://a"}"#,
            "url: found \"ftp://a\", wanted http[s]://HOST[:PORT][/BASE]: its scheme is neither http nor https",
        ),
        (r#"{"url": "http://a", "weight": -1}"#, "weight: found -1, wanted a whole number from 0 to 256"),
        (
            r#"{"url": "http://a", "port": 1}"#,
            "port: unknown field, known here: url, name, weight, backup, max_connections, zone",
        ),
        (r#"{"url": "http://a", "url": "http://b"}"#, "url: given twice"),
    ];
    for (body, wanted) in cases {
        let errors = parse_backend(body).expect_err("it is wrong");
        let told: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(told, [wanted], "{body}");
    }
}

#[test]
fn a_default_name_that_is_taken_is_told_apart_by_its_base_path() {
    let long = format!("http://a/{}", "v".repeat(300));
    for (backends, wanted) in [
        (json!(["http://a", "http://a/v1", "http://a/v2/"]), Ok(vec!["a:80", "a:80/v1", "a:80/v2"])),
        (json!(["http://a/v1", "http://a", "http://a/V1"]), Ok(vec!["a:80", "a:80/", "a:80/V1"])),
        (json!(["http://[::1]/x", "http://[::1]/%41"]), Ok(vec!["[::1]:80", "[::1]:80/%41"])),
        (json!(["http://a/v1", { "url": "http://b", "name": "a:80" }]), Ok(vec!["a:80/v1", "a:80"])),
        (json!(["http://a", { "url": "http://a/v1", "name": "a:80" }]), Ok(vec!["a:80/", "a:80"])),
        (json!([{ "url": "http://b", "name": "a" }, { "url": "http://a/v1", "name": "a" }]), Err("a")),
        (json!(["http://a", long]), Err("a:80")),
    ] {
        let text = json!({ "backends": backends }).to_string();
        match (parse(&text), wanted) {
            (Ok(config), Ok(wanted)) => {
                let names: Vec<_> = config.backends.iter().map(|backend| backend.name.as_str()).collect();
                assert_eq!(names, wanted, "{text}");
            }
            (Err(errors), Err(name)) => {
                let told = errors.to_string();
                assert!(told.contains(&format!("the name \"{name}\" is taken by backends[")), "{told}");
            }
            (found, wanted) => panic!("{text}: {found:?}, wanted {wanted:?}"),
        }
    }
}

#[test]
fn a_backend_is_named_by_its_url_and_nothing_else() {
    let url = parse_backend_url(r#"{"url": "http://Localhost:80"}"#).expect("it is right");
    assert_eq!(url.normalized, "http://localhost");
    for (body, wanted) in [
        ("{}", "url: missing, wanted the backend's URL"),
        ("7", "found 7, wanted an object with the backend's \"url\""),
        (r#"{"url": "http://a", "name": "x"}"#, "name: unknown field, known here: url"),
        (r#"{"url": "http://a", "url": "http://b"}"#, "url: given twice"),
    ] {
        let errors = parse_backend_url(body).expect_err("it is wrong");
        let told: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(told, [wanted], "{body}");
    }
}
