//! JSON as people wrote it: a tree in which every value and every name knows where it stands, and in which a name that
//! stands twice is still there twice. `serde_json` alone keeps neither.

use jsonc_parser::ast::{ObjectPropName, Value};
use jsonc_parser::common::Ranged;
use jsonc_parser::{CollectOptions, ParseOptions, parse_to_ast};
use serde::de::IgnoredAny;

use super::error::{FieldError, Position, Problem};

/// A value and where it begins, in bytes from the text's start.
#[derive(Debug)]
pub(super) struct Node {
    pub at: usize,
    pub value: Json,
}

/// What a value is. Numbers stay as written: which numbers fit is the field's business.
#[derive(Debug)]
pub(super) enum Json {
    Null,
    Bool(bool),
    Number(String),
    Text(String),
    List(Vec<Node>),
    Object(Vec<Member>),
}

/// One `"name": value` of an object.
#[derive(Debug)]
pub(super) struct Member {
    pub name: String,
    pub at: usize,
    pub node: Node,
}

impl Node {
    /// The value of an object's member.
    pub(super) fn member(&self, name: &str) -> Option<&Self> {
        let Json::Object(members) = &self.value else { return None };
        members.iter().find(|member| member.name == name).map(|member| &member.node)
    }
}

/// How many lists and objects may lie in one another. Whatever walks a tree of them recurses, on stacks as small as those
/// of the admin API's threads; a configuration needs four.
pub(super) const DEPTH_MAX: usize = 16;

/// Parses strict JSON (RFC 8259); the first mistake ends it, since nothing after it can be trusted. The only door by which
/// JSON from outside comes in: what nests too deep is refused before anything recurses. Also returns the text that places
/// are counted in: that behind a byte order mark, which some programs put in front (RFC 8259 §8.1 lets a parser ignore it).
pub(super) fn parse(text: &str) -> Result<(Node, &str), FieldError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let refused = |position, problem| FieldError { path: String::new(), position: Some(position), problem };
    let error = |position, message: String| refused(position, Problem::Syntax { message });
    if let Some(at) = too_deep(text) {
        return Err(refused(Position::of(text, at), Problem::TooDeep { depth_max: DEPTH_MAX }));
    }
    let parsed = parse_to_ast(text, &CollectOptions::default(), &STRICT)
        .map_err(|found| error(Position::of(text, found.range().start), found.kind().to_string()))?;
    let Some(root) = parsed.value else {
        return Err(error(Position::of(text, text.len()), "There is nothing".to_owned()));
    };
    // The parser above says best what is wrong, but lets some of it through (raw control characters in strings, odd
    // white space). What serde_json refuses is refused.
    serde_json::from_str::<IgnoredAny>(text).map_err(|found| {
        let position = Position::of(text, byte_at(text, found.line(), found.column()));
        let message = found.to_string();
        let told = message.rfind(" at line ").map_or(message.as_str(), |end| &message[..end]);
        error(position, told.to_owned())
    })?;
    Ok((root.into(), text))
}

/// The first bracket or brace that opens one level too many. Goes by brackets outside of strings alone; where the text is
/// no JSON, the parser ends at the first byte that can't be, and sees no deeper than this.
fn too_deep(text: &str) -> Option<usize> {
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => {
                depth += 1;
                if depth > DEPTH_MAX {
                    return Some(at);
                }
            }
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    None
}

/// Where a line's column is that counts bytes, as `serde_json` does; both count from 1.
fn byte_at(text: &str, line: usize, column_bytes: usize) -> usize {
    let line_start: usize = text.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum();
    let at = (line_start + column_bytes.saturating_sub(1)).min(text.len());
    (0..=at).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0)
}

const STRICT: ParseOptions = ParseOptions {
    allow_comments: false,
    allow_loose_object_property_names: false,
    allow_trailing_commas: false,
    allow_missing_commas: false,
    allow_single_quoted_strings: false,
    allow_hexadecimal_numbers: false,
    allow_unary_plus_numbers: false,
    allow_bare_decimal_point_numbers: false,
    allow_non_finite_numbers: false,
    allow_extended_string_escapes: false,
};

impl Node {
    /// The value in an error message: short, on one line, whatever it holds.
    pub(super) fn shown(&self) -> String {
        match &self.value {
            Json::Null => "null".to_owned(),
            Json::Bool(value) => value.to_string(),
            Json::Number(digits) => shortened(digits).to_owned() + ellipsis(digits),
            Json::Text(text) => format!("{:?}{}", shortened(text), ellipsis(text)),
            Json::List(_) => "a list".to_owned(),
            Json::Object(_) => "an object".to_owned(),
        }
    }
}

/// Longer values are cut in messages: a URL fits, a pasted file doesn't.
const SHOWN_CHARS_MAX: usize = 80;

fn shortened(text: &str) -> &str {
    text.char_indices().nth(SHOWN_CHARS_MAX).map_or(text, |(end, _)| &text[..end])
}

fn ellipsis(text: &str) -> &'static str {
    if shortened(text).len() < text.len() { "…" } else { "" }
}

impl From<Value<'_>> for Node {
    fn from(value: Value<'_>) -> Self {
        let at = value.start();
        let value = match value {
            Value::NullKeyword(_) => Json::Null,
            Value::BooleanLit(literal) => Json::Bool(literal.value),
            Value::NumberLit(literal) => Json::Number(literal.value.to_owned()),
            Value::StringLit(literal) => Json::Text(literal.value.into_owned()),
            Value::Array(list) => Json::List(list.elements.into_iter().map(Node::from).collect()),
            Value::Object(object) => Json::Object(
                object
                    .properties
                    .into_iter()
                    .map(|property| Member {
                        at: property.name.start(),
                        name: match property.name {
                            ObjectPropName::String(name) => name.value.into_owned(),
                            ObjectPropName::Word(name) => name.value.to_owned(),
                        },
                        node: property.value.into(),
                    })
                    .collect(),
            ),
        };
        Self { at, value }
    }
}
