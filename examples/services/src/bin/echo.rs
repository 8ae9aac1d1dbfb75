//! The `echo` app as a program of its own.

use std::process::ExitCode;

fn main() -> ExitCode {
    pillion_example_services::main_with(std::iter::once("echo".into()).chain(std::env::args_os().skip(1)))
}
