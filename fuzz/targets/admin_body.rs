#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| properties::admin_body::check(bytes));
