//! Runs a program as if it were here.

use std::{io, process::ExitCode};

use nullspace::{Bytes, Client, Event, Events, OutputStream, Reason, Result, Signal};
use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio_stream::StreamExt as _;
use tokio_util::io::ReaderStream;

use crate::{
    args::Exec,
    exit,
    output::{Printer, exit_json},
    signals::{Begun, Signals, end},
    values::Lifetime,
};

/// Bytes of standard input that are read at once.
const READ_BYTES: usize = 64 << 10;

/// How the following of a program ended.
enum End {
    /// As the program did.
    Exit(u8),
    /// Nobody takes its output any more.
    Unread(u8),
}

/// Runs it, and ends as it does.
pub async fn exec(client: &Client, args: Exec, printer: Printer) -> Result<ExitCode> {
    let signals = match Signals::catch() {
        Ok(signals) => signals,
        Err(error) => return Ok(exit::failed(&error.to_string())),
    };
    let mut argv = args.command.into_iter();
    let commands = client.sandbox(args.sandbox).commands();
    let mut run = commands.run(argv.next().unwrap_or_default()).args(argv);
    let command = run.handle();
    run = run.timeout(args.timeout.and_then(|Lifetime(timeout)| timeout));
    run = args.env.into_iter().fold(run, |run, pair| run.env(pair.name, pair.value));
    if let Some(user) = args.user {
        run = run.user(user);
    }
    if let Some(cwd) = args.cwd {
        run = run.cwd(cwd);
    }
    if !args.no_stdin {
        run = run.input_stream(ReaderStream::with_capacity(tokio::io::stdin(), READ_BYTES));
    }
    let begun = Begun::default();
    let following = follow(run.events(), &begun, printer);
    let ended = tokio::select! {
        ended = following => ended,
        signal = signals.pass_on(&command, &begun) => return Ok(ExitCode::from(after(signal))),
    };
    match ended {
        Ok(End::Exit(code)) => Ok(ExitCode::from(code)),
        Ok(End::Unread(code)) => {
            end(&command).await;
            Ok(ExitCode::from(code))
        }
        Err(error) => {
            if error.reason() == Reason::SourceFailed {
                end(&command).await;
            }
            Err(error)
        }
    }
}

/// Passes on what it writes, or gathers it for one JSON object.
async fn follow(mut events: Events, begun: &Begun, printer: Printer) -> Result<End> {
    let mut gathered = printer.json.then(Gathered::default);
    let (mut stdout, mut stderr) = (tokio::io::stdout(), tokio::io::stderr());
    let exit = loop {
        let output = match events.next().await {
            Some(Ok(Event::Started(_))) => {
                begun.set();
                continue;
            }
            Some(Ok(Event::Output(output))) => output,
            Some(Ok(Event::Ended(exit))) => break exit,
            // What a command that waits for its reader does not do, or a later one does.
            Some(Ok(_)) => continue,
            Some(Err(error)) => match (error.exit(), &gathered) {
                (Some(exit), Some(_)) => break exit.clone(),
                _ => return Err(error),
            },
            None => return Ok(End::Unread(exit::NOT_THE_PROGRAM)),
        };
        let written = match (&mut gathered, output.stream) {
            (Some(gathered), stream) => gathered.add(stream, &output.data),
            (None, OutputStream::Stderr) => write(&mut stderr, &output.data).await,
            (None, _) => write(&mut stdout, &output.data).await,
        };
        if let Err(error) = written {
            return Ok(End::Unread(unread(&error)));
        }
    };
    if let Some(Gathered { stdout, stderr }) = gathered {
        printer.print(&exit_json(&exit, &stdout, &stderr), "");
    }
    Ok(End::Exit(if exit.is_timed_out() { exit::TIMED_OUT } else { byte(exit.code()) }))
}

/// Output that is printed at the end.
#[derive(Default)]
struct Gathered {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl Gathered {
    fn add(&mut self, stream: OutputStream, data: &[u8]) -> io::Result<()> {
        let kept = if stream == OutputStream::Stderr { &mut self.stderr } else { &mut self.stdout };
        kept.extend_from_slice(data);
        Ok(())
    }
}

/// What to end with when output cannot be written: as a program that writes into
/// a pipe whose reader has enough, or as a failure.
fn unread(error: &io::Error) -> u8 {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return after(Signal::PIPE);
    }
    eprintln!("nullspace: the output cannot be written: {error}");
    exit::NOT_THE_PROGRAM
}

async fn write(to: &mut (impl AsyncWrite + Unpin), data: &Bytes) -> io::Result<()> {
    to.write_all(data).await?;
    to.flush().await
}

fn after(signal: Signal) -> u8 {
    byte(128 + signal.number())
}

/// What a process can end with.
fn byte(code: i32) -> u8 {
    u8::try_from(code).unwrap_or(u8::MAX)
}
