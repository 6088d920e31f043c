//! Where a transfer stops, and what is gone on with there.

use super::{Body, Course, Download};
use crate::proxy::Proxy;
use crate::proxy::aside::{Aside, Work};
use crate::proxy::bound::Bound;
use crate::proxy::client::{Client, Parked};
use crate::proxy::exchange::{After, Facts, Turn};
use crate::proxy::tries::Exchange;
use crate::proxy::tunnel::Tunnel;
use crate::runtime::buffer::Buffer;
use crate::runtime::world::{Instant, Need, World};

/// Where a transfer has come to a stop.
pub(in crate::proxy) enum Stop {
    /// It is over.
    Over(After),
    /// Its answer is through.
    Through(After, Upstream),
    /// It waits for so long that it needs no coroutine.
    Aside(Need, Instant),
    /// The request's last byte is sent behind a 101: the rest is a tunnel. Bytes of the backend's that are to go on.
    Tunnel(Buffer),
}

/// What becomes of the backend's connection behind an answer.
pub(in crate::proxy) enum Upstream {
    Closes,
    /// It may serve others, as long as its server keeps it.
    IsIdle {
        since: Instant,
        until: Instant,
    },
    /// It serves its client alone.
    IsTheClients {
        until: Instant,
    },
}

impl<W: World<Parked = Parked>> Proxy<W> {
    /// Goes on with what a transfer has come to when it stopped.
    #[cold]
    pub(in crate::proxy) fn stopped(
        &self,
        client: &mut Client<W::Stream>,
        facts: &Facts,
        mut course: Course<W>,
        tried: &[u64],
        stop: Stop,
    ) -> Turn<W> {
        match stop {
            Stop::Over(after) | Stop::Through(after, Upstream::Closes) => Turn::Over(after),
            Stop::Through(after, Upstream::IsIdle { since, until }) => {
                course.lease.give_back(since, until);
                Turn::Over(after)
            }
            Stop::Through(after, Upstream::IsTheClients { until }) => {
                client.bound = Some(Bound::new(course.lease, until));
                Turn::Over(after)
            }
            Stop::Aside(need, deadline) => {
                let held = course.held.take();
                let exchange = Exchange { facts: facts.clone(), tried: tried.into(), course };
                Turn::Aside(Aside::new(client, held, Work::Exchange(Box::new(exchange)), need, deadline))
            }
            Stop::Tunnel(buffer) => {
                let Course { lease, visit, download, .. } = course;
                let Download::Body(Body { pump, answered, .. }) = download else { return Turn::Over(After::Cut) };
                let tunnel = Tunnel::new(facts.id, lease, visit, answered, pump);
                self.open_tunnel(client, tunnel, buffer)
            }
        }
    }
}
