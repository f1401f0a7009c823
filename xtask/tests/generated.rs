//! Committed files equal what the code generates.
#![allow(clippy::panic, reason = "tests")]

#[test]
fn the_committed_definitions_are_those_of_the_code() {
    if let Err(error) = xtask::codegen::run(true) {
        panic!("{error:#}");
    }
}
