//! Values of arguments.

use std::{str::FromStr, time::Duration};

use nullspace::SandboxState;

/// A duration, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetime(pub Option<Duration>);

impl FromStr for Lifetime {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "none" {
            return Ok(Self(None));
        }
        let form = || format!("{text:?} is not a duration such as 90, 1.5s, 10m, 1h or 7d");
        let digits = text.trim_end_matches(|unit: char| unit.is_ascii_alphabetic());
        let factor = match &text[digits.len()..] {
            "" | "s" => 1.0,
            "ms" => 0.001,
            "m" => 60.0,
            "h" => 3_600.0,
            "d" => 86_400.0,
            _ => return Err(form()),
        };
        let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
        let number: f64 = digits.parse().ok().filter(|_| plain).ok_or_else(form)?;
        Duration::try_from_secs_f64(number * factor).map(|duration| Self(Some(duration))).map_err(|_| form())
    }
}

/// `NAME=VALUE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// Before the first `=`; not empty.
    pub name: String,
    /// After it.
    pub value: String,
}

impl FromStr for Pair {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((name, value)) if !name.is_empty() => Ok(Self { name: name.to_owned(), value: value.to_owned() }),
            _ => Err("write NAME=VALUE".to_owned()),
        }
    }
}

/// A JSON object.
#[derive(Debug, Clone)]
pub struct Metadata(pub nullspace::Metadata);

impl FromStr for Metadata {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match serde_json::from_str(text) {
            Ok(serde_json::Value::Object(metadata)) => Ok(Self(metadata)),
            Ok(_) => Err("is not a JSON object".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// A state by its name.
pub fn state(name: &str) -> Result<SandboxState, String> {
    use SandboxState::{Creating, Destroyed, Destroying, Error, Running};
    let states = [Creating, Running, Destroying, Destroyed, Error];
    let found = states.into_iter().find(|state| state.name() == name);
    found.ok_or_else(|| format!("is none of {}", states.map(SandboxState::name).join(", ")))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_unit_or_are_seconds() {
        for (text, milliseconds) in
            [("90", 90_000), ("0", 0), ("1.5s", 1_500), ("250ms", 250), ("10m", 600_000), ("1h", 3_600_000)]
        {
            let parsed: Lifetime = text.parse().unwrap();
            assert_eq!(parsed, Lifetime(Some(Duration::from_millis(milliseconds))), "{text}");
        }
        assert_eq!("none".parse(), Ok(Lifetime(None)));
        for text in ["", "s", "-1", "1y", "1 m", "inf", "nan", "1e400", "9999999999999999999999d", "1.2.3", "5µ"] {
            assert!(text.parse::<Lifetime>().is_err(), "{text}");
        }
    }

    #[test]
    fn pairs_split_at_the_first_equals() {
        let pair: Pair = "A=b=c".parse().unwrap();
        assert_eq!((pair.name.as_str(), pair.value.as_str()), ("A", "b=c"));
        assert!("A".parse::<Pair>().is_err() && "=b".parse::<Pair>().is_err());
        assert_eq!("A=".parse::<Pair>().unwrap().value, "");
    }
}
