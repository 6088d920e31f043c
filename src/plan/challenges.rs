//! What an authority that asks over HTTP is answered (RFC 8555 §8.3): shown for seconds, now and then.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;

/// Where it asks.
const BELOW: &[u8] = b"/.well-known/acme-challenge/";

/// Answers by token; mostly none.
#[derive(Debug, Default)]
pub struct Challenges(ArcSwap<BTreeMap<String, Arc<str>>>);

impl Challenges {
    /// From now on `token` is answered with this.
    pub fn show(&self, token: &str, answer: &str) {
        let answer: Arc<str> = answer.into();
        self.0.rcu(|shown| {
            let mut shown = BTreeMap::clone(shown);
            shown.insert(token.to_owned(), Arc::clone(&answer));
            shown
        });
    }

    /// And from now on it isn't.
    pub fn hide(&self, token: &str) {
        self.0.rcu(|shown| {
            let mut shown = BTreeMap::clone(shown);
            shown.remove(token);
            shown
        });
    }

    /// What a request for this path is answered, if it is for a token that is shown; any other is none of an authority's.
    pub fn answer(&self, path: &[u8]) -> Option<Arc<str>> {
        let token = std::str::from_utf8(path.strip_prefix(BELOW)?).ok()?;
        self.0.load().get(token).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_answered_while_it_is_shown_and_nothing_else_is() {
        let challenges = Challenges::default();
        let ask = |path: &str| challenges.answer(path.as_bytes());
        assert_eq!(ask("/.well-known/acme-challenge/one"), None);
        challenges.show("one", "one.print");
        challenges.show("two", "two.print");
        assert_eq!(ask("/.well-known/acme-challenge/one").as_deref(), Some("one.print"));
        for other in ["", "/", "/one", "/.well-known/acme-challenge/", "/.well-known/acme-challenge/one?", "/x/one"] {
            assert_eq!(ask(other), None, "{other}");
        }
        assert_eq!(challenges.answer(b"/.well-known/acme-challenge/\xff"), None);
        challenges.hide("one");
        assert_eq!(ask("/.well-known/acme-challenge/one"), None);
        assert!(ask("/.well-known/acme-challenge/two").is_some());
    }
}
