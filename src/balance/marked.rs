//! Which members of a snapshot serve sessions, found by their marks.

use super::member::Member;
use super::sessions::{Mark, Sessions};

/// The members that may serve sessions, by their marks.
#[derive(Debug)]
pub(super) struct Marked(Box<[(Mark, u16)]>);

impl Marked {
    /// Empty where there are no sessions.
    pub(super) fn of(members: &[Member], sessions: &Sessions) -> Self {
        if *sessions == Sessions::Off {
            return Self(Box::default());
        }
        let serving = (0..).zip(members).filter(|(_, member)| member.serves_sessions);
        let mark_of = |member: &Member| sessions.mark(member.backend.id, &member.backend.name);
        let mut marked: Box<[_]> = serving.map(|(at, member)| (mark_of(member), at)).collect();
        marked.sort_unstable();
        Self(marked)
    }

    /// The index of the member with this mark.
    pub(super) fn find(&self, mark: Mark) -> Option<usize> {
        let at = self.0.binary_search_by_key(&mark, |(mark, _)| *mark).ok()?;
        Some(self.0[at].1.into())
    }
}
