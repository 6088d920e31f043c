//! The real binary as a child process.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::origin::PROBE_PATH;
use super::wire::Message;
use super::{Client, Origin, eventually, free_port};

/// A call of the binary, its output captured; ended when dropped.
pub struct Program {
    child: Child,
    stdout: Captured,
    stderr: Captured,
}

/// What a program wrote to one of its outputs so far, and the thread that reads it.
struct Captured {
    text: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
}

impl Program {
    /// Starts `maypole` with these arguments in an empty folder.
    pub fn start(arguments: &[&str]) -> Self {
        Self::start_in(&empty_folder(), arguments)
    }

    /// As [`Program::start`], in a folder of the test's choice.
    pub fn start_in(folder: &Path, arguments: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_maypole"));
        command.args(arguments);
        Self::run_in(folder, command)
    }

    /// As [`Program::start_in`], with so many descriptors and no more.
    pub fn start_with_descriptors(folder: &Path, arguments: &[&str], descriptors: usize) -> Self {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("ulimit -n {descriptors} && exec \"$0\" \"$@\""), env!("CARGO_BIN_EXE_maypole")]);
        command.args(arguments);
        Self::run_in(folder, command)
    }

    /// As [`Program::start_in`], with these variables in its environment, and its outputs going where the test says: what
    /// isn't piped isn't captured.
    pub fn start_with(
        folder: &Path,
        arguments: &[&str],
        environment: &[(&str, &str)],
        [stdout, stderr]: [Stdio; 2],
    ) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_maypole"));
        command.args(arguments).envs(environment.iter().copied());
        Self::run(folder, command, [stdout, stderr])
    }

    fn run_in(folder: &Path, command: Command) -> Self {
        Self::run(folder, command, [Stdio::piped(), Stdio::piped()])
    }

    fn run(folder: &Path, mut command: Command, [stdout, stderr]: [Stdio; 2]) -> Self {
        let command = command.current_dir(folder).stdin(Stdio::null()).stdout(stdout).stderr(stderr);
        let mut child = command.spawn().expect("the binary starts");
        let stdout = child.stdout.take().map_or_else(Captured::nothing, Captured::start);
        let stderr = child.stderr.take().map_or_else(Captured::nothing, Captured::start);
        Self { child, stdout, stderr }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it printed so far.
    pub fn stdout(&self) -> String {
        self.stdout.so_far()
    }

    /// What it logged so far.
    pub fn stderr(&self) -> String {
        self.stderr.so_far()
    }

    /// Sends a signal by name, such as `TERM`.
    pub fn signal(&self, name: &str) {
        // The shell's own kill: `unsafe` has no place in a test, and a bare machine may lack the program.
        let kill = Command::new("sh").args(["-c", &format!("kill -{name} {}", self.pid())]).status();
        assert!(kill.expect("sh runs").success(), "no process to signal");
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("our child").is_none()
    }

    /// Waits for its end; fails the test when it doesn't come in time.
    #[track_caller]
    pub fn wait_for_exit(&mut self, within: Duration) -> ExitStatus {
        let deadline = Instant::now() + within;
        loop {
            if let Some(status) = self.child.try_wait().expect("our child") {
                for output in [&mut self.stdout, &mut self.stderr] {
                    let _ = output.reader.take().map(JoinHandle::join);
                }
                return status;
            }
            assert!(Instant::now() < deadline, "still running after {within:?}; it said: {}", self.stderr());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if self.is_running() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if std::thread::panicking() {
            eprintln!("--- what maypole said ---\n{}{}---", self.stdout(), self.stderr());
        }
    }
}

impl Captured {
    fn start(from: impl Read + Send + 'static) -> Self {
        let text = Arc::new(Mutex::new(String::new()));
        let copy = Arc::clone(&text);
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(from).split(b'\n').map_while(Result::ok) {
                let mut text = copy.lock().expect("not poisoned");
                text.push_str(&String::from_utf8_lossy(&line));
                text.push('\n');
            }
        });
        Self { text, reader: Some(reader) }
    }

    fn nothing() -> Self {
        Self { text: Arc::default(), reader: None }
    }

    fn so_far(&self) -> String {
        self.text.lock().expect("not poisoned").clone()
    }
}

/// A folder of this test's own beneath cargo's folder for tests.
pub fn empty_folder() -> PathBuf {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    loop {
        let name = format!("{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        match std::fs::create_dir(&folder) {
            Ok(()) => return folder,
            // Of a process of before that had the same id: there is something in it, which may be a pipe.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => panic!("{}: {error}", folder.display()),
        }
    }
}

/// A running proxy on ports of its own.
pub struct Proxy {
    /// The process.
    pub program: Program,
    /// Where clients connect.
    pub port: u16,
    /// Where its admin API listens.
    pub admin_port: u16,
    folder: PathBuf,
}

impl Proxy {
    /// Starts it in front of these origins with the harness's settings; see [`settings`].
    #[track_caller]
    pub fn over(origins: &[&Origin]) -> Self {
        Self::with(origins, json!({}))
    }

    /// As [`Proxy::over`], with these settings on top.
    #[track_caller]
    pub fn with(origins: &[&Origin], on_top: Value) -> Self {
        let backends: Vec<_> = origins.iter().map(|origin| origin.url()).collect();
        let mut config = settings(&backends);
        merge(&mut config, on_top);
        Self::start(&config)
    }

    /// Starts it with exactly this configuration, and waits until it answers.
    #[track_caller]
    pub fn start(config: &Value) -> Self {
        let folder = empty_folder();
        let file = folder.join("maypole.json");
        std::fs::write(&file, config.to_string()).expect("writable");
        let program = Program::start_in(&folder, &["--config", file.to_str().expect("UTF-8")]);
        Self::answering(program, config, folder)
    }

    /// As [`Proxy::with`], with so many descriptors and no more.
    #[track_caller]
    pub fn with_descriptors(origins: &[&Origin], on_top: Value, descriptors: usize) -> Self {
        let backends: Vec<_> = origins.iter().map(|origin| origin.url()).collect();
        let mut config = settings(&backends);
        merge(&mut config, on_top);
        let folder = empty_folder();
        let file = folder.join("maypole.json");
        std::fs::write(&file, config.to_string()).expect("writable");
        let arguments = ["--config", file.to_str().expect("UTF-8")];
        let program = Program::start_with_descriptors(&folder, &arguments, descriptors);
        Self::answering(program, &config, folder)
    }

    /// As [`Proxy::with`], with these variables in its environment, and its log going where the test says.
    #[track_caller]
    pub fn with_log(origins: &[&Origin], on_top: Value, environment: &[(&str, &str)], stderr: Stdio) -> Self {
        let backends: Vec<_> = origins.iter().map(|origin| origin.url()).collect();
        let mut config = settings(&backends);
        merge(&mut config, on_top);
        let folder = empty_folder();
        let file = folder.join("maypole.json");
        std::fs::write(&file, config.to_string()).expect("writable");
        let arguments = ["--config", file.to_str().expect("UTF-8")];
        let program = Program::start_with(&folder, &arguments, environment, [Stdio::piped(), stderr]);
        Self::answering(program, &config, folder)
    }

    /// Waits until it answers where its configuration says.
    #[track_caller]
    fn answering(program: Program, config: &Value, folder: PathBuf) -> Self {
        let port_of = |name: &str| u16::try_from(config[name].as_u64().expect("a port")).expect("a port");
        let (port, admin_port) = (port_of("port"), port_of("admin_port"));
        let mut proxy = Self { program, port, admin_port, folder };
        eventually("the proxy answers", || {
            assert!(proxy.program.is_running(), "it ended at once: {}", proxy.program.stderr());
            Client::try_connect(admin_port).is_ok()
                && proxy.admin("GET", "/healthz", "").status() == 200
                && Client::try_connect(port).is_ok()
        });
        // So that a test counts only its own.
        eventually("the harness's connection has come and gone", || {
            let connections = &proxy.status()["connections"];
            connections["accepted"] == 1 && connections["open"] == 0
        });
        proxy
    }

    /// A new client connection.
    #[track_caller]
    pub fn client(&self) -> Client {
        Client::connect(self.port)
    }

    /// The answer to a GET on a connection of its own.
    #[track_caller]
    pub fn get(&self, target: &str) -> Message {
        self.client().get(target)
    }

    /// As a URL.
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// The admin API's answer.
    #[track_caller]
    pub fn admin(&self, method: &str, path: &str, body: &str) -> Message {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            self.admin_port,
            body.len()
        );
        Client::connect(self.admin_port).send(request).answer_to(method)
    }

    /// `POST /backends` or `DELETE /backends` for this origin.
    #[track_caller]
    pub fn mutate(&self, method: &str, origin: &Origin) -> Message {
        self.admin(method, "/backends", &json!({ "url": origin.url() }).to_string())
    }

    /// What `GET /status` says.
    #[track_caller]
    pub fn status(&self) -> Value {
        let answer = self.admin("GET", "/status", "");
        assert_eq!(answer.status(), 200, "{answer:?}");
        answer.json()
    }

    /// The origin's object in `GET /status`; null when it isn't a backend.
    #[track_caller]
    pub fn status_of(&self, origin: &Origin) -> Value {
        let status = self.status();
        let backends = status["backends"].as_array().expect("an array");
        backends.iter().find(|backend| backend["url"] == origin.url().as_str()).cloned().unwrap_or_default()
    }

    /// Whether the origin is alive in the proxy's eyes.
    #[track_caller]
    pub fn is_alive(&self, origin: &Origin) -> bool {
        self.status_of(origin)["alive"] == true
    }

    /// How many of its connections are laid aside: the parking lot, an epoll, waits for one event of each.
    pub fn laid_aside(&self) -> usize {
        const ONCE: u32 = libc::EPOLLONESHOT.cast_unsigned();
        const WANTED: u32 = (libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP).cast_unsigned();
        self.watches().filter(|events| events & ONCE != 0 && events & WANTED != 0).count()
    }

    /// How many of its connections have been parked between two requests: the lot listens for what they say and for their
    /// end, and not for room to write.
    pub fn parked(&self) -> usize {
        const ONCE_OR_WRITE: u32 = (libc::EPOLLONESHOT | libc::EPOLLOUT).cast_unsigned();
        // `may`'s own bell, which no socket is, is listened to without the latter.
        const READ_AND_END: u32 = (libc::EPOLLIN | libc::EPOLLRDHUP).cast_unsigned();
        self.watches().filter(|events| events & READ_AND_END == READ_AND_END && events & ONCE_OR_WRITE == 0).count()
    }

    /// The events that its epolls listen for, for each descriptor.
    fn watches(&self) -> impl Iterator<Item = u32> {
        let folder = std::fs::read_dir(format!("/proc/{}/fdinfo", self.program.pid())).expect("it runs");
        let epolls = folder.filter_map(|entry| std::fs::read_to_string(entry.ok()?.path()).ok()).collect::<Vec<_>>();
        let line = |line: &str| u32::from_str_radix(line.split_once("events:")?.1.split_whitespace().next()?, 16).ok();
        epolls.into_iter().flat_map(move |epoll| epoll.lines().filter_map(line).collect::<Vec<_>>())
    }

    /// How many pipes it has open, those on its standard streams left out; it may have inherited some.
    pub fn pipes(&self) -> usize {
        let folder = std::fs::read_dir(format!("/proc/{}/fd", self.program.pid())).expect("it runs");
        let links =
            folder.flatten().filter(|entry| entry.file_name().to_string_lossy().parse().is_ok_and(|fd: u32| fd > 2));
        let ends = links.filter_map(|entry| std::fs::read_link(entry.path()).ok());
        ends.filter(|link| link.to_string_lossy().starts_with("pipe:")).collect::<BTreeSet<_>>().len()
    }

    /// Requests in flight to the origin in the proxy's eyes.
    #[track_caller]
    pub fn in_flight(&self, origin: &Origin) -> u64 {
        self.status_of(origin)["current_connections"].as_u64().expect("a number")
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// The harness's settings: ports of their own, two workers whatever the machine, probes on a path that origins answer
/// by themselves and so rare that they don't disturb, patience no longer than a test's.
pub fn settings(backends: &[String]) -> Value {
    json!({
        "port": free_port(),
        "bind": "127.0.0.1",
        "admin_port": free_port(),
        "workers": 2,
        "backends": backends,
        "health_check_frequency": "30s",
        "health_check": {"path": PROBE_PATH, "timeout": "1s"},
        "timeouts": {"drain": "5s"},
    })
}

/// Puts `top` over `base`, object by object.
fn merge(base: &mut Value, top: Value) {
    match (base, top) {
        (Value::Object(base), Value::Object(top)) => {
            for (name, value) in top {
                merge(base.entry(name).or_insert(Value::Null), value);
            }
        }
        (base, top) => *base = top,
    }
}
