//! What clients may have used of their rates: at most what they have sent, each request charged when it leaves least for the one
//! that is looked at. A naive model, which knows no table and no theoretical arrival times.

use std::collections::BTreeMap;
use std::net::IpAddr;

use maypole::config::{RateKey, RateLimit};

use crate::plan::Exchange;
use crate::sim::Time;
use crate::spoilt::Spoilt;
use crate::story::Stories;
use crate::trail::Line;
use crate::verdict::Played;

/// The requests of each client.
pub struct Quotas {
    interval: u128,
    burst: u128,
    of_clients: BTreeMap<IpAddr, Vec<Asked>>,
}

/// A request that reached the limiter, or may have.
#[derive(Clone, Copy, Debug)]
struct Asked {
    id: u64,
    /// No sooner than this, and no later.
    from: Time,
    to: Time,
    /// It was let pass, or nobody knows; who is refused isn't charged.
    charged: bool,
}

impl Quotas {
    pub fn of(limit: &RateLimit, stories: &Stories<'_>, played: &[Played]) -> Self {
        assert!(limit.key == RateKey::ClientIp && limit.allow.is_empty(), "clients are told apart by address here");
        let interval = limit.per.as_nanos() / u128::from(limit.requests);
        let mut of_clients: BTreeMap<IpAddr, Vec<Asked>> = BTreeMap::new();
        for connection in played {
            of_clients.entry(connection.from).or_default().extend(asked(connection, stories));
        }
        Self { interval, burst: limit.burst.into(), of_clients }
    }

    /// Whether the client may have used up its rate when the proxy had this request of its in hand.
    pub fn may_be_used_up(&self, line: Option<&Line>, id: u64) -> bool {
        let Some(all) = line.and_then(|line| self.of_clients.get(&line.from)) else { return false };
        let Some(this) = all.iter().find(|asked| asked.id == id) else { return false };
        let others: Vec<Asked> = all.iter().filter(|asked| asked.charged && asked.id != id).copied().collect();
        // In between two of these moments only time passes, which brings some back.
        let later = others.iter().map(|asked| asked.from).filter(|at| (this.from..=this.to).contains(at));
        later.chain([this.from]).any(|now| self.is_used_up(&others, now))
    }

    /// Whether one more would be too many for some span of time that ends now, if each of the others came as late as it may have.
    fn is_used_up(&self, others: &[Asked], now: Time) -> bool {
        let mut moments: Vec<Time> =
            others.iter().filter(|asked| asked.from <= now).map(|asked| asked.to.min(now)).collect();
        moments.sort_unstable();
        let count = moments.len();
        moments.iter().enumerate().any(|(nth, begin)| {
            let with_this = (count - nth + 1) as u128;
            with_this * self.interval > self.burst * self.interval + u128::from(now - begin)
        })
    }
}

/// The requests of one connection, as far as they were begun.
fn asked(connection: &Played, stories: &Stories<'_>) -> Vec<Asked> {
    let (_, of_exchanges) = connection.stories(stories);
    let answers = connection.log.answers.borrow();
    let begun_at = connection.log.begun_at.borrow();
    let all = connection.exchanges.iter().zip(&of_exchanges).zip(begun_at.iter()).enumerate();
    let reached = all.filter(|(_, ((exchange, _), _))| reaches_limiter(exchange));
    let asked = reached.map(|(number, ((exchange, story), begun_at))| {
        // Behind the last answer that its client has read nobody knows which was in hand when.
        let began = of_exchanges[number.min(answers.len())].begin.at;
        let first_try = story.tries.first().map_or(story.end.at, |tried| tried.began.at);
        let charged = answers.get(number).is_none_or(|answer| answer.status != 429);
        Asked { id: exchange.id, from: began.max(*begun_at), to: first_try, charged }
    });
    asked.collect()
}

/// Its head is one to be understood.
fn reaches_limiter(exchange: &Exchange) -> bool {
    exchange.spoilt().is_none_or(|spoilt| matches!(spoilt, Spoilt::BadChunk | Spoilt::Loop(_) | Spoilt::OtherHost))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::SECOND;

    #[test]
    fn a_rate_is_used_up_only_by_what_may_have_come_in_time() {
        let asked = |id, from, to| Asked { id, from: from * SECOND, to: to * SECOND, charged: true };
        let used_up = |others: &[Asked], now| {
            let quotas = Quotas { interval: u128::from(SECOND), burst: 2, of_clients: BTreeMap::new() };
            quotas.is_used_up(others, now * SECOND)
        };
        assert!(!used_up(&[], 10));
        assert!(!used_up(&[asked(1, 10, 10)], 10));
        assert!(used_up(&[asked(1, 10, 10), asked(2, 10, 10)], 10));
        assert!(!used_up(&[asked(1, 10, 10), asked(2, 10, 10)], 11), "one is back");
        assert!(used_up(&[asked(1, 1, 20), asked(2, 1, 20)], 11), "they may have come just now");
        assert!(!used_up(&[asked(1, 10, 10), asked(2, 12, 12)], 11), "one came later");
    }
}
