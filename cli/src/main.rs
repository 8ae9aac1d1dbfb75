//! The binary `pillion`: one file that is the person's tool, the sidecar, the CA, the init step and the example apps.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    pillion_cli::main_with(std::env::args_os())
}
