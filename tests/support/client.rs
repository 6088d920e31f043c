//! A client that sends exactly the bytes it is given, and curl.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use socket2::{Domain, SockAddr, SockRef, Socket, Type};

use super::PATIENCE;
use super::wire::{self, Message};

/// Room for less than the proxy moves at once, so that it has to wait for the other side.
pub const SMALL_WINDOW_BYTES: usize = 16 * 1024;

/// One connection to a server on loopback.
pub struct Client {
    reader: BufReader<TcpStream>,
}

impl Client {
    /// Connects; fails the test when nobody listens.
    #[track_caller]
    pub fn connect(port: u16) -> Self {
        Self::try_connect(port).unwrap_or_else(|e| panic!("can't connect to port {port}: {e}"))
    }

    /// Connects if somebody listens.
    pub fn try_connect(port: u16) -> io::Result<Self> {
        Self::over(TcpStream::connect(("127.0.0.1", port))?)
    }

    /// Connects with a small receive window: whoever sends to it feels soon that it doesn't read.
    pub fn with_small_window(port: u16) -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.set_recv_buffer_size(SMALL_WINDOW_BYTES)?;
        socket.connect(&SockAddr::from(SocketAddr::from(([127, 0, 0, 1], port))))?;
        Self::over(socket.into())
    }

    /// The same, in pieces as small as Ethernet's: what a server's socket holds unsent follows from the largest piece, and
    /// loopback's of 64 KiB would let it hold megabytes.
    pub fn with_small_pieces(port: u16) -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.set_recv_buffer_size(SMALL_WINDOW_BYTES)?;
        socket.set_tcp_mss(1460)?;
        socket.connect(&SockAddr::from(SocketAddr::from(([127, 0, 0, 1], port))))?;
        Self::over(socket.into())
    }

    /// Connects from another of this machine's loopback addresses: another client in the proxy's eyes.
    #[track_caller]
    pub fn connect_from(address: Ipv4Addr, port: u16) -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a descriptor is left");
        socket.bind(&SockAddr::from(SocketAddr::from((address, 0)))).expect("all of 127.0.0.0/8 is this machine's");
        socket.connect(&SockAddr::from(SocketAddr::from(([127, 0, 0, 1], port)))).expect("somebody listens");
        Self::over(socket.into()).expect("a socket")
    }

    fn over(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { reader: BufReader::new(stream) })
    }

    /// A second handle to the same connection, to write from another thread.
    pub fn writer(&self) -> TcpStream {
        self.reader.get_ref().try_clone().expect("a descriptor is left")
    }

    /// Sends the bytes as they are.
    #[track_caller]
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        self.reader.get_mut().write_all(bytes.as_ref()).expect("the server takes the bytes");
        self
    }

    /// Sends a GET with nothing but a `Host`.
    #[track_caller]
    pub fn get(&mut self, target: &str) -> Message {
        self.send(format!("GET {target} HTTP/1.1\r\nHost: a.example\r\n\r\n")).answer()
    }

    /// Reads the answer to a GET or its like, the interim ones before it included.
    #[track_caller]
    pub fn answer(&mut self) -> Message {
        self.answer_to("GET")
    }

    /// Reads the answer to a request of that method. Fails the test when none comes.
    #[track_caller]
    pub fn answer_to(&mut self, method: &str) -> Message {
        let mut answer = self.answer_head();
        if let Err(e) = wire::read_answer_body(&mut self.reader, &mut answer, method) {
            assert!(!is_timeout(&e), "the body came to a stop: {answer:?}");
        }
        answer
    }

    /// Reads the head of a final answer and leaves its body on the connection.
    #[track_caller]
    pub fn answer_head(&mut self) -> Message {
        let mut interim = Vec::new();
        loop {
            let head = wire::read_head(&mut self.reader).unwrap_or_else(|e| panic!("no answer: {e}"));
            let mut head = head.expect("an answer, but the connection ended");
            if (100..200).contains(&head.status()) && head.status() != 101 {
                interim.push(head);
                continue;
            }
            head.interim = interim;
            return head;
        }
    }

    /// Reads one head of any kind.
    #[track_caller]
    pub fn next_head(&mut self) -> Message {
        wire::read_head(&mut self.reader).expect("a head").expect("a head, but the connection ended")
    }

    /// Waits until something has come, and leaves it there. Fails the test when nothing comes.
    #[track_caller]
    pub fn wait_for_bytes(&mut self) {
        let there = self.reader.fill_buf().expect("something comes");
        assert!(!there.is_empty(), "something comes before the end");
    }

    /// Reads exactly so many bytes.
    #[track_caller]
    pub fn read_bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.reader.read_exact(&mut bytes).expect("the bytes come");
        bytes
    }

    /// Reads until the server ends the connection, by a close or a reset; fails the test when it never does.
    #[track_caller]
    pub fn rest(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        if let Err(e) = self.reader.read_to_end(&mut bytes) {
            assert!(!is_timeout(&e), "the server keeps the connection; it sent {:?}", String::from_utf8_lossy(&bytes));
        }
        bytes
    }

    /// Waits for the server to end the connection without a further byte, and says how long that took.
    #[track_caller]
    pub fn wait_for_end(&mut self) -> Duration {
        let began = Instant::now();
        let rest = self.rest();
        assert!(rest.is_empty(), "unexpected: {:?}", String::from_utf8_lossy(&rest));
        began.elapsed()
    }

    /// Ends the sending side.
    pub fn finish(&mut self) {
        self.reader.get_ref().shutdown(Shutdown::Write).expect("still connected");
    }

    /// Ends the connection with a reset.
    pub fn reset(self) {
        SockRef::from(self.reader.get_ref()).set_linger(Some(Duration::ZERO)).expect("a socket");
    }
}

impl Read for Client {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.reader.read(into)
    }
}

/// Runs curl, quietly and with a time limit; fails the test when it can't be run.
#[track_caller]
pub fn curl(arguments: &[&str]) -> Output {
    Command::new("curl")
        .args(["--silent", "--show-error", "--noproxy", "*", "--max-time", "10"])
        .args(arguments)
        .output()
        .expect("curl is installed (./x test does that)")
}

fn is_timeout(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}
