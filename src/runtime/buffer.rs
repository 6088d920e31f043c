//! Buffers of one size from a free list: held only while bytes are in flight, so that an idle connection costs none.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

/// A worker's free list of buffers. Taking one allocates only when the list is empty. A clone is the same list.
#[derive(Debug)]
pub struct Buffers(Rc<Shelf>);

#[derive(Debug)]
struct Shelf {
    /// The last to come are the first to go: those in front have been free for longest.
    free: RefCell<Vec<Box<[u8]>>>,
    /// How many were free at the last [`Buffers::trim`].
    free_before: Cell<usize>,
    buffer_bytes: usize,
    kept_min: usize,
    /// How many [`Buffers`] are this list.
    handles: Cell<usize>,
}

/// A fixed run of bytes, of which `start..end` are filled. Goes back to its free list, if it has one, when dropped.
#[derive(Debug)]
pub struct Buffer {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
    home: Option<Rc<Shelf>>,
}

impl Buffers {
    /// A list of buffers of `buffer_bytes` each, of which `kept_min` are kept however long they are unused.
    pub fn new(buffer_bytes: usize, kept_min: usize) -> Self {
        let free = RefCell::new(Vec::with_capacity(kept_min));
        Self(Rc::new(Shelf { free, free_before: Cell::new(0), buffer_bytes, kept_min, handles: Cell::new(1) }))
    }

    /// Lets half of those go that are free now and were at the last call, but for a few. To be called now and then: a crowd
    /// that comes again finds its buffers, and one that has left gives their memory back.
    pub fn trim(&self) {
        let mut free = self.0.free.borrow_mut();
        let unused = free.len().min(self.0.free_before.get());
        free.drain(..unused.saturating_sub(self.0.kept_min).div_ceil(2));
        self.0.free_before.set(free.len());
    }

    /// An empty buffer.
    pub fn take(&self) -> Buffer {
        let bytes = self.0.free.borrow_mut().pop();
        let bytes = bytes.unwrap_or_else(|| vec![0; self.0.buffer_bytes].into_boxed_slice());
        Buffer { bytes, start: 0, end: 0, home: Some(Rc::clone(&self.0)) }
    }

    /// Buffers that were taken and not dropped yet.
    pub fn in_use(&self) -> usize {
        // The other counts are the list's own.
        Rc::strong_count(&self.0) - self.0.handles.get()
    }

    /// Nothing else can take a buffer of this list or give one back to it.
    pub fn is_done_with(&self) -> bool {
        Rc::strong_count(&self.0) == 1
    }

    /// The size of each, in bytes.
    pub fn buffer_bytes(&self) -> usize {
        self.0.buffer_bytes
    }
}

impl Clone for Buffers {
    fn clone(&self) -> Self {
        self.0.handles.set(self.0.handles.get() + 1);
        Self(Rc::clone(&self.0))
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        self.0.handles.set(self.0.handles.get() - 1);
    }
}

impl Buffer {
    /// One of no list, with room for just these bytes.
    pub fn holding(bytes: &[u8]) -> Self {
        Self { bytes: bytes.into(), start: 0, end: bytes.len(), home: None }
    }

    /// The filled part.
    #[inline]
    pub fn filled(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// The filled part, to change in place.
    #[inline]
    pub fn filled_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.end]
    }

    /// The free part behind the filled one; [`Buffer::fill`] says how much of it was written.
    #[inline]
    pub fn spare(&mut self) -> &mut [u8] {
        &mut self.bytes[self.end..]
    }

    /// Counts `n` bytes of [`Buffer::spare`] as filled.
    #[inline]
    pub fn fill(&mut self, n: usize) {
        debug_assert!(self.end + n <= self.bytes.len());
        self.end += n;
    }

    /// Drops `n` bytes from the front of the filled part.
    #[inline]
    pub fn consume(&mut self, n: usize) {
        debug_assert!(n <= self.len());
        self.start += n;
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        }
    }

    /// Drops `n` bytes from the back of the filled part.
    #[inline]
    pub fn truncate(&mut self, len: usize) {
        debug_assert!(len <= self.len());
        self.end = self.start + len;
    }

    /// Moves the filled part to the front, so that all free room is behind it.
    pub fn compact(&mut self) {
        if self.start > 0 {
            self.bytes.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
    }

    /// Appends what fits of `from`, and says how much that was.
    pub fn append(&mut self, from: &[u8]) -> usize {
        let n = from.len().min(self.bytes.len() - self.end);
        self.bytes[self.end..self.end + n].copy_from_slice(&from[..n]);
        self.end += n;
        n
    }

    /// Filled bytes.
    #[inline]
    pub fn len(&self) -> usize {
        self.end - self.start
    }

    /// No byte is filled.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// No room is left behind the filled part; [`Buffer::compact`] may make some.
    #[inline]
    pub fn is_full(&self) -> bool {
        self.end == self.bytes.len()
    }

    /// All room, filled or not.
    #[inline]
    pub fn capacity(&self) -> usize {
        self.bytes.len()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(home) = &self.home {
            home.free.borrow_mut().push(std::mem::take(&mut self.bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_out_in_the_order_they_went_in() {
        let buffers = Buffers::new(8, 2);
        let mut buffer = buffers.take();
        assert_eq!(buffer.append(b"abcdefghij"), 8);
        buffer.consume(3);
        assert!(buffer.is_full());
        buffer.compact();
        assert_eq!(buffer.append(b"xyz!"), 3);
        assert_eq!(buffer.filled(), b"defghxyz");
    }

    #[test]
    fn a_dropped_buffer_is_used_again_and_empty() {
        let buffers = Buffers::new(8, 1);
        let mut first = buffers.take();
        first.append(b"secret");
        let address = first.filled().as_ptr();
        drop(first);
        let again = buffers.take();
        assert!(again.is_empty());
        assert_eq!(again.bytes.as_ptr(), address);
    }

    #[test]
    fn a_list_counts_what_was_taken_of_any_of_its_clones_and_buffers_may_outlive_it() {
        let buffers = Buffers::new(8, 1);
        let clone = buffers.clone();
        let (first, second) = (buffers.take(), clone.take());
        assert_eq!((buffers.in_use(), clone.in_use()), (2, 2));
        drop(clone);
        assert_eq!((buffers.in_use(), buffers.is_done_with()), (2, false));
        drop(first);
        assert_eq!(buffers.in_use(), 1);
        drop(buffers);
        drop(second);
        let alone = Buffer::holding(b"whatever its length");
        assert!(alone.is_full() && alone.filled() == b"whatever its length");
    }

    #[test]
    fn of_the_buffers_that_nobody_needs_half_leave_at_a_time_but_for_a_few() {
        let buffers = Buffers::new(8, 2);
        let free = || buffers.0.free.borrow().len();
        drop((0..10).map(|_| buffers.take()).collect::<Vec<_>>());
        assert_eq!((buffers.in_use(), free()), (0, 10));
        buffers.trim();
        assert_eq!(free(), 10, "they may all have been needed a moment ago");
        let needed: Vec<_> = (0..4).map(|_| buffers.take()).collect();
        buffers.trim();
        assert_eq!(free(), 4, "of the six that are free two may stay, and two more");
        drop(needed);
        for left in [7, 4, 3, 2, 2] {
            buffers.trim();
            assert_eq!(free(), left);
        }
    }
}
