//! Checks of fields that server and agent share. All bad fields of a request
//! are gathered, so that a caller sees every one in one answer.

use std::{
    collections::BTreeMap,
    fmt::Display,
    ops::RangeInclusive,
    time::{Duration, SystemTime},
};

use prost_types::{Timestamp, value::Kind};

use crate::{
    error::{Error, Result, Violation},
    id, limits,
    v1::{CommandSpec, LogPosition, Overflow, command_spec::Program},
};

/// Gathers bad fields.
#[derive(Debug, Default)]
pub struct Checks {
    violations: Vec<Violation>,
}

impl Checks {
    /// Notes that `field` is bad.
    pub fn fail(&mut self, field: impl Into<String>, description: impl Into<String>) {
        self.violations.push(Violation { field: field.into(), description: description.into() });
    }

    /// Notes that `field` is bad unless `ok`.
    pub fn check(&mut self, ok: bool, field: &str, description: impl FnOnce() -> String) {
        if !ok {
            self.fail(field, description());
        }
    }

    /// A number in a range; absent is the default.
    pub fn range<T: PartialOrd + Display + Copy>(
        &mut self,
        field: &str,
        value: Option<T>,
        default: T,
        range: &RangeInclusive<T>,
    ) -> T {
        let Some(value) = value else { return default };
        self.check(range.contains(&value), field, || format!("{value} is not in {} to {}", range.start(), range.end()));
        value
    }

    /// A text of bounded length without NUL.
    pub fn text(&mut self, field: &str, value: &str, max: usize) {
        self.check(value.len() <= max, field, || format!("{} bytes are more than {max}", value.len()));
        self.check(!value.contains('\0'), field, || "must not contain NUL".to_owned());
    }

    /// An id that the caller chose.
    pub fn chosen_id(&mut self, field: &str, value: &str) {
        self.check(id::is_well_formed(value), field, || {
            format!("{:?} does not match [A-Za-z0-9_-]{{1,64}}", clip(value))
        });
    }

    /// A duration in a range; absent stays absent.
    pub fn duration(
        &mut self,
        field: &str,
        value: Option<&prost_types::Duration>,
        range: RangeInclusive<Duration>,
    ) -> Option<Duration> {
        let value = value?;
        match Duration::try_from(*value) {
            Ok(duration) if range.contains(&duration) => return Some(duration),
            Ok(duration) => {
                self.fail(field, format!("{duration:?} is not in {:?} to {:?}", range.start(), range.end()))
            }
            Err(_) => self.fail(field, "must be a duration of 0 or more"),
        }
        None
    }

    /// An environment.
    pub fn env(&mut self, field: &str, env: &BTreeMap<String, String>) {
        self.check(env.len() <= limits::MAX_ENV_ENTRIES, field, || {
            format!("{} entries are more than {}", env.len(), limits::MAX_ENV_ENTRIES)
        });
        let bytes: usize = env.iter().map(|(name, value)| name.len() + value.len() + 2).sum();
        self.check(bytes <= limits::MAX_ENV_BYTES, field, || {
            format!("{bytes} bytes are more than {}", limits::MAX_ENV_BYTES)
        });
        for (name, value) in env {
            let ok = !name.is_empty() && !name.contains(['=', '\0']) && !value.contains('\0');
            self.check(ok, field, || {
                format!("name {:?} must not be empty or contain `=` or NUL, nor its value NUL", clip(name))
            });
        }
    }

    /// An absolute, normalised directory that is not reserved.
    pub fn directory(&mut self, field: &str, path: &str) {
        self.text(field, path, limits::MAX_PATH_BYTES);
        let parts = path.strip_prefix('/').map(|rest| rest.split('/'));
        let normal = parts.is_some_and(|mut parts| path == "/" || parts.all(|part| !matches!(part, "" | "." | "..")));
        self.check(normal, field, || format!("{:?} is not an absolute, normalised path", clip(path)));
        self.check(!is_reserved(path), field, || format!("{RESERVED} is reserved"));
    }

    /// A place in a log.
    pub fn position(&mut self, field: &str, position: Option<&LogPosition>) {
        if let Some(LogPosition { execution_id, offset }) = position {
            self.check(*offset >= 0, &format!("{field}.offset"), || format!("{offset} is below 0"));
            self.text(&format!("{field}.execution_id"), execution_id, id::MAX_LEN);
        }
    }

    /// Metadata: bounded in size and depth, and no number that a double would bend.
    pub fn metadata(&mut self, field: &str, metadata: &prost_types::Struct) {
        use prost::Message as _;
        let bytes = metadata.encoded_len();
        self.check(bytes <= limits::MAX_METADATA_BYTES, field, || {
            format!("{bytes} bytes are more than {}", limits::MAX_METADATA_BYTES)
        });
        for (name, value) in &metadata.fields {
            self.metadata_value(&format!("{field}.{}", clip(name)), value, 1);
        }
    }

    fn metadata_value(&mut self, field: &str, value: &prost_types::Value, depth: usize) {
        if depth > limits::MAX_METADATA_DEPTH {
            return self.fail(field, format!("is deeper than {} levels", limits::MAX_METADATA_DEPTH));
        }
        match &value.kind {
            Some(Kind::NumberValue(number)) => {
                let exact = number.is_finite() && number.abs() <= limits::MAX_EXACT_INTEGER;
                self.check(exact, field, || format!("{number} cannot be held exactly; send it as a string"));
            }
            Some(Kind::StructValue(inner)) => {
                for (name, value) in &inner.fields {
                    self.metadata_value(&format!("{field}.{}", clip(name)), value, depth + 1);
                }
            }
            Some(Kind::ListValue(list)) => {
                list.values.iter().for_each(|value| self.metadata_value(field, value, depth + 1))
            }
            Some(_) => {}
            None => self.fail(field, "has no value"),
        }
    }

    /// What to run.
    pub fn command(&mut self, field: &str, spec: &CommandSpec) {
        let at = |name: &str| format!("{field}.{name}");
        match &spec.program {
            None => self.fail(at("argv"), "one of argv and shell is required"),
            Some(Program::Shell(line)) => {
                self.check(!line.is_empty(), &at("shell"), || "must not be empty".to_owned());
                self.text(&at("shell"), line, limits::MAX_ARG_BYTES);
            }
            Some(Program::Argv(argv)) => self.argv(&at("argv.args"), &argv.args),
        }
        if !spec.cwd.is_empty() {
            self.directory(&at("cwd"), &spec.cwd);
        }
        self.env(&at("env"), &spec.env);
        self.text(&at("user"), &spec.user, limits::MAX_USER_BYTES);
        self.text(&at("tag"), &spec.tag, limits::MAX_TAG_BYTES);
        self.duration(&at("timeout"), spec.timeout.as_ref(), Duration::from_nanos(1)..=limits::MAX_LIFETIME);
        self.duration(&at("hold_grace"), spec.hold_grace.as_ref(), Duration::ZERO..=limits::MAX_HOLD_GRACE);
        let retain = spec.retain_output_bytes;
        self.check(retain == 0 || limits::RETAIN_OUTPUT.contains(&retain), &at("retain_output_bytes"), || {
            format!("{retain} is neither 0 nor in {} to {}", limits::RETAIN_OUTPUT.start(), limits::RETAIN_OUTPUT.end())
        });
        self.check(Overflow::try_from(spec.overflow).is_ok(), &at("overflow"), || {
            format!("{} is not known", spec.overflow)
        });
    }

    fn argv(&mut self, field: &str, args: &[String]) {
        self.check(args.first().is_some_and(|program| !program.is_empty()), field, || "needs a program".to_owned());
        self.check(args.len() <= limits::MAX_ARGS, field, || {
            format!("{} entries are more than {}", args.len(), limits::MAX_ARGS)
        });
        let bytes: usize = args.iter().map(|arg| arg.len() + 1).sum();
        self.check(bytes <= limits::MAX_ARGS_BYTES, field, || {
            format!("{bytes} bytes are more than {}", limits::MAX_ARGS_BYTES)
        });
        for arg in args.iter().take(limits::MAX_ARGS) {
            self.text(field, arg, limits::MAX_ARG_BYTES);
        }
    }

    /// The error with all bad fields, if there are any.
    pub fn finish(self) -> Result<()> {
        if self.violations.is_empty() { Ok(()) } else { Err(Error::invalid(self.violations)) }
    }
}

/// A directory that belongs to Nullspace.
pub const RESERVED: &str = "/workspace/.nullspace";

/// Whether an absolute, normalised path is in the reserved directory.
pub fn is_reserved(path: &str) -> bool {
    path.strip_prefix(RESERVED).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// A time on the wire.
pub fn timestamp(time: SystemTime) -> Timestamp {
    Timestamp::from(time)
}

/// A duration on the wire.
pub fn duration(duration: Duration) -> prost_types::Duration {
    prost_types::Duration::try_from(duration).unwrap_or(prost_types::Duration { seconds: i64::MAX, nanos: 0 })
}

/// Enough of a text to recognise it in a message.
fn clip(text: &str) -> &str {
    let end = (0..=text.len().min(80)).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(change: impl FnOnce(&mut CommandSpec)) -> Result<()> {
        let mut spec = CommandSpec { program: Some(Program::Shell("true".into())), ..Default::default() };
        change(&mut spec);
        let mut checks = Checks::default();
        checks.command("spec", &spec);
        checks.finish()
    }

    #[test]
    fn bad_commands_are_refused_by_field() {
        assert!(command(|_| {}).is_ok());
        for (field, change) in [
            ("spec.argv", (|spec| spec.program = None) as fn(&mut CommandSpec)),
            ("spec.shell", |spec| spec.program = Some(Program::Shell(String::new()))),
            ("spec.cwd", |spec| spec.cwd = "a/b".into()),
            ("spec.cwd", |spec| spec.cwd = "/a/../b".into()),
            ("spec.cwd", |spec| spec.cwd = "/workspace/.nullspace/x".into()),
            ("spec.env", |spec| drop(spec.env.insert("A=B".into(), String::new()))),
            ("spec.timeout", |spec| spec.timeout = Some(prost_types::Duration { seconds: -1, nanos: 0 })),
            ("spec.timeout", |spec| spec.timeout = Some(prost_types::Duration::default())),
            ("spec.retain_output_bytes", |spec| spec.retain_output_bytes = 7),
        ] {
            let error = command(change).expect_err(field);
            assert!(error.message().starts_with(field), "{field}: {error}");
        }
    }

    #[test]
    fn numbers_that_a_double_bends_are_refused() {
        let value = |number| prost_types::Struct {
            fields: [("n".to_owned(), prost_types::Value { kind: Some(Kind::NumberValue(number)) })].into(),
        };
        let check = |number| {
            let mut checks = Checks::default();
            checks.metadata("metadata", &value(number));
            checks.finish()
        };
        assert!(check(9_007_199_254_740_992.0).is_ok());
        assert!(check(9_007_199_254_740_994.0).is_err());
        assert!(check(f64::NAN).is_err());
        assert!(check(0.1).is_ok());
    }
}
