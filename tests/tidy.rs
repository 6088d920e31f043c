//! What the compiler can't see of the house's order (ARCHITECTURE.md): arrows between rooms, where `unsafe` and `may`
//! live, no file grown past its idea.

#[path = "tidy/circles.rs"]
mod circles;
#[path = "tidy/code.rs"]
mod code;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// A file longer than this has become two ideas.
const LINES_MAX: usize = 600;

/// What takes more parameters than this has its facts in no struct yet; `self` doesn't count.
const PARAMETERS_MAX: usize = 6;

/// Each room, and the rooms whose names may stand in it.
const ARROWS: &[(&str, &[&str])] = &[
    ("balance", &["config"]),
    ("config", &[]),
    ("http1", &[]),
    ("policy", &[]),
    ("plan", &["balance", "config", "http1", "policy"]),
    ("runtime", &[]),
    ("transport", &["observe", "runtime"]),
    ("observe", &["runtime"]),
    ("upstream", &["balance", "config", "runtime"]),
    ("proxy", &["balance", "config", "http1", "observe", "plan", "policy", "runtime", "upstream"]),
    ("control", &["balance", "config", "http1", "observe", "plan", "runtime", "transport", "upstream"]),
    ("cli", &["balance", "config", "control", "http1", "observe", "plan", "proxy", "runtime", "transport", "upstream"]),
];

/// A source file: its path below the project's folder, and its lines.
struct Source {
    path: PathBuf,
    lines: Vec<String>,
}

impl Source {
    /// The folder below `src`; none for `main.rs` and `lib.rs`.
    fn room(&self) -> Option<&str> {
        let mut parts = self.path.iter().skip(1);
        let first = parts.next()?.to_str()?;
        parts.next().map(|_| first)
    }

    /// Lines with their numbers, comments and what stands in quotes left out.
    fn code(&self) -> impl Iterator<Item = (usize, String)> {
        self.lines.iter().enumerate().map(|(index, line)| (index + 1, bare(line)))
    }

    fn at(&self, line: usize) -> String {
        format!("{}:{line}", self.path.display())
    }
}

/// The line without its comment and without the contents of its string literals.
fn bare(line: &str) -> String {
    let unquoted: String = line.split('"').step_by(2).collect();
    unquoted.split("//").next().unwrap_or_default().to_owned()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn sources(folder: &str) -> Vec<Source> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder of the project").flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let lines = fs::read_to_string(&path).expect("UTF-8").lines().map(str::to_owned).collect();
                let path = path.strip_prefix(root()).expect("below the root").to_owned();
                found.push(Source { path, lines });
            }
        }
    }
    found
}

/// The rooms that a line of code names: `crate::room`, and each of `crate::{room::…, other}`.
fn rooms_named(line: &str) -> BTreeSet<String> {
    let name = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut rooms = BTreeSet::new();
    for rest in line.split("crate::").skip(1) {
        match rest.strip_prefix('{') {
            Some(list) => rooms.extend(list.split([',', '{', '}']).map(|item| name(item.trim()))),
            None => drop(rooms.insert(name(rest))),
        }
    }
    rooms
}

fn assert_none(rule: &str, found: &[String]) {
    assert!(found.is_empty(), "{rule}:\n  {}", found.join("\n  "));
}

#[test]
fn arrows_between_rooms_point_one_way() {
    let all: Vec<&str> = ARROWS.iter().map(|(room, _)| *room).collect();
    let mut found = Vec::new();
    for source in sources("src") {
        let Some(room) = source.room() else { continue };
        let Some((_, allowed)) = ARROWS.iter().find(|(name, _)| *name == room) else {
            found.push(format!("{}: a room that has no arrows in tests/tidy.rs", source.path.display()));
            continue;
        };
        for (number, line) in source.code() {
            for named in rooms_named(&line) {
                if named != room && all.contains(&named.as_str()) && !allowed.contains(&named.as_str()) {
                    found.push(format!("{}: {room} may not know {named}", source.at(number)));
                }
            }
        }
    }
    assert_none("arrows that point the wrong way", &found);
}

#[test]
fn unsafe_code_lives_in_runtime_only() {
    let outside = |source: &Source| source.room() != Some("runtime");
    let is_unsafe = |line: &str| {
        let mut words = line.split(|c: char| !c.is_alphanumeric() && c != '_');
        words.any(|word| word == "unsafe")
    };
    let found: Vec<_> = sources("src")
        .iter()
        .filter(|source| outside(source))
        .flat_map(|source| source.code().filter(|(_, line)| is_unsafe(line)).map(|(number, _)| source.at(number)))
        .collect();
    assert_none("unsafe outside of src/runtime", &found);
}

#[test]
fn every_unsafe_block_says_why_it_is_sound() {
    let mut found = Vec::new();
    for source in sources("src") {
        for (number, line) in source.code() {
            let opens = line.contains("unsafe {") || line.contains("unsafe impl");
            let above = source.lines[number.saturating_sub(8)..number].iter();
            if opens && !above.into_iter().any(|line| line.contains("SAFETY")) {
                found.push(source.at(number));
            }
        }
    }
    assert_none("an unsafe block without a SAFETY line above it", &found);
}

#[test]
fn a_request_has_one_way_out() {
    // What is called, where alone, and why.
    let once = [
        (".end()", "src/proxy/exchange.rs", "an exchange ends where it was run"),
        (".enter(&", "src/proxy/exchange.rs", "what has become of a request is written down at its end"),
        (".book.enter(", "src/proxy/worker.rs", "and counted by what was written down"),
        ("failures.count(", "src/proxy/worker.rs", "nothing else counts failures"),
    ];
    let sources = sources("src");
    for (call, file, why) in once {
        let of_proxy = sources.iter().filter(|source| source.room() == Some("proxy"));
        let found: Vec<_> = of_proxy
            .flat_map(|source| source.code().filter(|(_, line)| line.contains(call)).map(|_| source.path.display()))
            .collect();
        assert!(found.len() == 1 && found[0].to_string() == file, "{why}, but {call} is in {found:?}");
    }
}

#[test]
fn a_layer_hands_on_every_call_also_those_that_have_a_default() {
    let functions = |path: &str| -> BTreeSet<String> {
        let text = fs::read_to_string(root().join(path)).expect("a source");
        text.split("    fn ").skip(1).filter_map(|rest| Some(rest.split(['(', '<']).next()?.to_owned())).collect()
    };
    let of_traits = functions("src/runtime/world.rs");
    let handed_on: BTreeSet<_> = sources("src")
        .iter()
        .filter(|source| source.room() == Some("transport"))
        .flat_map(|source| functions(&source.path.display().to_string()))
        .collect();
    // What is no call to a world, a service or a stream.
    let own = ["add", "is_empty", "len", "pour"];
    let found: Vec<_> =
        of_traits.difference(&handed_on).filter(|name| !own.contains(&name.as_str())).cloned().collect();
    assert!(of_traits.contains("sweep"), "{of_traits:?}");
    assert_none("calls that src/transport doesn't hand on", &found);
}

#[test]
fn coroutines_are_spawned_and_named_in_runtime_only() {
    // `go!` expands to an unsafe block that even `forbid(unsafe_code)` lets through.
    let mut found = Vec::new();
    for source in sources("src").iter().filter(|source| source.room() != Some("runtime")) {
        for (number, line) in source.code() {
            let names_may = line.split("may::").skip(1).count() > 0 && !line.contains("_may::");
            if names_may || line.contains("go!(") {
                found.push(source.at(number));
            }
        }
    }
    assert_none("`may` outside of src/runtime", &found);
}

#[test]
fn no_file_has_grown_past_its_idea() {
    let mut files = sources("src");
    files.extend(sources("tests"));
    let found: Vec<_> = files
        .iter()
        .filter(|source| source.lines.len() > LINES_MAX)
        .map(|source| format!("{}: {} lines", source.path.display(), source.lines.len()))
        .collect();
    assert_none(&format!("more than {LINES_MAX} lines"), &found);
}

#[test]
fn builds_that_are_broken_on_purpose_are_a_fenced_line_each_and_never_the_default() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).expect("a manifest");
    let features = manifest.split("[features]").nth(1).expect("features").split("\n[").next().unwrap_or_default();
    assert!(!features.lines().any(|line| line.starts_with("default")), "a feature is on by default");
    let mut fenced = BTreeSet::new();
    for source in sources("src") {
        let Some(room) = source.room() else { continue };
        for (number, line) in source.lines.iter().enumerate().filter(|(_, line)| line.contains("sabotage")) {
            let is_fence =
                line.trim_start().starts_with("#[cfg(") && line.ends_with("// Broken on purpose: ./x sabotage");
            assert!(is_fence, "{}: {line}", source.at(number + 1));
            fenced.insert(format!("{room}, {}", line.trim()));
        }
    }
    let deliberate = features.lines().filter(|line| line.starts_with("sabotage-")).count();
    assert_eq!(fenced.len(), deliberate, "{fenced:#?}");
}

#[test]
fn nothing_is_left_unfinished() {
    let found: Vec<_> = sources("src")
        .iter()
        .flat_map(|source| {
            let unfinished = |line: &str| line.contains("todo!(") || line.contains("unimplemented!(");
            source.code().filter(move |(_, line)| unfinished(line)).map(|(number, _)| source.at(number))
        })
        .collect();
    assert_none("unfinished", &found);
}

#[test]
fn every_room_says_what_it_may_know() {
    let mut found = Vec::new();
    for (room, _) in ARROWS {
        let file = root().join("src").join(room).join("mod.rs");
        if let Ok(text) = fs::read_to_string(&file)
            && !text.starts_with("//!")
        {
            found.push(format!("src/{room}/mod.rs"));
        }
    }
    assert_none("a room that doesn't begin with what lives there", &found);
}

#[test]
fn the_papers_are_there() {
    for file in
        ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "LICENSE", "LICENSE-MIT", "LICENSE-APACHE", "Cargo.lock"]
    {
        assert!(root().join(file).is_file(), "{file} is missing");
    }
}

#[test]
fn every_link_within_the_papers_leads_somewhere() {
    let mut papers = vec![root().join("README.md"), root().join("ARCHITECTURE.md"), root().join("CHANGELOG.md")];
    papers.extend(fs::read_dir(root().join("docs")).expect("docs").flatten().map(|entry| entry.path()));
    let mut found = Vec::new();
    for paper in papers.iter().filter(|paper| paper.extension().is_some_and(|extension| extension == "md")) {
        let text = fs::read_to_string(paper).expect("UTF-8");
        for link in text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next()) {
            let outside = link.is_empty() || link.contains("://") || link.contains(' ');
            if !outside && !paper.parent().expect("a folder").join(link).exists() {
                found.push(format!("{}: {link}", paper.display()));
            }
        }
    }
    assert_none("links that lead nowhere", &found);
}

#[test]
fn every_test_that_the_papers_name_exists() {
    let mut found = Vec::new();
    let mut named = 0;
    for paper in fs::read_dir(root().join("docs")).expect("docs").flatten().map(|entry| entry.path()) {
        let Ok(text) = fs::read_to_string(&paper) else { continue };
        let spans = text.split('`').skip(1).step_by(2);
        for (file, test) in spans.filter_map(|span| span.strip_prefix("tests/")?.split_once("::")) {
            named += 1;
            let source = fs::read_to_string(root().join("tests").join(file)).unwrap_or_default();
            if !source.contains(&format!("fn {test}()")) {
                found.push(format!("{}: tests/{file}::{test}", paper.display()));
            }
        }
    }
    assert_none("tests that aren't there", &found);
    assert!(named > 20, "the papers don't name tests as they did");
}

#[test]
fn no_files_of_a_room_name_each_other_in_a_circle() {
    let sources = sources("src");
    let modules = circles::Modules::of(sources.iter().map(|source| (source.path.as_path(), source.lines.join("\n"))));
    let mut found = Vec::new();
    for (room, _) in ARROWS {
        let names = modules.names_within(room);
        found.extend(circles::circles(&names).iter().map(|circle| circles::told(circle, &names)));
    }
    assert_none("circles of files", &found);
}

#[test]
fn a_circle_of_files_is_found_however_they_name_each_other() {
    // (what `a.rs` says, what `b.rs` says, whether they are on a circle); `mod.rs` hands both on.
    let cases = [
        ("use super::b::B; pub struct A;", "pub struct B;", false),
        ("use super::b::B; pub struct A;", "use super::a::A; pub struct B;", true),
        ("use super::B; pub struct A;", "use super::A; pub struct B;", true),
        ("use crate::room::B; pub struct A;", "fn b(_: crate::room::a::A) {} pub struct B;", true),
        ("use super::{self as room}; pub struct A(room::B);", "pub struct B(super::A);", true),
        ("use super::*; pub struct A(B);", "pub struct B(super::super::room::A);", true),
        ("use super::b as other; pub struct A(other::B);", "pub struct B { a: super::A }", true),
        ("pub use super::b::B; pub struct A;", "use super::A; pub struct B;", true),
        ("pub struct A(super::B);", "pub struct B; // super::A", false),
        ("pub struct A(super::B);", "pub struct B; const TEXT: &str = r#\"super::A\"#;", false),
        ("pub struct A(super::B);", "pub struct B; #[cfg(test)] mod tests { use super::super::A; }", false),
        ("pub struct A(super::B);", "pub struct B; #[cfg(test)] use super::{A}; fn b() -> char { '\"' }", false),
        ("impl super::B { pub fn a(&self) {} } pub struct A;", "pub struct B; fn b(b: &B) { b.a() }", true),
        (
            "impl super::B { pub fn a(&self) {} } pub struct A;",
            "pub struct B; impl B { fn b(&self) { self.a() } }",
            true,
        ),
        ("impl super::B { pub fn a(&self) {} } pub struct A;", "pub struct B; fn b(b: &B) { b.c() }", false),
        ("impl super::B { fn a(&self) {} } trait A { fn a(&self); }", "pub struct B; fn b(b: &dyn X) { b.a() }", false),
    ];
    for (a, b, on_a_circle) in cases {
        let face = "mod a; mod b; pub use a::A; pub use b::B;";
        let files = [("src/room/mod.rs", face), ("src/room/a.rs", a), ("src/room/b.rs", b)];
        let files = files.map(|(path, text)| (Path::new(path), text.to_owned()));
        let found = circles::circles(&circles::Modules::of(files).names_within("room"));
        assert_eq!(found.len(), usize::from(on_a_circle), "{a} | {b}: {found:?}");
    }
}

#[test]
fn no_function_has_more_than_six_parameters() {
    let mut files = sources("src");
    files.extend(sources("tests"));
    let mut found = Vec::new();
    for source in &files {
        for function in code::functions(&code::tokens(&source.lines.join("\n"))) {
            if function.parameters > PARAMETERS_MAX {
                found.push(format!("{}: {}", source.path.display(), function.name));
            }
        }
    }
    assert_none(&format!("more than {PARAMETERS_MAX} parameters"), &found);
}

#[test]
fn parameters_are_counted_as_they_are_written() {
    let counted =
        |text: &str| code::functions(&code::tokens(text)).iter().map(|each| each.parameters).collect::<Vec<_>>();
    assert_eq!(counted("fn none() {}"), [0]);
    assert_eq!(counted("fn one<T: Into<(u8, u8)>, const N: usize>(&'a mut self, (a, b): (u8, [T; N]),) {}"), [1]);
    assert_eq!(counted("fn two(self: Rc<Self>, with: impl Fn(u8, u8) -> Map<u8, u8>, \n // a, b\n last: u8) {}"), [2]);
    assert_eq!(
        counted("trait T { fn a(&self, b: u8); fn c(d: u8, e: fn(u8, u8) -> u8); } let f = |g, h, i| g;"),
        [1, 2]
    );
}
