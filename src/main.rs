//! The `coronet` command: arguments in, one sentence and an exit code out when something fails.

mod cli;

fn main() -> std::process::ExitCode {
    cli::main()
}
