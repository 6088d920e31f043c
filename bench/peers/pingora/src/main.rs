//! A reverse proxy on pingora, as its quick start makes one: `pingora-peer PORT THREADS BACKEND BACKEND...`.
//!
//! It balances in turn over pooled connections, and adds `X-Forwarded-For`.

use std::sync::Arc;

use async_trait::async_trait;
use pingora::prelude::*;
use pingora::server::configuration::ServerConf;

struct Peer(Arc<LoadBalancer<RoundRobin>>);

#[async_trait]
impl ProxyHttp for Peer {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn upstream_peer(&self, _session: &mut Session, _ctx: &mut ()) -> Result<Box<HttpPeer>> {
        let backend = self.0.select(b"", 256).ok_or_else(|| Error::new(ErrorType::ConnectNoRoute))?;
        Ok(Box::new(HttpPeer::new(backend, false, String::new())))
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        _ctx: &mut (),
    ) -> Result<()> {
        let from = session.client_addr().and_then(|address| address.as_inet()).map(|address| address.ip().to_string());
        request.insert_header("X-Forwarded-For", from.unwrap_or_default())
    }
}

fn main() {
    let arguments: Vec<u16> = std::env::args().skip(1).filter_map(|word| word.parse().ok()).collect();
    let [port, threads, backends @ ..] = arguments.as_slice() else {
        eprintln!("usage: pingora-peer PORT THREADS BACKEND BACKEND...");
        std::process::exit(2);
    };
    let configuration =
        ServerConf { threads: usize::from(*threads), upstream_keepalive_pool_size: 8192, ..ServerConf::default() };
    let mut server = Server::new_with_opt_and_conf(None, configuration);
    server.bootstrap();
    let backends = LoadBalancer::try_from_iter(backends.iter().map(|port| format!("127.0.0.1:{port}")));
    let backends = backends.expect("addresses of loopback are addresses");
    let mut service = http_proxy_service(&server.configuration, Peer(Arc::new(backends)));
    service.add_tcp(&format!("127.0.0.1:{port}"));
    server.add_service(service);
    server.run_forever();
}
