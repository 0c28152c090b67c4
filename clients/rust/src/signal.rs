//! Signals, as Linux on x86-64 and arm64 numbers them. The machine that a client
//! runs on may number otherwise.

use crate::error::{Error, Result};

/// A signal of Linux.
///
/// ```
/// use nullspace::Signal;
///
/// assert_eq!(Signal::TERM.number(), 15);
/// assert_eq!("SIGTERM".parse::<Signal>().unwrap(), Signal::TERM);
/// assert_eq!(Signal::from(34).number(), 34);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Signal(i32);

/// In the order of their numbers, from 1.
const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM", "TERM",
    "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO",
    "PWR", "SYS",
];

impl Signal {
    /// Hang-up.
    pub const HUP: Self = Self(1);
    /// Interrupt, as by Ctrl-C.
    pub const INT: Self = Self(2);
    /// Quit, as by Ctrl-\\.
    pub const QUIT: Self = Self(3);
    /// Ends a process, which cannot prevent it.
    pub const KILL: Self = Self(9);
    /// Free for programs.
    pub const USR1: Self = Self(10);
    /// Free for programs.
    pub const USR2: Self = Self(12);
    /// A pipe that nobody reads.
    pub const PIPE: Self = Self(13);
    /// Asks a process to end.
    pub const TERM: Self = Self(15);
    /// Goes on after STOP.
    pub const CONT: Self = Self(18);
    /// Stops a process until CONT.
    pub const STOP: Self = Self(19);

    /// Its number.
    pub fn number(self) -> i32 {
        self.0
    }

    /// Its name, such as `TERM`, if it has one.
    pub fn name(self) -> Option<&'static str> {
        NAMES.get(usize::try_from(self.0).ok()?.checked_sub(1)?).copied()
    }
}

impl From<i32> for Signal {
    fn from(number: i32) -> Self {
        Self(number)
    }
}

impl std::str::FromStr for Signal {
    type Err = Error;

    /// By name (`TERM`, `SIGTERM`) or number.
    fn from_str(text: &str) -> Result<Self> {
        if let Ok(number) = text.parse() {
            return Ok(Self(number));
        }
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        let index = NAMES.iter().position(|known| *known == name);
        let index =
            index.ok_or_else(|| Error::invalid_field("number", format!("{text:?} is not the name of a signal")))?;
        Ok(Self(index as i32 + 1))
    }
}
