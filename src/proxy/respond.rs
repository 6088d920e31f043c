//! Answers that the proxy makes itself.

use std::io;

use super::Proxy;
use super::Scratch;
use super::aside::{Aside, Work};
use super::client::{Client, Parked};
use super::error::{self, Failure, Fate, Representation};
use super::exchange::{After, Facts, Turn};
use super::stillness::Stillness;
use super::throttle::Allowance;
use crate::http1::Method;
use crate::runtime::world::{Need, Stream, World};

/// What a client has not taken yet of an answer of the proxy's own.
pub(super) struct Unsent {
    bytes: Box<[u8]>,
    /// What becomes of its connection then.
    after: After,
    stillness: Stillness,
}

impl<W: World<Parked = Parked>> Proxy<W> {
    /// Answers a request whose head could not be used, or did not come in time; the connection then ends.
    pub(super) fn refuse(&self, client: &mut Client<W::Stream>, failure: Failure) -> Turn<W> {
        let mut scratch = self.scratch();
        self.write_failure(client, &failure, Representation::Text, None, &mut scratch.bytes, Fate::Closes, false)
    }

    /// Answers a request that failed before its answer began. The connection goes on when all of the request was read.
    pub(super) fn answer_failure(
        &self,
        client: &mut Client<W::Stream>,
        facts: &Facts,
        failure: Failure,
        scratch: &mut Scratch,
    ) -> Turn<W> {
        let representation = facts.representation.unwrap_or_else(|| self.representation(client));
        let whole_bytes = client.whole_bytes.take();
        if let (Some(whole_bytes), Some(buffer)) = (whole_bytes, client.buffer.as_mut()) {
            buffer.consume(whole_bytes);
        }
        let closes = !facts.keep_alive || whole_bytes.is_none() || self.shared.is_last(client.requests);
        let head_only = facts.method == Method::Head;
        self.write_failure(
            client,
            &failure,
            representation,
            self.allowance(facts),
            &mut scratch.bytes,
            if closes { Fate::Closes } else { Fate::Stays(facts.version) },
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
        client: &mut Client<W::Stream>,
        failure: &Failure,
        representation: Representation,
        allowance: Option<Allowance<'_>>,
        scratch: &mut Vec<u8>,
        fate: Fate,
        head_only: bool,
    ) -> Turn<W> {
        let view = failure.view();
        self.count(view.reason);
        if view.status.is_none() {
            return Turn::Over(After::Cut);
        }
        let closes = fate == Fate::Closes || view.must_close;
        scratch.clear();
        error::write_error_answer(scratch, failure, representation, &self.date(), allowance, fate, head_only);
        let after = if closes { After::Linger } else { After::Next };
        match write_on(&client.stream, scratch) {
            Ok(n) if n == scratch.len() => Turn::Over(after),
            Ok(n) => {
                let stillness = Stillness::new(self.world.now());
                self.wait_to_send(client, Unsent { bytes: scratch[n..].into(), after, stillness })
            }
            Err(_) => Turn::Over(After::Cut),
        }
    }

    /// A client that doesn't read is waited for without a coroutine.
    fn wait_to_send(&self, client: &mut Client<W::Stream>, unsent: Unsent) -> Turn<W> {
        let deadline = unsent.stillness.until(self.shared.config.timeouts.write);
        Turn::Aside(Aside::new(client, None, Work::Answer(unsent), Need::Write, deadline))
    }

    /// Goes on with an answer, for as long as its client takes something of it within `timeouts.write`.
    pub(super) fn send_rest(&self, client: &mut Client<W::Stream>, unsent: Unsent) -> Turn<W> {
        let Unsent { bytes, after, mut stillness } = unsent;
        let Ok(n) = write_on(&client.stream, &bytes) else { return Turn::Over(After::Cut) };
        if n == bytes.len() {
            return Turn::Over(after);
        }
        let now = self.world.now();
        if n > 0 {
            stillness.begin_anew(now);
        }
        let expired = now >= stillness.until(self.shared.config.timeouts.write);
        if expired && !stillness.goes_on(client.stream.unsent(), now) {
            return Turn::Over(After::Cut);
        }
        self.wait_to_send(client, Unsent { bytes: bytes[n..].into(), after, stillness })
    }

    /// What the request at the front of the client's buffer accepts.
    fn representation(&self, client: &Client<W::Stream>) -> Representation {
        let accepted = self.look_again(client, |request| Representation::of(request.values("accept")));
        accepted.unwrap_or(Representation::Text)
    }
}

/// Writes what the client takes now of `bytes`, and says how much that was.
pub(super) fn write_on<S: Stream>(stream: &S, bytes: &[u8]) -> io::Result<usize> {
    let mut written = 0;
    while written < bytes.len() {
        match stream.try_write(&[io::IoSlice::new(&bytes[written..])]) {
            Ok(n) => written += n,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(written)
}
