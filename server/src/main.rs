//! nullspaced: serves the API and runs the sandboxes of one host.

mod api;
mod caller;
mod client_config;
mod config;
mod fault;
mod front;
mod health;
mod instance;
mod keys;
mod quota;
mod route;
mod runtime;
mod sandbox;
mod server;
mod size;
mod store;
#[cfg(test)]
mod tests;

use std::process::ExitCode;

use clap::Parser as _;
use config::{Action, Cli, Config, Install};
use nullspace_proto::{Error, Result};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::{runtime::assets::Assets, server::Server};

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Action::Serve(settings) => settings.resolve().and_then(serve),
        Action::Health { url } => block_on(health::check(&url)),
        Action::Install { assets_dir, what } => install(&Assets::new(assets_dir), what),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("nullspaced: {}", error.message());
            ExitCode::FAILURE
        }
    }
}

fn serve(config: Config) -> Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_new(&config.log);
    let filter = filter.map_err(|error| Error::invalid_field("log", error.to_string()))?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false);
    // A log that cannot be written, on a full disk, must not end what is logged:
    // the library would say so on the same standard error, and panic.
    log.log_internal_errors(false).init();
    block_on(async {
        let stop = stop_signal()?;
        Server::build(config).await?.run(stop).await
    })
}

fn block_on(work: impl Future<Output = Result<()>>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.map_err(|error| Error::internal(format!("no runtime: {error}")))?.block_on(work)
}

/// TERM and INT stop the server.
fn stop_signal() -> Result<CancellationToken> {
    let stop = CancellationToken::new();
    for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
        let mut signals = signal(kind).map_err(|error| Error::internal(format!("signals: {error}")))?;
        let stop = stop.clone();
        tokio::spawn(async move {
            signals.recv().await;
            stop.cancel();
        });
    }
    Ok(stop)
}

fn install(assets: &Assets, what: Install) -> Result<()> {
    let digest = match &what {
        Install::Agent { file } => assets.install_agent(file),
        Install::Engine { file } => assets.install_engine(file),
        Install::Template { name, rootfs } => assets.install_template(name, rootfs),
    };
    println!("{}", digest.map_err(|error| Error::internal(format!("{what:?}: {error}")))?);
    Ok(())
}
