//! Backends that play a script: a closure that gets each exchange and does with it what the test needs.

use std::collections::HashMap;
use std::io::{self, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use socket2::SockRef;

use super::client::SMALL_WINDOW_BYTES;
use super::wire::{self, Message};
use super::{Gate, PATIENCE, eventually, free_port};

/// The path of the health checks in the tests. The origin answers them itself: no script sees one.
pub const PROBE_PATH: &str = "/__probe";

/// What a test has an origin do, when it is a list of them.
pub type ScriptFn = fn(&mut Exchange);

type Script = dyn Fn(&mut Exchange) + Send + Sync;

/// An HTTP server on a loopback port, until it is dropped or stopped. It records every request that reaches it.
pub struct Origin {
    at: SocketAddr,
    stage: Arc<Stage>,
}

struct Stage {
    script: Box<Script>,
    requests: Mutex<Vec<Message>>,
    connections: Mutex<HashMap<usize, TcpStream>>,
    accepted: AtomicUsize,
    probes: AtomicUsize,
    healthy: AtomicBool,
    stopped: AtomicBool,
}

impl Origin {
    /// Starts on a free port; the script plays each request, one thread a connection.
    pub fn start(script: impl Fn(&mut Exchange) + Send + Sync + 'static) -> Self {
        Self::start_on(free_port(), script)
    }

    /// Answers everything with 200 and the given body.
    pub fn answering(body: &'static str) -> Self {
        Self::start(move |exchange| exchange.answer(200, body))
    }

    /// Answers everything with 200 and the given body; a request for `/hold` only once the gate is open.
    pub fn holding(body: &'static str, gate: &Arc<Gate>) -> Self {
        let gate = Arc::clone(gate);
        Self::start(move |exchange| {
            if exchange.request.target() == "/hold" {
                gate.wait();
            }
            exchange.answer(200, body);
        })
    }

    /// As [`Origin::start`], with a small receive window: the proxy soon feels when this side doesn't read.
    pub fn with_small_window(script: impl Fn(&mut Exchange) + Send + Sync + 'static) -> Self {
        Self::listen(on_loopback(free_port()), Some(SMALL_WINDOW_BYTES), script)
    }

    /// As [`Origin::start`], on a port of the test's choice.
    #[track_caller]
    pub fn start_on(port: u16, script: impl Fn(&mut Exchange) + Send + Sync + 'static) -> Self {
        Self::listen(on_loopback(port), None, script)
    }

    /// As [`Origin::start`], at an address of the test's choice.
    #[track_caller]
    pub fn start_at(at: SocketAddr, script: impl Fn(&mut Exchange) + Send + Sync + 'static) -> Self {
        Self::listen(at, None, script)
    }

    #[track_caller]
    fn listen(at: SocketAddr, window: Option<usize>, script: impl Fn(&mut Exchange) + Send + Sync + 'static) -> Self {
        let mut listener = None;
        eventually("the port is free", || {
            listener = TcpListener::bind(at).ok();
            listener.is_some()
        });
        let listener = listener.expect("bound");
        if let Some(bytes) = window {
            // Accepted sockets inherit it. Set on one of them, it would break a promise that TCP has already made.
            SockRef::from(&listener).set_recv_buffer_size(bytes).expect("a socket");
        }
        let stage = Arc::new(Stage {
            script: Box::new(script),
            requests: Mutex::default(),
            connections: Mutex::default(),
            accepted: AtomicUsize::new(0),
            probes: AtomicUsize::new(0),
            healthy: AtomicBool::new(true),
            stopped: AtomicBool::new(false),
        });
        let on_stage = Arc::clone(&stage);
        std::thread::spawn(move || on_stage.accept(&listener));
        Self { at, stage }
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.at.port()
    }

    /// As a backend's URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.at)
    }

    /// The requests so far, but for probes, in the order of their heads. A body is there once the script has read it.
    pub fn requests(&self) -> Vec<Message> {
        self.stage.requests.lock().expect("not poisoned").clone()
    }

    /// How many requests came so far, but for probes.
    pub fn count(&self) -> usize {
        self.stage.requests.lock().expect("not poisoned").len()
    }

    /// The only request that came; fails the test when there are none or more.
    #[track_caller]
    pub fn only_request(&self) -> Message {
        let requests = self.requests();
        assert_eq!(requests.len(), 1, "{requests:?}");
        requests.into_iter().next().expect("one")
    }

    /// How many connections came so far, those of probes included.
    pub fn connections(&self) -> usize {
        self.stage.accepted.load(Ordering::SeqCst)
    }

    /// How many health checks came so far.
    pub fn probes(&self) -> usize {
        self.stage.probes.load(Ordering::SeqCst)
    }

    /// Whether health checks are answered with 200 or with 500, from now on.
    pub fn set_healthy(&self, healthy: bool) {
        self.stage.healthy.store(healthy, Ordering::SeqCst);
    }

    /// Stops listening and resets every connection, as a killed process does; returns the port for a successor.
    pub fn stop(self) -> u16 {
        let at = self.at;
        drop(self);
        eventually("nobody listens any more", || TcpStream::connect(at).is_err());
        at.port()
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.stage.stopped.store(true, Ordering::SeqCst);
        // Wakes the accepting thread; it sees the flag, and its listener closes before this connection does.
        if let Ok(mut last) = TcpStream::connect(self.at) {
            let _ = last.set_read_timeout(Some(PATIENCE));
            let _ = last.read(&mut [0]);
        }
        for connection in self.stage.connections.lock().expect("not poisoned").values() {
            let _ = SockRef::from(connection).set_linger(Some(Duration::ZERO));
            let _ = connection.shutdown(Shutdown::Both);
        }
    }
}

fn on_loopback(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

impl Stage {
    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        for stream in listener.incoming().flatten() {
            if self.stopped.load(Ordering::SeqCst) {
                return;
            }
            let number = self.accepted.fetch_add(1, Ordering::SeqCst);
            if let Ok(copy) = stream.try_clone() {
                self.connections.lock().expect("not poisoned").insert(number, copy);
            }
            let stage = Arc::clone(self);
            std::thread::spawn(move || {
                // A broken connection is the proxy's doing or the test's; either way it is over.
                let _ = stage.serve(stream);
                stage.connections.lock().expect("not poisoned").remove(&number);
            });
        }
    }

    fn serve(self: &Arc<Self>, stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut reader = BufReader::new(stream);
        let mut on_connection = 0;
        while let Some(head) = wire::read_head(&mut reader)? {
            if head.target().contains(PROBE_PATH) {
                self.answer_probe(reader.get_mut())?;
                continue;
            }
            let mut requests = self.requests.lock().expect("not poisoned");
            requests.push(head.clone());
            let nth = requests.len() - 1;
            drop(requests);
            let stage = Arc::clone(self);
            let mut exchange =
                Exchange { request: head, nth, on_connection, stage, reader, body_read: false, over: false };
            (self.script)(&mut exchange);
            if exchange.over {
                break;
            }
            exchange.read_body();
            reader = exchange.reader;
            on_connection += 1;
        }
        Ok(())
    }

    fn answer_probe(&self, stream: &mut TcpStream) -> io::Result<()> {
        let status = if self.healthy.load(Ordering::SeqCst) { "200 OK" } else { "500 Internal Server Error" };
        self.probes.fetch_add(1, Ordering::SeqCst);
        write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n")
    }
}

/// One request at the origin, and the connection it came on. When a send or a read fails, the exchange is over and the
/// rest of the script does nothing.
pub struct Exchange {
    /// The request; its body is there after [`Exchange::read_body`].
    pub request: Message,
    /// Counts this origin's requests from 0.
    pub nth: usize,
    /// Counts this connection's requests from 0.
    pub on_connection: usize,
    stage: Arc<Stage>,
    reader: BufReader<TcpStream>,
    body_read: bool,
    over: bool,
}

impl Exchange {
    /// Who sent it: the proxy's end of the connection.
    pub fn peer(&self) -> SocketAddr {
        self.reader.get_ref().peer_addr().expect("connected")
    }

    /// Reads the request's body to its end, once.
    pub fn read_body(&mut self) -> &[u8] {
        if !self.body_read && !self.over {
            self.body_read = true;
            let outcome = wire::read_request_body(&mut self.reader, &mut self.request);
            self.over |= outcome.is_err() || !self.request.complete;
            self.stage.requests.lock().expect("not poisoned")[self.nth] = self.request.clone();
        }
        &self.request.body
    }

    /// Reads the body and answers with a `Content-Length`, so that the connection can be used again.
    pub fn answer(&mut self, status: u16, body: impl AsRef<[u8]>) {
        self.answer_with(status, &[], body);
    }

    /// As [`Exchange::answer`], with more fields.
    pub fn answer_with(&mut self, status: u16, fields: &[&str], body: impl AsRef<[u8]>) {
        self.read_body();
        let body = body.as_ref();
        let mut head = format!("HTTP/1.1 {status} As Scripted\r\nContent-Length: {}\r\n", body.len());
        for field in fields {
            head.push_str(field);
            head.push_str("\r\n");
        }
        head.push_str("\r\n");
        let mut bytes = head.into_bytes();
        if self.request.method() != "HEAD" {
            bytes.extend_from_slice(body);
        }
        self.send(bytes);
    }

    /// Reads the request's body as long as some of it comes within `patience`; says whether all of it came. The exchange goes on
    /// either way.
    pub fn body_comes_within(&mut self, patience: Duration) -> bool {
        self.body_read = true;
        let stream = |exchange: &Self, patience| exchange.reader.get_ref().set_read_timeout(patience);
        stream(self, Some(patience)).expect("a socket");
        let outcome = wire::read_request_body(&mut self.reader, &mut self.request);
        stream(self, None).expect("a socket");
        outcome.is_ok() && self.request.complete
    }

    /// Sends the bytes as long as some of them are taken within `patience`; says whether all were. The exchange goes on either
    /// way.
    pub fn is_taken_within(&mut self, bytes: &[u8], patience: Duration) -> bool {
        let stream = self.reader.get_mut();
        stream.set_write_timeout(Some(patience)).expect("a socket");
        let taken = stream.write_all(bytes).is_ok();
        stream.set_write_timeout(None).expect("a socket");
        taken
    }

    /// Sends the bytes as they are; says whether they could be sent.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        if !self.over {
            self.over = self.reader.get_mut().write_all(bytes.as_ref()).is_err();
        }
        !self.over
    }

    /// Reads what is there next, whatever it is; 0 when the connection ended.
    pub fn read(&mut self, into: &mut [u8]) -> usize {
        let count = if self.over { 0 } else { self.reader.read(into).unwrap_or(0) };
        self.over |= count == 0;
        count
    }

    /// Sends back every byte that comes, until the other side ends.
    pub fn echo(&mut self) {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let count = self.read(&mut buffer);
            if count == 0 || !self.send(&buffer[..count]) {
                return;
            }
        }
    }

    /// Waits until the proxy ends the connection, and ends the exchange; whatever comes until then is dropped.
    pub fn wait_for_end(&mut self) {
        let _ = io::copy(&mut self.reader, &mut io::sink());
        self.over = true;
    }

    /// Ends the connection in good order.
    pub fn close(&mut self) {
        let _ = self.reader.get_ref().shutdown(Shutdown::Both);
        self.over = true;
    }

    /// Ends the connection with a reset.
    pub fn reset(&mut self) {
        let stream = self.reader.get_ref();
        let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
        // The copy that the stage keeps would hold the connection open.
        let stays = |copy: &TcpStream| copy.peer_addr().ok() != stream.peer_addr().ok();
        self.stage.connections.lock().expect("not poisoned").retain(|_, copy| stays(copy));
        self.over = true;
    }
}
