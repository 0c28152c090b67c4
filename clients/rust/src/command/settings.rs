//! What to run, and how.

use std::{collections::BTreeMap, time::Duration};

use nullspace_proto::{
    v1::{Argv, CommandSpec, Overflow, command_spec::Program},
    validate,
};

use crate::{
    error::{Error, Result},
    limits::COMMAND_TIMEOUT,
};

/// Settings of a command.
#[derive(Clone, Default)]
pub(crate) struct CommandSettings {
    program: Vec<String>,
    is_shell: bool,
    /// None: as is the custom of the foreground or the background.
    pub timeout: Option<Option<Duration>>,
    pub open_stdin: Option<bool>,
    pub cwd: String,
    pub env: BTreeMap<String, String>,
    pub user: String,
    pub tag: String,
    pub retain_output_bytes: i64,
    pub overflow: Option<crate::Overflow>,
    pub hold_grace: Option<Duration>,
    pub combine_output: bool,
}

impl CommandSettings {
    pub fn program(program: String) -> Self {
        Self { program: vec![program], ..Self::default() }
    }

    pub fn shell(line: String) -> Self {
        Self { program: vec![line], is_shell: true, ..Self::default() }
    }

    pub fn push(&mut self, argument: String) {
        self.program.push(argument);
    }

    /// How long the command may run when it is waited for.
    pub fn foreground_timeout(&self) -> Option<Duration> {
        self.timeout.unwrap_or(Some(COMMAND_TIMEOUT))
    }

    /// A command that is waited for: it waits for its reader in turn, has an end
    /// in time, and no input unless some is given.
    pub fn foreground(self, overflow: Overflow) -> Result<CommandSpec> {
        let timeout = self.foreground_timeout();
        let open_stdin = self.open_stdin.unwrap_or(false);
        self.spec(overflow, timeout, open_stdin)
    }

    /// A command that nobody waits for: it runs as long as it likes, its oldest
    /// output goes, and its input stays open.
    pub fn background(self) -> Result<CommandSpec> {
        let timeout = self.timeout.flatten();
        let open_stdin = self.open_stdin.unwrap_or(true);
        self.spec(Overflow::Truncate, timeout, open_stdin)
    }

    fn spec(self, overflow: Overflow, timeout: Option<Duration>, open_stdin: bool) -> Result<CommandSpec> {
        let program = match self.is_shell {
            false => Program::Argv(Argv { args: self.program }),
            true if self.program.len() == 1 => Program::Shell(self.program.into_iter().collect()),
            true => return Err(Error::invalid_field("spec.argv.args", "cannot go with a line for the shell")),
        };
        Ok(CommandSpec {
            program: Some(program),
            cwd: self.cwd,
            env: self.env,
            user: self.user,
            timeout: timeout.map(validate::duration),
            open_stdin,
            tag: self.tag,
            retain_output_bytes: self.retain_output_bytes,
            overflow: self.overflow.map_or(overflow.into(), crate::Overflow::to_wire),
            hold_grace: self.hold_grace.map(validate::duration),
            combine_output: self.combine_output,
        })
    }
}

/// Methods of every builder that has a `command`.
macro_rules! command_settings {
    ($builder:ident) => {
        impl $builder {
            /// One more argument.
            pub fn arg(mut self, argument: impl Into<String>) -> Self {
                self.command.push(argument.into());
                self
            }

            /// More arguments, kept as they are.
            pub fn args<A: Into<String>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
                arguments.into_iter().for_each(|argument| self.command.push(argument.into()));
                self
            }

            /// One variable for this command only, above the sandbox's own.
            pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
                self.command.env.insert(name.into(), value.into());
                self
            }

            /// Absolute directory to start in. Default: the sandbox's.
            pub fn cwd(mut self, cwd: impl Into<String>) -> Self {
                self.command.cwd = cwd.into();
                self
            }

            /// User name or number. Default: the template's, root in `base`.
            pub fn user(mut self, user: impl Into<String>) -> Self {
                self.command.user = user.into();
                self
            }

            /// How long the command may run, at most 30 days: a
            /// [`Duration`](std::time::Duration), or None for no limit. At its end
            /// the process group gets TERM and 5 s later KILL. Default: 30 s in
            /// the foreground, none in the background.
            pub fn timeout(mut self, timeout: impl Into<Option<std::time::Duration>>) -> Self {
                self.command.timeout = Some(timeout.into());
                self
            }

            /// Send standard error where standard output goes: then the order
            /// across both is exact.
            pub fn combine_output(mut self) -> Self {
                self.command.combine_output = true;
                self
            }
        }
    };
}
pub(crate) use command_settings;
