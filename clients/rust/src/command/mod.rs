//! Commands of a sandbox.

mod attach;
mod handle;
mod input;
mod output;
mod run;
mod settings;

use nullspace_proto::v1::{GetCommandRequest, ListCommandsRequest};

pub(crate) use self::settings::{CommandSettings, command_settings};
pub use self::{
    attach::AttachCommand,
    handle::Command,
    output::{OutputSlice, ReadOutput},
    run::RunCommand,
};
use crate::{
    CommandInfo, Reason,
    connection::Connection,
    error::{Error, Result},
    method::{GET_COMMAND, LIST_COMMANDS},
    page::{Call, Entries, Page, Paged, entries},
};

/// Runs programs in a sandbox. Made by [`Sandbox::commands`](crate::Sandbox::commands).
///
/// Beside what each method names, errors of any of them are
/// [`SandboxNotFound`](Reason::SandboxNotFound),
/// [`SandboxStopped`](Reason::SandboxStopped), [`AgentLost`](Reason::AgentLost)
/// and those of the key; [`Transport`](Reason::Transport) when the server stays
/// away: for 10 s with a single call, for 60 s with a stream.
#[derive(Clone)]
pub struct Commands {
    connection: Connection,
    sandbox_id: String,
}

impl std::fmt::Debug for Commands {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Commands").field("sandbox_id", &self.sandbox_id).finish_non_exhaustive()
    }
}

impl Commands {
    pub(crate) fn new(connection: Connection, sandbox_id: String) -> Self {
        Self { connection, sandbox_id }
    }

    /// Runs a program, which is looked up on PATH. There is no shell, and nothing
    /// splits the text.
    pub fn run(&self, program: impl Into<String>) -> RunCommand {
        self.with(CommandSettings::program(program.into()))
    }

    /// Runs a line by the user's shell.
    pub fn shell(&self, line: impl Into<String>) -> RunCommand {
        self.with(CommandSettings::shell(line.into()))
    }

    fn with(&self, settings: CommandSettings) -> RunCommand {
        RunCommand::new(self.connection.clone(), self.sandbox_id.clone(), settings)
    }

    /// A command that runs, or ran, by its id, from anywhere.
    ///
    /// # Errors
    /// [`CommandNotFound`](Reason::CommandNotFound).
    pub async fn connect(&self, command_id: impl Into<String>) -> Result<Command> {
        let info = self.get(command_id).await?;
        Ok(self.command(info.command_id))
    }

    /// A handle on a command, without asking whether it is there.
    pub fn command(&self, command_id: impl Into<String>) -> Command {
        Command::new(self.connection.clone(), self.sandbox_id.clone(), command_id.into())
    }

    /// The state of a command, also of one that has ended (for 24 h).
    ///
    /// # Errors
    /// [`CommandNotFound`](Reason::CommandNotFound).
    pub async fn get(&self, command_id: impl Into<String>) -> Result<CommandInfo> {
        let request = GetCommandRequest { sandbox_id: self.sandbox_id.clone(), command_id: command_id.into() };
        let response = self.connection.call(GET_COMMAND, request, None).await?;
        known(response.command)
    }

    /// The newest command with a pid. Pids come again; ids do not.
    ///
    /// # Errors
    /// [`CommandNotFound`](Reason::CommandNotFound).
    pub async fn find(&self, pid: i64) -> Result<CommandInfo> {
        let unknown =
            || Error::new(Reason::CommandNotFound, tonic::Code::NotFound, format!("no command has the pid {pid}"));
        if pid <= 0 {
            return Err(unknown());
        }
        let mut list = self.list();
        list.list.request.pid = pid;
        list.list.request.page_size = 1;
        let page = list.page().await?;
        page.entries.into_iter().find(|command| command.pid == pid).ok_or_else(unknown)
    }

    /// Commands, newest first: by default those that run.
    pub fn list(&self) -> ListCommands {
        let request =
            ListCommandsRequest { sandbox_id: self.sandbox_id.clone(), running_only: true, ..Default::default() };
        ListCommands { list: List { connection: self.connection.clone(), request }, page_token: None }
    }
}

/// What every good answer has.
fn known(command: Option<nullspace_proto::v1::CommandInfo>) -> Result<CommandInfo> {
    command.ok_or_else(|| Error::invalid_response("the answer has no command"))?.try_into()
}

/// Lists commands, newest first. Made by [`Commands::list`].
///
/// ```no_run
/// # async fn example(sandbox: nullspace::Sandbox) -> nullspace::Result<()> {
/// for command in sandbox.commands().list().tag("build").await? {
///     println!("{} {:?}", command.pid, command.program);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
#[must_use = "nothing is sent before it is awaited"]
pub struct ListCommands {
    list: List,
    page_token: Option<String>,
}

#[derive(Clone)]
struct List {
    connection: Connection,
    request: ListCommandsRequest,
}

impl ListCommands {
    /// Also those that have ended, which are kept for 24 h.
    pub fn ended(mut self) -> Self {
        self.list.request.running_only = false;
        self
    }

    /// Only with this label.
    pub fn tag(mut self, tag: impl Into<String>) -> Self {
        self.list.request.tag = tag.into();
        self
    }

    /// Entries of one page, 1 to 1,000. Default: 100.
    pub fn page_size(mut self, page_size: i32) -> Self {
        self.list.request.page_size = page_size;
        self
    }

    /// Where to begin: [`Page::next_page_token`] of an earlier page with the same
    /// filters.
    pub fn page_token(mut self, token: impl Into<String>) -> Self {
        self.page_token = Some(token.into());
        self
    }

    /// One page.
    ///
    /// # Errors
    /// [`InvalidRequest`](Reason::InvalidRequest).
    pub async fn page(self) -> Result<Page<CommandInfo>> {
        self.list.page(self.page_token).await
    }

    /// All commands, page by page as they are asked for.
    pub fn entries(self) -> Entries<CommandInfo> {
        entries(self.list, self.page_token)
    }
}

impl Paged for List {
    type Entry = CommandInfo;

    async fn page(&self, token: Option<String>) -> Result<Page<CommandInfo>> {
        let request = ListCommandsRequest { page_token: token.unwrap_or_default(), ..self.request.clone() };
        let response = self.connection.call(LIST_COMMANDS, request, None).await?;
        let commands = response.commands.into_iter().map(CommandInfo::try_from).collect::<Result<_>>()?;
        Ok(Page::new(commands, response.next_page_token))
    }
}

impl IntoFuture for ListCommands {
    type Output = Result<Vec<CommandInfo>>;
    type IntoFuture = Call<Vec<CommandInfo>>;

    /// All of them, from all pages.
    fn into_future(self) -> Call<Vec<CommandInfo>> {
        Box::pin(async move {
            use tokio_stream::StreamExt as _;
            self.entries().collect().await
        })
    }
}
