//! Taking fields out of JSON: each reader looks at one field, writes its value where it belongs, and notes what is
//! wrong instead of stopping. A value that doesn't fit leaves the default in place, and the error keeps the whole
//! configuration from being used.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::duration::parse_duration;
use super::error::{FieldError, Position, Problem};
use super::json::{Json, Member, Node};
use super::nearest::nearest;
use super::number;

/// Mistakes that are told of one text.
const PROBLEMS_MAX: usize = 1000;

/// What was found to be wrong so far.
#[derive(Debug)]
pub(super) struct Problems<'t> {
    /// The text that the places are of; none for a tree without places.
    text: Option<&'t str>,
    found: Vec<(usize, FieldError)>,
}

/// One value and its path.
#[derive(Clone, Debug)]
pub(super) struct Field<'n> {
    pub path: String,
    pub node: &'n Node,
}

/// An object's fields, with the names that it may have.
#[derive(Debug)]
pub(super) struct Fields<'n, 'p, 't> {
    path: String,
    members: &'n [Member],
    known: &'static [&'static str],
    pub problems: &'p mut Problems<'t>,
}

/// The object that a name belongs to (empty: the top level), if it is known anywhere.
pub(super) type Home = fn(&str) -> Option<&'static str>;

impl<'t> Problems<'t> {
    pub(super) fn new(text: Option<&'t str>) -> Self {
        Self { text, found: Vec::new() }
    }

    pub(super) fn note(&mut self, path: &str, at: usize, problem: Problem) {
        if self.are_enough() {
            return;
        }
        let error = FieldError { path: path.to_owned(), position: self.position(at), problem };
        self.found.push((at, error));
    }

    pub(super) fn position(&self, at: usize) -> Option<Position> {
        self.text.map(|text| Position::of(text, at))
    }

    /// More of them are of no use, and each costs a walk through the text to its place.
    pub(super) fn are_enough(&self) -> bool {
        self.found.len() >= PROBLEMS_MAX
    }

    pub(super) fn count(&self) -> usize {
        self.found.len()
    }

    /// All of them, in the text's order.
    pub(super) fn into_errors(mut self) -> Vec<FieldError> {
        self.found.sort_by_key(|(at, _)| *at);
        self.found.into_iter().map(|(_, error)| error).collect()
    }
}

impl<'n> Field<'n> {
    /// Notes that the value isn't `wanted`.
    pub(super) fn unfit(&self, problems: &mut Problems, wanted: impl Into<String>) {
        let problem = Problem::Unfit { found: self.node.shown(), wanted: wanted.into(), nearest: None };
        problems.note(&self.path, self.node.at, problem);
    }

    /// The text in it; else notes what was `wanted`.
    pub(super) fn text(&self, problems: &mut Problems, wanted: &str) -> Option<&'n str> {
        let Json::Text(text) = &self.node.value else {
            self.unfit(problems, wanted);
            return None;
        };
        Some(text)
    }

    /// The list's elements, of which there may be as many as `count` says.
    pub(super) fn list(
        &self,
        problems: &mut Problems,
        count: RangeInclusive<usize>,
        wanted: &str,
    ) -> Option<Vec<Field<'n>>> {
        let Json::List(nodes) = &self.node.value else {
            self.unfit(problems, wanted);
            return None;
        };
        if !count.contains(&nodes.len()) {
            let found = format!("a list of {}", nodes.len());
            let wanted = format!("{wanted} ({} to {} of them)", count.start(), count.end());
            problems.note(&self.path, self.node.at, Problem::Unfit { found, wanted, nearest: None });
            return None;
        }
        let element = |(nth, node)| Field { path: format!("{}[{nth}]", self.path), node };
        Some(nodes.iter().enumerate().map(element).collect())
    }

    /// The path of a field of the object in it.
    pub(super) fn path_of(&self, name: &str) -> String {
        joined(&self.path, name)
    }

    pub(super) fn is_null(&self) -> bool {
        matches!(self.node.value, Json::Null)
    }

    /// Its fields, which may be those `known`; notes unknown ones and those given twice. `"//"` is a remark wherever
    /// and however often it stands.
    pub(super) fn open<'p, 't>(
        &self,
        known: &'static [&'static str],
        home: Home,
        problems: &'p mut Problems<'t>,
    ) -> Option<Fields<'n, 'p, 't>> {
        let Json::Object(members) = &self.node.value else {
            self.unfit(problems, "an object");
            return None;
        };
        let mut seen: Vec<&Member> = Vec::new();
        for member in members.iter().filter(|member| member.name != "//") {
            if problems.are_enough() {
                break;
            }
            let path = joined(&self.path, &member.name);
            if !known.contains(&member.name.as_str()) {
                let nearest = nearest(&member.name, known.iter().copied());
                let problem = match (nearest, home(&member.name)) {
                    (None, Some(home)) => Problem::MisplacedField { home },
                    (nearest, _) => Problem::UnknownField { nearest, known },
                };
                problems.note(&path, member.at, problem);
            } else if let Some(first) = seen.iter().find(|first| first.name == member.name) {
                let first = problems.position(first.at);
                problems.note(&path, member.at, Problem::DuplicateField { first });
            } else {
                seen.push(member);
            }
        }
        Some(Fields { path: self.path.clone(), members, known, problems })
    }
}

impl<'n, 't> Fields<'n, '_, 't> {
    /// The field `name`, if it is there.
    pub(super) fn find(&self, name: &str) -> Option<Field<'n>> {
        debug_assert!(self.known.contains(&name), "{name} isn't declared");
        let member = self.members.iter().find(|member| member.name == name)?;
        Some(Field { path: joined(&self.path, name), node: &member.node })
    }

    /// The same, where null stands for a field that isn't there.
    pub(super) fn find_set(&self, name: &str) -> Option<Field<'n>> {
        self.find(name).filter(|field| !field.is_null())
    }

    /// A whole number within `bounds`.
    pub(super) fn whole<T: TryFrom<u64>>(&mut self, name: &str, bounds: RangeInclusive<u64>, into: &mut T) {
        let Some(field) = self.find(name) else { return };
        let number = match &field.node.value {
            Json::Number(digits) => number::whole(digits),
            _ => None,
        };
        let fitting = number.filter(|number| bounds.contains(number)).and_then(|number| T::try_from(number).ok());
        match fitting {
            Some(number) => *into = number,
            None => field.unfit(self.problems, format!("a whole number from {} to {}", bounds.start(), bounds.end())),
        }
    }

    /// A number from 0 to 1.
    pub(super) fn fraction(&mut self, name: &str, into: &mut f64) {
        let Some(field) = self.find(name) else { return };
        let number = match &field.node.value {
            Json::Number(digits) => digits.parse::<f64>().ok(),
            _ => None,
        };
        match number.filter(|number| (0.0..=1.0).contains(number)) {
            Some(number) => *into = number,
            None => field.unfit(self.problems, "a number from 0 to 1"),
        }
    }

    /// `true` or `false`.
    pub(super) fn flag(&mut self, name: &str, into: &mut bool) {
        let Some(field) = self.find(name) else { return };
        match field.node.value {
            Json::Bool(flag) => *into = flag,
            _ => field.unfit(self.problems, "true or false"),
        }
    }

    /// A duration within `bounds`.
    pub(super) fn duration(&mut self, name: &str, bounds: RangeInclusive<Duration>, into: &mut Duration) {
        let Some(field) = self.find(name) else { return };
        let Some(text) = field.text(self.problems, "a duration such as \"30s\" or \"1m30s\"") else { return };
        match parse_duration(text) {
            Ok(duration) if bounds.contains(&duration) => *into = duration,
            Ok(_) => {
                let wanted = format!("a duration from {} to {}", shown(*bounds.start()), shown(*bounds.end()));
                field.unfit(self.problems, wanted);
            }
            Err(error) => {
                let problem = Problem::Duration { found: field.node.shown(), error };
                self.problems.note(&field.path, field.node.at, problem);
            }
        }
    }

    /// A text that `fits`.
    pub(super) fn checked_text(&mut self, name: &str, wanted: &str, fits: impl Fn(&str) -> bool, into: &mut String) {
        self.parsed(name, wanted, |text| fits(text).then(|| text.to_owned()), into);
    }

    /// A text that `fits`, or `null` for none.
    pub(super) fn optional_text(
        &mut self,
        name: &str,
        wanted: &str,
        fits: impl Fn(&str) -> bool,
        into: &mut Option<String>,
    ) {
        if self.find(name).is_some_and(|field| field.is_null()) {
            *into = None;
            return;
        }
        self.parsed(name, wanted, |text| fits(text).then(|| Some(text.to_owned())), into);
    }

    /// A text that `parse` makes something of.
    pub(super) fn parsed<T>(&mut self, name: &str, wanted: &str, parse: impl Fn(&str) -> Option<T>, into: &mut T) {
        let Some(field) = self.find(name) else { return };
        let Some(text) = field.text(self.problems, wanted) else { return };
        match parse(text) {
            Some(value) => *into = value,
            None => field.unfit(self.problems, wanted),
        }
    }

    /// The object in the field `name`, opened.
    pub(super) fn object(
        &mut self,
        name: &str,
        known: &'static [&'static str],
        home: Home,
    ) -> Option<Fields<'n, '_, 't>> {
        self.find(name)?.open(known, home, self.problems)
    }

    /// One of `words`, by its index.
    pub(super) fn word(&mut self, name: &str, words: &[&'static str]) -> Option<usize> {
        let field = self.find(name)?;
        one_of(&field, words, self.problems)
    }
}

/// Which of `words` the field holds.
pub(super) fn one_of(field: &Field, words: &[&'static str], problems: &mut Problems) -> Option<usize> {
    let quoted: Vec<String> = words.iter().map(|word| format!("{word:?}")).collect();
    let wanted = quoted.join(" or ");
    let text = field.text(problems, &wanted)?;
    let position = words.iter().position(|word| *word == text);
    if position.is_none() {
        let nearest = nearest(text, words.iter().copied());
        let problem = Problem::Unfit { found: field.node.shown(), wanted, nearest };
        problems.note(&field.path, field.node.at, problem);
    }
    position
}

/// `limits` + `headers` → `limits.headers`; a name that isn't one stands in brackets, so that a path stays one line.
fn joined(path: &str, name: &str) -> String {
    let plain = !name.is_empty()
        && name.len() <= 64
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'$'));
    match (plain, path.is_empty()) {
        (true, true) => name.to_owned(),
        (true, false) => format!("{path}.{name}"),
        (false, _) => {
            let cut: String = name.chars().take(64).collect();
            format!("{path}[{cut:?}]")
        }
    }
}

/// A bound as it would be written: the largest unit that it is a whole number of.
fn shown(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    let units: [(u128, &str); 5] =
        [(3_600_000_000_000, "h"), (60_000_000_000, "m"), (1_000_000_000, "s"), (1_000_000, "ms"), (1_000, "us")];
    if nanos == 0 {
        return "0s".to_owned();
    }
    units
        .iter()
        .find(|(unit, _)| nanos.is_multiple_of(*unit))
        .map_or_else(|| format!("{nanos}ns"), |(unit, name)| format!("{}{name}", nanos / unit))
}

#[cfg(test)]
mod tests {
    use crate::config::{parse, parse_backend};

    #[test]
    fn of_thousands_of_mistakes_a_thousand_are_told() {
        let unknown: Vec<_> = (0..50_000).map(|nth| format!("\"unknown-{nth}\": 1")).collect();
        let text = format!("{{{}}}", unknown.join(",\n"));
        assert_eq!(parse(&text).unwrap_err().errors.len(), super::PROBLEMS_MAX);
        assert_eq!(parse_backend(&text).unwrap_err().len(), super::PROBLEMS_MAX);
    }
}
