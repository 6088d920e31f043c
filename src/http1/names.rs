//! A set of field names, asked once for every field of a head: most are told apart by their length and first letter.

/// Names of fields that go no further when a stranger sends them. Matches in any case, and takes `_` for `-`: CGI and its
/// heirs give an application the same variable for both.
///
/// Besides the names that it is made of, it holds those in which proxies tell of the client before them (`Forwarded`, and
/// all that begin with `X-Forwarded-`), and every other spelling of the fields that are written anew for each hop.
#[derive(Clone, Debug)]
pub struct FieldNames {
    /// In lower case, with hyphens.
    names: Box<[Box<[u8]>]>,
    /// By length (the last for all that are longer), a bit for each letter that a name of the set may begin with.
    initials: [u32; LENGTHS],
    /// It holds the family too.
    has_family: bool,
}

const LENGTHS: usize = 64;
/// What all names of a family begin with.
const FAMILY: &[u8] = b"x-forwarded-";
/// Besides those of the family: what else tells of the client, and what is written anew.
const OWN: &[&str] = &["forwarded", "content-length", "transfer-encoding", "max-forwards", "x-request-id"];

impl FieldNames {
    /// The set of these names, and of those that go with them.
    pub fn new<'n>(names: impl IntoIterator<Item = &'n str>) -> Self {
        Self::of(names.into_iter().chain(OWN.iter().copied()), true)
    }

    /// The set of these names alone.
    pub fn alone<'n>(names: impl IntoIterator<Item = &'n str>) -> Self {
        Self::of(names, false)
    }

    fn of<'n>(names: impl IntoIterator<Item = &'n str>, has_family: bool) -> Self {
        let mut initials = [0; LENGTHS];
        let mut add = |length: usize, first: u8| {
            let either = if first == b'-' { initial(b'_') } else { 0 };
            initials[length.min(LENGTHS - 1)] |= initial(first) | either;
        };
        let names = names
            .into_iter()
            .filter(|name| !name.is_empty())
            .map(|name| name.bytes().map(folded).collect::<Box<[u8]>>());
        let names: Box<[_]> = names.inspect(|name| add(name.len(), name[0])).collect();
        for length in if has_family { FAMILY.len()..LENGTHS } else { 0..0 } {
            add(length, FAMILY[0]);
        }
        Self { names, initials, has_family }
    }

    /// Is this one of them?
    #[inline]
    pub fn contains(&self, name: &str) -> bool {
        let name = name.as_bytes();
        let first = name.first().copied().unwrap_or_default();
        let may_be = self.initials[name.len().min(LENGTHS - 1)] & initial(first) != 0;
        may_be && self.holds(name)
    }

    #[inline(never)]
    fn holds(&self, name: &[u8]) -> bool {
        let same = |lower: &[u8]| name.iter().zip(lower).all(|(&byte, &lower)| folded(byte) == lower);
        self.has_family && name.len() >= FAMILY.len() && same(FAMILY)
            || self.names.iter().any(|own| own.len() == name.len() && same(own))
    }
}

/// The bit of a letter in either case; other characters may share it with one.
fn initial(byte: u8) -> u32 {
    1 << (byte & 31)
}

/// As the names of the set are written.
pub(super) fn folded(byte: u8) -> u8 {
    if byte == b'_' { b'-' } else { byte.to_ascii_lowercase() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_match_in_any_case_and_with_underscores() {
        let names = FieldNames::new(["X-Real-IP", "CF-Connecting-IP", "_odd", ""]);
        for name in [
            "X-Real-IP",
            "x_real-ip",
            "X_REAL_IP",
            "cf_connecting_ip",
            "Forwarded",
            "x-forwarded-for",
            "X_Forwarded_Anything",
            "X-Forwarded-",
            "x_forwarded-client-cert-of-whoever-came-before-all-of-the-proxies-that-there-are",
            "X_Request_Id",
            "Content_Length",
            "TRANSFER_ENCODING",
            "-odd",
        ] {
            assert!(names.contains(name), "{name}");
        }
        for name in ["", "X", "X-Real-IQ", "X-Real-IP-", "XReal-IP", "X-Forwarded", "Forwarded-For", "Cookie", "Accept"]
        {
            assert!(!names.contains(name), "{name}");
        }
    }

    #[test]
    fn a_set_may_be_of_its_names_alone() {
        let names = FieldNames::alone(["X-Client"]);
        assert!(["X-Client", "x_client"].iter().all(|name| names.contains(name)));
        let others = ["Forwarded", "X-Forwarded-For", "X_Request_Id", "X-Clients", ""];
        assert!(others.iter().all(|name| !names.contains(name) && !FieldNames::alone([]).contains(name)));
    }
}
