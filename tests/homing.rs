//! Coroutines never move between workers, because every descriptor is homed; and the counter that says so works.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use may::io::WaitIo;
use maypole::runtime::homing;
use maypole::runtime::listen::listen;
use maypole::runtime::world::{Arrival, Service, Stream, Wake, World};
use maypole::runtime::{MayWorld, Options, start};

const WORKERS: usize = 2;
const CONNECTIONS: usize = 40;
const ROUNDS: usize = 50;
/// How long anything here may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Echoes, and parks every other time that nothing comes.
struct Echo(MayWorld<bool>);

impl Echo {
    fn serve(&self, stream: <MayWorld<bool> as World>::Stream, mut park: bool) {
        let mut bytes = [0; 64];
        loop {
            match stream.try_read(&mut bytes) {
                Ok(0) => return,
                Ok(n) => assert_eq!(stream.try_write(&[std::io::IoSlice::new(&bytes[..n])]).unwrap(), n),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    park = !park;
                    let deadline = self.0.now() + PATIENCE;
                    if park {
                        return self.0.park(stream, park, deadline);
                    }
                    assert_eq!(self.0.wait(&stream, None, deadline), Wake::Event);
                }
                Err(_) => return,
            }
        }
    }
}

impl Service<MayWorld<bool>> for Echo {
    fn accepted(&self, stream: <MayWorld<bool> as World>::Stream, _arrival: Arrival) {
        self.serve(stream, false);
    }

    fn resumed(&self, stream: <MayWorld<bool> as World>::Stream, park: bool, wake: Wake) {
        assert_eq!(wake, Wake::Event);
        self.serve(stream, park);
    }

    fn tick(&self) {}
}

/// One test, since the workers and the counter belong to the process.
#[test]
fn homed_coroutines_never_move_and_others_do() {
    let listeners = listen("127.0.0.1:0".parse().unwrap(), WORKERS).unwrap();
    let address = listeners.address;
    let (_mailboxes, counters) = start(
        Options {
            workers: WORKERS,
            listeners: vec![listeners],
            sockets_below: i32::MAX,
            pipes_max: 0,
            coroutines_max: 1000,
        },
        Echo,
    )
    .unwrap();

    let clients: Vec<_> = (0..CONNECTIONS).map(|_| std::thread::spawn(move || echo_rounds(address))).collect();
    for client in clients {
        client.join().unwrap();
    }
    let accepted: Vec<u64> = counters.iter().map(|each| each.accepted.value()).collect();
    assert_eq!(accepted.iter().sum::<u64>(), CONNECTIONS as u64);
    assert!(accepted.iter().all(|&n| n > 0), "every worker had a share: {accepted:?}");
    assert_eq!(homing::moves(), 0, "homed coroutines moved");

    unhomed_control_run();
    assert!(homing::moves() > 0, "the counter doesn't count: unhomed coroutines must have moved");
}

fn echo_rounds(address: SocketAddr) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    for round in 0..ROUNDS {
        let said = [u8::try_from(round).unwrap(); 8];
        stream.write_all(&said).unwrap();
        let mut heard = [0; 8];
        stream.read_exact(&mut heard).unwrap();
        assert_eq!(said, heard);
    }
}

/// A coroutine that waits in turn on descriptors of different workers, until it has moved.
fn unhomed_control_run() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (mut far, near): (Vec<_>, Vec<_>) = (0..WORKERS).map(|worker| pair(&listener, worker)).unzip();
    may::go!(move || {
        let mut waits: Vec<_> = near.into_iter().map(|stream| may::io::CoIo::new(stream).unwrap()).collect();
        let began_on = homing::here().unwrap();
        for turn in 0.. {
            let stream = &mut waits[turn % WORKERS];
            match stream.inner_mut().read(&mut [0]) {
                Ok(0) => return,
                Ok(_) => {}
                Err(_) => {
                    stream.wait_io();
                    homing::check(began_on);
                }
            }
        }
    });
    let deadline = Instant::now() + PATIENCE;
    while homing::moves() == 0 && Instant::now() < deadline {
        for stream in &mut far {
            stream.write_all(b"x").unwrap();
        }
        std::thread::yield_now();
    }
}

/// A connection whose near end is homed for `worker`.
fn pair(listener: &TcpListener, worker: usize) -> (TcpStream, TcpStream) {
    let far = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let near = homing::home(OwnedFd::from(listener.accept().unwrap().0), worker, WORKERS).unwrap();
    assert_eq!(usize::try_from(near.as_raw_fd()).unwrap() % WORKERS, worker);
    (far, TcpStream::from(near))
}
