//! The log: lines on stderr. A thread that logs never waits for their reader, since it may be a worker, or one that workers or
//! operators wait for; the only thread that writes is the log writer's.

mod filter;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::panic::{self, PanicHookInfo};
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

use env_logger::{Target, WriteStyle};

use self::filter::Filter;
use crate::observe::LogWriter;

/// How long lines that have been logged are waited for when the process ends, or may be about to.
const LAST_LINES_WAIT: Duration = Duration::from_millis(500);

/// A longer line is cut.
const LINE_BYTES_MAX: usize = 64 * 1024;

static WRITER: OnceLock<LogWriter> = OnceLock::new();

/// From now on what is logged, and what panics say, goes to stderr by a thread of its own. To be called once signals are
/// blocked. A second call, by a test that runs several proxies in its process, changes nothing.
///
/// # Errors
/// The system has no thread to give.
pub(super) fn start() -> io::Result<()> {
    if WRITER.get().is_some() {
        return Ok(());
    }
    let writer = LogWriter::start("maypole-log", io::stderr())?;
    if WRITER.set(writer).is_err() {
        return Ok(());
    }
    let filter = Filter::parse(std::env::var("RUST_LOG").ok().as_deref());
    let mut builder = env_logger::Builder::new();
    for (name, level) in &filter.levels {
        builder.filter(name.as_deref(), *level);
    }
    let style = if io::stderr().is_terminal() { WriteStyle::Auto } else { WriteStyle::Never };
    builder.write_style(style).target(Target::Pipe(Box::new(Line))).try_init().map_err(io::Error::other)?;
    panic::set_hook(Box::new(tell_panic));
    for wrong in filter.not_understood {
        log::warn!("RUST_LOG: {wrong:?} is not understood");
    }
    Ok(())
}

/// Waits a moment for the lines that have been logged so far, in case that the process ends now.
pub(super) fn flush() {
    if let Some(writer) = WRITER.get() {
        writer.flush(LAST_LINES_WAIT);
    }
}

/// Where formatted lines go, each in one piece.
struct Line;

impl Write for Line {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        push(line.to_vec());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn push(mut line: Vec<u8>) {
    if line.len() > LINE_BYTES_MAX {
        line.truncate(LINE_BYTES_MAX - 1);
        line.push(b'\n');
    }
    if let Some(writer) = WRITER.get() {
        writer.push(line);
    }
}

/// As the standard library tells a panic, but by the log writer: it would wait for stderr, on whatever thread it is. What comes
/// after may be the process's end, so the lines are waited for; only once if they aren't taken.
fn tell_panic(panic: &PanicHookInfo<'_>) {
    let thread = thread::current();
    let name = thread.name().unwrap_or("<unnamed>");
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    let payload = panic.payload();
    let text = payload.downcast_ref::<String>().map(String::as_str);
    let message = text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("no message");
    let mut text = format!("thread '{name}' panicked at {place}:\n{message}\n");
    let backtrace = Backtrace::capture();
    if backtrace.status() == BacktraceStatus::Captured {
        // Writing to a string can't fail.
        let _ = writeln!(text, "{backtrace}");
    }
    push(text.into_bytes());
    flush();
}
