//! The same executable in which a mistake or a crash can be chosen. A file of its own, because Cargo warns about two programs of one file.

#![forbid(unsafe_code)]

#[path = "main.rs"]
mod shop;

fn main() -> std::process::ExitCode {
    shop::main()
}
