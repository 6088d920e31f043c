//! TLS towards clients: its files, a proxy with them, and the openssl client and curl in front of it.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::SystemTime;

use maypole::transport::pem;
use rcgen::{
    CertificateParams, CertificateRevocationListParams, DnType, KeyIdMethod, KeyPair, RevokedCertParams, SerialNumber,
    date_time_ymd,
};
use serde_json::{Value, json};

use super::proxy::empty_folder;
use super::secure::Authority;
use super::{Origin, Proxy, eventually, free_port};

/// Certificates and keys in files, and an authority that vouches for clients.
pub struct Files {
    pub folder: PathBuf,
    pub club: Authority,
}

impl Files {
    pub fn new() -> Self {
        let files = Self { folder: empty_folder(), club: Authority::new("club") };
        for name in ["a.example", "b.example"] {
            let made = rcgen::generate_simple_self_signed([name.to_owned()]).expect("a certificate");
            files.write(&format!("{name}.pem"), &pem::write("CERTIFICATE", made.cert.der()));
            files.write(&format!("{name}.key"), &pem::write("PRIVATE KEY", &made.signing_key.serialize_der()));
        }
        files.found("club", &files.club);
        files.found("others", &Authority::new("others"));
        files
    }

    /// Files of an authority, a client of it, and lists of whom it has revoked: nobody, and that client; each of now, and one whose time
    /// is over.
    pub fn found(&self, name: &str, Authority { issuer, .. }: &Authority) {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, format!("member of {name}"));
        let serial_number = SerialNumber::from(7);
        params.serial_number = Some(serial_number.clone());
        let key = KeyPair::generate().expect("a key");
        let member = params.signed_by(&key, issuer).expect("a certificate");
        self.write(&format!("{name}.ca"), &pem::write("CERTIFICATE", issuer.der()));
        self.write(&format!("{name}.member.pem"), &pem::write("CERTIFICATE", member.der()));
        self.write(&format!("{name}.member.key"), &pem::write("PRIVATE KEY", &key.serialize_der()));
        let member = RevokedCertParams {
            serial_number,
            revocation_time: date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        for (kind, year, revoked_certs) in [
            ("nobody", 2100, vec![]),
            ("member", 2100, vec![member.clone()]),
            ("nobody.old", 2025, vec![]),
            ("member.old", 2025, vec![member]),
        ] {
            let list = CertificateRevocationListParams {
                this_update: date_time_ymd(2024, 1, 1),
                next_update: date_time_ymd(year, 1, 1),
                crl_number: SerialNumber::from(1),
                issuing_distribution_point: None,
                revoked_certs,
                key_identifier_method: KeyIdMethod::Sha256,
            };
            let list = list.signed_by(issuer).expect("a list");
            self.write(&format!("{name}.{kind}.crl"), &pem::write("X509 CRL", list.der()));
        }
    }

    /// A certificate of the club's for someone, until then.
    pub fn join_until(&self, someone: &str, until: SystemTime) {
        let mut params = CertificateParams::default();
        let since_epoch = until.duration_since(SystemTime::UNIX_EPOCH).expect("later");
        params.not_after = date_time_ymd(1970, 1, 1) + since_epoch;
        let key = KeyPair::generate().expect("a key");
        let member = params.signed_by(&key, &self.club.issuer).expect("a certificate");
        self.write(&format!("{someone}.member.pem"), &pem::write("CERTIFICATE", member.der()));
        self.write(&format!("{someone}.member.key"), &pem::write("PRIVATE KEY", &key.serialize_der()));
    }

    /// Puts what is in one file in the place of another.
    pub fn put(&self, name: &str, bytes: impl AsRef<[u8]>) {
        use std::os::unix::fs::PermissionsExt;
        std::fs::write(self.folder.join("new"), bytes).expect("writable");
        std::fs::set_permissions(self.folder.join("new"), PermissionsExt::from_mode(0o600)).expect("ours");
        std::fs::rename(self.folder.join("new"), self.folder.join(name)).expect("the same folder");
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.folder.join(name)).expect("it is there")
    }

    pub fn write(&self, name: &str, text: &str) {
        std::fs::write(self.folder.join(name), text).expect("writable");
    }

    pub fn path(&self, name: &str) -> String {
        self.folder.join(name).to_str().expect("UTF-8").to_owned()
    }

    /// A file of keys of tickets that its owner alone can read.
    pub fn ticket_keys(&self) -> String {
        use std::os::unix::fs::PermissionsExt;
        let path = self.folder.join("tickets");
        std::fs::write(&path, [5; 80]).expect("writable");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).expect("ours");
        self.path("tickets")
    }

    pub fn certificates(&self) -> Value {
        let of =
            |name: &str| json!({"cert": self.path(&format!("{name}.pem")), "key": self.path(&format!("{name}.key"))});
        json!([of("a.example"), of("b.example")])
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// A proxy with a TLS port, these settings on top.
pub struct Scene {
    pub proxy: Proxy,
    pub port: u16,
}

impl Scene {
    pub fn new(origin: &Origin, files: &Files, on_top: &Value) -> Self {
        Self::logging(origin, files, on_top, "info")
    }

    pub fn logging(origin: &Origin, files: &Files, on_top: &Value, level: &str) -> Self {
        let port = free_port();
        let mut tls = json!({"port": port, "bind": "127.0.0.1", "certificates": files.certificates()});
        for (name, value) in on_top.as_object().expect("settings") {
            tls[name] = value.clone();
        }
        let proxy = Proxy::with_log(&[origin], json!({ "tls": tls }), &[("RUST_LOG", level)], Stdio::piped());
        eventually("it listens", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
        Self { proxy, port }
    }

    /// What the openssl client says of a handshake with these arguments, and of what follows on these lines.
    pub fn openssl(&self, arguments: &[&str], lines: &str) -> String {
        let mut command = Command::new("openssl");
        command.args(["s_client", "-connect", &format!("127.0.0.1:{}", self.port)]).args(arguments);
        if lines.starts_with("GET") {
            // It waits for the answer; else a line may be a command to it.
            command.arg("-ign_eof");
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("openssl runs: `./x test` installs it");
        let mut stdin = child.stdin.take().expect("piped");
        // It may have ended before it has read them.
        let _ = std::io::Write::write_all(&mut stdin, lines.as_bytes());
        drop(stdin);
        let output = child.wait_with_output().expect("it ran");
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    }

    /// Has the files looked at, which has put this in order.
    pub fn look(&self, what: &str, mut holds: impl FnMut() -> bool) {
        self.proxy.program.signal("HUP");
        eventually(what, || holds() && self.problems().as_array().is_some_and(Vec::is_empty));
    }

    /// Has the files looked at, of which this one is broken, and is told of.
    pub fn look_at_broken(&self, field: &str) {
        self.proxy.program.signal("HUP");
        eventually(field, || self.problems()[0]["field"].as_str().is_some_and(|found| found.starts_with(field)));
        let is_told = |line: &str| line.contains("ERROR") && line.contains(field) && line.contains("stays in use");
        eventually("it is told loudly", || self.proxy.program.stderr().lines().any(is_told));
    }

    pub fn problems(&self) -> Value {
        self.proxy.admin("GET", "/certificates", "").json()["problems"].clone()
    }

    /// What curl answers with these arguments, for a request to `host` by TLS.
    pub fn curl(&self, host: &str, arguments: &[&str]) -> (bool, String) {
        let mut command = Command::new("curl");
        command.args(["-sS", "-k", "--max-time", "10", "-o", "-", "-D", "-"]);
        command.args(["--resolve", &format!("{host}:{}:127.0.0.1", self.port)]).args(arguments);
        let output = command.arg(format!("https://{host}:{}/", self.port)).output().expect("curl runs");
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    }
}

pub fn origin() -> Origin {
    Origin::start(|exchange| exchange.answer(200, "ok"))
}

pub const ASK: &str = "GET / HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n";
/// What the answer to it begins with.
pub const ANSWERED: &str = "HTTP/1.1 200";
