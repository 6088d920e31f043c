//! When a head that comes in pieces is worth another look: parsing it anew for each of its lines would cost as much as the
//! square of its length, and its sender chooses the pieces.

/// A look is taken when what is new has this part of what was looked at before, so that all looks together cost no more than
/// so many times the head's length.
const PARTS: usize = 8;

/// Whether to parse the head at the front of `bytes`, of which `looked_at` were there the last time: a line has ended, and
/// either the whole head has, or there is enough news.
pub(super) fn is_worth_a_look(bytes: &[u8], looked_at: usize) -> bool {
    let Some(news) = bytes.get(looked_at..).filter(|_| looked_at > 0) else { return true };
    memchr::memchr(b'\n', news).is_some()
        && (news.len() * PARTS >= looked_at || has_empty_line(&bytes[looked_at.saturating_sub(2)..]))
}

fn has_empty_line(bytes: &[u8]) -> bool {
    let ends = |at| matches!(&bytes[at + 1..], [b'\n', ..] | [b'\r', b'\n', ..]);
    memchr::memchr_iter(b'\n', bytes).any(ends)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many bytes are parsed of a head that comes in pieces of so many bytes, and whether its end is seen at once.
    fn parsed_bytes(head: &[u8], piece: usize) -> (usize, bool) {
        let (mut looked_at, mut parsed) = (0, 0);
        let mut end = piece.min(head.len());
        loop {
            if is_worth_a_look(&head[..end], looked_at) {
                looked_at = end;
                parsed += end;
            }
            if end == head.len() {
                return (parsed, looked_at == end);
            }
            end = (end + piece).min(head.len());
        }
    }

    #[test]
    fn all_looks_together_cost_a_few_times_the_heads_length_and_its_end_is_seen_at_once() {
        for line in ["a:\r\n", "a: b\r\n", "X-A: 0123456789\r\n"] {
            let head = format!("GET / HTTP/1.1\r\n{}\r\n", line.repeat(16_000 / line.len()));
            for piece in [1, 2, 3, 4, 7, 100, 1000, 16_000] {
                let (parsed, seen) = parsed_bytes(head.as_bytes(), piece);
                assert!(parsed <= (PARTS + 3) * head.len(), "{parsed} bytes of {} by {piece}", head.len());
                assert!(seen, "{line} by {piece}");
            }
        }
    }

    #[test]
    fn an_end_of_any_form_is_seen() {
        let before = "x".repeat(1000);
        for (first, second) in [("\r\n\r", "\n"), ("\r", "\n\r\n"), ("\n", "\n"), ("\r\n", "\r\n"), ("\r\n", "\n")] {
            let looked_at = before.len() + first.len();
            assert!(is_worth_a_look(format!("{before}{first}{second}").as_bytes(), looked_at), "{first:?} {second:?}");
        }
        assert!(!is_worth_a_look(format!("{before}\r\nA: b\r\n").as_bytes(), 1000));
        assert!(!is_worth_a_look(format!("{before}{before}").as_bytes(), 1000));
    }
}
