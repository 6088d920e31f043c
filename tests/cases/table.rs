//! Tables of cases as data: one case a line, its columns split by '|'.

/// One case.
pub struct Row {
    /// Where it stands in its file, counted from 1.
    pub line: usize,
    /// What it is about; unique.
    pub name: &'static str,
    /// The rule that it tries: a section of an RFC, or a field of the configuration.
    pub section: &'static str,
    /// The columns behind these.
    pub columns: Vec<&'static str>,
}

/// The requests, which have the columns 'bytes' and 'wanted'.
pub fn requests() -> Vec<Row> {
    rows(include_str!("requests.txt"), 2)
}

/// The backends' answers, which have the columns 'request', 'bytes' and 'what the client gets'.
pub fn responses() -> Vec<Row> {
    rows(include_str!("responses.txt"), 3)
}

/// Reads a table; lines that are empty or begin with '#' are no cases.
pub fn rows(text: &'static str, columns: usize) -> Vec<Row> {
    let cases = text.lines().enumerate().filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    cases
        .map(|(index, line)| {
            let parts: Vec<_> = line.split(" | ").collect();
            let [name, section, columns_found @ ..] = &parts[..] else { panic!("line {}: {line}", index + 1) };
            assert_eq!(columns_found.len(), columns, "line {}: {line}", index + 1);
            Row { line: index + 1, name, section, columns: columns_found.to_vec() }
        })
        .collect()
}

/// The bytes that a column stands for.
pub fn bytes(column: &str) -> Vec<u8> {
    unescaped(&repeated(column))
}

/// `\{TEXT*N}` as TEXT N times; other escapes stay.
pub fn repeated(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        let (before, escape) = rest.split_at(at);
        out.push_str(before);
        if let Some(after) = escape.strip_prefix("\\{") {
            let (repetition, behind) = after.split_once('}').expect("a closing brace");
            let (piece, count) = repetition.rsplit_once('*').expect("a count");
            out.push_str(&piece.repeat(count.parse().expect("a number")));
            rest = behind;
        } else {
            out.push_str(&escape[..2]);
            rest = &escape[2..];
        }
    }
    out + rest
}

/// `\r`, `\n`, `\t`, `\\`, `\p` (a '|') and `\xNN` as the bytes they stand for.
pub fn unescaped(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.extend_from_slice(&rest.as_bytes()[..at]);
        let (byte, length) = match rest.as_bytes()[at + 1] {
            b'r' => (b'\r', 2),
            b'n' => (b'\n', 2),
            b't' => (b'\t', 2),
            b'p' => (b'|', 2),
            b'\\' => (b'\\', 2),
            b'x' => (u8::from_str_radix(&rest[at + 2..at + 4], 16).expect("two hex digits"), 4),
            other => panic!("no such escape: {:?} in {text}", char::from(other)),
        };
        out.push(byte);
        rest = &rest[at + length..];
    }
    out.extend_from_slice(rest.as_bytes());
    out
}
