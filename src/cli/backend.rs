//! `maypole backend`: a server to put behind the proxy, that shows what reaches it.

use std::fmt::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;

use super::output::{bad_usage, print, tell};
use crate::control::random::Random;
use crate::control::server::{Answer, Bounds, Call, Server};
use crate::runtime::descriptors;

/// More than the admin API's: a load test of the proxy ends here.
const CONNECTIONS_MAX: usize = 4096;
/// It reads bodies into memory, so large uploads want another backend.
const BODY_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Runs a sample backend on every address until a signal ends the process. Exit code 2: the port is taken.
pub(super) fn run(port: u16, name: Option<String>, latency: Duration, failure_rate: f64) -> ExitCode {
    let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    let server = match Server::bind(address) {
        Ok(server) => server,
        Err(error) => return bad_usage(&format!("can't listen on {address}: {error}")),
    };
    // Where the limit can't be raised, fewer connections have to do.
    let _ = descriptors::raise_limit();
    let port = server.address().port();
    let name = name.unwrap_or_else(|| format!("backend-{port}"));
    let announcement = format!("{name} listens on port {port}: curl http://localhost:{port}/");
    match server.serve(Sample::new(name, latency, failure_rate).into_handler(), bounds()) {
        Ok(_serving) => {
            print(&announcement);
            loop {
                thread::park();
            }
        }
        Err(error) => {
            tell(&format!("can't start a thread: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// What sample backends keep to.
pub(super) fn bounds() -> Bounds {
    Bounds { connections: CONNECTIONS_MAX, body_bytes: BODY_BYTES_MAX, ..Bounds::default() }
}

/// How a sample backend answers.
pub(super) struct Sample {
    name: String,
    latency: Duration,
    /// 0–1: the share of requests that are answered with 500.
    failure_rate: f64,
    random: Mutex<Random>,
}

impl Sample {
    pub(super) fn new(name: String, latency: Duration, failure_rate: f64) -> Self {
        Self { name, latency, failure_rate, random: Mutex::new(Random::from_system()) }
    }

    pub(super) fn into_handler(self) -> impl Fn(&Call) -> Answer + Send + Sync + 'static {
        move |call| self.answer(call)
    }

    /// Its name, the request line, the fields as they were received, and how long the body was; on `/health`, which
    /// neither fails nor waits, `ok`.
    fn answer(&self, call: &Call) -> Answer {
        if call.path == "/health" {
            return Answer::text(200, "ok\n");
        }
        if !self.latency.is_zero() {
            thread::sleep(self.latency);
        }
        if self.random.lock().fraction() < self.failure_rate {
            return Answer::text(500, format!("{} fails, as it was asked to\n", self.name));
        }
        let mut text = format!("{}\n\n{}\n", self.name, call.request_line());
        for (name, value) in &call.fields {
            // Writing to a string can't fail.
            let _ = writeln!(text, "{name}: {value}");
        }
        if !call.body.is_empty() {
            let _ = writeln!(text, "\n{} bytes of body", call.body.len());
        }
        Answer::text(200, text)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write as _};
    use std::net::TcpStream;
    use std::time::Instant;

    use super::*;

    fn ask(sample: Sample, request: &str) -> String {
        let server = Server::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let serving = server.serve(sample.into_handler(), bounds()).unwrap();
        let mut stream = TcpStream::connect(serving.address()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    }

    fn sample(failure_rate: f64) -> Sample {
        Sample::new("b1".into(), Duration::ZERO, failure_rate)
    }

    #[test]
    fn it_shows_its_name_and_what_it_received() {
        let request = "POST /x?y=1 HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 10.0.0.1\r\nContent-Length: 2\r\n\
                       Connection: close\r\n\r\nhi";
        let text = ask(sample(0.0), request);
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
        let body = "b1\n\nPOST /x?y=1 HTTP/1.1\nHost: a\nX-Forwarded-For: 10.0.0.1\nContent-Length: 2\n\
                    Connection: close\n\n2 bytes of body\n";
        assert!(text.ends_with(&format!("\r\n\r\n{body}")), "{text}");
    }

    #[test]
    fn it_fails_at_the_rate_it_is_asked_to_but_for_its_health() {
        assert!(ask(sample(1.0), "GET / HTTP/1.0\r\n\r\n").starts_with("HTTP/1.1 500 "));
        let text = ask(sample(1.0), "GET /health HTTP/1.0\r\n\r\n");
        assert!(text.starts_with("HTTP/1.1 200 ") && text.ends_with("\r\n\r\nok\n"), "{text}");
    }

    #[test]
    fn it_waits_before_it_answers() {
        let latency = Duration::from_millis(50);
        let begin = Instant::now();
        ask(Sample::new("b1".into(), latency, 0.0), "GET / HTTP/1.0\r\n\r\n");
        assert!(begin.elapsed() >= latency);
    }
}
