//! The program's output on standard output.

/// Prints one line of output.
#[expect(
    clippy::print_stdout,
    reason = "this is the output of the program, not a log"
)]
pub(crate) fn say(line: &str) {
    println!("{line}");
}
