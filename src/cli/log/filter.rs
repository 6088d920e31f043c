//! What is logged: `RUST_LOG`, in the language of `env_logger`, with reservations about `may` and `rustls`.

use log::LevelFilter;

/// What is logged when `RUST_LOG` says nothing about it.
const DEFAULT: LevelFilter = LevelFilter::Info;

/// `may` tells of every descriptor at info, which is a line a connection. It does so only where `RUST_LOG` names it.
const MAY: &str = "may";
const MAY_LEVEL: LevelFilter = LevelFilter::Warn;

/// `rustls` tells of each client that errs, and `ureq` has it do so. It is heard only where `RUST_LOG` names it.
const RUSTLS: &str = "rustls";

/// The house. Names are prefixes to `env_logger`, so that what is said of `may` would be said of it too.
const MAYPOLE: &str = "maypole";

/// What is logged at which level, by the beginning of its target; None: anything else.
#[derive(Debug, Default)]
pub(super) struct Filter {
    pub(super) levels: Vec<(Option<String>, LevelFilter)>,
    /// Parts of the text that mean nothing.
    pub(super) not_understood: Vec<String>,
}

impl Filter {
    /// Of a comma-separated list of `LEVEL`, `TARGET` and `TARGET=LEVEL`; of nothing where there is none.
    pub(super) fn parse(text: Option<&str>) -> Self {
        let mut filter = Self::default();
        for part in text.unwrap_or_default().split(',').map(str::trim).filter(|part| !part.is_empty()) {
            match directive(part) {
                Some(directive) => filter.levels.push(directive),
                None => filter.not_understood.push(part.into()),
            }
        }
        if filter.levels.is_empty() {
            filter.levels.push((None, DEFAULT));
        }
        // Of several the last one counts.
        let of_all = filter.levels.iter().rev().find(|(name, _)| name.is_none()).map(|(_, level)| *level);
        if !filter.names(|name| name == MAYPOLE) {
            filter.levels.push((Some(MAYPOLE.into()), of_all.unwrap_or(LevelFilter::Off)));
        }
        if !filter.names(|name| name == MAY || name.starts_with("may::")) {
            filter.levels.push((Some(MAY.into()), of_all.unwrap_or(MAY_LEVEL).min(MAY_LEVEL)));
        }
        if !filter.names(|name| name == RUSTLS || name.starts_with("rustls::")) {
            filter.levels.push((Some(RUSTLS.into()), LevelFilter::Off));
        }
        filter
    }

    fn names(&self, is_it: impl Fn(&str) -> bool) -> bool {
        self.levels.iter().any(|(name, _)| name.as_deref().is_some_and(&is_it))
    }
}

fn directive(part: &str) -> Option<(Option<String>, LevelFilter)> {
    match part.split_once('=') {
        None => part.parse().map_or_else(
            |_| is_target(part).then(|| (Some(part.into()), LevelFilter::Trace)),
            |level| Some((None, level)),
        ),
        Some((name, level)) => {
            let (name, level) = (name.trim(), level.trim());
            let level = if level.is_empty() { LevelFilter::Trace } else { level.parse().ok()? };
            is_target(name).then(|| (Some(name.into()), level))
        }
    }
}

fn is_target(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | ':' | '-' | '.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The level at which `target` is logged, by the rule that `env_logger` has: the longest prefix counts.
    fn level(text: Option<&str>, target: &str) -> LevelFilter {
        let filter = Filter::parse(text);
        let fits = |name: &Option<String>| name.as_deref().is_none_or(|name| target.starts_with(name));
        let fitting = filter.levels.iter().filter(|(name, _)| fits(name));
        fitting
            .max_by_key(|(name, _)| name.as_ref().map_or(0, String::len))
            .map_or(LevelFilter::Off, |(_, level)| *level)
    }

    #[test]
    fn may_stays_at_warn_unless_it_is_named() {
        use LevelFilter::{Debug, Error, Info, Off, Trace, Warn};
        for (text, may, maypole, other) in [
            (None, Warn, Info, Info),
            (Some(""), Warn, Info, Info),
            (Some("info"), Warn, Info, Info),
            (Some("debug"), Warn, Debug, Debug),
            (Some("TRACE"), Warn, Trace, Trace),
            (Some("error"), Error, Error, Error),
            (Some("off"), Off, Off, Off),
            (Some("maypole=debug"), Warn, Debug, Off),
            (Some("maypole"), Warn, Trace, Off),
            (Some("maypole=debug,info"), Warn, Debug, Info),
            (Some("ureq=trace"), Warn, Off, Off),
            (Some("may=info"), Info, Off, Off),
            (Some("info, may=trace"), Trace, Info, Info),
            (Some("may,maypole=info"), Trace, Info, Off),
            (Some("maybe=debug"), Warn, Off, Off),
            (Some("nonsense=loud"), Warn, Info, Info),
            (Some("info,=debug"), Warn, Info, Info),
        ] {
            assert_eq!(level(text, "may::io::sys"), may, "may, with {text:?}");
            assert_eq!(level(text, "maypole::cli::run"), maypole, "maypole, with {text:?}");
            assert_eq!(level(text, "other"), other, "others, with {text:?}");
        }
    }

    #[test]
    fn rustls_is_heard_only_where_it_is_named() {
        use LevelFilter::{Off, Trace, Warn};
        for (text, want) in
            [(None, Off), (Some("trace"), Off), (Some("info,rustls=warn"), Warn), (Some("rustls::server"), Trace)]
        {
            assert_eq!(level(text, "rustls::server::hs"), want, "{text:?}");
        }
    }

    #[test]
    fn what_is_not_understood_is_told_and_the_rest_counts() {
        let filter = Filter::parse(Some("info,maypole=loud,a b,maypole=debug/x"));
        assert_eq!(filter.not_understood, ["maypole=loud", "a b", "maypole=debug/x"]);
        assert_eq!(filter.levels[0], (None, LevelFilter::Info));
    }
}
