//! Where the server is and which key to use.

use std::{
    collections::HashMap,
    env, fmt, fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use tonic::{Code, metadata::AsciiMetadataValue};

use crate::{
    Reason,
    error::{Error, Result},
};

const DEFAULT_URL: &str = "http://localhost:3000";

/// What a caller gives; the rest is looked for.
#[derive(Clone, Default)]
pub(crate) struct Given {
    pub url: Option<String>,
    pub api_key: Option<String>,
    pub ca_cert: Option<PathBuf>,
}

/// A server and a key: all that a connection depends on.
#[derive(Clone)]
pub(crate) struct Config {
    pub target: Target,
    /// As it goes with every call.
    pub authorization: AsciiMetadataValue,
    /// Certificates to trust, in PEM. None: those of this machine.
    pub ca_cert: Option<Vec<u8>>,
}

/// Where to connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub url: String,
    pub host: String,
    pub port: u16,
    pub secure: bool,
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config").field("url", &self.target.url).finish_non_exhaustive()
    }
}

/// Finds URL, key and certificates, each in the first source that has it:
/// what was given, the environment, `.env`, the files.
pub(crate) fn resolve(given: &Given) -> Result<Config> {
    let mut sources = Sources::of_this_process();
    let url = match present(given.url.as_deref()) {
        Some(url) => url,
        None => match sources.variable(&["NULLSPACE_API_URL", "NULLSPACE_BASE_URL"])? {
            Some(url) => url,
            None => sources.setting(&["base_url", "api_url"])?.unwrap_or_else(|| DEFAULT_URL.to_owned()),
        },
    };
    let target = target(&url)?;
    let key = match present(given.api_key.as_deref()) {
        Some(key) => Some(key),
        None => match sources.variable(&["NULLSPACE_API_KEY"])? {
            Some(key) => Some(key),
            None => sources.setting(&["api_key"])?,
        },
    };
    let authorization = authorization(key.as_deref())?;
    let ca_cert = if target.secure { ca_cert(given, &sources)? } else { None };
    Ok(Config { target, authorization, ca_cert })
}

fn authorization(key: Option<&str>) -> Result<AsciiMetadataValue> {
    let missing = "no API key: give one, set NULLSPACE_API_KEY, or put `api_key` into ~/.config/nullspace/config.json";
    let key = key.ok_or_else(|| Error::new(Reason::ApiKeyMissing, Code::Unauthenticated, missing))?;
    let bad = || {
        let message = "the API key has characters that no key has";
        Error::new(Reason::ApiKeyInvalid, Code::Unauthenticated, message)
    };
    if !key.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(bad());
    }
    let mut value = AsciiMetadataValue::try_from(format!("Bearer {key}")).map_err(|_| bad())?;
    value.set_sensitive(true);
    Ok(value)
}

fn ca_cert(given: &Given, sources: &Sources) -> Result<Option<Vec<u8>>> {
    let from_environment = |name| sources.environment(name).map(PathBuf::from);
    let path = given.ca_cert.clone();
    let path = path.or_else(|| from_environment("NULLSPACE_CA_CERT")).or_else(|| from_environment("SSL_CERT_FILE"));
    let Some(path) = path else { return Ok(None) };
    let read = fs::read(&path);
    read.map(Some).map_err(|error| Error::invalid_field("ca_cert", format!("{}: {error}", path.display())))
}

/// Blank counts as missing.
fn present(value: Option<&str>) -> Option<String> {
    value.map(str::trim).filter(|value| !value.is_empty()).map(str::to_owned)
}

fn target(url: &str) -> Result<Target> {
    let bad = |what: &str| Error::invalid_field("url", format!("{url:?} {what}"));
    let form = "is not http://HOST[:PORT] or https://HOST[:PORT]";
    let uri: http::Uri = url.parse().map_err(|_| bad(form))?;
    let secure = match uri.scheme_str() {
        Some("http") => false,
        Some("https") => true,
        _ => return Err(bad(form)),
    };
    let authority = uri.authority().ok_or_else(|| bad(form))?;
    if authority.as_str().contains('@') || !uri.path().trim_matches('/').is_empty() || uri.query().is_some() {
        return Err(bad("must not have more than scheme, host and port"));
    }
    let host = authority.host().trim_matches(['[', ']']).to_owned();
    // A port that is none is left out of the parts and stays in the text.
    if host.is_empty() || (authority.as_str() != authority.host() && authority.port_u16().is_none()) {
        return Err(bad(form));
    }
    let port = authority.port_u16().unwrap_or(if secure { 443 } else { 80 });
    Ok(Target { url: format!("{}://{authority}", if secure { "https" } else { "http" }), host, port, secure })
}

type Environment = Box<dyn Fn(&str) -> Option<String>>;

/// The places that are looked at, each read when it is first needed.
struct Sources {
    environment: Environment,
    directory: PathBuf,
    dotenv: Option<HashMap<String, String>>,
    files: Option<Vec<serde_json::Map<String, serde_json::Value>>>,
}

impl Sources {
    fn of_this_process() -> Self {
        Self {
            environment: Box::new(|name| env::var(name).ok()),
            directory: PathBuf::from("."),
            dotenv: None,
            files: None,
        }
    }

    fn environment(&self, name: &str) -> Option<String> {
        present((self.environment)(name).as_deref())
    }

    fn variable(&mut self, names: &[&str]) -> Result<Option<String>> {
        if let Some(found) = names.iter().find_map(|name| self.environment(name)) {
            return Ok(Some(found));
        }
        if self.dotenv.is_none() {
            self.dotenv = Some(parse_dotenv(&read_text(&self.directory.join(".env"))?.unwrap_or_default()));
        }
        let dotenv = self.dotenv.iter().next();
        Ok(names.iter().find_map(|name| present(dotenv.and_then(|values| values.get(*name)).map(String::as_str))))
    }

    fn setting(&mut self, names: &[&str]) -> Result<Option<String>> {
        if self.files.is_none() {
            let read = self.config_files().iter().filter_map(|path| read_json(path).transpose()).collect::<Result<_>>();
            self.files = Some(read?);
        }
        let files = self.files.as_deref().unwrap_or_default();
        let find = |name: &&str| files.iter().find_map(|file| present(file.get(*name)?.as_str()));
        Ok(names.iter().find_map(find))
    }

    fn config_files(&self) -> Vec<PathBuf> {
        let home = self.environment("HOME").map(PathBuf::from);
        let base = self.environment("XDG_CONFIG_HOME").map(PathBuf::from);
        let base = base.or_else(|| home.as_ref().map(|home| home.join(".config")));
        let first = base.map(|base| base.join("nullspace/config.json"));
        let second = home.map(|home| home.join(".nullspace/config.json"));
        first.into_iter().chain(second).collect()
    }
}

fn unreadable(path: &Path, cause: impl fmt::Display) -> Error {
    Error::invalid_field("config", format!("{}: {cause}", path.display()))
}

fn read_text(path: &Path) -> Result<Option<String>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(error) if error.kind() == ErrorKind::IsADirectory => Ok(None),
        Err(error) => Err(unreadable(path, error)),
    }
}

fn read_json(path: &Path) -> Result<Option<serde_json::Map<String, serde_json::Value>>> {
    let Some(text) = read_text(path)? else { return Ok(None) };
    match serde_json::from_str(&text) {
        Ok(serde_json::Value::Object(settings)) => Ok(Some(settings)),
        Ok(_) => Err(unreadable(path, "is not a JSON object")),
        Err(error) => Err(unreadable(path, error)),
    }
}

/// Reads `NAME=value` lines: `export`, quotes and comments are understood.
fn parse_dotenv(text: &str) -> HashMap<String, String> {
    let mut values = HashMap::new();
    for line in text.lines().map(str::trim) {
        let line = line.strip_prefix("export ").map_or(line, str::trim_start);
        let Some((name, value)) = line.split_once('=') else { continue };
        let (name, value) = (name.trim(), value.trim());
        if name.is_empty() || name.starts_with('#') {
            continue;
        }
        let quote = value.chars().next().filter(|first| matches!(first, '\'' | '"'));
        let quoted = quote.and_then(|quote| value[1..].split_once(quote)).map(|(inside, _)| inside);
        let value = quoted.unwrap_or_else(|| value.split(" #").next().unwrap_or_default().trim_end());
        values.insert(name.to_owned(), value.to_owned());
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(directory: &Path, environment: &[(&str, &str)]) -> Sources {
        let pairs = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let environment: HashMap<String, String> = pairs.collect();
        Sources {
            environment: Box::new(move |name| environment.get(name).cloned()),
            directory: directory.to_owned(),
            dotenv: None,
            files: None,
        }
    }

    fn directory(name: &str) -> PathBuf {
        let path = env::temp_dir().join(format!("nullspace-config-{}-{name}", std::process::id()));
        fs::create_dir_all(path.join("xdg/nullspace")).unwrap();
        fs::create_dir_all(path.join("home/.nullspace")).unwrap();
        path
    }

    #[test]
    fn urls_are_understood_or_refused() {
        for (url, host, port, secure) in [
            ("http://localhost:3000", "localhost", 3000, false),
            ("http://127.0.0.1:3000/", "127.0.0.1", 3000, false),
            ("https://api.example.com", "api.example.com", 443, true),
            ("http://[::1]:80", "::1", 80, false),
        ] {
            let found = target(url).unwrap();
            assert_eq!((found.host.as_str(), found.port, found.secure), (host, port, secure), "{url}");
        }
        for url in
            ["", "localhost:3000", "ftp://a", "http://", "http://a/b", "http://a?b", "http://u@a", "http://a:99999"]
        {
            assert_eq!(target(url).unwrap_err().violations()[0].field, "url", "{url}");
        }
    }

    #[test]
    fn keys_that_no_header_carries_are_refused() {
        assert_eq!(authorization(None).unwrap_err().reason(), Reason::ApiKeyMissing);
        for key in ["a b", "a\n", "ä"] {
            assert_eq!(authorization(Some(key)).unwrap_err().reason(), Reason::ApiKeyInvalid, "{key:?}");
        }
    }

    #[test]
    fn the_first_source_that_has_a_value_wins() {
        let root = directory("order");
        fs::write(
            root.join(".env"),
            "export NULLSPACE_API_KEY='from dotenv' # no\nNULLSPACE_BASE_URL = http://d # c\n",
        )
        .unwrap();
        fs::write(root.join("xdg/nullspace/config.json"), r#"{"api_key": " ", "api_url": "http://xdg"}"#).unwrap();
        fs::write(root.join("home/.nullspace/config.json"), r#"{"api_key": "from home"}"#).unwrap();
        let (xdg, home) = (root.join("xdg"), root.join("home"));
        let base = [("XDG_CONFIG_HOME", xdg.to_str().unwrap()), ("HOME", home.to_str().unwrap())];

        let with = |more: &[(&str, &str)]| {
            let mut found = sources(&root, &[&base[..], more].concat());
            (found.variable(&["NULLSPACE_API_KEY"]).unwrap(), found.setting(&["api_key"]).unwrap())
        };
        assert_eq!(with(&[("NULLSPACE_API_KEY", "from environment")]).0.as_deref(), Some("from environment"));
        let blank = with(&[("NULLSPACE_API_KEY", "  ")]);
        assert_eq!(blank.0.as_deref(), Some("from dotenv"));
        assert_eq!(blank.1.as_deref(), Some("from home"));
        let mut found = sources(&root, &base);
        let url = found.variable(&["NULLSPACE_API_URL", "NULLSPACE_BASE_URL"]).unwrap();
        assert_eq!(url.as_deref(), Some("http://d"));
        assert_eq!(found.setting(&["base_url", "api_url"]).unwrap().as_deref(), Some("http://xdg"));
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn a_broken_file_is_named() {
        let root = directory("broken");
        fs::write(root.join("xdg/nullspace/config.json"), "[]").unwrap();
        let xdg = root.join("xdg");
        let error = sources(&root, &[("XDG_CONFIG_HOME", xdg.to_str().unwrap())]).setting(&["api_key"]).unwrap_err();
        assert!(error.message().contains("config.json"), "{error}");
        fs::remove_dir_all(root).unwrap();
    }
}
