//! A coroutine's stack, and giving back what of it a long wait doesn't need.
//!
//! A stack keeps every page that was ever touched. A coroutine that parses, picks and formats goes deep for a moment, and
//! may then wait for minutes near the top: thousands of slow clients would hold the depth of thousands of requests.

use std::cell::Cell;
use std::hint::black_box;

/// A coroutine's stack, in words of 8 bytes; only pages that were touched take memory.
pub(super) const WORDS: usize = 0x2000;

/// What `generator` keeps at a stack's low end: words that tell whether the stack overflowed.
const MARKS: usize = 8;
/// Left alone below the innermost frame's variable: the rest of that frame, its callee's, and the 128 bytes below a stack
/// pointer that x86-64 lets a function use.
const BELOW_FRAME_BYTES: usize = 512;

may::coroutine_local!(static ENTRY: Cell<usize> = Cell::new(0));

/// Notes where the calling coroutine's stack begins. To be called once by each, in its outermost function: the stack's
/// first page has to begin there.
pub(super) fn enter() {
    let here = black_box(0_u8);
    ENTRY.with(|entry| entry.set((&raw const here).addr()));
}

/// Runs `wait` after the pages below its frame were given back to the system; they are empty when they are touched again.
/// Just runs it on a coroutine that has not called [`enter`].
pub(super) fn without_unused<R>(wait: impl FnOnce() -> R) -> R {
    let entry = ENTRY.with(Cell::get);
    if entry == 0 {
        return wait();
    }
    let lowest = entry.next_multiple_of(page_bytes()) - WORDS * size_of::<usize>();
    let marks = std::ptr::with_exposed_provenance_mut::<[usize; MARKS]>(lowest);
    // SAFETY: the stack's low end is WORDS below the end of its first page, where `enter` was called. The marks there
    // are `generator`'s, which doesn't look at them while the coroutine is alive, and they are put back as they were.
    let kept = unsafe { marks.read() };
    give_back(lowest);
    let result = wait();
    // SAFETY: as above.
    unsafe { marks.write(kept) };
    result
}

/// Gives the pages from `lowest`, the stack's low end, to this function's frame back.
#[inline(never)]
fn give_back(lowest: usize) {
    let here = black_box(0_u8);
    let end = (&raw const here).addr() - BELOW_FRAME_BYTES;
    let bytes = end.saturating_sub(lowest) / page_bytes() * page_bytes();
    // SAFETY: these bytes are a part of this coroutine's own stack, below every live frame, this function's and that of
    // the call included. Nothing points there, and nothing there is read again before it is written; the marks, which are,
    // the caller keeps. A failure changes nothing.
    unsafe { libc::madvise(std::ptr::with_exposed_provenance_mut(lowest), bytes, libc::MADV_DONTNEED) };
}

fn page_bytes() -> usize {
    // SAFETY: no pointers.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096)
}

#[cfg(test)]
mod tests {
    use super::*;
    use may::coroutine::{self, Builder};

    /// Goes down by some KiB, and touches all of them.
    #[inline(never)]
    fn go_deep(kib: usize) -> u8 {
        let touched = black_box([1_u8; 1024]);
        if kib > 1 { touched[0] + go_deep(kib - 1) % 2 } else { touched[1] }
    }

    /// Pages of the calling coroutine's stack that are in memory.
    fn resident() -> usize {
        let page_bytes = page_bytes();
        let stack_bytes = WORDS * size_of::<usize>();
        let lowest = ENTRY.with(Cell::get).next_multiple_of(page_bytes) - stack_bytes;
        let mut pages = vec![0_u8; stack_bytes / page_bytes];
        // SAFETY: the range is this coroutine's stack, and `pages` has a byte for each of its pages.
        let looked =
            unsafe { libc::mincore(std::ptr::with_exposed_provenance_mut(lowest), stack_bytes, pages.as_mut_ptr()) };
        assert_eq!(looked, 0, "{}", std::io::Error::last_os_error());
        pages.iter().filter(|&&page| page & 1 == 1).count()
    }

    #[test]
    fn a_long_wait_gives_back_what_was_deep_and_the_coroutine_ends_well() {
        let life = || {
            enter();
            go_deep(24);
            let before = resident();
            let meanwhile = without_unused(|| {
                coroutine::yield_now();
                resident()
            });
            go_deep(24);
            (before, meanwhile)
        };
        // A coroutine whose overflow marks were lost would end the process.
        // SAFETY: it has no thread-local state, and its stack is WORDS words.
        let handle = unsafe { Builder::new().stack_size(WORDS).spawn(life) };
        let (before, meanwhile) = handle.expect("a stack").join().expect("no panic");
        assert!(before >= 24 * 1024 / page_bytes(), "{before} pages were touched");
        assert!(meanwhile <= before - 16 * 1024 / page_bytes(), "{meanwhile} of {before} pages were kept");
    }

    #[test]
    fn who_never_entered_just_waits() {
        assert_eq!(without_unused(|| 7), 7);
    }
}
