//! The queue before a stream that stands still, over streams that do so on purpose.

use std::sync::atomic::AtomicBool;

use super::*;

const SOON: Duration = Duration::from_secs(10);

/// A stream that stands still while its lock is held, and refuses what it is told to.
#[derive(Clone, Default)]
struct Stream {
    text: Arc<Mutex<Vec<u8>>>,
    refuses: Arc<AtomicBool>,
    would_block: Arc<AtomicUsize>,
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.refuses.load(Ordering::SeqCst) {
            return Err(ErrorKind::StorageFull.into());
        }
        let less = |left: usize| left.checked_sub(1);
        if self.would_block.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less).is_ok() {
            return Err(ErrorKind::WouldBlock.into());
        }
        // A pipe takes what it has room for.
        let n = bytes.len().min(1000);
        self.text.lock().extend_from_slice(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Stream {
    fn text(&self) -> String {
        String::from_utf8(self.text.lock().clone()).unwrap()
    }
}

fn line(number: usize) -> Vec<u8> {
    format!("line {number}\n").into_bytes()
}

fn log_writer(stream: &Stream) -> LogWriter {
    LogWriter::start("test-log_writer", stream.clone()).unwrap()
}

#[test]
fn lines_come_out_whole_and_in_their_order() {
    let stream = Stream::default();
    stream.would_block.store(2, Ordering::SeqCst);
    let log_writer = log_writer(&stream);
    let long = [b"x".repeat(5000), b"\n".to_vec()].concat();
    log_writer.push(long.clone());
    (0..100).for_each(|number| log_writer.push(line(number)));
    assert!(log_writer.flush(SOON));
    let want: Vec<u8> = long.into_iter().chain((0..100).flat_map(line)).collect();
    assert_eq!(stream.text().into_bytes(), want);
}

#[test]
fn nobody_waits_for_a_stream_that_stands_still_and_what_was_dropped_is_told_when_it_gets_on() {
    let stream = Stream::default();
    let log_writer = log_writer(&stream);
    let held = stream.text.lock();
    let pushed = WAITING_LINES_MAX + 1000;
    // The thread has one in hand before the others come, so that its place is free from the start.
    log_writer.push(line(0));
    let deadline = Instant::now() + SOON;
    while !log_writer.lines.is_empty() {
        assert!(Instant::now() < deadline, "the thread takes the first line");
        thread::yield_now();
    }
    (1..pushed).for_each(|number| log_writer.push(line(number)));
    assert!(!log_writer.flush(Duration::from_millis(20)));
    // It has waited once, and nothing has moved since.
    let begin = Instant::now();
    assert!(!log_writer.flush(SOON));
    assert!(begin.elapsed() < SOON / 2);
    drop(held);
    // Lines that are pushed later come behind.
    log_writer.push(b"after\n".to_vec());
    while !log_writer.flush(SOON) {}
    let text = stream.text();
    let mut written = 0;
    let mut dropped = 0;
    for found in text.lines() {
        match found
            .strip_prefix("maypole: ")
            .and_then(|rest| rest.strip_suffix(" lines were dropped here, since they were not taken in time"))
        {
            Some(number) => dropped += number.parse::<usize>().unwrap(),
            None if found == "after" => {}
            None => {
                assert_eq!(found, format!("line {written}"));
                written += 1;
            }
        }
    }
    let after = usize::from(text.contains("after\n"));
    assert_eq!(written + dropped + after, pushed + 1, "{written} written, {dropped} told as dropped");
    assert!((999..=1000).contains(&dropped), "{dropped}");
}

#[test]
fn what_waits_is_bounded_in_bytes_too() {
    let stream = Stream::default();
    let log_writer = log_writer(&stream);
    let held = stream.text.lock();
    (0..64).for_each(|_| log_writer.push(vec![b'x'; WAITING_BYTES_MAX / 16]));
    let waiting = log_writer.state.waiting_bytes.load(Ordering::SeqCst);
    assert!(waiting <= WAITING_BYTES_MAX && waiting > WAITING_BYTES_MAX / 2, "{waiting}");
    log_writer.push(vec![b'x'; WAITING_BYTES_MAX + 1]);
    drop(held);
    while !log_writer.flush(SOON) {}
    assert_eq!(log_writer.state.waiting_bytes.load(Ordering::SeqCst), 0);
}

#[test]
fn lines_that_the_stream_refuses_are_told_when_it_takes_some_again() {
    let stream = Stream::default();
    let log_writer = log_writer(&stream);
    stream.refuses.store(true, Ordering::SeqCst);
    (0..3).for_each(|number| log_writer.push(line(number)));
    assert!(log_writer.flush(SOON), "a full disk holds no thread up");
    stream.refuses.store(false, Ordering::SeqCst);
    log_writer.push(line(3));
    assert!(log_writer.flush(SOON));
    assert_eq!(stream.text(), "line 3\nmaypole: 3 lines were dropped here, since they were not taken in time\n");
}
