//! The admin API: which call does what. Fields, codes and examples: `docs/admin-api.md`.

pub mod bodies;
mod calls;
mod guard;
mod views;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

pub use self::calls::ReadCounts;
use super::ControlPlane;
use super::server::{Answer, Bounds, Call, Server, Serving};

/// The bound listener of the admin API. Bind it before anything else is started: a port that is taken shows here.
#[derive(Debug)]
pub struct AdminServer(Server);

impl AdminServer {
    /// Takes the address for itself; fails if it is taken.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        Server::bind(address).map(Self)
    }

    /// Where it listens; tells the port if the system chose it.
    pub fn address(&self) -> SocketAddr {
        self.0.address()
    }

    /// Begins to answer, on threads of its own; up to `connections_max` connections at once.
    pub fn serve(self, control: Arc<ControlPlane>, counts: ReadCounts, connections_max: usize) -> io::Result<Serving> {
        let listener = self.address().ip();
        let answer = move |call: &Call| match guard::check(call, listener) {
            Ok(()) => route(&control, &counts, call),
            Err(reason) => Answer::problem(403, &reason),
        };
        self.0.serve(answer, Bounds { connections: connections_max, ..Bounds::default() })
    }
}

/// What the API has, by path.
enum Resource<'p> {
    Status,
    Backends,
    Backend(&'p str),
    Certificates,
    Healthz,
    Readyz,
}

impl<'p> Resource<'p> {
    fn of(path: &'p str) -> Option<Self> {
        match path {
            "/status" => Some(Self::Status),
            "/backends" => Some(Self::Backends),
            "/certificates" => Some(Self::Certificates),
            "/healthz" => Some(Self::Healthz),
            "/readyz" => Some(Self::Readyz),
            _ => path.strip_prefix("/backends/").filter(|name| is_segment(name)).map(Self::Backend),
        }
    }

    fn methods(&self) -> &'static str {
        match self {
            Self::Backends => "GET, HEAD, POST, PATCH, DELETE",
            Self::Backend(_) => "GET, HEAD, PATCH, DELETE",
            Self::Status | Self::Certificates | Self::Healthz | Self::Readyz => "GET, HEAD",
        }
    }
}

fn is_segment(text: &str) -> bool {
    !text.is_empty() && !text.contains('/')
}

fn route(control: &ControlPlane, counts: &ReadCounts, call: &Call) -> Answer {
    let Some(resource) = Resource::of(&call.path) else {
        let detail = format!(
            "there is no {}; see /status, /backends, /backends/NAME, /certificates, /healthz, /readyz",
            call.path
        );
        return Answer::problem(404, &detail);
    };
    let method = if call.method == "HEAD" { "GET" } else { call.method.as_str() };
    let answer = match (method, &resource) {
        ("GET", Resource::Status) => calls::status(control, counts, call),
        ("GET", Resource::Backends) => calls::list(control, call),
        ("GET", Resource::Backend(name)) => calls::show(control, call, name),
        ("GET", Resource::Certificates) => calls::certificates(control, call),
        ("GET", Resource::Healthz) => calls::healthz(control, call),
        ("GET", Resource::Readyz) => calls::readyz(control, call),
        ("POST", Resource::Backends) => calls::add(control, call),
        ("PATCH", Resource::Backends) => calls::change_by_url(control, call),
        ("PATCH", Resource::Backend(name)) => calls::change_by_name(control, call, name),
        ("DELETE", Resource::Backends) => calls::remove_by_url(control, call),
        ("DELETE", Resource::Backend(name)) => calls::remove_by_name(control, call, name),
        _ => {
            let allowed = resource.methods();
            let detail = format!("{} isn't for {}, but {allowed}", call.method, call.path);
            return Answer::problem(405, &detail).with("Allow", allowed.into());
        }
    };
    answer.unwrap_or_else(|problem| problem)
}
