#![no_main]

libfuzzer_sys::fuzz_target!(
    init: sluice_tests::fuzz::prepare(),
    |input: &[u8]| {
        (sluice_tests::fuzz::FRAME.run)(input);
    }
);
