//! The benchmark's origin: it answers fixed bodies as fast as it can, so that what is measured is the proxy.
//!
//! `origin PORT` listens on 127.0.0.1. GET `/` answers 16 bytes, `/1k`, `/64k`, `/256k`, `/1m` and `/100m` as many as they say;
//! the body of a POST is read to its end and thrown away, and its length is the answer.
//!
//! It stands on `may_minihttp`, which is very fast and can't face real clients; here its only client is a proxy under
//! test.

use std::io::{self, Read};
use std::process::ExitCode;

use may_minihttp::{HttpServer, HttpService, Request, Response};

const SIXTEEN: &str = "sixteen bytes ok";
static MEBIBYTE: [u8; 1 << 20] = [b'o'; 1 << 20];

#[derive(Clone)]
struct Origin;

impl HttpService for Origin {
    fn call(&mut self, request: Request, response: &mut Response) -> io::Result<()> {
        if request.method() == "POST" {
            let length = sink(request)?;
            response.body_mut().extend_from_slice(length.to_string().as_bytes());
            return Ok(());
        }
        match request.path() {
            "/1k" => response.body_mut().extend_from_slice(&MEBIBYTE[..1 << 10]),
            "/64k" => response.body_mut().extend_from_slice(&MEBIBYTE[..1 << 16]),
            "/256k" => response.body_mut().extend_from_slice(&MEBIBYTE[..1 << 18]),
            "/1m" => response.body_mut().extend_from_slice(&MEBIBYTE),
            "/100m" => (0..100).for_each(|_| response.body_mut().extend_from_slice(&MEBIBYTE)),
            _ => drop(response.body(SIXTEEN)),
        }
        Ok(())
    }
}

/// Reads the body to its end; how long it was.
fn sink(request: Request) -> io::Result<usize> {
    let mut body = request.body();
    let mut piece = [0; 2048];
    let mut length = 0;
    loop {
        match body.read(&mut piece)? {
            0 => return Ok(length),
            count => length += count,
        }
    }
}

fn main() -> ExitCode {
    let Some(port) = std::env::args().nth(1).and_then(|port| port.parse::<u16>().ok()) else {
        eprintln!("usage: origin PORT");
        return ExitCode::from(2);
    };
    // One worker: it shares its core with the load. Stack sizes count words.
    may::config().set_workers(1).set_pool_capacity(256).set_stack_size(0x4000);
    match HttpServer(Origin).start(("127.0.0.1", port)).map(|server| server.join()) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(_)) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("origin: can't listen on 127.0.0.1:{port}: {e}");
            ExitCode::FAILURE
        }
    }
}
