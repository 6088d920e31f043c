//! `maypole demo`: a whole running system in one process, and the curl lines to try on it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;

use super::authority::Authority;
use super::backend::{Sample, bounds};
use super::output::{bad_usage, print};
use super::run::{self, Running};
use super::stop::Stop;
use crate::config::{BackendConfig, BackendUrl, Config, HealthCheck, Tls};
use crate::control::server::{Server, Serving};

/// Those that the proxy begins with, and one more to add by hand.
const NAMES: [&str; 4] = ["demo-1", "demo-2", "demo-3", SPARE];
const SPARE: &str = "demo-4";

/// Runs the proxy, the admin API and the backends, all on loopback, until a signal ends them; with a `tls_port` with TLS too, whose
/// files are gone at the end, also where a signal cuts everything.
pub(super) fn run(port: u16, admin_port: u16, tls_port: Option<u16>) -> ExitCode {
    let authority = Arc::new(Mutex::new(None));
    let load = |stop: &Stop| {
        if tls_port.is_some() {
            let made = Arc::downgrade(&authority);
            stop.on_end(move || drop(made.upgrade().map(|made| made.lock().take())));
            // Held meanwhile, so that a signal that comes now finds all of its files.
            let mut place = authority.lock();
            let made = Authority::make().map_err(|error| bad_usage(&format!("no certificate for TLS: {error}")))?;
            *place = Some(made);
        }
        let backends = NAMES.map(Demo::bind).into_iter().collect::<io::Result<Vec<_>>>();
        let backends = backends.map_err(|error| bad_usage(&format!("no port for a backend: {error}")))?;
        // Loopback addresses with a port are always URLs.
        let mut config = config(port, admin_port, &backends).ok_or_else(|| bad_usage("no URL for a backend"))?;
        let authority = authority.lock();
        config.tls = authority.as_ref().map(|authority| tls(tls_port, authority));
        let ca = authority.as_ref().map(Authority::ca);
        Ok((config, (backends, ca)))
    };
    let mut serving = Vec::new();
    let ended = run::serve(load, |running, (backends, ca)| {
        let text = walk_through(running, &backends, ca.as_deref());
        serving.extend(backends.into_iter().filter_map(Demo::serve));
        // On a thread of its own, since stdout may have no reader that takes it.
        let _ = thread::Builder::new().spawn(move || print(&text));
    });
    // Under the lock, so that a signal doesn't end the process halfway.
    authority.lock().take();
    ended
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

fn tls(port: Option<u16>, authority: &Authority) -> Tls {
    let bind = vec![IpAddr::V4(Ipv4Addr::LOCALHOST)];
    Tls { port, certificates: vec![authority.certificate()], ..Tls::with_bind(bind) }
}

/// What to try, exactly as it then works; `ca` is what curl is to trust, where there is TLS.
fn walk_through(running: &Running, backends: &[Demo], ca: Option<&Path>) -> String {
    // By address, so that no line depends on what `localhost` resolves to.
    let proxy = running.proxy.first().map(ToString::to_string).unwrap_or_default();
    let admin = running.admin;
    let tls = match (running.by_tls(), ca) {
        (Some(tls), Some(ca)) => format!(
            "
  # the same by TLS, with a certificate from an authority that was made for this demo and goes with it
  curl --cacert {} https://{tls}/hello
  curl http://{admin}/certificates
",
            ca.display()
        ),
        _ => String::new(),
    };
    let spare = backends.iter().find(|backend| backend.name == SPARE).map(Demo::url).unwrap_or_default();
    format!(
        "\
A proxy at {proxy}, its admin API at {admin}, and three backends behind it, all in this process.
Ctrl-C ends it. In another terminal:

  # requests go to each backend in turn; a backend answers with what has reached it
  curl http://{proxy}/hello
{tls}
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
    use crate::cli::run::Place;

    #[test]
    fn the_proxy_begins_with_three_backends_and_the_fourth_is_told() {
        let backends: Vec<_> = NAMES.map(|name| Demo::bind(name).unwrap()).into();
        let config = config(1, 2, &backends).unwrap();
        let names: Vec<_> = config.backends.iter().map(|backend| backend.name.as_str()).collect();
        assert_eq!(names, ["demo-1", "demo-2", "demo-3"]);
        let running = Running {
            proxy: vec![
                Place::in_clear("127.0.0.1:8080".parse().unwrap()),
                Place::by_tls("127.0.0.1:8443".parse().unwrap()),
            ],
            admin: "127.0.0.1:8081".parse().unwrap(),
        };
        let text = walk_through(&running, &backends, None);
        let add = format!(
            "curl -X POST http://127.0.0.1:8081/backends -H 'Content-Type: application/json' \
             -d '{{\"url\": \"{}\", \"name\": \"demo-4\"}}'",
            backends[3].url()
        );
        assert!(text.contains(&add), "{text}");
        assert!(text.contains("curl http://127.0.0.1:8080/hello\n"), "{text}");
        assert!(!text.contains("https"), "{text}");
        let text = walk_through(&running, &backends, Some(Path::new("/tmp/x/ca.pem")));
        assert!(text.contains("curl --cacert /tmp/x/ca.pem https://127.0.0.1:8443/hello\n"), "{text}");
    }
}
