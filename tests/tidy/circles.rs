//! Files that name each other. A file names another when its code (tests left out) has a path, whatever it begins
//! with, that leads to something the other defines: re-exports are followed to the definition, and to hand a name of
//! one's own submodule on (`pub use`) is not to name it. A call of a method names the file with the `impl` block that
//! has it, where that is not the file of the type: `self.name()` by the type, `x.name()` where one type alone has
//! such a method, and no trait.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::code::{Token, past_group, shipped, tokens};

/// A module as its names from the crate's root.
type ModulePath = Vec<String>;

/// What a file names of others: the file, and the first place where it does.
pub type Named = BTreeMap<PathBuf, String>;

struct Import {
    path: Vec<String>,
    alias: String,
    is_public: bool,
    line: usize,
}

/// A method of a type, not of a trait.
struct Method {
    of: (ModulePath, String),
    file: ModulePath,
}

#[derive(Default)]
struct File {
    path: PathBuf,
    tokens: Vec<Token>,
    items: BTreeSet<String>,
    imports: Vec<Import>,
    impls: Vec<Impl>,
    trait_methods: BTreeSet<String>,
}

/// An `impl` block.
struct Impl {
    /// The type, as a path.
    of: Vec<String>,
    tokens: Range<usize>,
    of_trait: bool,
    methods: Vec<String>,
}

/// All modules of the crate.
pub struct Modules {
    files: BTreeMap<ModulePath, File>,
    methods: BTreeMap<String, Vec<Method>>,
}

impl Modules {
    /// Of files by their path below the project's folder, with their text.
    pub fn of<'s>(files: impl IntoIterator<Item = (&'s Path, String)>) -> Self {
        let tests = |path: &Path| path.iter().any(|part| part == "tests" || part == "tests.rs");
        let files = files.into_iter().filter(|(path, _)| !tests(path));
        let files = files.map(|(path, text)| (module_path(path), File::read(path, &text))).collect();
        let mut modules = Self { files, methods: BTreeMap::new() };
        let mut methods: BTreeMap<String, Vec<Method>> = BTreeMap::new();
        for (module, file) in &modules.files {
            for block in file.impls.iter().filter(|block| !block.of_trait) {
                let Some(of) = modules.type_of(module, block) else { continue };
                for name in &block.methods {
                    methods.entry(name.clone()).or_default().push(Method { of: of.clone(), file: module.clone() });
                }
            }
        }
        modules.methods = methods;
        modules
    }

    /// For each file of `room` what it names of the others.
    pub fn names_within(&self, room: &str) -> BTreeMap<PathBuf, Named> {
        let of_room = |module: &[String]| module.first().is_some_and(|first| first == room);
        let mut all = BTreeMap::new();
        for (module, file) in self.files.iter().filter(|(module, _)| of_room(module)) {
            let mut named = Named::new();
            let mut add = |target: ModulePath, place: String| {
                if of_room(&target) && target != *module {
                    named.entry(self.files[&target].path.clone()).or_insert(place);
                }
            };
            for import in &file.imports {
                let Some(target) = self.resolve(module, &import.path, 0) else { continue };
                if !(import.is_public && target.starts_with(module)) {
                    add(target, format!("{}, line {}", import.path.join("::"), import.line));
                }
            }
            for (path, line) in file.paths() {
                if let Some(target) = self.resolve(module, &path, 0) {
                    add(target, format!("{}, line {line}", path.join("::")));
                }
            }
            for (target, place) in self.calls(module, file) {
                add(target, place);
            }
            all.insert(file.path.clone(), named);
        }
        all
    }

    /// The module whose file defines what `path` leads to from `module`; none for what is of another crate.
    fn resolve(&self, module: &[String], path: &[String], depth: usize) -> Option<ModulePath> {
        let mut at: ModulePath = match path.first()?.as_str() {
            "crate" => Vec::new(),
            "self" => module.to_vec(),
            "super" => module[..module.len().checked_sub(1)?].to_vec(),
            "std" | "core" | "alloc" | "Self" => return None,
            _ => return self.find(module, path, depth),
        };
        let supers = path[1..].iter().take_while(|name| *name == "super").count();
        at.truncate(at.len().checked_sub(supers)?);
        let rest = &path[1 + supers..];
        if rest.is_empty() { Some(at) } else { self.find(&at, rest, depth).or(Some(at)) }
    }

    /// As [`Self::resolve`], for a path that begins in `module` itself.
    fn find(&self, module: &[String], path: &[String], depth: usize) -> Option<ModulePath> {
        const DEPTH_MAX: usize = 20;
        let (first, rest) = path.split_first()?;
        let child: ModulePath = module.iter().chain([first]).cloned().collect();
        if self.files.contains_key(&child) {
            return if rest.is_empty() || rest == ["*"] {
                Some(child)
            } else {
                self.find(&child, rest, depth).or(Some(child))
            };
        }
        let file = self.files.get(module).filter(|_| depth < DEPTH_MAX)?;
        if file.items.contains(first) {
            return Some(module.to_vec());
        }
        let onward = |through: &[String]| through.iter().chain(rest).cloned().collect::<Vec<_>>();
        if let Some(import) = file.imports.iter().find(|import| import.alias == *first) {
            // `use name::…` in a module of that name would lead back here.
            return self.resolve(module, &onward(&import.path), depth + 1);
        }
        let globs = file.imports.iter().filter(|import| import.alias == "*");
        globs
            .filter_map(|import| self.resolve(module, &import.path[..import.path.len() - 1], depth + 1))
            .find_map(|target| self.find(&target, path, depth + 1))
    }

    /// The file of a block's type, and its name.
    fn type_of(&self, module: &[String], block: &Impl) -> Option<(ModulePath, String)> {
        self.resolve(module, &block.of, 0).zip(block.of.last().cloned())
    }

    /// Methods called that are another file's than their type's.
    fn calls(&self, module: &[String], file: &File) -> Vec<(ModulePath, String)> {
        let mut found = Vec::new();
        for (index, call) in file.tokens.windows(3).enumerate() {
            let is_call = call[0].is(".") && call[1].is_name() && (call[2].is("(") || call[2].is("::"));
            let Some(methods) = self.methods.get(&call[1].text).filter(|_| is_call) else { continue };
            let of_room = |method: &&Method| method.file.first() == module.first();
            let of_self = index > 0 && file.tokens[index - 1].is("self");
            let block = file.impls.iter().find(|block| of_self && block.tokens.contains(&index));
            let own = block.and_then(|block| self.type_of(module, block));
            let fits = |method: &&Method| own.as_ref().is_none_or(|own| *own == method.of);
            // A trait's method is the trait's, whatever type has one of that name too.
            let is_of_trait = self.files.values().any(|file| file.trait_methods.contains(&call[1].text));
            if own.is_none() && is_of_trait {
                continue;
            }
            if let [method] = methods.iter().filter(of_room).filter(fits).collect::<Vec<_>>().as_slice()
                && method.of.0 != method.file
            {
                found.push((method.file.clone(), format!(".{}(), line {}", call[1].text, call[1].line)));
            }
        }
        found
    }
}

fn module_path(path: &Path) -> ModulePath {
    let mut names: Vec<String> =
        path.with_extension("").iter().skip(1).map(|part| part.to_string_lossy().into()).collect();
    if names.last().is_some_and(|last| ["mod", "lib"].contains(&last.as_str())) {
        names.pop();
    }
    names
}

impl File {
    fn read(path: &Path, text: &str) -> Self {
        let mut file = Self { path: path.to_owned(), tokens: shipped(&tokens(text)), ..Self::default() };
        file.read_items();
        file.read_imports();
        file
    }

    fn read_items(&mut self) {
        const DEFINE: [&str; 9] = ["fn", "struct", "enum", "trait", "const", "static", "type", "union", "mod"];
        let mut at = 0;
        while at < self.tokens.len() {
            if self.tokens[at].is("trait") {
                self.read_trait(at);
            }
            let next = self.tokens.get(at + 1);
            match self.tokens[at].text.as_str() {
                "impl" => self.read_impl(at),
                "use" => at = self.past_semicolon(at) - 1,
                word if DEFINE.contains(&word) && next.is_some_and(Token::is_name) => {
                    self.items.insert(self.tokens[at + 1].text.clone());
                }
                "macro_rules" => drop(self.tokens.get(at + 2).map(|name| self.items.insert(name.text.clone()))),
                _ => {}
            }
            at = past_group(&self.tokens, at);
        }
    }

    fn read_trait(&mut self, at: usize) {
        let Some(open) = (at..self.tokens.len()).find(|index| self.tokens[*index].is("{")) else { return };
        let inner = open..past_group(&self.tokens, open);
        let methods =
            inner.filter(|index| self.tokens[*index].is("fn")).map(|index| self.tokens[index + 1].text.clone());
        self.trait_methods.extend(methods.collect::<Vec<_>>());
    }

    fn read_impl(&mut self, at: usize) {
        let Some(open) = (at..self.tokens.len()).find(|index| self.tokens[*index].is("{")) else { return };
        let (mut head, mut angles) = (Vec::new(), 0_usize);
        for token in &self.tokens[at + 1..open] {
            match token.text.as_str() {
                "<" => angles += 1,
                ">" => angles = angles.saturating_sub(1),
                _ if angles == 0 => head.push(token.clone()),
                _ => {}
            }
        }
        let head: Vec<_> = head.into_iter().take_while(|token| !token.is("where")).collect();
        let of_trait = head.iter().position(|token| token.is("for"));
        let of: Vec<String> = head
            .iter()
            .skip(of_trait.map_or(0, |at| at + 1))
            .filter(|token| token.is_name())
            .map(|token| token.text.clone())
            .collect();
        let end = past_group(&self.tokens, open);
        let mut methods = Vec::new();
        let mut inner = open + 1;
        while inner < end - 1 {
            if self.tokens[inner].is("fn") {
                methods.push(self.tokens[inner + 1].text.clone());
            }
            inner = past_group(&self.tokens, inner);
        }
        self.impls.push(Impl { of, tokens: open..end, of_trait: of_trait.is_some(), methods });
    }

    fn past_semicolon(&self, at: usize) -> usize {
        (at..self.tokens.len()).find(|index| self.tokens[*index].is(";")).map_or(self.tokens.len(), |end| end + 1)
    }

    fn read_imports(&mut self) {
        for at in 0..self.tokens.len() {
            if self.tokens[at].is("use") {
                let before = at.checked_sub(1).map(|before| self.tokens[before].text.as_str());
                let is_public = before == Some("pub") || before == Some(")");
                let end = self.past_semicolon(at) - 1;
                let tree = self.tokens[at + 1..end].to_vec();
                self.read_tree(&tree, &[], is_public);
            }
        }
    }

    fn read_tree(&mut self, tree: &[Token], above: &[String], is_public: bool) {
        let mut path = above.to_vec();
        let mut at = 0;
        let mut alias = None;
        while at < tree.len() {
            match tree[at].text.as_str() {
                "{" => {
                    let inner = &tree[at + 1..past_group(tree, at) - 1];
                    let mut start = 0;
                    while start < inner.len() {
                        let mut end = start;
                        while end < inner.len() && !inner[end].is(",") {
                            end = past_group(inner, end);
                        }
                        self.read_tree(&inner[start..end], &path, is_public);
                        start = end + 1;
                    }
                    return;
                }
                "as" => {
                    alias = tree.get(at + 1).map(|name| name.text.clone());
                    break;
                }
                "::" => {}
                "self" if !path.is_empty() => {}
                _ => path.push(tree[at].text.clone()),
            }
            at += 1;
        }
        let Some(last) = path.last().cloned() else { return };
        self.imports.push(Import { alias: alias.unwrap_or(last), path, is_public, line: tree[0].line });
    }

    /// The paths in the code, `use` left out.
    fn paths(&self) -> Vec<(Vec<String>, usize)> {
        let mut found = Vec::new();
        let mut at = 0;
        while at < self.tokens.len() {
            let token = &self.tokens[at];
            if token.is("use") {
                at = self.past_semicolon(at);
                continue;
            }
            let before = at.checked_sub(1).map_or("", |before| self.tokens[before].text.as_str());
            if !token.is_name() || [".", "::", "'", "mod", "fn"].contains(&before) {
                at += 1;
                continue;
            }
            let mut path = vec![token.text.clone()];
            let line = token.line;
            at += 1;
            while at + 1 < self.tokens.len() && self.tokens[at].is("::") && self.tokens[at + 1].is_name() {
                path.push(self.tokens[at + 1].text.clone());
                at += 2;
            }
            let names_a_field = path.len() == 1 && self.tokens.get(at).is_some_and(|next| next.is(":"));
            let is_keyword = path.len() == 1 && ["self", "super", "crate", "pub"].contains(&path[0].as_str());
            if !names_a_field && !is_keyword {
                found.push((path, line));
            }
        }
        found
    }
}

/// A shortest circle for each file that is on one and on no other of these.
pub fn circles(names: &BTreeMap<PathBuf, Named>) -> Vec<Vec<PathBuf>> {
    let mut found: Vec<Vec<PathBuf>> = Vec::new();
    for start in names.keys() {
        if found.iter().any(|circle| circle.contains(start)) {
            continue;
        }
        let mut reached_from: BTreeMap<&PathBuf, &PathBuf> = BTreeMap::new();
        let mut queue = VecDeque::from([start]);
        while let Some(file) = queue.pop_front() {
            for other in names[file].keys().filter(|other| !reached_from.contains_key(other)).collect::<Vec<_>>() {
                reached_from.insert(other, file);
                queue.push_back(other);
            }
        }
        if reached_from.contains_key(start) {
            let mut circle = vec![start.clone()];
            let mut at = reached_from[start];
            while at != start {
                circle.push(at.clone());
                at = reached_from[at];
            }
            circle.reverse();
            found.push(circle);
        }
    }
    found
}

/// Each file of a circle with where it names the next.
pub fn told(circle: &[PathBuf], names: &BTreeMap<PathBuf, Named>) -> String {
    let next = circle.iter().skip(1).chain(&circle[..1]);
    let step = |(file, next): (&PathBuf, &PathBuf)| {
        format!("{} names {} ({})", file.display(), next.display(), names[file][next])
    };
    circle.iter().zip(next).map(step).collect::<Vec<_>>().join("\n    ")
}
