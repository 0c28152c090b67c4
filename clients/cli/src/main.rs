//! `nullspace`: sandboxes from the command line.

mod args;
mod exec;
mod exit;
mod output;
mod sandbox;
mod signals;
mod values;

use std::process::ExitCode;

use clap::Parser as _;
use nullspace::Client;

use crate::{
    args::{Cli, Group, SandboxCommand},
    output::Printer,
};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return exit::usage(&error),
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return exit::failed(&error.to_string()),
    };
    let code = runtime.block_on(run(cli));
    // A read of standard input that waits cannot be given up; it ends with the process.
    runtime.shutdown_background();
    code
}

async fn run(cli: Cli) -> ExitCode {
    let Group::Sandbox { command } = cli.group;
    let is_exec = matches!(command, SandboxCommand::Exec(_));
    let printer = Printer { json: cli.json, failure: if is_exec { exit::NOT_THE_PROGRAM } else { exit::FAILED } };
    let outcome = match client(cli.url) {
        Ok(client) => dispatch(&client, command, printer).await,
        Err(error) => Err(error),
    };
    match outcome {
        Ok(code) => code,
        Err(error) if is_exec => exit::of_exec(&error, printer),
        Err(error) => exit::of(&error, printer),
    }
}

fn client(url: Option<String>) -> nullspace::Result<Client> {
    match url {
        Some(url) => Client::builder().url(url).build(),
        None => Client::from_env(),
    }
}

async fn dispatch(client: &Client, command: SandboxCommand, printer: Printer) -> nullspace::Result<ExitCode> {
    match command {
        SandboxCommand::Create(create) => sandbox::create(client, create, printer).await?,
        SandboxCommand::List(list) => sandbox::list(client, list, printer).await?,
        SandboxCommand::Get { sandbox } => sandbox::get(client, sandbox, printer).await?,
        SandboxCommand::Kill { sandboxes } => sandbox::kill(client, sandboxes, printer).await?,
        SandboxCommand::Timeout { sandbox, timeout } => sandbox::timeout(client, sandbox, timeout, printer).await?,
        SandboxCommand::Exec(exec) => return exec::exec(client, exec, printer).await,
    }
    Ok(ExitCode::SUCCESS)
}
