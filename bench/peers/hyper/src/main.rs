//! A reverse proxy on hyper and tokio, as small as its documents make one: `hyper-peer PORT THREADS BACKEND BACKEND...`.
//!
//! It balances in turn over pooled connections, and adds `X-Forwarded-For`. It checks no health and has no time limits.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::header::HeaderValue;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};

struct Peer {
    client: Client<HttpConnector, Incoming>,
    backends: Vec<String>,
    turn: AtomicUsize,
}

type Answer = Response<BoxBody<Bytes, hyper::Error>>;

impl Peer {
    async fn forward(&self, mut request: Request<Incoming>, from: IpAddr) -> Result<Answer, hyper::http::Error> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let backend = self.backends[turn % self.backends.len()].as_str();
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        *request.uri_mut() = Uri::builder().scheme("http").authority(backend).path_and_query(path).build()?;
        request.headers_mut().insert("x-forwarded-for", HeaderValue::try_from(from.to_string())?);
        match self.client.request(request).await {
            Ok(answer) => Ok(answer.map(BodyExt::boxed)),
            Err(_) => {
                let nothing = Empty::new().map_err(|never| match never {});
                Response::builder().status(StatusCode::BAD_GATEWAY).body(nothing.boxed())
            }
        }
    }
}

async fn serve(peer: Arc<Peer>, stream: TcpStream, from: IpAddr) {
    let _ = stream.set_nodelay(true);
    let service = service_fn(|request| peer.forward(request, from));
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<u16> = std::env::args().skip(1).map(|word| word.parse()).collect::<Result<_, _>>()?;
    let [port, threads, backends @ ..] = arguments.as_slice() else {
        return Err("usage: hyper-peer PORT THREADS BACKEND BACKEND...".into());
    };
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let client = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(8192).build(connector);
    let backends = backends.iter().map(|port| format!("127.0.0.1:{port}")).collect();
    let peer = Arc::new(Peer { client, backends, turn: AtomicUsize::new(0) });
    let threads = usize::from(*threads);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()?;
    runtime.block_on(async move {
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], *port))).await?;
        loop {
            let (stream, from) = listener.accept().await?;
            tokio::spawn(serve(Arc::clone(&peer), stream, from.ip()));
        }
    })
}
