//! An open-loop load: requests fall due at a fixed rate, whether or not earlier ones were answered, and the latency of
//! each is counted from when it was due. So a proxy that stalls is charged for all that it kept waiting, which a load
//! that waits for its answers would leave out (coordinated omission).
//!
//! Prints one line of JSON; latencies are in microseconds.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use argh::FromArgs;
use hdrhistogram::Histogram;
use httparse::{EMPTY_HEADER, Response, Status};
use polling::{Event, Events, PollMode, Poller};

/// Sends requests at a fixed rate to 127.0.0.1 and prints their latencies.
#[derive(FromArgs)]
struct Arguments {
    /// the port
    #[argh(positional)]
    port: u16,
    /// requests a second
    #[argh(option)]
    rate: f64,
    /// connections; a request that finds none free waits for one, and that counts
    #[argh(option, default = "64")]
    connections: usize,
    /// seconds that are measured
    #[argh(option, default = "5.0")]
    seconds: f64,
    /// seconds before them that aren't
    #[argh(option, default = "1.0")]
    warm_up: f64,
}

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n";
const ANSWER_BYTES_MAX: usize = 64 * 1024;
const HEADERS_MAX: usize = 64;
/// How long answers are waited for when all requests have been sent.
const PATIENCE: Duration = Duration::from_secs(5);
/// Latencies up to this many microseconds are told apart, to three digits.
const LATENCY_MAX_US: u64 = 60_000_000;

struct Connection {
    stream: TcpStream,
    /// When the request under way was due.
    due: Option<Instant>,
    answer: Vec<u8>,
}

impl Connection {
    fn open(port: u16) -> io::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Ok(Self { stream, due: None, answer: Vec::with_capacity(ANSWER_BYTES_MAX) })
    }

    fn send(&mut self, due: Instant) -> io::Result<()> {
        self.due = Some(due);
        self.answer.clear();
        // It fits into the socket's buffer: the answer to the one before has come.
        self.stream.write_all(REQUEST)
    }

    /// Reads what has come. When the request was due, once its answer is whole.
    fn receive(&mut self) -> io::Result<Option<Instant>> {
        let mut piece = [0; 4096];
        loop {
            match self.stream.read(&mut piece) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => self.answer.extend_from_slice(&piece[..n]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error),
            }
            if is_whole(&self.answer)? {
                return Ok(self.due.take());
            }
        }
    }
}

/// Is this an answer with its whole body? Only 200 with a `Content-Length` is taken for one.
fn is_whole(answer: &[u8]) -> io::Result<bool> {
    let refused = |what: &str| Err(io::Error::new(io::ErrorKind::InvalidData, what));
    let mut headers = [EMPTY_HEADER; HEADERS_MAX];
    let mut head = Response::new(&mut headers);
    let head_bytes = match head.parse(answer) {
        Ok(Status::Complete(bytes)) => bytes,
        Ok(Status::Partial) if answer.len() < ANSWER_BYTES_MAX => return Ok(false),
        _ => return refused("no answer in HTTP"),
    };
    if head.code != Some(200) {
        return refused("an answer that isn't 200");
    }
    let length = head.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
    let length = length.and_then(|header| std::str::from_utf8(header.value).ok()?.parse::<usize>().ok());
    match length {
        Some(bytes) => Ok(answer.len() >= head_bytes + bytes),
        None => refused("an answer without Content-Length"),
    }
}

struct Outcome {
    /// Requests that fell due; fewer are sent when answers come so late that the rest is given up.
    due: u64,
    sent: u64,
    failed: u64,
    latencies_us: Histogram<u64>,
}

fn run(arguments: &Arguments) -> io::Result<Outcome> {
    let poller = Poller::new()?;
    let mut connections = Vec::new();
    for key in 0..arguments.connections {
        let connection = Connection::open(arguments.port)?;
        // SAFETY: every source is deleted from the poller before it is closed, see below.
        unsafe { poller.add_with_mode(&connection.stream, Event::readable(key), PollMode::Level)? };
        connections.push(connection);
    }
    let outcome = drive(arguments, &poller, &mut connections);
    for connection in &connections {
        poller.delete(&connection.stream)?;
    }
    outcome
}

fn drive(arguments: &Arguments, poller: &Poller, connections: &mut [Connection]) -> io::Result<Outcome> {
    let latencies_us = Histogram::new_with_max(LATENCY_MAX_US, 3).expect("these bounds are sound");
    let mut free: VecDeque<usize> = (0..connections.len()).collect();
    let mut events = Events::new();
    let begin = Instant::now();
    let total = ((arguments.warm_up + arguments.seconds) * arguments.rate) as u64;
    let mut outcome = Outcome { due: total, sent: 0, failed: 0, latencies_us };
    let measured_from = begin + Duration::from_secs_f64(arguments.warm_up);
    let due = |request: u64| begin + Duration::from_secs_f64(request as f64 / arguments.rate);
    let deadline = due(total) + PATIENCE;
    while outcome.sent < total || free.len() + (outcome.failed as usize) < connections.len() {
        let now = Instant::now();
        if now > deadline {
            break;
        }
        while outcome.sent < total && due(outcome.sent) <= now {
            let Some(key) = free.pop_front() else { break };
            connections[key].send(due(outcome.sent))?;
            outcome.sent += 1;
        }
        let next = if outcome.sent < total && !free.is_empty() { due(outcome.sent) } else { deadline };
        events.clear();
        poller.wait(&mut events, Some(next.saturating_duration_since(Instant::now())))?;
        for event in events.iter() {
            match connections[event.key].receive() {
                Ok(None) => {}
                Ok(Some(due)) => {
                    free.push_back(event.key);
                    if due >= measured_from {
                        let latency = due.elapsed().as_micros();
                        outcome.latencies_us.saturating_record(u64::try_from(latency).unwrap_or(LATENCY_MAX_US));
                    }
                }
                Err(_) => {
                    // The connection is of no more use, and a run in which one failed is no measurement.
                    outcome.failed += 1;
                    let stream = &connections[event.key].stream;
                    poller.modify_with_mode(stream, Event::none(event.key), PollMode::Level)?;
                }
            }
        }
    }
    Ok(outcome)
}

fn main() -> ExitCode {
    let arguments: Arguments = argh::from_env();
    match run(&arguments) {
        Ok(Outcome { due, sent, failed, latencies_us }) => {
            let at = |quantile| latencies_us.value_at_quantile(quantile);
            println!(
                "{{\"due\": {due}, \"sent\": {sent}, \"measured\": {}, \"failed\": {failed}, \"p50\": {}, \"p90\": {}, \
                 \"p99\": {}, \"p99.9\": {}, \"max\": {}}}",
                latencies_us.len(),
                at(0.5),
                at(0.9),
                at(0.99),
                at(0.999),
                latencies_us.max()
            );
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("pace: {error}");
            ExitCode::FAILURE
        }
    }
}
