//! The list `backends`, and what the admin API takes of one backend.

use std::collections::HashMap;

use super::checked::{BackendChange, BackendConfig, BackendState, Config};
use super::error::{FieldError, FieldPlace, Problem};
use super::fields::{Field, Fields, Home, Problems};
use super::json::{self, Json};
use super::schema::{BACKEND, CHANGE, CHANGE_BY_URL, home_of};
use super::url::BackendUrl;
use super::values::{CONNECTIONS_MAX, NAME_BYTES_MAX};

/// The most backends that a proxy has.
pub const BACKENDS_MAX: usize = 4096;
/// The largest weight of a backend, as in `HAProxy`.
const WEIGHT_MAX: u32 = 256;
const ZONE_BYTES_MAX: usize = 64;
pub(super) const ZONE_WANTED: &str = "a zone of up to 64 letters, digits and any of - . _ ~ : @ [ ]";

const STATES: [(&str, BackendState); 3] =
    [("ready", BackendState::Ready), ("drain", BackendState::Drain), ("down", BackendState::Down)];

/// Reads `backends`, and where each of their URLs stands.
pub(super) fn read(fields: &mut Fields, config: &mut Config, places: &mut Vec<FieldPlace>) {
    let Some(field) = fields.find("backends") else { return };
    let wanted = "a list of URLs or of objects with \"url\"";
    let Some(list) = field.list(fields.problems, 0..=BACKENDS_MAX, wanted) else { return };
    let mut urls: HashMap<String, String> = HashMap::new();
    let mut found = Vec::new();
    for field in list {
        let Some((backend, url_field)) = backend(&field, home_of, fields.problems) else { continue };
        if let Some(first) = urls.get(&backend.url.normalized) {
            let problem = Problem::SameBackend { first: first.clone() };
            fields.problems.note(&url_field.path, url_field.node.at, problem);
            continue;
        }
        urls.insert(backend.url.normalized.clone(), field.path.clone());
        found.push((backend, field, url_field));
    }
    let has_its_own = tell_apart(&mut found, fields.problems);
    for ((backend, _, url_field), _) in found.into_iter().zip(has_its_own).filter(|(_, has_its_own)| *has_its_own) {
        let position = fields.problems.position(url_field.node.at);
        places.push(FieldPlace { path: url_field.path, position });
        config.backends.push(backend);
    }
}

/// Sees to it that each backend's name is its own: first those that were given, then defaults in the file's order, which
/// give way where they can. Which of them have got one.
fn tell_apart(backends: &mut [(BackendConfig, Field, Field)], problems: &mut Problems) -> Vec<bool> {
    let mut names: HashMap<String, String> = HashMap::new();
    let mut has_its_own = vec![false; backends.len()];
    for given in [true, false] {
        for (nth, (backend, field, _)) in backends.iter_mut().enumerate().filter(|(_, each)| each.0.is_named == given) {
            if names.contains_key(&backend.name)
                && let Some(longer) = backend.longer_name()
            {
                backend.name = longer;
            }
            if let Some(first) = names.get(&backend.name) {
                let problem = Problem::SameName { name: backend.name.clone(), first: first.clone() };
                problems.note(&field.path, field.node.at, problem);
                continue;
            }
            names.insert(backend.name.clone(), field.path.clone());
            has_its_own[nth] = true;
        }
    }
    has_its_own
}

impl BackendConfig {
    /// What a backend without a name of its own is called where another one has its default name: that with the base path
    /// behind it, `/` where there is none. Two backends that differ by their base path alone so differ by name too.
    /// None for a name that was given, and where it would be too long.
    pub fn longer_name(&self) -> Option<String> {
        let authority = self.url.authority();
        let is_default = !self.is_named && self.name == authority;
        let base_path = if self.url.base_path.is_empty() { "/" } else { &self.url.base_path };
        Some(authority + base_path).filter(|name| is_default && name.len() <= NAME_BYTES_MAX)
    }
}

/// Reads one backend as the admin API takes it, in JSON: an object with `url` and whatever else a
/// configured one may have. Reports everything
/// that is wrong; whether its URL and name are free is the caller's to know.
pub fn parse_backend(text: &str) -> Result<BackendConfig, Vec<FieldError>> {
    read_object(text, |root, problems| backend(root, |_| None, problems).map(|(backend, _)| backend))
}

/// Reads what names a backend in the admin API, in JSON: an object with `url` and nothing else. Reports everything that
/// is wrong.
pub fn parse_backend_url(text: &str) -> Result<BackendUrl, Vec<FieldError>> {
    read_object(text, |root, problems| {
        let url = root.open(&["url"], |_| None, problems)?.find("url");
        let Some(url) = url else {
            problems.note("url", root.node.at, Problem::Missing { wanted: "the backend's URL" });
            return None;
        };
        backend_url(&url, problems)
    })
}

/// Reads what the admin API is to change of a backend that is known already, in JSON: `weight`, `state` and
/// `max_connections`, at least one of them. Reports everything that is wrong.
pub fn parse_backend_change(text: &str) -> Result<BackendChange, Vec<FieldError>> {
    read_object(text, |root, problems| {
        let mut fields = root.open(CHANGE, |_| None, problems)?;
        backend_change(root, &mut fields)
    })
}

/// As [`parse_backend_change`], with the backend's `url` beside the changes.
pub fn parse_backend_change_by_url(text: &str) -> Result<(BackendUrl, BackendChange), Vec<FieldError>> {
    read_object(text, |root, problems| {
        let mut fields = root.open(CHANGE_BY_URL, |_| None, problems)?;
        let url = fields.find("url");
        let change = backend_change(root, &mut fields);
        let Some(url) = url else {
            problems.note("url", root.node.at, Problem::Missing { wanted: "the backend's URL" });
            return None;
        };
        Some((backend_url(&url, problems)?, change?))
    })
}

fn backend_change(root: &Field, fields: &mut Fields) -> Option<BackendChange> {
    let written = |name| fields.find(name).is_some();
    if CHANGE.iter().all(|name| !written(name)) {
        let wanted = "what is to change: \"weight\", \"state\" or \"max_connections\"";
        fields.problems.note("", root.node.at, Problem::Missing { wanted });
        return None;
    }
    let (mut weight, mut max_connections) = (0, 0);
    let (weighted, bounded) = (written("weight"), written("max_connections"));
    fields.whole("weight", 0..=WEIGHT_MAX.into(), &mut weight);
    let state = fields.word("state", &STATES.map(|(word, _)| word)).map(|nth| STATES[nth].1);
    fields.whole("max_connections", 0..=CONNECTIONS_MAX, &mut max_connections);
    Some(BackendChange {
        weight: weighted.then_some(weight),
        state,
        max_connections: bounded.then_some(max_connections),
    })
}

/// Reads JSON that has to be an object. Its errors have no places but that of bad syntax: such texts are short, and to
/// find the place of each of many errors takes time that a stranger shouldn't command.
fn read_object<T>(text: &str, read: impl FnOnce(&Field, &mut Problems) -> Option<T>) -> Result<T, Vec<FieldError>> {
    let (node, _) = json::parse(text).map_err(|error| vec![error])?;
    let root = Field { path: String::new(), node: &node };
    let mut problems = Problems::new(None);
    let value = if matches!(node.value, Json::Object(_)) {
        read(&root, &mut problems)
    } else {
        root.unfit(&mut problems, "an object with the backend's \"url\"");
        None
    };
    let errors = problems.into_errors();
    value.filter(|_| errors.is_empty()).ok_or(errors)
}

/// One backend, and the field that its URL stands in. None when anything in it is wrong.
fn backend<'n>(field: &Field<'n>, home: Home, problems: &mut Problems) -> Option<(BackendConfig, Field<'n>)> {
    let noted_before = problems.count();
    let (mut weight, mut backup, mut max_connections, mut zone) = (1, false, 0, String::new());
    let (url_field, name_field) = match &field.node.value {
        Json::Text(_) => (Some(field.clone()), None),
        Json::Object(_) => {
            let mut fields = field.open(BACKEND, home, problems)?;
            fields.whole("weight", 0..=WEIGHT_MAX.into(), &mut weight);
            fields.flag("backup", &mut backup);
            fields.whole("max_connections", 0..=CONNECTIONS_MAX, &mut max_connections);
            fields.checked_text("zone", ZONE_WANTED, is_zone, &mut zone);
            (fields.find("url"), fields.find("name"))
        }
        _ => {
            field.unfit(problems, "a URL or an object with \"url\"");
            return None;
        }
    };
    let name = name_field.map(|field| backend_name(&field, problems));
    let Some(url_field) = url_field else {
        let wanted = "the backend's URL";
        problems.note(&field.path_of("url"), field.node.at, Problem::Missing { wanted });
        return None;
    };
    let url = backend_url(&url_field, problems)?;
    if problems.count() > noted_before {
        return None;
    }
    let name = name.flatten();
    let is_named = name.is_some();
    let name = name.map_or_else(|| url.authority(), str::to_owned);
    Some((BackendConfig { url, name, is_named, weight, backup, max_connections, zone }, url_field))
}

fn backend_url(field: &Field, problems: &mut Problems) -> Option<BackendUrl> {
    let text = field.text(problems, "a URL such as \"http://localhost:8082\"")?;
    BackendUrl::parse(text)
        .map_err(|error| problems.note(&field.path, field.node.at, Problem::Url { found: field.node.shown(), error }))
        .ok()
}

/// What fits into a path of the admin API (`/backends/{name}`) and into a metric's label without being escaped.
fn backend_name<'n>(field: &Field<'n>, problems: &mut Problems) -> Option<&'n str> {
    let wanted = "a name of 1 to 260 letters, digits and any of - . _ ~ : @ [ ]";
    let name = field.text(problems, wanted)?;
    let fits = (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(is_name_byte);
    if !fits {
        field.unfit(problems, wanted);
    }
    fits.then_some(name)
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~:@[]".contains(&byte)
}

/// As a backend's name; an empty one is none.
pub(super) fn is_zone(text: &str) -> bool {
    text.len() <= ZONE_BYTES_MAX && text.bytes().all(is_name_byte)
}

#[cfg(test)]
mod tests;
