//! What lives here: workers, homed sockets, deadlines, parking, buffers, mailboxes; all that knows `may`, epoll and
//! the operating system. What it may not know: HTTP. It is the only room with `unsafe`.

pub mod world;
