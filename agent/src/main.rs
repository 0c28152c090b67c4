//! PID 1 of a sandbox.

use std::{process::ExitCode, time::Duration};

use nullspace_agent::{Agent, Config};

/// Threads for file work. They exist only while there is some.
const FILE_THREADS: usize = 8;
/// How long such a thread waits for more.
const FILE_THREAD_IDLE: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    nullspace_agent::begin_clean();
    // What commands begin with; files that the agent makes have explicit modes.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(FILE_THREADS)
        .thread_keep_alive(FILE_THREAD_IDLE)
        .build();
    let served =
        runtime.and_then(|runtime| runtime.block_on(async { Agent::bind(Config::sandbox()).await?.run().await }));
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("nullspace-agent: {error}");
            ExitCode::FAILURE
        }
    }
}
