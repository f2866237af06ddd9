#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| (carillon_fuzzing::link_frames::TARGET.run)(
    data,
    &mut carillon_fuzzing::Reached::ignored()
));
