//! The certificate authority of the mesh; everything is in the library.

fn main() -> std::process::ExitCode {
    pillion_ca::main_with(std::env::args_os())
}
