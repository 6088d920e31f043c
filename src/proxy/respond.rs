//! Answers that the proxy makes itself.

use std::io;

use super::Proxy;
use super::Scratch;
use super::client::{Client, Parked};
use super::error::{self, Failure, Representation};
use super::exchange::{After, Facts};
use super::throttle::Allowance;
use crate::http1::Method;
use crate::runtime::world::{Stream, Wake, World};

impl<W: World<Parked = Parked>> Proxy<W> {
    /// Answers a request whose head could not be used, or did not come in time; the connection then ends.
    pub(super) fn refuse(&self, client: &mut Client<W::Stream>, failure: Failure) -> After {
        let mut scratch = self.scratch();
        self.write_failure(client, &failure, Representation::Text, None, &mut scratch.bytes, true, false)
    }

    /// Answers a request that failed before its answer began. The connection goes on when all of the request was read.
    pub(super) fn answer_failure(
        &self,
        client: &mut Client<W::Stream>,
        facts: &Facts,
        failure: Failure,
        scratch: &mut Scratch,
    ) -> After {
        let representation = facts.representation.unwrap_or_else(|| self.representation(client));
        let whole_bytes = client.whole_bytes.take();
        if let (Some(whole_bytes), Some(buffer)) = (whole_bytes, client.buffer.as_mut()) {
            buffer.consume(whole_bytes);
        }
        let close = !facts.keep_alive || whole_bytes.is_none() || self.shared.is_last(client.requests);
        let head_only = facts.method == Method::Head;
        self.write_failure(
            client,
            &failure,
            representation,
            self.allowance(facts),
            &mut scratch.bytes,
            close,
            head_only,
        )
    }

    /// What an answer says of its client's rate.
    pub(super) fn allowance(&self, facts: &Facts) -> Option<Allowance<'_>> {
        let quota = facts.quota?;
        Some(self.shared.throttle.as_ref()?.allowance(quota))
    }

    #[expect(clippy::too_many_arguments, reason = "what one answer is written with, named")]
    fn write_failure(
        &self,
        client: &Client<W::Stream>,
        failure: &Failure,
        representation: Representation,
        allowance: Option<Allowance<'_>>,
        scratch: &mut Vec<u8>,
        close: bool,
        head_only: bool,
    ) -> After {
        let view = failure.view();
        self.count(view.reason);
        if view.status.is_none() {
            return After::Cut;
        }
        let close = close || view.must_close;
        scratch.clear();
        error::write_error_answer(scratch, failure, representation, &self.date(), allowance, close, head_only);
        match self.write_all(&client.stream, scratch) {
            Ok(()) if close => After::Linger,
            Ok(()) => After::Next,
            Err(_) => After::Cut,
        }
    }

    /// Writes all of `bytes`, waiting for room as long as `timeouts.write` allows.
    pub(super) fn write_all(&self, stream: &W::Stream, mut bytes: &[u8]) -> Result<(), Failure> {
        let mut deadline = None;
        while !bytes.is_empty() {
            match stream.try_write(&[io::IoSlice::new(bytes)]) {
                Ok(n) => bytes = &bytes[n..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let until = self.shared.config.timeouts.write;
                    let deadline = *deadline.get_or_insert_with(|| self.world.now() + until);
                    if self.world.wait(stream, None, deadline) == Wake::Deadline {
                        return Err(Failure::ClientWriteStalled);
                    }
                }
                Err(_) => return Err(Failure::ClientGone),
            }
        }
        Ok(())
    }

    /// What the request at the front of the client's buffer accepts.
    fn representation(&self, client: &Client<W::Stream>) -> Representation {
        let accepted = self.look_again(client, |request| Representation::of(request.field("accept")));
        accepted.unwrap_or(Representation::Text)
    }
}
