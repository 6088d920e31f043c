//! Where clients connect: the list `listeners`, and that no two sockets are on one address.

use std::net::IpAddr;

use super::checked::Config;
use super::error::Problem;
use super::fields::{Field, Fields};
use super::json::Json;
use super::schema::{LISTENER, home_of};
use super::tls::Listener;

const ADDRESSES_MAX: usize = 64;
const LISTENERS_MAX: usize = 64;

/// Reads `bind`; what is missing keeps its default.
pub(super) fn addresses(fields: &mut Fields, addresses: &mut Vec<IpAddr>) {
    let Some(field) = fields.find("bind") else { return };
    let wanted = "an IP address such as \"0.0.0.0\" or \"::\", or a list of them";
    let written = if matches!(field.node.value, Json::Text(_)) {
        vec![field]
    } else if let Some(list) = field.list(fields.problems, 1..=ADDRESSES_MAX, wanted) {
        list
    } else {
        return;
    };
    let mut read: Vec<IpAddr> = Vec::new();
    for field in written {
        match field.text(fields.problems, "an IP address").map(str::parse::<IpAddr>) {
            Some(Ok(address)) if read.contains(&address) => {
                field.unfit(fields.problems, "each address once");
            }
            Some(Ok(address)) => read.push(address),
            Some(Err(_)) => field.unfit(fields.problems, "an IP address such as \"0.0.0.0\" or \"::\""),
            None => {}
        }
    }
    if !read.is_empty() {
        *addresses = read;
    }
}

/// Reads `listeners`, once `bind` and `tls` have been; and has no two sockets on one address.
pub(super) fn read(root: &mut Fields, config: &mut Config) {
    let mut ports = Vec::new();
    if let Some(field) = root.find("listeners")
        && let Some(list) = field.list(root.problems, 0..=LISTENERS_MAX, "a list of objects with \"port\"")
    {
        for field in list {
            listener(root, &field, config, &mut ports);
        }
    }
    addresses_differ(root, config, &ports);
    if let Some(tls) = config.tls.as_ref().filter(|tls| tls.redirect_http)
        && tls.port.is_none()
        && !config.listeners.iter().any(|listener| listener.tls)
        && let Some(field) = root.find("tls").and_then(|field| member(&field, "redirect_http"))
    {
        field.unfit(root.problems, "false, since no port has TLS: there is nowhere to send clients");
    }
}

/// What the object in `field` has by this name.
fn member<'n>(field: &Field<'n>, name: &str) -> Option<Field<'n>> {
    let Json::Object(members) = &field.node.value else { return None };
    let found = members.iter().find(|member| member.name == name)?;
    Some(Field { path: field.path_of(name), node: &found.node })
}

/// Reads one, and where its port is written.
fn listener<'n>(root: &mut Fields<'n, '_, '_>, field: &Field<'n>, config: &mut Config, ports: &mut Vec<Field<'n>>) {
    let Some(mut fields) = field.open(LISTENER, home_of, root.problems) else { return };
    let mut listener = Listener { port: 0, bind: config.bind.clone(), tls: false };
    let Some(port) = fields.find("port") else {
        let wanted = "a port";
        fields.problems.note(&field.path_of("port"), field.node.at, Problem::Missing { wanted });
        return;
    };
    fields.whole("port", 0..=65535, &mut listener.port);
    addresses(&mut fields, &mut listener.bind);
    fields.flag("tls", &mut listener.tls);
    if let (true, None, Some(field)) = (listener.tls, &config.tls, fields.find("tls"))
        && root.find_set("tls").is_none()
    {
        field.unfit(root.problems, "false, since there is no \"tls\" that says which certificates it has");
    }
    config.listeners.push(listener);
    ports.push(port);
}

/// One of the sockets.
struct Socket<'n> {
    /// What it is called.
    name: String,
    /// Where its port is written; None: it is the default.
    written: Option<Field<'n>>,
    port: u16,
    bind: Vec<IpAddr>,
    is_admin: bool,
}

/// Two listeners on one address and port would share its connections, since workers bind with `SO_REUSEPORT`.
fn addresses_differ<'n>(fields: &mut Fields<'n, '_, '_>, config: &Config, ports: &[Field<'n>]) {
    let socket = |name: &str, written, port, bind: &[IpAddr]| Socket {
        name: name.to_owned(),
        written,
        port,
        bind: bind.to_vec(),
        is_admin: name == "admin_port",
    };
    let mut sockets = vec![socket("port", fields.find("port"), config.port, &config.bind)];
    if let Some(tls) = &config.tls
        && let Some(port) = tls.port
    {
        sockets.push(socket("tls.port", fields.find("tls").and_then(|field| member(&field, "port")), port, &tls.bind));
    }
    for (field, listener) in ports.iter().zip(&config.listeners) {
        sockets.push(socket(&field.path, Some(field.clone()), listener.port, &listener.bind));
    }
    sockets.push(socket("admin_port", fields.find("admin_port"), config.admin_port, &[config.admin_bind]));
    for (nth, later) in sockets.iter().enumerate() {
        let Some(earlier) = sockets[..nth].iter().find(|earlier| earlier.overlaps(later)) else { continue };
        let (at, other) = if later.written.is_some() { (later, earlier) } else { (earlier, later) };
        if let Some(field) = &at.written {
            let wanted = format!("another port than {:?}, which listens on the same address", other.name);
            field.unfit(fields.problems, wanted);
        }
    }
}

impl Socket<'_> {
    fn overlaps(&self, other: &Self) -> bool {
        // An unspecified IPv6 address stands for IPv4 ones too where it is an operator's matter, as the admin API is.
        let both_families = self.is_admin || other.is_admin;
        let covers = |one: &IpAddr, other: &IpAddr| {
            one == other || one.is_unspecified() && (one.is_ipv4() == other.is_ipv4() || one.is_ipv6() && both_families)
        };
        self.port != 0
            && self.port == other.port
            && self.bind.iter().any(|one| other.bind.iter().any(|two| covers(one, two) || covers(two, one)))
    }
}
