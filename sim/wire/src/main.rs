//! The simulator `keelson-sim`.

use std::process::ExitCode;

fn main() -> ExitCode {
    wire::cli::main()
}
