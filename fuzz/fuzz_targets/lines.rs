#![no_main]

mod counted;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| counted::run(firstseen::fuzzing::lines, bytes));
