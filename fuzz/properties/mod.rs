//! What must hold for all bytes, one module a fuzz target, each with a function `check` that panics where it doesn't.
//! The targets under `fuzz/targets` feed them from libFuzzer; `tests/fuzz_seeds.rs` feeds them the seeds, so that a
//! plain `cargo test` holds every property to every input that was ever of interest.

pub mod admin_body;
pub mod chunked;
pub mod config;
pub mod differential_head;
mod one_hop;
pub mod request_head;
pub mod response_head;
mod strict;
pub mod tls_records;
mod tls_scene;

/// As small as the stacks of the threads on which the product reads what comes from outside: the admin API's.
const STACK_BYTES: usize = 256 * 1024;

/// Holds a property to some bytes, on a stack no larger than the product has: what recurses as deep as the bytes say
/// fails here as it would there.
pub fn hold(check: fn(&[u8]), bytes: &[u8]) {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, || check(bytes));
        if let Err(panic) = thread.expect("a thread").join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// Places to cut an input at, drawn from its own bytes, so that an input is always judged alike.
fn cuts(bytes: &[u8], count: usize) -> Vec<usize> {
    // FNV-1a, then SplitMix64's step.
    let mut state = bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |state, &byte| (state ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    let mut cuts: Vec<usize> = (0..count)
        .map(|_| {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            (mixed >> 33) as usize % (bytes.len() + 1)
        })
        .collect();
    cuts.sort_unstable();
    cuts
}
