//! Nothing is logged under a lock: who logs may have to wait, and everybody who needs the lock with it.

use std::cell::RefCell;

use log::{Log, Metadata, Record};

use super::*;
use crate::control::entry::State;

thread_local! {
    /// What a test wants to see of each line that its own thread logs.
    static SEEN_BY: RefCell<Option<Box<dyn FnMut()>>> = const { RefCell::new(None) };
}

struct Watching;

impl Log for Watching {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, _: &Record<'_>) {
        SEEN_BY.with_borrow_mut(|seen_by| seen_by.as_mut().map(|look| look()));
    }

    fn flush(&self) {}
}

#[test]
fn nothing_is_logged_under_a_lock() {
    log::set_logger(&Watching).expect("nobody else sets a logger");
    log::set_max_level(log::LevelFilter::Trace);
    let (_serving, url) = good();
    let scene = Scene::with(std::slice::from_ref(&url));
    let (control, lines) = (Arc::clone(&scene.control), Arc::new(AtomicU64::new(0)));
    let book = Arc::clone(&lines);
    SEEN_BY.set(Some(Box::new(move || {
        // Another thread may hold them, and lets go of them; this one can't while it logs.
        let begin = Instant::now();
        while control.changing.is_locked() || control.registry.is_locked() {
            assert!(begin.elapsed() < SOON, "a line under a lock");
            thread::yield_now();
        }
        book.fetch_add(1, Ordering::SeqCst);
    })));
    let backend = BackendConfig::at(BackendUrl::parse("http://127.0.0.1:1").unwrap());
    let name = backend.name.clone();
    let which = Which::Name(&name);
    scene.control.add(backend).unwrap();
    let change = BackendChange { weight: Some(7), state: Some(State::Drain), ..BackendChange::default() };
    scene.control.change(which, change).unwrap();
    scene.control.remove(which).unwrap();
    let findings = Findings { registry: Arc::clone(&scene.control.registry), refresh: Box::new(|_| ()) };
    let id = scene.fleet.snapshot.load().backends().next().unwrap().id;
    findings.refused(id);
    SEEN_BY.set(None);
    assert!(lines.load(Ordering::SeqCst) >= 5, "{lines:?} lines");
}
