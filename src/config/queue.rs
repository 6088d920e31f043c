//! The object `queue`: where requests wait that find no room at the backends.

use std::time::Duration;

use super::checked::Queue;
use super::fields::Fields;
use super::schema::{QUEUE, home_of};
use super::values::SHORTEST;

/// Each that waits holds a client's connection.
const SIZE_MAX: u64 = 1_000_000;
/// No client waits longer.
const TIMEOUT_MAX: Duration = Duration::from_secs(3600);

/// Reads `queue`; what is missing keeps its default.
pub(super) fn read(root: &mut Fields, queue: &mut Queue) {
    let Some(mut fields) = root.object("queue", QUEUE, home_of) else { return };
    fields.whole("size", 0..=SIZE_MAX, &mut queue.size);
    fields.duration("timeout", SHORTEST..=TIMEOUT_MAX, &mut queue.timeout);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    #[test]
    fn a_queue_has_a_size_and_a_timeout_and_both_have_defaults() {
        let read = |text: &str| parse(text).unwrap_or_else(|errors| panic!("{errors}")).queue;
        assert_eq!(read("{}"), Queue { size: 1024, timeout: Duration::from_secs(1) });
        assert_eq!(read(r#"{"queue": {"size": 0}}"#), Queue { size: 0, timeout: Duration::from_secs(1) });
        let full = r#"{"queue": {"size": 1000000, "timeout": "250ms"}}"#;
        assert_eq!(read(full), Queue { size: 1_000_000, timeout: Duration::from_millis(250) });
    }

    #[test]
    fn what_is_wrong_with_a_queue_is_told() {
        for (text, want) in [
            (r#"{"queue": {"size": 1000001}}"#, "queue.size: found 1000001, wanted a whole number from 0 to 1000000"),
            (r#"{"queue": {"timeout": "0s"}}"#, "queue.timeout: found \"0s\", wanted a duration from 1ms to 1h"),
            (r#"{"queue": 5}"#, "queue: found 5, wanted an object"),
            (
                r#"{"limits": {"max_in_flight": -1}}"#,
                "limits.max_in_flight: found -1, wanted a whole number from 0 to 10000000",
            ),
            (r#"{"limits": {"size": 5}}"#, "limits.size: unknown field here, it belongs to \"queue\""),
        ] {
            let errors = parse(text).expect_err(text);
            let told: Vec<String> = errors.errors.iter().map(ToString::to_string).collect();
            assert_eq!(told, [want], "{text}");
        }
    }
}
