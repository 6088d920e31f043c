//! What lives here: HTTP/1.1 messages as bytes in, events out (RFC 9112). It knows no socket and no clock, and
//! imports nothing of the house.
