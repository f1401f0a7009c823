//! Committed files equal what the code generates.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

#[test]
fn the_generated_files_are_those_that_the_code_makes() {
    if let Err(error) = xtask::codegen::run(true) {
        panic!("{error:#}");
    }
}
