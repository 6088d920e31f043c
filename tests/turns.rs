//! No connection keeps its worker from the others, whatever it sends: what never waits is done in turns. Counted in system
//! calls, in their order, so that a busy machine changes nothing.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::net::Shutdown;

use serde_json::json;
use support::{Proxy, Tracer, eventually};

/// Connections that send more than they should, and requests of each.
const FLOODS: usize = 20;
const REQUESTS: usize = 400;
/// Requests of one that is served beside them.
const OF_A_BYSTANDER: usize = 100;
/// Pieces of work in a turn, as `src/runtime/worker/time_slice.rs` has it.
const PIECES_OF_A_TURN: usize = 4;

/// Sends so many requests at once, and reads all that comes in a thread of its own.
fn flood(proxy: &Proxy, requests: usize) -> std::thread::JoinHandle<usize> {
    let mut client = proxy.client();
    let mut writer = client.writer();
    std::thread::spawn(move || {
        let writing = std::thread::spawn(move || {
            let requests = "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n".repeat(requests);
            std::io::Write::write_all(&mut writer, requests.as_bytes()).expect("the proxy takes them");
            writer.shutdown(Shutdown::Write).expect("still connected");
        });
        let mut answers = String::new();
        client.read_to_string(&mut answers).expect("answers, then the end");
        writing.join().expect("no panic");
        answers.matches("HTTP/1.1 503 ").count()
    })
}

/// What strace saw, in order: an answer on a connection, or a look at the network.
#[derive(Debug, PartialEq, Eq)]
enum Call {
    Answer(u32),
    Look,
}

impl Call {
    fn connection(&self) -> Option<u32> {
        match self {
            Self::Answer(connection) => Some(*connection),
            Self::Look => None,
        }
    }
}

fn calls(trace: &str) -> Vec<Call> {
    let call = |line: &str| {
        if line.contains("epoll_wait") {
            // Only the worker's own epoll is waited for without end: those within it are looked at. Where another thread's
            // call comes in between, that stands in the line that tells of the call's end.
            return (line.contains(", -1)") || line.contains(", -1 <unfinished")).then_some(Call::Look);
        }
        let (_, arguments) = line.split_once("sendto(")?;
        let (descriptor, rest) = arguments.split_once(", ")?;
        rest.starts_with("\"HTTP/1.1 503 ").then(|| Call::Answer(descriptor.parse().expect("a descriptor")))
    };
    trace.lines().filter_map(call).collect()
}

#[test]
fn requests_that_are_answered_here_are_answered_in_turns_and_others_are_served_between_them() {
    let proxy = Proxy::with(&[], json!({ "workers": 1 }));
    let Some(tracer) = Tracer::attach(&proxy, "sendto,epoll_wait", None) else { return };
    let floods: Vec<_> = (0..FLOODS).map(|_| flood(&proxy, REQUESTS)).collect();
    let bystander = flood(&proxy, OF_A_BYSTANDER);
    assert_eq!(bystander.join().expect("no panic"), OF_A_BYSTANDER);
    for flood in floods {
        assert_eq!(flood.join().expect("no panic"), REQUESTS);
    }
    let all = FLOODS * REQUESTS + OF_A_BYSTANDER;
    let mut seen = Vec::new();
    eventually("strace has written all", || {
        seen = calls(&tracer.calls());
        seen.iter().filter(|call| **call != Call::Look).count() >= all
    });

    // Between two looks at the network no connection gets more than one turn.
    let (mut turns, mut looks, mut longest) = (BTreeMap::new(), 0, 0);
    for call in &seen {
        match call {
            Call::Look => {
                looks += 1;
                turns.clear();
            }
            Call::Answer(connection) => {
                let answers = turns.entry(*connection).or_insert(0);
                *answers += 1;
                longest = longest.max(*answers);
            }
        }
    }
    assert!(longest <= PIECES_OF_A_TURN, "{longest} answers to one connection without a look at the network");
    // All of them share each look: were there one for each, others would wait for as many times as long.
    let turns_in_all = all / PIECES_OF_A_TURN;
    assert!(looks < turns_in_all / 2, "{looks} looks at the network for some {turns_in_all} turns");

    // While the bystander was served, no other got more.
    let of = |connection| seen.iter().filter(|call| **call == Call::Answer(connection)).count();
    let connections: BTreeSet<_> = seen.iter().filter_map(Call::connection).collect();
    let bystander = connections.into_iter().find(|&connection| of(connection) == OF_A_BYSTANDER).expect("one of them");
    let its = |call: &Call| *call == Call::Answer(bystander);
    let (first, last) = (seen.iter().position(its).expect("it"), seen.iter().rposition(its).expect("it"));
    let mut meanwhile = BTreeMap::<u32, usize>::new();
    seen[first..last].iter().filter_map(Call::connection).for_each(|each| *meanwhile.entry(each).or_default() += 1);
    let most = meanwhile.into_values().max().expect("its own");
    assert!(most <= OF_A_BYSTANDER + 2 * PIECES_OF_A_TURN, "{most} answers went to another one meanwhile");
}
