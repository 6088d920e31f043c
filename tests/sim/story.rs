//! One exchange's own story: when the proxy had it in hand, which backends it asked for it, and what each try met there.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use crate::net::{Connecting, SocketId};
use crate::sim::{MILLISECOND, Time};
use crate::temper::Temper;
use crate::trail::{Deed, Line, Moment, State, Trail, Way};

/// What a try met that it could do nothing about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Met {
    /// The way there was refused, or there was none.
    NoWay,
    /// The system had no local port for it.
    NoPort,
    NoDescriptor,
    /// Its origin, or the network, said nothing.
    Silence,
    /// Its origin ended the connection, and its answer with it.
    Departure,
    /// Its origin sent what no answer may be.
    Babble,
    /// Its origin isn't to be trusted.
    Distrust,
    /// Its origin refused the session.
    Refusal,
    /// Its origin took part in no handshake.
    Breach,
    /// Its origin had enough of its client.
    Impatience,
}

/// One backend, asked once.
#[derive(Clone, Debug)]
pub struct Try {
    pub origin: usize,
    pub began: Moment,
    /// The proxy's end of the connection that the request was offered to.
    pub way: usize,
    pub offered: Option<Moment>,
    /// What it met in the end: on its connection if it got one, else on its way there.
    pub met: Vec<Met>,
    /// It waited in vain for one of its origin's addresses.
    waited: bool,
    asked: Vec<SocketAddr>,
    /// All connections that it asked for.
    ways: Vec<usize>,
}

#[derive(Clone, Debug)]
pub struct Story {
    /// From the end of the answer before it, to the end of its own.
    pub begin: Moment,
    pub end: Moment,
    pub tries: Vec<Try>,
    /// What was the case whenever the proxy wrote to its client.
    pub states: Vec<(Moment, State)>,
}

/// What stories are made of.
pub struct Stories<'r> {
    pub trail: &'r Trail,
    ways: Vec<Way>,
    /// After this long a worker knows of what an origin did.
    news_takes: Time,
}

/// A step towards a backend.
struct Happened {
    moment: Moment,
    way: usize,
    /// The request was offered; else a connection was asked for.
    offered: bool,
    /// The number of the exchange on its connection.
    exchange: Option<usize>,
}

impl<'r> Stories<'r> {
    pub fn new(trail: &'r Trail, temper: &Temper) -> Self {
        let news_takes = 2 * *temper.latency.end() + *temper.event_delay.end() + MILLISECOND;
        Self { trail, ways: trail.ways(), news_takes }
    }

    /// Nothing was in the way of any try.
    pub fn are_all_smooth(&self) -> bool {
        self.ways.iter().all(|way| {
            let offers = way.offers.iter().all(|(offered, _)| self.met_after(way, *offered).is_empty());
            offers && met_in_dialling(way).is_empty()
        })
    }

    /// The stories of the exchanges with these numbers on one connection, whose answers ended after so many bytes.
    pub fn of(&self, socket: Option<SocketId>, ids: &[u64], ends: &[usize]) -> (Option<Line>, Vec<Story>) {
        self.tell(socket, ids, ends, false)
    }

    /// All tries of these exchanges, in order, also where nobody knows for which of those they were that its client has no
    /// answers to.
    pub fn tries_of(&self, socket: Option<SocketId>, ids: &[u64], ends: &[usize]) -> Vec<Try> {
        let (_, stories) = self.tell(socket, ids, ends, true);
        let mut tries: Vec<Try> = stories.into_iter().flat_map(|story| story.tries).collect();
        tries.sort_by_key(|tried| tried.began);
        tries
    }

    fn tell(
        &self,
        socket: Option<SocketId>,
        ids: &[u64],
        ends: &[usize],
        all_tries: bool,
    ) -> (Option<Line>, Vec<Story>) {
        let line_at = socket.and_then(|socket| self.trail.line_of(socket));
        let Some((at, line)) = line_at.and_then(|at| Some((at, self.trail.line(at)?))) else {
            return (None, ids.iter().map(|_| Story::NONE).collect());
        };
        let closed = line.closed.unwrap_or(Moment::NEVER);
        let mut begin = line.accepted;
        let mut stories = Vec::new();
        for number in 0..ids.len() {
            let through = ends.get(number).copied();
            let written = line.written.iter().find(|(_, bytes, _)| through.is_some_and(|through| *bytes >= through));
            let end = written.map_or(closed, |(moment, ..)| *moment);
            let writes = line.written.iter().filter(|(moment, ..)| *moment > begin && *moment <= end);
            let states = writes.map(|(moment, _, state)| (*moment, *state)).collect();
            stories.push(Story { begin, end, tries: Vec::new(), states });
            begin = end;
        }
        let mut happened = self.happened(at, ids);
        happened.sort_by_key(|happened| happened.moment);
        // Where a client reads no answers, they don't tell where one exchange ends and the next begins: then what came of
        // an attempt to connect does.
        let mut next = None;
        for happened in happened.iter_mut().rev() {
            let in_time = |story: &Story| story.begin < happened.moment && happened.moment <= story.end;
            let answered = stories[..ends.len()].iter().position(in_time);
            let unanswered = (all_tries && ends.len() < ids.len()).then_some(ends.len());
            happened.exchange = happened.exchange.or(answered).or(next).or(unanswered);
            next = happened.exchange;
        }
        for (number, story) in stories.iter_mut().enumerate() {
            story.tries = self.tries(happened.iter().filter(|happened| happened.exchange == Some(number)));
        }
        (Some(line), stories)
    }

    /// All that happened for the exchanges of one connection.
    fn happened(&self, line: SocketId, ids: &[u64]) -> Vec<Happened> {
        let mut all = Vec::new();
        for (way, this) in self.ways.iter().enumerate() {
            let number = |id: u64| ids.iter().position(|this| *this == id);
            if this.by == Some(line) {
                let exchange = this.offers.first().and_then(|(_, id)| number(*id));
                all.push(Happened { moment: this.dialled, way, offered: false, exchange });
            }
            let offers = this.offers.iter().filter_map(|(moment, id)| Some((*moment, number(*id)?)));
            all.extend(offers.map(|(moment, number)| Happened { moment, way, offered: true, exchange: Some(number) }));
        }
        all
    }

    fn tries<'h>(&self, all: impl Iterator<Item = &'h Happened>) -> Vec<Try> {
        let mut tries: Vec<Try> = Vec::new();
        for happened in all {
            let way = &self.ways[happened.way];
            let last = tries.last().filter(|last| last.offered.is_none());
            let goes_on = last.is_some_and(|last| {
                // Where no descriptor was left, an idle connection is given up for it.
                let another = !last.asked.contains(&way.address) || last.met.last() == Some(&Met::NoDescriptor);
                if happened.offered {
                    last.way == happened.way
                } else {
                    last.origin == origin_at(way.address) && another
                }
            });
            if !goes_on {
                let (origin, began) = (origin_at(way.address), happened.moment);
                let (asked, met, ways) = (Vec::new(), Vec::new(), Vec::new());
                tries.push(Try { origin, began, way: happened.way, offered: None, met, waited: false, asked, ways });
            }
            let Some(this) = tries.last_mut() else { continue };
            this.way = happened.way;
            this.ways.push(happened.way);
            if happened.offered {
                this.offered = Some(happened.moment);
                this.met = self.met_after(way, happened.moment);
            } else {
                if this.met.last() == Some(&Met::NoDescriptor) {
                    this.asked.clear();
                }
                this.asked.push(way.address);
                this.met.extend(met_in_dialling(way));
                this.waited |= this.met.contains(&Met::Silence);
            }
        }
        tries
    }

    /// What a request met that was offered at this moment.
    fn met_after(&self, way: &Way, offered: Moment) -> Vec<Met> {
        let next = way.offers.iter().map(|(moment, _)| *moment).find(|moment| *moment > offered);
        let end = next.or(way.closed).unwrap_or(Moment::NEVER);
        let (mut met, mut answered) = (Vec::new(), false);
        for (moment, deed) in way.deeds.iter().filter(|(moment, _)| *moment < end) {
            let before = *moment < offered;
            // The proxy knew nothing of it yet, or the answer wasn't whole.
            let counts = if before { moment.at + self.news_takes >= offered.at } else { !answered };
            match deed {
                Deed::Answers => answered |= !before,
                // Whoever asks there all the same has nobody else to blame.
                Deed::SaysClose if before => return Vec::new(),
                Deed::Babbles if counts => met.push(Met::Babble),
                Deed::Refuses if counts => met.push(Met::Refusal),
                Deed::Closes if counts => met.push(Met::Departure),
                Deed::GivesUp => met.push(Met::Impatience),
                // It may overtake a whole answer.
                Deed::Resets if counts || !before => met.push(Met::Departure),
                // Where it stalls behind a whole answer, nobody notices before the next request.
                Deed::Stalls => met.push(Met::Silence),
                _ => {}
            }
        }
        met
    }

    /// Whether there was no way to some backend at any time from `from` to `to`.
    pub fn was_refused(&self, from: Time, to: Time) -> bool {
        let refused = |way: &&Way| !met_in_dialling(way).is_empty();
        self.ways.iter().filter(refused).any(|way| (from..=to).contains(&way.dialled.at))
    }

    /// Whether an attempt to connect to such an origin came to nothing.
    pub fn was_in_vain(&self, is_it: impl Fn(usize) -> bool) -> bool {
        self.ways.iter().any(|way| is_it(origin_at(way.address)) && !met_in_dialling(way).is_empty())
    }

    /// Whether an origin, or the way there, did anything that a failure may be counted for.
    pub fn did_any_wrong(&self, origin: usize) -> bool {
        let wrong = |(_, deed): &(Moment, Deed)| !matches!(deed, Deed::Answers | Deed::GivesUp);
        self.ways.iter().any(|way| {
            origin_at(way.address) == origin && (!met_in_dialling(way).is_empty() || way.deeds.iter().any(wrong))
        })
    }

    /// When something moved on the connections of a try, since it began.
    pub fn moves_of(&self, tried: &Try) -> Vec<Time> {
        let sockets = tried.ways.iter().filter_map(|way| self.ways[*way].socket);
        let mut moves: Vec<Time> = sockets.flat_map(|socket| self.trail.moves_of(socket)).collect();
        moves.retain(|at| *at >= tried.began.at);
        moves
    }

    /// Whether the try met anything that was seen by this connection.
    pub fn met_any(&self, story: &Story, seen_by: Option<SocketId>) -> bool {
        let way = seen_by.and_then(|way| self.trail.way_of(way));
        story.tries.iter().any(|tried| Some(tried.way) == way && tried.offered.is_some() && !tried.met.is_empty())
    }
}

impl Story {
    /// That of an exchange whose client never had a connection.
    const NONE: Self = Self { begin: Moment::NEVER, end: Moment::NEVER, tries: Vec::new(), states: Vec::new() };

    /// Whether any of its tries met silence.
    pub fn met_silence(&self) -> bool {
        self.tries.iter().any(|tried| tried.waited || tried.met.contains(&Met::Silence))
    }

    pub fn met_any(&self) -> bool {
        self.tries.iter().any(|tried| !tried.met.is_empty())
    }

    /// What its last try met.
    pub fn met_last(&self) -> &[Met] {
        self.tries.last().map_or(&[], |last| &last.met)
    }
}

impl fmt::Display for Story {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tries = self.tries.iter().map(|tried| format!("origin {} {:?}", tried.origin, tried.met));
        write!(f, "after {} tries ({})", self.tries.len(), tries.collect::<Vec<_>>().join(", "))
    }
}

/// What an attempt to connect met, the handshake included.
fn met_in_dialling(way: &Way) -> Vec<Met> {
    let of_deed = |(moment, deed): &(Moment, Deed)| match deed {
        Deed::ShowsBadCertificate => Some(Met::Distrust),
        Deed::Refuses => Some(Met::Refusal),
        Deed::BreaksHandshake => Some(Met::Breach),
        Deed::Stalls => Some(Met::Silence),
        Deed::Closes | Deed::Resets if way.closed.is_none_or(|closed| *moment < closed) => Some(Met::Departure),
        _ => None,
    };
    match way.outcome {
        Connecting::Accepted(_) if way.offers.is_empty() => way.deeds.iter().filter_map(of_deed).collect(),
        Connecting::Accepted(_) => Vec::new(),
        Connecting::BlackHole => vec![Met::Silence],
        Connecting::Impossible(libc::EMFILE | libc::ENFILE) => vec![Met::NoDescriptor],
        Connecting::Impossible(libc::EADDRNOTAVAIL) => vec![Met::NoPort],
        Connecting::Refused(_) | Connecting::Fails(..) | Connecting::Impossible(_) => vec![Met::NoWay],
    }
}

/// The number of the origin that listens there.
fn origin_at(address: SocketAddr) -> usize {
    match address.ip() {
        IpAddr::V4(address) => usize::from(address.octets()[3]) - 1,
        IpAddr::V6(_) => unreachable!("origins are at IPv4 addresses"),
    }
}
