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

/// Otherwise they can't be built with `--locked`, which nobody notices before they are needed.
#[test]
fn the_lock_files_of_what_is_built_on_maypole_know_its_dependencies() {
    let read = |path: &str| std::fs::read_to_string(format!("{}/{path}", env!("CARGO_MANIFEST_DIR"))).expect(path);
    let tree = tree(&["-e", "normal", "--depth", "1"]);
    let wanted: Vec<_> = tree.lines().skip(1).filter_map(|line| line.split(' ').next()).collect();
    assert!(wanted.contains(&"may"), "not the tree it should be: {tree}");
    for lock in ["fuzz/Cargo.lock", "bench/balance/Cargo.lock", "bench/sweep/Cargo.lock"] {
        let text = read(lock);
        let package = text.split("[[package]]").find(|package| package.contains("name = \"maypole\"\n")).expect(lock);
        let known =
            |name: &&str| package.contains(&format!("\n \"{name}\"")) || package.contains(&format!("\n \"{name} "));
        let missing: Vec<_> = wanted.iter().filter(|name| !known(name)).collect();
        assert!(missing.is_empty(), "{lock} lacks {missing:?}: run cargo in its folder");
    }
}
