//! What lives here: HTTP/1.1 messages as bytes in, events out (RFC 9112). It knows no socket and no clock, and
//! imports nothing of the house.
//!
//! What has come out of [`parse_request`] or [`parse_response`] can no longer be ambiguous: its lines end in CRLF,
//! its names are tokens, its target and `Host` are well formed, and its body has exactly one [`Framing`].

mod chunked;
mod field;
mod framing;
mod head;
mod hop;
mod method;
mod names;
mod request;
mod response;
mod response_reader;
mod status;
mod target;
mod trailers;

pub use chunked::{CHUNK_END, ChunkError, Decoded, Decoder, LAST_CHUNK, chunk_header};
pub use field::{Known, list};
pub use framing::Framing;
pub use head::{HeadLimits, Parsed, Version};
pub use hop::{ConnectionOptions, HopTrailers, is_offered};
pub use method::Method;
pub use names::FieldNames;
pub use request::{Request, RequestError, parse_request};
pub use response::{Response, ResponseError, parse_response};
pub use response_reader::{INTERIM_MAX, ResponseFault, ResponseReader, TOO_MANY_INTERIM};
pub use status::reason_phrase;
pub use target::{Target, without_port};
