//! What may be in the dependency tree, and with which features.

use std::process::Command;

/// What `cargo tree` prints, from the lock file and without the network.
fn tree(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--locked", "--offline", "--prefix", "none", "--charset", "ascii"])
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[test]
fn there_is_no_tokio_in_any_form() {
    let tree = tree(&["-e", "normal,build,dev"]);
    assert!(tree.contains("may v"), "not the tree it should be: {tree}");
    let found: Vec<_> = tree.lines().filter(|line| line.contains("tokio")).collect();
    assert!(found.is_empty(), "{found:?}");
    for lock in ["Cargo.lock", "bench/origin/Cargo.lock"] {
        let text = std::fs::read_to_string(format!("{}/{lock}", env!("CARGO_MANIFEST_DIR"))).expect("committed");
        assert!(!text.contains("name = \"tokio"), "{lock} has it");
    }
}

/// Its default features would move coroutines between workers (work stealing), clone an `Arc` at every yield
/// (`io_cancel`) and wake every worker each 10 ms (`io_timeout`); features unify over the whole tree.
#[test]
fn may_comes_without_its_default_features() {
    let tree = tree(&["-e", "features", "-i", "may"]);
    let features: Vec<_> = tree.lines().filter_map(|line| line.strip_prefix("may feature ")).collect();
    assert!(tree.starts_with("may v"), "not the tree it should be: {tree}");
    assert!(features.is_empty(), "{features:?}");
}

#[test]
fn the_benchmarks_http_server_stays_in_the_benchmark() {
    assert!(!tree(&["-e", "normal,build,dev"]).contains("may_minihttp"));
}
