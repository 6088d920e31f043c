//! Files that are read together: what is in use of them, and whether they have changed since they were looked at last.

use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::path::Path;

use super::files::{Wrong, read_bounded};

/// More of a file isn't looked at: what is larger isn't read either.
const LOOKED_AT_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Files that are read together.
#[derive(Debug)]
pub(super) struct Group<T> {
    /// A hash of what was in them when they were looked at last; None: they weren't since the start.
    seen: Option<u64>,
    pub(super) in_use: T,
    /// What is wrong with what was seen.
    pub(super) wrong: Option<Wrong>,
}

impl<T> Group<T> {
    pub(super) const fn of(in_use: T) -> Self {
        Self { seen: None, in_use, wrong: None }
    }

    /// Reads them anew if they hold something else than when they were seen last. True when what was read is in use now.
    pub(super) fn look(&mut self, seen: u64, read: impl FnOnce() -> Result<T, Wrong>) -> bool {
        if self.seen.replace(seen) == Some(seen) {
            return false;
        }
        match read() {
            Ok(read) => {
                if let Some(wrong) = self.wrong.take() {
                    log::info!("{}: it is well again", wrong.field);
                }
                self.in_use = read;
                true
            }
            Err(wrong) => {
                log::error!("{wrong}; what was there before stays in use");
                self.wrong = Some(wrong);
                false
            }
        }
    }
}

/// A hash of all that is in these files, and of why it isn't to be read.
pub(super) fn contents<'p>(hash: &RandomState, paths: impl IntoIterator<Item = &'p (impl AsRef<Path> + 'p)>) -> u64 {
    let mut hasher = hash.build_hasher();
    for path in paths {
        read_bounded(path.as_ref(), LOOKED_AT_BYTES_MAX).hash(&mut hasher);
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(reason: &str) -> Wrong {
        Wrong { field: "tls.x".to_owned(), file: "x".into(), reason: reason.to_owned() }
    }

    #[test]
    fn what_is_broken_leaves_what_was_before_in_use_and_is_read_again_when_it_changes() {
        let mut group = Group::of("old");
        assert!(group.look(1, || Ok("old")), "what changed while it started is found");
        assert!(!group.look(1, || unreachable!("nothing has changed")));
        assert!(!group.look(2, || Err(wrong("half"))));
        assert_eq!((group.in_use, &group.wrong), ("old", &Some(wrong("half"))));
        assert!(!group.look(2, || unreachable!("it was told")));
        assert!(group.look(3, || Ok("new")));
        assert_eq!((group.in_use, &group.wrong), ("new", &None));
        assert!(
            !group.look(4, || Err(wrong("half"))) && group.look(3, || Ok("new")),
            "the same as before is well again"
        );
        assert_eq!(group.wrong, None);
    }
}
