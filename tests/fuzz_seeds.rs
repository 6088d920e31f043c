//! The fuzz targets' properties, held to every seed and to every case of the tables: without libFuzzer, on stable Rust, and
//! on stacks as small as the product's.
//! What a fuzzer finds becomes a seed here (`fuzz/seeds/TARGET/found-…`), and so stays found.

#[path = "../fuzz/properties/mod.rs"]
mod properties;
#[path = "cases/table.rs"]
mod table;

use std::fs;
use std::path::Path;

/// Panics where what must hold for all bytes doesn't hold for these.
type Check = fn(&[u8]);

/// Each target, and its property.
const TARGETS: &[(&str, Check)] = &[
    ("admin_body", properties::admin_body::check),
    ("chunked", properties::chunked::check),
    ("config", properties::config::check),
    ("differential_head", properties::differential_head::check),
    ("request_head", properties::request_head::check),
    ("response_head", properties::response_head::check),
    ("tls_records", properties::tls_records::check),
];

#[test]
fn every_target_holds_for_its_seeds() {
    for (target, check) in TARGETS {
        let seeds = seeds(target);
        assert!(seeds.len() >= 20, "{target} has only {} seeds", seeds.len());
        for (name, bytes) in seeds {
            assert!(bytes.len() <= 4096, "{target}/{name} is large for a seed");
            hold(*check, &format!("{target}/{name}"), &bytes);
        }
    }
}

#[test]
fn every_target_has_a_property_and_every_property_a_target() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    for (folder, extension) in [("targets", ".rs"), ("seeds", "")] {
        let names = fs::read_dir(root.join(folder)).expect("a folder").flatten().map(|entry| entry.file_name());
        let mut names: Vec<_> = names.map(|name| name.to_string_lossy().replace(extension, "")).collect();
        names.sort_unstable();
        assert_eq!(names, TARGETS.iter().map(|(target, _)| *target).collect::<Vec<_>>(), "{folder}");
    }
}

#[test]
fn heads_and_chunks_hold_for_every_case_of_the_tables() {
    let requests = table::requests().into_iter().map(|row| (row, 0));
    let responses = table::responses().into_iter().map(|row| (row, 1));
    for (row, column) in requests.chain(responses) {
        let name = format!("{} ({}, line {})", row.name, row.section, row.line);
        let bytes = table::bytes(row.columns[column]);
        hold(properties::request_head::check, &name, &bytes);
        hold(properties::response_head::check, &name, &bytes);
        hold(properties::differential_head::check, &name, &bytes);
        if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            hold(properties::chunked::check, &name, &bytes[at + 4..]);
        }
    }
}

/// Names and bytes of a target's seeds.
fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target);
    let files = fs::read_dir(folder).expect("its folder").flatten();
    let read = |file: fs::DirEntry| {
        (file.file_name().to_string_lossy().into_owned(), fs::read(file.path()).expect("readable"))
    };
    files.map(read).collect()
}

fn hold(check: Check, name: &str, bytes: &[u8]) {
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| properties::hold(check, bytes)));
    assert!(outcome.is_ok(), "it doesn't hold for {name}: {}", bytes.escape_ascii());
}
