//! The command line: what may be typed (`argh`), and the spellings that `argh` doesn't know. `--name=value` is split,
//! and a long name after one hyphen, as Go's programs have it, gets its second one.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use argh::{ArgsInfo, FlagInfo, FlagInfoKind, FromArgs, SubCommandInfo};

use crate::config::{nearest, parse_duration};

/// An HTTP load-balancing reverse proxy. Without a command it runs the proxy, with --config FILE or conf/maypole.json.
#[derive(ArgsInfo, Debug, FromArgs, PartialEq)]
#[argh(help_triggers("-h", "--help"))]
pub(super) struct Maypole {
    /// configuration to run with (default: conf/maypole.json)
    #[argh(option, arg_name = "FILE")]
    pub config: Option<PathBuf>,
    /// print the version
    #[argh(switch, short = 'V')]
    pub version: bool,
    #[argh(subcommand)]
    pub command: Option<Command>,
}

#[derive(ArgsInfo, Debug, FromArgs, PartialEq)]
#[argh(subcommand)]
pub(super) enum Command {
    Check(Check),
    Demo(Demo),
    Backend(Backend),
}

/// Check a configuration: print every error with its place, look up every backend's name, start nothing.
#[derive(ArgsInfo, Debug, FromArgs, PartialEq)]
#[argh(subcommand, name = "check", help_triggers("-h", "--help"))]
pub(super) struct Check {
    /// configuration to check (default: conf/maypole.json)
    #[argh(option, arg_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// Run a whole system in one process: the proxy, the admin API and three backends; prints curl lines to try.
#[derive(ArgsInfo, Debug, FromArgs, PartialEq)]
#[argh(subcommand, name = "demo", help_triggers("-h", "--help"))]
pub(super) struct Demo {
    /// where clients connect (default: 8080; 0: any free port)
    #[argh(option, arg_name = "PORT", default = "8080", from_str_fn(port_number))]
    pub port: u16,
    /// the admin API's port (default: 8081; 0: any free port)
    #[argh(option, arg_name = "PORT", default = "8081", from_str_fn(port_number))]
    pub admin_port: u16,
    /// speak TLS too, with a certificate from an authority that is made for it and thrown away
    #[argh(switch)]
    pub tls: bool,
    /// where clients connect by TLS (default: 8443; 0: any free port)
    #[argh(option, arg_name = "PORT", default = "8443", from_str_fn(port_number))]
    pub tls_port: u16,
}

impl Demo {
    /// Whether something else than TLS listens there.
    pub(super) fn has_on(&self, port: u16) -> bool {
        port == self.port || port == self.admin_port
    }
}

/// Run a sample backend: it answers with its name, the request line and the forwarded fields; GET /health says ok.
#[derive(ArgsInfo, Debug, FromArgs, PartialEq)]
#[argh(subcommand, name = "backend", help_triggers("-h", "--help"))]
pub(super) struct Backend {
    /// where it listens (default: 8082; 0: any free port)
    #[argh(option, arg_name = "PORT", default = "8082", from_str_fn(port_number))]
    pub port: u16,
    /// what it calls itself (default: backend-PORT)
    #[argh(option, arg_name = "NAME")]
    pub name: Option<String>,
    /// how long it waits before each answer, such as 250ms (default: 0)
    #[argh(option, arg_name = "DURATION", default = "Duration::ZERO", from_str_fn(latency_within_bound))]
    pub latency: Duration,
    /// the share of requests that it answers with 500, from 0 to 1 (default: 0)
    #[argh(option, arg_name = "SHARE", default = "0.0", from_str_fn(share_of_one))]
    pub failure_rate: f64,
}

/// What the arguments ask for.
#[derive(Debug, PartialEq)]
pub(super) enum Parsed {
    /// A command.
    Command(Maypole),
    /// Help, which is this text.
    Help(String),
}

/// Reads the arguments, the program's name left out. Errors are one line.
pub(super) fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Parsed, String> {
    let texts = arguments
        .map(|argument| {
            argument.into_string().map_err(|odd| format!("argument {:?} isn't UTF-8", odd.to_string_lossy()))
        })
        .collect::<Result<Vec<String>, String>>()?;
    let spelled = spelled_out(texts)?;
    let spelled: Vec<&str> = spelled.iter().map(String::as_str).collect();
    match Maypole::from_args(&["maypole"], &spelled) {
        Ok(asked) => Ok(Parsed::Command(asked)),
        Err(exit) if exit.status.is_ok() => Ok(Parsed::Help(exit.output)),
        Err(exit) => Err(exit.output.split_whitespace().collect::<Vec<_>>().join(" ")),
    }
}

/// The arguments as `argh` wants them: every flag with two hyphens, its value apart from it. Refuses flags and commands
/// that there are none of, and names the nearest; what `argh` knows of itself is the only list of them.
fn spelled_out(arguments: Vec<String>) -> Result<Vec<String>, String> {
    let top = Maypole::get_args_info();
    let mut flags = top.flags;
    let mut commands = Some(&top.commands);
    let mut spelled = Vec::new();
    let mut rest = arguments.into_iter();
    while let Some(argument) = rest.next() {
        if matches!(argument.as_str(), "-h" | "-help" | "--help" | "help") {
            // Help is given where it is asked for, whatever else was typed.
            spelled.push("--help".to_owned());
            return Ok(spelled);
        }
        if !argument.starts_with('-') {
            flags = command_flags(commands.take(), &argument)?;
            spelled.push(argument);
            continue;
        }
        let (name, value) = match argument.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (argument.as_str(), None),
        };
        let flag = find_flag(flags, name)?;
        spelled.push(flag.long.to_owned());
        match (&flag.kind, value) {
            (FlagInfoKind::Switch, None) => {}
            (FlagInfoKind::Switch, Some(value)) => {
                return Err(format!("{} takes no value, found {value:?}", flag.long));
            }
            (FlagInfoKind::Option { arg_name }, value) => {
                let value = value.or_else(|| rest.next()).filter(|value| !value.is_empty());
                spelled.push(value.ok_or_else(|| format!("{} needs a value: {} {arg_name}", flag.long, flag.long))?);
            }
        }
    }
    Ok(spelled)
}

fn command_flags<'i>(commands: Option<&'i Vec<SubCommandInfo>>, word: &str) -> Result<&'i [FlagInfo<'i>], String> {
    let Some(commands) = commands else {
        return Err(format!("{word:?} is one word too many, try: maypole --help"));
    };
    if let Some(found) = commands.iter().find(|command| command.name == word) {
        return Ok(found.command.flags);
    }
    let names: Vec<&str> = commands.iter().map(|command| command.name).collect();
    Err(match nearest(word, names.iter().copied()) {
        Some(name) => format!("unknown command {word:?}, did you mean {name}?"),
        None => format!("unknown command {word:?}, known: {}", names.join(", ")),
    })
}

fn find_flag<'i>(flags: &'i [FlagInfo<'i>], written: &str) -> Result<&'i FlagInfo<'i>, String> {
    let name = written.strip_prefix("--").or_else(|| written.strip_prefix('-')).unwrap_or(written);
    let is_meant = |flag: &&FlagInfo| {
        flag.long.strip_prefix("--") == Some(name)
            || flag.short.is_some_and(|short| written.strip_prefix('-') == Some(short.encode_utf8(&mut [0; 4])))
    };
    if let Some(flag) = flags.iter().find(is_meant) {
        return Ok(flag);
    }
    let names: Vec<&str> = flags.iter().map(|flag| flag.long).collect();
    Err(match nearest(name, names.iter().map(|name| name.trim_start_matches('-'))) {
        Some(name) => format!("unknown flag {written}, did you mean --{name}?"),
        None => format!("unknown flag {written}, known here: {}", names.join(", ")),
    })
}

fn port_number(text: &str) -> Result<u16, String> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| digits).ok_or_else(|| "wanted a port from 0 to 65535".to_owned())
}

/// A backend that answers after an hour is no sample of anything.
const LATENCY_MAX: Duration = Duration::from_secs(3600);

fn latency_within_bound(text: &str) -> Result<Duration, String> {
    match parse_duration(text) {
        Ok(latency) if latency <= LATENCY_MAX => Ok(latency),
        Ok(_) => Err("wanted a duration up to 1h".to_owned()),
        Err(error) => Err(format!("wanted a duration such as 250ms: {error}")),
    }
}

fn share_of_one(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| "wanted a number from 0 to 1".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Parsed, String> {
        parse(line.split_whitespace().map(OsString::from))
    }

    fn proxy(config: Option<&str>, command: Option<Command>) -> Parsed {
        Parsed::Command(Maypole { config: config.map(PathBuf::from), version: false, command })
    }

    #[test]
    fn both_spellings_of_a_flag_mean_the_same() {
        for line in ["--config a=b.json", "--config=a=b.json", "-config a=b.json", "-config=a=b.json"] {
            assert_eq!(parsed(line), Ok(proxy(Some("a=b.json"), None)), "{line}");
        }
        let check = |path: &str| Some(Command::Check(Check { config: Some(path.into()) }));
        assert_eq!(parsed("check --config=x"), Ok(proxy(None, check("x"))));
        assert_eq!(
            parsed("check --config --odd=name"),
            Ok(proxy(None, check("--odd=name"))),
            "a value is left as it is"
        );
        assert_eq!(parsed("--config x check"), Ok(proxy(Some("x"), Some(Command::Check(Check { config: None })))));
        let demo = Some(Command::Demo(Demo { port: 1, admin_port: 2, tls: true, tls_port: 3 }));
        assert_eq!(parsed("demo --admin-port=2 -port 1 -tls --tls-port 3"), Ok(proxy(None, demo)));
        let backend =
            Backend { port: 8082, name: Some("b".to_owned()), latency: Duration::from_millis(250), failure_rate: 0.5 };
        assert_eq!(
            parsed("backend -port 8082 -name=b --latency 250ms -failure-rate .5"),
            Ok(proxy(None, Some(Command::Backend(backend))))
        );
    }

    #[test]
    fn defaults_stand_where_nothing_is_typed() {
        assert_eq!(parsed(""), Ok(proxy(None, None)));
        let demo = Demo { port: 8080, admin_port: 8081, tls: false, tls_port: 8443 };
        assert_eq!(parsed("demo"), Ok(proxy(None, Some(Command::Demo(demo)))));
        let backend = Backend { port: 8082, name: None, latency: Duration::ZERO, failure_rate: 0.0 };
        assert_eq!(parsed("backend"), Ok(proxy(None, Some(Command::Backend(backend)))));
    }

    #[test]
    fn help_is_given_whatever_else_was_typed() {
        for (line, wanted) in [
            ("--help", "Usage: maypole [--config <FILE>]"),
            ("-h", "Usage: maypole [--config <FILE>]"),
            ("help", "Usage: maypole [--config <FILE>]"),
            ("demo -h --frob", "Usage: maypole demo"),
            ("backend --port 1 --help", "Usage: maypole backend"),
        ] {
            let Ok(Parsed::Help(text)) = parsed(line) else { panic!("{line}: no help") };
            assert!(text.starts_with(wanted), "{line}: {text}");
        }
    }

    #[test]
    fn bad_usage_is_told_in_one_line() {
        let cases = [
            ("--confg x", "unknown flag --confg, did you mean --config?"),
            ("-cofnig x", "unknown flag -cofnig, did you mean --config?"),
            ("--port 1", "unknown flag --port, known here: --help, --config, --version"),
            ("demo --prot=1", "unknown flag --prot, did you mean --port?"),
            ("-", "unknown flag -, known here: --help, --config, --version"),
            ("--", "unknown flag --, known here: --help, --config, --version"),
            ("dmeo", "unknown command \"dmeo\", did you mean demo?"),
            ("conf.json", "unknown command \"conf.json\", known: check, demo, backend"),
            ("demo backend", "\"backend\" is one word too many, try: maypole --help"),
            ("--config", "--config needs a value: --config FILE"),
            ("--config=", "--config needs a value: --config FILE"),
            ("--version=yes", "--version takes no value, found \"yes\""),
            ("demo --port 65536", "Error parsing option '--port' with value '65536': wanted a port from 0 to 65535"),
            ("demo --port +1", "Error parsing option '--port' with value '+1': wanted a port from 0 to 65535"),
            ("demo --port 1 --port 2", "Error parsing option '--port' with value '2': duplicate values provided"),
            (
                "backend --latency 5",
                "Error parsing option '--latency' with value '5': wanted a duration such as 250ms: a number needs a \
                 unit after it (ns, us, ms, s, m, h)",
            ),
            (
                "backend --failure-rate NaN",
                "Error parsing option '--failure-rate' with value 'NaN': wanted a number from 0 to 1",
            ),
        ];
        for (line, wanted) in cases {
            assert_eq!(parsed(line), Err(wanted.to_owned()), "{line}");
        }
    }
}
