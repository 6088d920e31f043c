//! The fields that concern one connection only: `Connection` and `Upgrade` (RFC 9110 §7.6.1, §7.8).

use std::cmp::Ordering;
use std::rc::Rc;

use httparse::Header;

use super::field::{Known, list, trim};
use super::framing::Framing;
use super::head::Version;
use super::trailers;

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

/// More options than this in one head are refused: there is no use for so many.
const OPTIONS_MAX: usize = 64;
/// Room for them, and for one more, see [`ConnectionOptions::also`].
const OPTIONS_ROOM: usize = OPTIONS_MAX + 1;

/// What the `Connection` lines of a head name, ready to be asked for each of its fields: sorted, so that a head costs about
/// as much as it is long, however many fields and options it is made of. No allocation; a head that names no field leaves
/// the room for them unwritten.
#[derive(Clone, Debug)]
pub struct ConnectionOptions<'b> {
    sorted: Option<[&'b [u8]; OPTIONS_ROOM]>,
    count: usize,
    /// A bit for each length that there is, those from 63 on together.
    lengths: u64,
}

impl<'b> ConnectionOptions<'b> {
    /// Those of a head that names no field.
    #[inline]
    pub const fn none() -> Self {
        Self { sorted: None, count: 0, lengths: 0 }
    }

    /// Takes in those of all lines among `fields`.
    #[cold]
    pub(super) fn collect(&mut self, fields: &[Header<'b>]) {
        self.fill(options(fields));
    }

    /// Those of one list.
    pub(super) fn of(names: &'b [u8]) -> Self {
        let mut options = Self::none();
        options.fill(list(names));
        options
    }

    fn fill(&mut self, options: impl Iterator<Item = &'b [u8]>) {
        let sorted = self.sorted.insert([&[]; OPTIONS_ROOM]);
        for (place, option) in sorted.iter_mut().zip(options) {
            *place = option;
            self.count += 1;
            self.lengths |= length_bit(option);
        }
        sorted[..self.count].sort_unstable_by(|one, other| compare(one, other));
    }

    /// One more, unless there are too many already. It costs what collecting does.
    #[cold]
    pub fn also(&mut self, name: &'b [u8]) {
        let sorted = self.sorted.get_or_insert([&[]; OPTIONS_ROOM]);
        if let Some(place) = sorted.get_mut(self.count) {
            *place = name;
            self.count += 1;
            self.lengths |= length_bit(name);
            sorted[..self.count].sort_unstable_by(|one, other| compare(one, other));
        }
    }

    /// Is a field of this name to go no further?
    #[inline]
    pub fn name(&self, field: &str) -> bool {
        self.lengths & length_bit(field.as_bytes()) != 0 && self.look_up(field.as_bytes())
    }

    #[cold]
    fn look_up(&self, name: &[u8]) -> bool {
        let options = self.sorted.as_ref().map_or(&[][..], |sorted| &sorted[..self.count]);
        options.binary_search_by(|option| compare(option, name)).is_ok()
    }
}

/// What the `Connection` lines among `fields` name.
fn options<'b>(fields: &[Header<'b>]) -> impl Iterator<Item = &'b [u8]> {
    let lines = fields.iter().filter(|field| Known::of(field.name) == Known::Connection);
    lines.flat_map(|line| list(line.value)).filter(|option| !option.is_empty())
}

/// The names that `Connection` keeps from going further as trailers (RFC 9110 §7.6.1): behind a body, long after the head
/// that has them. They share their memory.
#[derive(Clone, Debug)]
pub struct HopTrailers(Rc<Vec<u8>>);

impl HopTrailers {
    /// Those of a head: only where a body of chunks follows may there be trailers.
    #[inline]
    pub(super) fn of_head(names_fields: bool, framing: Framing, fields: &[Header<'_>]) -> Option<Self> {
        if names_fields && framing == Framing::Chunked { Self::of(fields) } else { None }
    }

    /// None where there are none, as nearly always: `TE`, for instance, is never passed on as a trailer.
    #[cold]
    fn of(fields: &[Header<'_>]) -> Option<Self> {
        let names: Vec<_> = options(fields).filter(|option| trailers::may_pass(option)).collect();
        (!names.is_empty()).then(|| Self(Rc::new(names.join(&b','))))
    }

    /// The names, ready to be asked.
    pub(super) fn names(&self) -> ConnectionOptions<'_> {
        ConnectionOptions::of(&self.0)
    }
}

fn length_bit(name: &[u8]) -> u64 {
    1 << name.len().min(63)
}

/// An order in which names that differ in case alone are equal.
fn compare(one: &[u8], other: &[u8]) -> Ordering {
    #[cfg(test)]
    tests::COMPARISONS.set(tests::COMPARISONS.get() + 1);
    one.len().cmp(&other.len()).then_with(|| {
        let pairs = one.iter().zip(other).map(|(a, b)| a.to_ascii_lowercase().cmp(&b.to_ascii_lowercase()));
        pairs.fold(Ordering::Equal, Ordering::then)
    })
}

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

/// Whether the protocols of a 101's `Upgrade` are among those that its request `offered` (RFC 9110 §7.8), names without case.
/// A version counts where both sides say one. HTTP/1.1, which is spoken already, needs no offer beside one that does.
pub fn is_offered(taken: &[u8], offered: &[u8]) -> bool {
    let fits = |taken: &[u8]| list(offered).any(|offered| same_protocol(taken, offered));
    let named = || list(taken).filter(|protocol| !protocol.is_empty());
    named().any(fits) && named().all(|protocol| fits(protocol) || protocol.eq_ignore_ascii_case(b"HTTP/1.1"))
}

fn same_protocol(left: &[u8], right: &[u8]) -> bool {
    let parts = |protocol: &[u8]| {
        let slash = memchr::memchr(b'/', protocol).unwrap_or(protocol.len());
        (trim(&protocol[..slash]).to_ascii_lowercase(), protocol.get(slash + 1..).map(|version| trim(version).to_vec()))
    };
    let ((left, left_version), (right, right_version)) = (parts(left), parts(right));
    let versions = left_version.zip(right_version);
    !left.is_empty() && left == right && versions.is_none_or(|(left, right)| left == right)
}

/// The shortest time that a `Keep-Alive` line announces for a connection to be kept without a request, in seconds; 0 where no more
/// requests are taken (`max=0`). What is malformed says nothing.
pub(super) fn kept_seconds(keep_alive: &[u8]) -> Option<u32> {
    let number = |value: &[u8]| {
        let digits = trim(value);
        let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
        is_number.then(|| str::from_utf8(digits).ok()?.parse().ok().or(Some(u32::MAX))).flatten()
    };
    let told = list(keep_alive).filter_map(|parameter| {
        let equals = parameter.iter().position(|byte| *byte == b'=')?;
        let (name, value) = (trim(&parameter[..equals]), number(&parameter[equals + 1..])?);
        let says_last = name.eq_ignore_ascii_case(b"max") && value == 0;
        (says_last || name.eq_ignore_ascii_case(b"timeout")).then_some(value)
    });
    told.min()
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
    use std::cell::Cell;

    thread_local! {
        pub(super) static COMPARISONS: Cell<usize> = const { Cell::new(0) };
    }

    #[test]
    fn a_field_is_compared_with_a_few_options_however_many_there_are() {
        const FIELDS: usize = 1000;
        // All of one length and with one beginning, as an attacker that wants it to be slow would choose them.
        let line = (0..OPTIONS_MAX).map(|nth| format!("option-{nth:04}")).collect::<Vec<_>>().join(",");
        let fields = [Header { name: "Connection", value: line.as_bytes() }];
        COMPARISONS.set(0);
        let mut options = ConnectionOptions::none();
        options.collect(&fields);
        let named = (0..FIELDS).filter(|nth| options.name(&format!("OPTION-{nth:04}"))).count();
        assert_eq!(named, OPTIONS_MAX);
        let comparisons = COMPARISONS.get();
        assert!(comparisons <= FIELDS * 8 + OPTIONS_MAX * 12, "{comparisons} comparisons");
    }

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
    fn a_field_is_found_among_the_options_of_all_lines_in_any_case() {
        let field = |name, value: &'static str| Header { name, value: value.as_bytes() };
        let fields =
            [field("Connection", "x-b, close,,X-A"), field("X-C", "x-d"), field("CONNECTION", "TE,x-long-option")];
        let mut options = ConnectionOptions::none();
        assert!(!options.name("x-a"));
        options.collect(&fields);
        for name in ["X-A", "x-a", "X-B", "te", "Close", "X-LONG-OPTION"] {
            assert!(options.name(name), "{name}");
        }
        for name in ["", "x-c", "x-d", "x-", "x-aa", "connection"] {
            assert!(!options.name(name), "{name}");
        }
        options.also(b"x-c");
        assert!(options.name("X-C") && options.name("X-A") && !options.name("x-d"));
        let mut options = ConnectionOptions::none();
        options.also(b"x-c");
        assert!(options.name("X-C") && !options.name("X-A"));
    }

    #[test]
    fn the_number_of_options_is_bounded() {
        assert!(HopFields::default().add_connection(&[b','; OPTIONS_MAX - 1]).is_ok());
        assert!(HopFields::default().add_connection(&[b','; OPTIONS_MAX]).is_err());
    }

    #[test]
    fn a_switch_is_to_what_was_offered() {
        for (taken, offered, want) in [
            ("websocket", "websocket", true),
            ("WebSocket", "a/1, websocket", true),
            ("websocket", "foo", false),
            ("web", "websocket", false),
            ("", "websocket", false),
            (",", "websocket,", false),
            ("a/1", "a/1, a/2", true),
            ("a/3", "a/1, a/2", false),
            ("a", "a/1", true),
            ("A/1", "a", true),
            ("/1", "/1", false),
            ("tls/1.2, HTTP/1.1", "TLS/1.2", true),
            ("HTTP/1.1", "TLS/1.2", false),
            ("a, b", "b,a", true),
            ("a, b", "a", false),
        ] {
            assert_eq!(is_offered(taken.as_bytes(), offered.as_bytes()), want, "{taken} of {offered}");
        }
    }

    #[test]
    fn how_long_a_connection_is_kept_is_read_and_what_is_malformed_says_nothing() {
        for (value, want) in [
            ("timeout=5", Some(5)),
            ("timeout=5, max=100", Some(5)),
            ("max=3,TIMEOUT = 20 ", Some(20)),
            ("timeout=20, timeout=5", Some(5)),
            ("timeout=0", Some(0)),
            ("timeout=60, max=0", Some(0)),
            ("timeout=99999999999999", Some(u32::MAX)),
            ("max=100", None),
            ("timeout=-1", None),
            ("timeout=+5", None),
            ("timeout=5s", None),
            ("timeout=", None),
            ("timeout", None),
            ("timeout=\"5\"", None),
            ("idle-timeout=5", None),
            ("", None),
        ] {
            assert_eq!(kept_seconds(value.as_bytes()), want, "{value}");
        }
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
