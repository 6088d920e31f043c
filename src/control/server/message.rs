//! A request as handlers see it, whole, and the answer that they give.

use std::time::SystemTime;

use serde::Serialize;
use serde_json::json;

use crate::http1::{self, Framing, Target, Version, reason_phrase};

/// A request with its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// As sent.
    pub method: String,
    /// The target's path as sent, without its query; `*` for the server itself.
    pub path: String,
    /// What followed the `?`.
    pub query: Option<String>,
    /// Every field in the order received.
    pub fields: Vec<(String, String)>,
    /// The host that is meant, with its port if one was written; only an HTTP/1.0 request may have none.
    pub host: Option<String>,
    /// HTTP/1.0, not 1.1.
    pub is_http10: bool,
    /// Decoded; empty when there was none.
    pub body: Vec<u8>,
    pub(super) framing: Framing,
    pub(super) keep_alive: bool,
    pub(super) expect_continue: bool,
}

impl Call {
    /// What the request line was, but for an absolute target's authority.
    pub fn request_line(&self) -> String {
        let version = if self.is_http10 { "1.0" } else { "1.1" };
        let (mark, query) = self.query.as_ref().map_or(("", ""), |query| ("?", query));
        format!("{} {}{mark}{query} HTTP/{version}", self.method, self.path)
    }

    /// The value of the first field of that name.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub(in crate::control) fn read(request: &http1::Request<'_, '_>) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let target = match request.target {
            Target::Origin(target) => text(target),
            Target::Absolute { path, .. } if path.starts_with(b"/") => text(path),
            Target::Absolute { path, .. } => format!("/{}", text(path)),
            Target::Asterisk => "*".into(),
        };
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path.to_owned(), Some(query.to_owned())),
            None => (target, None),
        };
        Self {
            method: text(request.method_bytes),
            path,
            query,
            fields: request.fields.iter().map(|field| (field.name.to_owned(), text(field.value))).collect(),
            host: request.host.map(text),
            is_http10: request.version == Version::Http10,
            body: Vec::new(),
            framing: request.framing,
            keep_alive: request.keep_alive,
            expect_continue: request.expect_continue,
        }
    }
}

/// The answer to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    status: u16,
    fields: Vec<(&'static str, String)>,
    body: Vec<u8>,
    keep_alive: bool,
    /// The client speaks HTTP/1.0 and must be told that its connection stays.
    say_keep_alive: bool,
}

impl Answer {
    /// No body, and nothing more to say.
    pub fn empty(status: u16) -> Self {
        Self { status, fields: Vec::new(), body: Vec::new(), keep_alive: true, say_keep_alive: false }
    }

    /// Plain text.
    pub fn text(status: u16, text: impl Into<String>) -> Self {
        Self { body: text.into().into_bytes(), ..Self::empty(status) }
            .with("Content-Type", "text/plain; charset=utf-8".into())
    }

    /// A value as JSON, on one line.
    pub fn json(status: u16, value: &impl Serialize) -> Self {
        let typed = |status, body| Self { body, ..Self::empty(status) };
        match serde_json::to_vec(value) {
            Ok(mut body) => {
                body.push(b'\n');
                body.shrink_to_fit();
                typed(status, body).with("Content-Type", "application/json".into())
            }
            // Only maps with keys that aren't strings could fail; nothing here has such.
            Err(error) => Self::problem(500, &format!("the answer can't be written: {error}")),
        }
    }

    /// A problem document (RFC 9457) of the type `about:blank`, whose title is the status's own.
    pub fn problem(status: u16, detail: &str) -> Self {
        let document =
            json!({ "type": "about:blank", "title": reason_phrase(status), "status": status, "detail": detail });
        Self { body: format!("{document}\n").into_bytes(), ..Self::empty(status) }
            .with("Content-Type", "application/problem+json".into())
    }

    /// With one more field.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: String) -> Self {
        self.fields.push((name, value));
        self
    }

    /// With the connection closed behind it.
    #[must_use]
    pub fn close(mut self) -> Self {
        self.keep_alive = false;
        self
    }

    /// Its status code.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// Its body.
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    pub(super) fn keep_alive(&self) -> bool {
        self.keep_alive
    }

    /// Fits the answer to its request's version and the server's will to go on.
    pub(super) fn for_call(mut self, call: &Call, keep_alive: bool) -> Self {
        self.keep_alive &= keep_alive && call.keep_alive;
        self.say_keep_alive = call.is_http10;
        self
    }

    /// Appends the whole message to `out`; of one that answers HEAD only the head.
    pub(super) fn write(&self, out: &mut Vec<u8>, to_head: bool, now: SystemTime) {
        use std::io::Write;
        // Writing to a vector can't fail.
        let _ = write!(out, "HTTP/1.1 {} {}\r\n", self.status, reason_phrase(self.status));
        let _ = write!(out, "Date: {}\r\n", httpdate::fmt_http_date(now));
        for (name, value) in &self.fields {
            let _ = write!(out, "{name}: {value}\r\n");
        }
        let has_content = has_content(self.status);
        if has_content {
            let _ = write!(out, "Content-Length: {}\r\n", self.body.len());
        }
        match (self.keep_alive, self.say_keep_alive) {
            (false, _) => out.extend_from_slice(b"Connection: close\r\n"),
            (true, true) => out.extend_from_slice(b"Connection: keep-alive\r\n"),
            (true, false) => {}
        }
        out.extend_from_slice(b"\r\n");
        if has_content && !to_head {
            out.extend_from_slice(&self.body);
        }
    }
}

/// Whether answers of this status have content, and say how long it is (RFC 9110 §8.6).
fn has_content(status: u16) -> bool {
    status >= 200 && status != 204 && status != 304
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(answer: &Answer, to_head: bool) -> String {
        let mut out = Vec::new();
        answer.write(&mut out, to_head, SystemTime::UNIX_EPOCH);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn an_answer_says_how_long_it_is_and_a_head_only_one_too() {
        let head = "HTTP/1.1 200 OK\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\n\
                    Content-Type: text/plain; charset=utf-8\r\nContent-Length: 2\r\n\r\n";
        let answer = Answer::text(200, "ok");
        assert_eq!(written(&answer, true), head);
        assert_eq!(written(&answer, false), format!("{head}ok"));
    }

    #[test]
    fn no_content_has_neither_content_nor_length() {
        let text = written(&Answer::empty(204).close(), false);
        assert!(!text.to_lowercase().contains("content-length"), "{text}");
        assert!(text.ends_with("Connection: close\r\n\r\n"), "{text}");
    }

    #[test]
    fn a_problem_is_a_problem_document() {
        let text = written(&Answer::problem(404, "no \"such\" thing"), false);
        assert!(text.contains("Content-Type: application/problem+json\r\n"), "{text}");
        let document = r#"{"type":"about:blank","title":"Not Found","status":404,"detail":"no \"such\" thing"}"#;
        assert!(text.ends_with(&format!("\r\n\r\n{document}\n")), "{text}");
    }
}
