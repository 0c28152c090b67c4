//! What can be asked for. The comments are the help.

use clap::{Args, Parser, Subcommand};
use nullspace::SandboxState;

use crate::values::{Lifetime, Metadata, Pair};

/// Sandboxes from the command line.
///
/// Server and key come from NULLSPACE_API_URL and NULLSPACE_API_KEY, `.env` in
/// the working directory, ~/.config/nullspace/config.json or
/// ~/.nullspace/config.json; certificates to trust for https from the file that
/// NULLSPACE_CA_CERT names.
#[derive(Debug, Parser)]
#[command(name = "nullspace", version, max_term_width = 100, after_help = EXIT_CODES)]
pub struct Cli {
    /// The server, such as http://localhost:3000
    #[arg(long, global = true, value_name = "URL")]
    pub url: Option<String>,
    /// Print JSON, also for errors (on standard error)
    #[arg(long, global = true)]
    pub json: bool,
    #[command(subcommand)]
    pub group: Group,
}

const EXIT_CODES: &str = "\
Exit codes:
  0  success
  1  another failure
  2  bad arguments or a bad request
  3  not found
  4  no API key, or a bad one
  5  not permitted
  6  a limit is reached
  7  a conflict with the present state
  8  the time is up
`sandbox exec` has codes of its own: see its help.";

#[derive(Debug, Subcommand)]
pub enum Group {
    /// Make, find, use and end sandboxes
    Sandbox {
        #[command(subcommand)]
        command: SandboxCommand,
    },
}

#[derive(Debug, Subcommand)]
pub enum SandboxCommand {
    /// Make a sandbox and print its id when it runs
    Create(Create),
    /// List sandboxes, newest first
    List(List),
    /// Show a sandbox
    Get {
        /// Its id
        sandbox: String,
    },
    /// Destroy sandboxes; one that is gone already is fine
    Kill {
        /// Their ids
        #[arg(required = true, value_name = "SANDBOX")]
        sandboxes: Vec<String>,
    },
    /// Set how long a sandbox lives from now
    Timeout {
        /// Its id
        sandbox: String,
        /// Such as 90, 90s, 10m, 1h or 7d; 0 ends it now; `none` lets it live for ever
        #[arg(value_name = "DURATION")]
        timeout: Lifetime,
    },
    /// Run a program in a sandbox, with its input, output, signals and exit code
    ///
    /// Standard input, output and error go through as they are, byte by byte. A
    /// connection that breaks is made again, with no byte lost and none twice.
    /// INT, TERM, HUP and QUIT are passed on to the program. With --json its
    /// output is kept to the end and printed in one object.
    Exec(Exec),
}

#[derive(Debug, Args)]
pub struct Create {
    /// What to make it from
    #[arg(long, default_value = "base", value_name = "NAME")]
    pub template: String,
    /// Processors, 1 to 64
    #[arg(long, value_name = "N")]
    pub vcpus: Option<i32>,
    /// Memory in MiB, from 128
    #[arg(long, value_name = "MIB")]
    pub memory_mib: Option<i32>,
    /// Writable disk in MiB, from 512
    #[arg(long, value_name = "MIB")]
    pub disk_mib: Option<i32>,
    /// How long it lives, such as 90, 10m or 1h; `none` for ever [default: 300s]
    #[arg(long, value_name = "DURATION")]
    pub timeout: Option<Lifetime>,
    /// A variable for everything that runs in it; may be repeated
    #[arg(long, short, value_name = "NAME=VALUE")]
    pub env: Vec<Pair>,
    /// A member of its metadata, as text; may be repeated
    #[arg(long, value_name = "NAME=VALUE")]
    pub metadata: Vec<Pair>,
    /// Its metadata, as a JSON object
    #[arg(long, value_name = "JSON")]
    pub metadata_json: Option<Metadata>,
    /// Absolute directory where its commands start
    #[arg(long, value_name = "PATH")]
    pub cwd: Option<String>,
    /// It may not reach other networks
    #[arg(long)]
    pub no_internet: bool,
    /// A second call with the same key gives the same sandbox, for 24 h
    #[arg(long, value_name = "KEY")]
    pub idempotency_key: Option<String>,
}

#[derive(Debug, Args)]
pub struct List {
    /// Only in this state; may be repeated [default: all but destroyed]
    #[arg(long, value_name = "STATE", value_parser = crate::values::state)]
    pub state: Vec<SandboxState>,
    /// Only from this template
    #[arg(long, value_name = "NAME")]
    pub template: Option<String>,
    /// Only with this member of metadata, as text; may be repeated
    #[arg(long, value_name = "NAME=VALUE")]
    pub metadata: Vec<Pair>,
    /// At most so many
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
}

#[derive(Debug, Args)]
#[command(after_help = EXEC_EXIT_CODES)]
pub struct Exec {
    /// The sandbox's id
    pub sandbox: String,
    /// User name or number [default: the template's]
    #[arg(long, short, value_name = "USER")]
    pub user: Option<String>,
    /// Absolute directory to start in [default: the sandbox's]
    #[arg(long, value_name = "PATH")]
    pub cwd: Option<String>,
    /// A variable for the program; may be repeated
    #[arg(long, short, value_name = "NAME=VALUE")]
    pub env: Vec<Pair>,
    /// End the program after this, such as 90, 10m or 1h [default: none]
    #[arg(long, value_name = "DURATION")]
    pub timeout: Option<Lifetime>,
    /// Do not read standard input: the program's is /dev/null
    #[arg(long, short)]
    pub no_stdin: bool,
    /// The program and its arguments. There is no shell: use `sh -c LINE`
    #[arg(last = true, required = true, value_name = "PROGRAM")]
    pub command: Vec<String>,
}

const EXEC_EXIT_CODES: &str = "\
Exit codes:
  the program's own, or 128 + n when signal n ended it, and
  124  its --timeout ended it
  125  a failure of this command or of the server, told on standard error
  126  the program cannot be executed
  127  the program was not found";
