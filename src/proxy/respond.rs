//! Answers that the proxy makes itself.

use std::io;

use super::challenge_answer::ChallengeAnswer;
use super::client::Client;
use super::error::Failure;
use super::error_answer::{Fate, OwnAnswer, Representation};
use super::parked::{Parked, Unsent};
use super::record::End;
use super::state::{Ended, Exchange};
use super::stillness::Stillness;
use super::worker::Proxy;
use crate::http1::Method;
use crate::runtime::world::{Stream, World};

impl<W: World<Parked = Parked>> Exchange<'_, W> {
    /// Makes the answer to a request that failed before its answer began. The connection goes on when all of the request was
    /// read.
    #[cold]
    pub(super) fn answer_failure(&mut self, failure: Failure) -> Ended<W> {
        let view = failure.view();
        let record = &mut self.stand.record;
        (record.status, record.end) = (view.status, End::Failed(view.reason));
        if view.status.is_none() {
            return Ended::CUT;
        }
        let limits = self.facts.bound.connections.head_limits;
        let accepted = || self.client.look_again(&limits, |request| Representation::of(request.values("accept")));
        let representation = self.facts.representation.or_else(accepted).unwrap_or(Representation::Text);
        let is_read = self.client.consume_whole();
        let closes = !self.facts.keep_alive || !is_read || self.is_last();
        let answer = OwnAnswer {
            failure,
            representation,
            date: &self.proxy.date(),
            allowance: self.facts.allowance(),
            hsts: self.facts.hsts(&self.client.stream),
            fate: if closes { Fate::Closes } else { Fate::Stays(self.facts.version) },
            head_only: self.facts.method == Method::Head,
        };
        self.head.bytes.clear();
        answer.write(&mut self.head.bytes);
        self.stand.record.is_answered_here(self.head.bytes.len());
        Ended::Refused { last: closes || view.must_close }
    }

    /// Makes the answer to an authority that asks whether a name is ours.
    #[cold]
    pub(super) fn answer_challenge(&mut self, shown: &str) -> Ended<W> {
        self.stand.record.status = Some(200);
        let is_read = self.client.consume_whole();
        let closes = !self.facts.keep_alive || !is_read || self.is_last();
        let answer = ChallengeAnswer {
            shown,
            date: &self.proxy.date(),
            fate: if closes { Fate::Closes } else { Fate::Stays(self.facts.version) },
            head_only: self.facts.method == Method::Head,
        };
        self.head.bytes.clear();
        answer.write(&mut self.head.bytes);
        self.stand.record.is_answered_here(self.head.bytes.len());
        Ended::Refused { last: closes }
    }

    /// Sends such an answer. It is sent after the request was counted, so that a client that has it finds it counted.
    #[cold]
    pub(super) fn send_own(&mut self, last: bool) -> Ended<W> {
        let bytes = &self.head.bytes;
        match write_on(&self.client.stream, bytes) {
            Ok(n) if n == bytes.len() => Ended::Answered { last, unread: true },
            Ok(n) => {
                let timeout = self.facts.bound.connections.write_timeout;
                let stillness = Stillness::new(self.proxy.world.now());
                Ended::Unsent(Box::new(Unsent { bytes: bytes[n..].into(), last, timeout, stillness }))
            }
            Err(_) => Ended::CUT,
        }
    }
}

impl<W: World<Parked = Parked>> Proxy<W> {
    /// Goes on with an answer, for as long as its client takes something of it within the time that it has.
    pub(super) fn send_rest(&self, client: &mut Client<W::Stream>, unsent: Unsent) -> Ended<W> {
        let Unsent { bytes, last, timeout, mut stillness } = unsent;
        let Ok(n) = write_on(&client.stream, &bytes) else { return Ended::CUT };
        if n == bytes.len() {
            return Ended::Answered { last, unread: true };
        }
        let now = self.world.now();
        if n > 0 {
            stillness.begin_anew(now);
        }
        let expired = now >= stillness.until(timeout);
        if expired && !stillness.goes_on(client.stream.unsent(), now) {
            return Ended::CUT;
        }
        Ended::Unsent(Box::new(Unsent { bytes: bytes[n..].into(), last, timeout, stillness }))
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
