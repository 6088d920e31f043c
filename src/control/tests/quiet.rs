//! Nothing is logged under a lock: a thread that logs may have to wait, and all that need the lock with it.

use log::{Log, Metadata, Record};
use parking_lot::RwLock;

use super::*;
use crate::control::entry::State;

/// What the test looks at when a line is logged, by whichever thread: one that found another's news tells them.
static SEEN_BY: RwLock<Option<Look>> = RwLock::new(None);

type Look = Box<dyn Fn(&str) + Send + Sync>;

struct Watching;

impl Log for Watching {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        if let Some(look) = &*SEEN_BY.read() {
            look(&record.args().to_string());
        }
    }

    fn flush(&self) {}
}

#[test]
fn nothing_is_logged_under_a_lock() {
    log::set_logger(&Watching).expect("no other logger");
    log::set_max_level(log::LevelFilter::Trace);
    let (_serving, url) = good();
    let scene = Scene::with(std::slice::from_ref(&url));
    let (control, quiet) = (Arc::clone(&scene.control), Arc::new(AtomicU64::new(0)));
    let (book, served) = (Arc::clone(&quiet), url.trim_start_matches("http://").to_owned());
    *SEEN_BY.write() = Some(Box::new(move |line| {
        // Lines of other tests, which run beside this one, tell of other backends.
        if !line.contains("quiet") && !line.contains(&served) {
            return;
        }
        // Another thread may hold them, and lets go of them; the one that logs can't meanwhile.
        let begin = Instant::now();
        while control.changing.is_locked() || control.registry.is_locked() {
            assert!(begin.elapsed() < SOON, "a line under a lock");
            thread::yield_now();
        }
        book.fetch_add(1, Ordering::SeqCst);
    }));
    let name = "quiet".to_owned();
    let url = BackendUrl::parse("http://127.0.0.1:1").unwrap();
    let backend = BackendConfig { name: name.clone(), ..BackendConfig::at(url) };
    let which = Which::Name(&name);
    scene.control.add(backend).unwrap();
    let change = BackendChange { weight: Some(7), state: Some(State::Drain), ..BackendChange::default() };
    scene.control.change(which, change).unwrap();
    scene.control.remove(which).unwrap();
    let findings = Findings { registry: Arc::clone(&scene.control.registry), refresh: Box::new(|_| ()) };
    let id = scene.pool.snapshot.load().backends().next().unwrap().id;
    findings.refused(id);
    // What a thread found to tell it may not have told yet; one that can't has panicked, and its line is missing.
    let begin = Instant::now();
    while quiet.load(Ordering::SeqCst) < 5 {
        assert!(begin.elapsed() < SOON, "{quiet:?} lines");
        thread::yield_now();
    }
    *SEEN_BY.write() = None;
}
