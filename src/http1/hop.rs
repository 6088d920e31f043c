//! The fields that concern one connection only: `Connection` and `Upgrade` (RFC 9110 §7.6.1, §7.8).

use super::field::{list, trim};
use super::head::Version;

/// What all `Connection` and `Upgrade` lines of a head say together.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct HopFields<'b> {
    persistence: Persistence,
    options: usize,
    asks_upgrade: bool,
    names_fields: bool,
    upgrade: Option<&'b [u8]>,
    upgrades: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Persistence {
    #[default]
    Unsaid,
    KeepAlive,
    /// Stronger than `keep-alive` beside it (RFC 9112 §9.3).
    Close,
}

/// More options than this in one head are refused: each field of the head may have to be compared with each of them.
const OPTIONS_MAX: usize = 64;

impl<'b> HopFields<'b> {
    /// Adds a `Connection` line. The error says what is wrong with it.
    pub(super) fn add_connection(&mut self, value: &[u8]) -> Result<(), &'static str> {
        for option in list(value) {
            self.options += 1;
            match option.len() {
                0 => {}
                5 if option.eq_ignore_ascii_case(b"close") => self.persistence = Persistence::Close,
                7 if option.eq_ignore_ascii_case(b"upgrade") => self.asks_upgrade = true,
                10 if option.eq_ignore_ascii_case(b"keep-alive") => {
                    if self.persistence == Persistence::Unsaid {
                        self.persistence = Persistence::KeepAlive;
                    }
                }
                _ => self.names_fields = true,
            }
        }
        if self.options > OPTIONS_MAX { Err("too many options in Connection") } else { Ok(()) }
    }

    /// Adds an `Upgrade` line.
    pub(super) fn add_upgrade(&mut self, value: &'b [u8]) {
        self.upgrade = Some(value);
        self.upgrades += 1;
    }

    /// May the connection be used again, as far as the sender of this head is concerned (RFC 9112 §9.3)?
    pub(super) fn keep_alive(&self, version: Version) -> bool {
        match self.persistence {
            Persistence::Unsaid => version == Version::Http11,
            Persistence::KeepAlive => true,
            Persistence::Close => false,
        }
    }

    /// `Connection` names something besides `close`, `keep-alive` and `upgrade`.
    pub(super) fn names_fields(&self) -> bool {
        self.names_fields
    }

    /// The value of the only `Upgrade` line, if `Connection` names `upgrade` and it doesn't offer h2c.
    pub(super) fn upgrade(&self) -> Option<&'b [u8]> {
        let value = self.upgrade?;
        let sound = self.asks_upgrade && self.upgrades == 1 && !value.is_empty();
        (sound && !offers_h2c(value)).then_some(value)
    }
}

/// Does an `Upgrade` value offer HTTP/2 over cleartext? It is never passed on: behind it a backend would speak another
/// protocol with the client, past every check made here.
fn offers_h2c(upgrade: &[u8]) -> bool {
    list(upgrade).any(|protocol| {
        let name = protocol.split(|&byte| byte == b'/').next().unwrap_or_default();
        let name = trim(name);
        name.eq_ignore_ascii_case(b"h2c") || name.eq_ignore_ascii_case(b"h2")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection(lines: &[&str]) -> HopFields<'static> {
        let mut hop = HopFields::default();
        for line in lines {
            hop.add_connection(line.as_bytes()).unwrap();
        }
        hop
    }

    #[test]
    fn a_connection_persists_by_version_and_connection() {
        for (lines, in_10, in_11) in [
            (&[][..], false, true),
            (&["close"], false, false),
            (&["x-foo, CLOSE"], false, false),
            (&["Keep-Alive"], true, true),
            (&["close, keep-alive"], false, false),
            (&["keep-alive", "close"], false, false),
            (&["closed"], false, true),
            (&[""], false, true),
        ] {
            let hop = connection(lines);
            assert_eq!(hop.keep_alive(Version::Http10), in_10, "{lines:?}");
            assert_eq!(hop.keep_alive(Version::Http11), in_11, "{lines:?}");
        }
    }

    #[test]
    fn other_options_name_fields() {
        assert!(!connection(&["close, keep-alive, upgrade,,"]).names_fields());
        assert!(connection(&["close", "x-hop"]).names_fields());
    }

    #[test]
    fn the_number_of_options_is_bounded() {
        assert!(HopFields::default().add_connection(&[b','; OPTIONS_MAX - 1]).is_ok());
        assert!(HopFields::default().add_connection(&[b','; OPTIONS_MAX]).is_err());
    }

    #[test]
    fn an_upgrade_counts_when_connection_names_it_and_it_is_not_h2c() {
        for (options, lines, want) in [
            ("Upgrade", &["websocket"][..], Some(&b"websocket"[..])),
            ("keep-alive, upgrade", &["a/1, b"], Some(b"a/1, b")),
            ("keep-alive", &["websocket"], None),
            ("Upgrade", &[], None),
            ("Upgrade", &[""], None),
            ("Upgrade", &["websocket", "other"], None),
            ("Upgrade, HTTP2-Settings", &["h2c"], None),
            ("Upgrade", &["websocket, H2C"], None),
            ("Upgrade", &["h2c/1 , x"], None),
            ("Upgrade", &["xh2c"], Some(b"xh2c")),
        ] {
            let mut hop = connection(&[options]);
            for line in lines {
                hop.add_upgrade(line.as_bytes());
            }
            assert_eq!(hop.upgrade(), want, "{options} {lines:?}");
        }
    }
}
