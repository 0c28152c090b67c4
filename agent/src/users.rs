//! Users and groups of the sandbox, from its own /etc/passwd and /etc/group.
//! Read directly: glibc's lookup cannot be linked statically, and would load
//! modules of the sandbox into the agent.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
    sync::{Arc, Mutex},
};

use nullspace_proto::{Error, Reason, Result};

/// Largest passwd or group file that is read, in bytes.
const MAX_FILE_BYTES: u64 = 4 << 20;

/// A user of the sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Its name.
    pub name: String,
    /// Its number.
    pub uid: u32,
    /// Its first group.
    pub gid: u32,
    /// Its home directory.
    pub home: String,
    /// Its login shell; may be empty.
    pub shell: String,
    /// All its groups.
    pub groups: Vec<u32>,
}

/// The users of a sandbox. The files are read again when they have changed.
#[derive(Debug)]
pub struct Users {
    passwd: Mutex<Cached>,
    group: Mutex<Cached>,
}

#[derive(Debug)]
struct Cached {
    path: PathBuf,
    stamp: Option<(u64, u64, i64, i64)>,
    text: Arc<str>,
}

impl Cached {
    fn new(path: PathBuf) -> Mutex<Self> {
        Mutex::new(Self { path, stamp: None, text: "".into() })
    }

    fn read(&mut self) -> Arc<str> {
        let stamp =
            fs::metadata(&self.path).ok().map(|meta| (meta.ino(), meta.size(), meta.mtime(), meta.mtime_nsec()));
        if stamp != self.stamp {
            let small = stamp.is_some_and(|(_, size, ..)| size <= MAX_FILE_BYTES);
            let bytes = if small { fs::read(&self.path).unwrap_or_default() } else { Vec::new() };
            self.text = String::from_utf8_lossy(&bytes).into();
            self.stamp = stamp;
        }
        self.text.clone()
    }
}

fn text(cached: &Mutex<Cached>) -> Arc<str> {
    cached.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).read()
}

impl Users {
    /// The users in `etc`.
    pub fn new(etc: &std::path::Path) -> Self {
        Self { passwd: Cached::new(etc.join("passwd")), group: Cached::new(etc.join("group")) }
    }

    /// Finds a user by name or number. Empty: root.
    pub fn find(&self, name: &str) -> Result<User> {
        let passwd = text(&self.passwd);
        let users = || passwd.lines().filter_map(user);
        let found = match name {
            "" => users().find(|user| user.uid == 0).or_else(|| Some(root())),
            // A name goes before a number that reads the same.
            _ => users().find(|user| user.name == name).or_else(|| {
                let uid = name.parse::<u32>().ok()?;
                users().find(|user| user.uid == uid)
            }),
        };
        let mut user = found.ok_or_else(|| Error::not_found(Reason::UserNotFound, "user", name))?;
        user.groups = self.groups(&user);
        Ok(user)
    }

    fn groups(&self, user: &User) -> Vec<u32> {
        let file = text(&self.group);
        let member = |line: &str| {
            let mut fields = line.split(':').skip(2);
            let gid = fields.next()?.parse().ok()?;
            fields.next()?.split(',').any(|member| member == user.name).then_some(gid)
        };
        let mut groups = vec![user.gid];
        for gid in file.lines().filter_map(member) {
            if !groups.contains(&gid) {
                groups.push(gid);
            }
        }
        groups
    }

    /// The name of a user, or its number.
    pub fn user_name(&self, uid: u32) -> String {
        name(&text(&self.passwd), uid)
    }

    /// The name of a group, or its number.
    pub fn group_name(&self, gid: u32) -> String {
        name(&text(&self.group), gid)
    }
}

/// The first name in a passwd or group file whose third field is `id`.
fn name(file: &str, id: u32) -> String {
    let found = file.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(id)).then(|| name.to_owned())
    });
    found.unwrap_or_else(|| id.to_string())
}

fn user(line: &str) -> Option<User> {
    let mut fields = line.split(':');
    let name = fields.next().filter(|name| !name.is_empty())?.to_owned();
    let uid = fields.nth(1)?.parse().ok()?;
    let gid = fields.next()?.parse().ok()?;
    let home = fields.nth(1)?;
    let shell = fields.next().unwrap_or_default().trim().to_owned();
    let home = if home.is_empty() { "/".to_owned() } else { home.to_owned() };
    Some(User { name, uid, gid, home, shell, groups: Vec::new() })
}

/// A sandbox without /etc/passwd has root all the same.
fn root() -> User {
    User { name: "root".into(), uid: 0, gid: 0, home: "/root".into(), shell: String::new(), groups: Vec::new() }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_by_name_and_number_with_all_their_groups() {
        let etc = std::env::temp_dir().join(format!("nullspace-users-{}", std::process::id()));
        fs::create_dir_all(&etc).unwrap();
        fs::write(etc.join("passwd"), "root:x:0:0::/root:/bin/bash\nuser:x:1000:1000:U:/home/user:/bin/sh\n").unwrap();
        fs::write(etc.join("group"), "root:x:0:\nsudo:x:27:a,user\nuser:x:1000:\nvideo:x:44:user\n").unwrap();
        let users = Users::new(&etc);
        let user = users.find("user").unwrap();
        assert_eq!((user.uid, user.home.as_str(), user.groups.as_slice()), (1000, "/home/user", &[1000, 27, 44][..]));
        assert_eq!(users.find("1000").unwrap(), user);
        assert_eq!(users.find("").unwrap().name, "root");
        assert_eq!(users.find("1234").unwrap_err().reason(), Reason::UserNotFound);
        assert_eq!(
            (users.user_name(1000), users.group_name(27), users.group_name(9)),
            ("user".into(), "sudo".into(), "9".into())
        );
        fs::write(etc.join("passwd"), "new:x:1234:1234::/:\n").unwrap();
        assert_eq!(users.find("1234").unwrap().name, "new");
        assert_eq!(users.find("").unwrap().home, "/root");
        fs::remove_dir_all(&etc).unwrap();
    }
}
