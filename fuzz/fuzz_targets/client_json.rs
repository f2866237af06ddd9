#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| (carillon_fuzzing::client_json::TARGET.run)(
    data,
    &mut carillon_fuzzing::Reached::ignored()
));
