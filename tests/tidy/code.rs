//! Rust as `tests/tidy.rs` reads it: words and marks without comments, literals and what only tests are built with.

/// A word (a name, a number) or a mark (`::`, `->`, or one character).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    pub text: String,
    pub line: usize,
}

impl Token {
    pub fn is(&self, text: &str) -> bool {
        self.text == text
    }

    pub fn is_name(&self) -> bool {
        self.text.starts_with(|c: char| c.is_alphabetic() || c == '_')
    }
}

/// All tokens of a file; a string or a character becomes the mark `"`.
pub fn tokens(source: &str) -> Vec<Token> {
    let text: Vec<char> = source.chars().collect();
    let mut found = Vec::new();
    let (mut at, mut line) = (0, 1);
    while at < text.len() {
        let rest = &text[at..];
        let (length, token) = next(rest);
        if let Some(token) = token {
            found.push(Token { text: token, line });
        }
        line += rest[..length].iter().filter(|c| **c == '\n').count();
        at += length;
    }
    found
}

/// How many characters come next as one, and what they are to the reader, if anything.
fn next(text: &[char]) -> (usize, Option<String>) {
    let literal = |length| (length, Some("\"".to_owned()));
    let then = text.get(1).copied().unwrap_or_default();
    match (text[0], then) {
        ('/', '/') => return (text.iter().position(|c| *c == '\n').unwrap_or(text.len()), None),
        ('/', '*') => return (block_comment(text), None),
        ('"', _) | ('\'', '\\') => return literal(quoted(text)),
        ('\'', _) if text.get(2) == Some(&'\'') => return literal(3),
        (':', ':') => return (2, Some("::".to_owned())),
        ('-', '>') => return (2, Some("->".to_owned())),
        ('=', '>') => return (2, Some("=>".to_owned())),
        (c, _) if c.is_whitespace() => return (1, None),
        _ => {}
    }
    let length = text.iter().take_while(|c| c.is_alphanumeric() || **c == '_').count();
    let word: String = text[..length].iter().collect();
    match (word.as_str(), text.get(length)) {
        ("", _) => (1, Some(text[0].to_string())),
        ("b" | "c", Some('"')) | ("b", Some('\'')) => literal(1 + quoted(&text[1..])),
        ("r" | "br" | "cr", Some('"' | '#')) if text[length..].iter().find(|c| **c != '#') == Some(&'"') => {
            literal(length + raw(&text[length..]))
        }
        _ => (length, Some(word)),
    }
}

/// The length of a raw string whose hashes, if any, come first.
fn raw(text: &[char]) -> usize {
    let hashes = text.iter().take_while(|c| **c == '#').count();
    let ends =
        |at: &usize| text[*at] == '"' && text.iter().skip(at + 1).take(hashes).filter(|c| **c == '#').count() == hashes;
    (hashes + 1..text.len()).find(ends).map_or(text.len(), |end| end + 1 + hashes)
}

fn block_comment(text: &[char]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < text.len() {
        match (text[at], text.get(at + 1)) {
            ('/', Some('*')) => (depth, at) = (depth + 1, at + 2),
            ('*', Some('/')) => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

/// The length of what the first character begins and the same one ends.
fn quoted(text: &[char]) -> usize {
    let mut at = 1;
    while at < text.len() && text[at] != text[0] {
        at += if text[at] == '\\' { 2 } else { 1 };
    }
    (at + 1).min(text.len())
}

/// The tokens without attributes, and without what `#[cfg(test)]` stands before.
pub fn shipped(tokens: &[Token]) -> Vec<Token> {
    let mut kept = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        if !tokens[at].is("#") {
            kept.push(tokens[at].clone());
            at += 1;
            continue;
        }
        let open = at + 1 + usize::from(tokens.get(at + 1).is_some_and(|token| token.is("!")));
        let end = past_group(tokens, open);
        let attribute: String = tokens[open..end].iter().map(|token| token.text.as_str()).collect();
        at = if attribute == "[cfg(test)]" { past_item(tokens, end) } else { end };
    }
    kept
}

/// The index behind the group that opens at `open`; behind the one token there if none does.
pub fn past_group(tokens: &[Token], open: usize) -> usize {
    let mut depth = 0_usize;
    for (index, token) in tokens.iter().enumerate().skip(open) {
        match token.text.as_str() {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 {
            return index + 1;
        }
    }
    tokens.len()
}

/// The index behind the item, statement or field that begins at `start`.
fn past_item(tokens: &[Token], start: usize) -> usize {
    let mut at = start;
    while tokens.get(at).is_some_and(|token| token.is("#")) {
        at = past_group(tokens, at + 1);
    }
    let is_use = tokens[at..].iter().take(5).any(|token| token.is("use"));
    while at < tokens.len() {
        match tokens[at].text.as_str() {
            ";" | "," => return at + 1,
            ")" | "]" | "}" => return at,
            "{" if !is_use => return past_group(tokens, at),
            _ => at = past_group(tokens, at),
        }
    }
    at
}

/// A function with its number of parameters, `self` left out.
pub struct Function {
    pub name: String,
    pub parameters: usize,
}

/// Every `fn` with a name; closures and types of functions have none.
pub fn functions(tokens: &[Token]) -> Vec<Function> {
    let named = |pair: &[Token]| pair[0].is("fn") && pair[1].is_name();
    let starts = tokens.windows(2).enumerate().filter(|(_, pair)| named(pair)).map(|(index, _)| index + 1);
    starts
        .map(|name| {
            let mut open = name + 1;
            let mut angles = 0_usize;
            while open < tokens.len() && (angles > 0 || !tokens[open].is("(")) {
                match tokens[open].text.as_str() {
                    "<" => angles += 1,
                    ">" => angles = angles.saturating_sub(1),
                    _ => {}
                }
                open += 1;
            }
            let inner = &tokens[(open + 1).min(tokens.len())..past_group(tokens, open).saturating_sub(1)];
            let of_self =
                |part: &&[Token]| part.iter().take_while(|token| !token.is(":")).any(|token| token.is("self"));
            let parts = parts(inner);
            let parameters = parts.iter().filter(|part| !part.is_empty() && !of_self(part)).count();
            Function { name: tokens[name].text.clone(), parameters }
        })
        .collect()
}

/// What stands between commas that are in no bracket of any kind.
fn parts(tokens: &[Token]) -> Vec<&[Token]> {
    let mut parts = Vec::new();
    let (mut start, mut at, mut angles) = (0, 0, 0_usize);
    while at < tokens.len() {
        match tokens[at].text.as_str() {
            "<" => angles += 1,
            ">" => angles = angles.saturating_sub(1),
            "," if angles == 0 => {
                parts.push(&tokens[start..at]);
                start = at + 1;
            }
            "(" | "[" | "{" => {
                at = past_group(tokens, at);
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    parts.push(&tokens[start..]);
    parts
}
