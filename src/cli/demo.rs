//! `maypole demo`: a whole running system in one process, and the curl lines to try on it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use super::backend::{Sample, bounds};
use super::run::{self, Running};
use crate::config::{BackendConfig, BackendUrl, Config, HealthCheck};
use crate::control::server::{Server, Serving};

/// Those that the proxy begins with, and one more to add by hand.
const NAMES: [&str; 4] = ["demo-1", "demo-2", "demo-3", SPARE];
const SPARE: &str = "demo-4";

/// Runs the proxy, the admin API and the backends, all on loopback, until a signal ends them.
pub(super) fn run(port: u16, admin_port: u16) -> ExitCode {
    let load = || {
        let backends = NAMES.map(Demo::bind).into_iter().collect::<io::Result<Vec<_>>>();
        let backends = backends.map_err(|error| super::bad_usage(&format!("no port for a backend: {error}")))?;
        // Loopback addresses with a port are always URLs.
        let config = config(port, admin_port, &backends).ok_or_else(|| super::bad_usage("no URL for a backend"))?;
        Ok((config, backends))
    };
    let mut serving = Vec::new();
    run::serve(load, |running, backends| {
        let text = walk_through(running, &backends);
        serving.extend(backends.into_iter().filter_map(Demo::serve));
        // On a thread of its own, since nobody may be reading it.
        let _ = thread::Builder::new().spawn(move || super::print(&text));
    })
}

/// One of the demo's own backends, bound.
struct Demo {
    name: &'static str,
    server: Server,
}

impl Demo {
    fn bind(name: &'static str) -> io::Result<Self> {
        let server = Server::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        Ok(Self { name, server })
    }

    fn url(&self) -> String {
        format!("http://{}", self.server.address())
    }

    /// Begins to answer. One that can't is seen to be down.
    fn serve(self) -> Option<Serving> {
        let sample = Sample::new(self.name.into(), Duration::ZERO, 0.0);
        let serving = self.server.serve(sample.into_handler(), bounds());
        serving.inspect_err(|error| log::error!("{} doesn't run: {error}", self.name)).ok()
    }
}

fn config(port: u16, admin_port: u16, backends: &[Demo]) -> Option<Config> {
    let begin_with = backends.iter().filter(|backend| backend.name != SPARE);
    let entry = |backend: &Demo| {
        let url = BackendUrl::parse(&backend.url()).ok()?;
        Some(BackendConfig { name: backend.name.into(), ..BackendConfig::at(url) })
    };
    let health_check =
        HealthCheck { interval: Duration::from_secs(5), path: "/health".into(), ..HealthCheck::default() };
    Some(Config {
        port,
        admin_port,
        bind: vec![IpAddr::V4(Ipv4Addr::LOCALHOST)],
        backends: begin_with.map(entry).collect::<Option<_>>()?,
        health_check,
        ..Config::default()
    })
}

/// What to try, exactly as it then works.
fn walk_through(running: &Running, backends: &[Demo]) -> String {
    // By address, so that no line depends on what `localhost` resolves to.
    let proxy = running.proxy.first().map(ToString::to_string).unwrap_or_default();
    let admin = running.admin;
    let spare = backends.iter().find(|backend| backend.name == SPARE).map(Demo::url).unwrap_or_default();
    format!(
        "\
A proxy at {proxy}, its admin API at {admin}, and three backends behind it, all in this process.
Ctrl-C ends it. In another terminal:

  # requests go to each backend in turn; a backend answers with what has reached it
  curl http://{proxy}/hello

  # who is alive, in short and in full
  curl http://{admin}/status
  curl http://{admin}/backends

  # a fourth backend, which is running, but which the proxy doesn't know yet
  curl -X POST http://{admin}/backends -H 'Content-Type: application/json' -d '{{\"url\": \"{spare}\", \"name\": \"{SPARE}\"}}'

  # out with one: what is in flight to it is finished, nothing new is sent to it
  curl -X DELETE http://{admin}/backends -H 'Content-Type: application/json' -d '{{\"url\": \"{spare}\"}}'
  curl -X DELETE 'http://{admin}/backends/demo-1?wait=30s'
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_proxy_begins_with_three_backends_and_the_fourth_is_told() {
        let backends: Vec<_> = NAMES.map(|name| Demo::bind(name).unwrap()).into();
        let config = config(1, 2, &backends).unwrap();
        let names: Vec<_> = config.backends.iter().map(|backend| backend.name.as_str()).collect();
        assert_eq!(names, ["demo-1", "demo-2", "demo-3"]);
        let running =
            Running { proxy: vec!["127.0.0.1:8080".parse().unwrap()], admin: "127.0.0.1:8081".parse().unwrap() };
        let text = walk_through(&running, &backends);
        let add = format!(
            "curl -X POST http://127.0.0.1:8081/backends -H 'Content-Type: application/json' \
             -d '{{\"url\": \"{}\", \"name\": \"demo-4\"}}'",
            backends[3].url()
        );
        assert!(text.contains(&add), "{text}");
        assert!(text.contains("curl http://127.0.0.1:8080/hello\n"), "{text}");
    }
}
