//! What can be wrong with a configuration, and how it is told: one line for each mistake, with its file, line, column
//! and JSON path, what was found and what was wanted.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::duration::DurationError;
use super::url::UrlError;

/// Everything that is wrong with one configuration, in the file's order. Displays as one line for each error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors {
    /// The file; none for text from elsewhere.
    pub file: Option<PathBuf>,
    /// Never empty where loading failed.
    pub errors: Vec<FieldError>,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// The JSON path, such as `backends[1].url`; empty for the whole text.
    pub path: String,
    /// Where in the text; none for what has no text (the admin API's bodies, a file that can't be read).
    pub position: Option<Position>,
    /// What is wrong.
    pub problem: Problem,
}

/// Where a field stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldPlace {
    /// Its JSON path, such as `backends[1].url`.
    pub path: String,
    /// Its place in the text.
    pub position: Option<Position>,
}

/// A place in a text; both count from 1, columns in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The line.
    pub line: usize,
    /// The column in it.
    pub column: usize,
}

/// What is wrong, with the facts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// The file can't be opened or read.
    Unreadable {
        /// The system's reason.
        reason: String,
    },
    /// The file is larger than a configuration can be.
    TooLarge {
        /// The bound.
        bytes_max: u64,
    },
    /// The file isn't UTF-8.
    NotUtf8 {
        /// The first wrong byte, counted from 0.
        at: usize,
    },
    /// The text isn't JSON.
    Syntax {
        /// The parser's reason.
        message: String,
    },
    /// Lists and objects lie deeper in one another than is read.
    TooDeep {
        /// The bound.
        depth_max: usize,
    },
    /// A field that there is none of.
    UnknownField {
        /// The known one that was probably meant.
        nearest: Option<&'static str>,
        /// All that are known here.
        known: &'static [&'static str],
    },
    /// A field that belongs to another object.
    MisplacedField {
        /// That object's name; empty for the top level.
        home: &'static str,
    },
    /// A field that stands there twice.
    DuplicateField {
        /// Where it stood first.
        first: Option<Position>,
    },
    /// A field that must be there and isn't.
    Missing {
        /// What was wanted.
        wanted: &'static str,
    },
    /// A value of the wrong kind or out of its bounds.
    Unfit {
        /// The value, shortened.
        found: String,
        /// What was wanted.
        wanted: String,
        /// A known word that was probably meant.
        nearest: Option<&'static str>,
    },
    /// A text that is no backend URL.
    Url {
        /// The text, shortened.
        found: String,
        /// Why.
        error: UrlError,
    },
    /// A text that is no duration.
    Duration {
        /// The text, shortened.
        found: String,
        /// Why.
        error: DurationError,
    },
    /// Two backends with one URL, once both are normalised.
    SameBackend {
        /// The first one's path.
        first: String,
    },
    /// Two backends with one name.
    SameName {
        /// The name.
        name: String,
        /// The first one's path.
        first: String,
    },
    /// A backend is the proxy itself.
    Itself {
        /// Where it listens.
        listener: SocketAddr,
        /// The field that says so.
        field: &'static str,
    },
    /// A file that is named can't be used.
    File {
        /// The file.
        file: PathBuf,
        /// What was found, and what was wanted.
        reason: String,
    },
    /// A backend's name has no address.
    Unresolved {
        /// The name.
        host: String,
        /// The resolver's reason.
        reason: String,
    },
}

impl ConfigErrors {
    pub(super) fn new(file: Option<&Path>, errors: Vec<FieldError>) -> Self {
        Self { file: file.map(Path::to_path_buf), errors }
    }
}

impl Position {
    /// The place of a byte of `text`.
    pub(super) fn of(text: &str, at: usize) -> Self {
        let before = text.get(..at).unwrap_or(text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Self { line: before.matches('\n').count() + 1, column: before[line_start..].chars().count() + 1 }
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (nth, error) in self.errors.iter().enumerate() {
            if nth > 0 {
                f.write_str("\n")?;
            }
            if let Some(file) = &self.file {
                write!(f, "{}:", file.display())?;
            }
            if let Some(Position { line, column }) = error.position {
                write!(f, "{line}:{column}:")?;
            }
            if self.file.is_some() || error.position.is_some() {
                f.write_str(" ")?;
            }
            write!(f, "{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        write!(f, "{}", self.problem)
    }
}

impl std::error::Error for FieldError {}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable { reason } => write!(f, "can't be read: {reason}"),
            Self::TooLarge { bytes_max } => write!(f, "larger than {bytes_max} bytes, which no configuration is"),
            Self::NotUtf8 { at } => write!(f, "not JSON: byte {at} isn't UTF-8"),
            Self::Syntax { message } => write!(f, "not JSON: {}", lower_first(message)),
            Self::TooDeep { depth_max } => {
                write!(f, "found more than {depth_max} lists and objects in one another, wanted at most {depth_max}")
            }
            Self::UnknownField { nearest: Some(nearest), .. } => {
                write!(f, "unknown field, did you mean \"{nearest}\"?")
            }
            Self::UnknownField { nearest: None, known } => {
                write!(f, "unknown field, known here: {}", known.join(", "))
            }
            Self::MisplacedField { home: "" } => f.write_str("unknown field here, it belongs to the top level"),
            Self::MisplacedField { home } => write!(f, "unknown field here, it belongs to \"{home}\""),
            Self::DuplicateField { first: Some(first) } => {
                write!(f, "given twice, first in line {}", first.line)
            }
            Self::DuplicateField { first: None } => f.write_str("given twice"),
            Self::Missing { wanted } => write!(f, "missing, wanted {wanted}"),
            Self::Unfit { found, wanted, nearest } => {
                write!(f, "found {found}, wanted {wanted}")?;
                nearest.map_or(Ok(()), |nearest| write!(f, "; did you mean \"{nearest}\"?"))
            }
            Self::Url { found, error } => write!(f, "found {found}, wanted http[s]://HOST[:PORT][/BASE]: {error}"),
            Self::Duration { found, error } => {
                write!(f, "found {found}, wanted a duration such as \"30s\" or \"1m30s\": {error}")
            }
            Self::SameBackend { first } => write!(f, "the same backend as {first}"),
            Self::SameName { name, first } => {
                write!(f, "the name \"{name}\" is taken by {first}, give one of them another \"name\"")
            }
            Self::Itself { listener, field } => {
                write!(f, "maypole itself, which listens on {listener} ({field}); wanted another server")
            }
            Self::File { file, reason } => write!(f, "{}: {reason}", file.display()),
            Self::Unresolved { host, reason } => write!(f, "the name \"{host}\" doesn't resolve: {reason}"),
        }
    }
}

/// 'Trailing commas are …' → 'trailing commas are …', as the rest of the line is.
fn lower_first(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_ascii_lowercase().to_string() + letters.as_str())
}
