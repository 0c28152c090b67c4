//! This server among others on the host: its data directory, the id that names
//! its things, and its subnet.

use std::{
    fmt, fs, io,
    net::{IpAddr, Ipv4Addr},
    path::Path,
};

use sha2::{Digest as _, Sha256};

/// 8 characters, `[a-z0-9]`, made from the data directory's path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance(String);

impl Instance {
    /// Of a data directory, which must exist. Leaves the id in a file there.
    pub fn of(data: &Path) -> io::Result<Self> {
        let path = fs::canonicalize(data)?;
        let digest = Sha256::digest(path.as_os_str().as_encoded_bytes());
        let id = hex::encode(&digest[..4]);
        let (file, line) = (data.join("instance"), format!("{id}\n"));
        // On a full disk what is there must stay.
        if fs::read(&file).ok().as_deref() != Some(line.as_bytes()) {
            fs::write(file, line)?;
        }
        Ok(Self(id))
    }

    /// A /16 of 10.0.0.0/8 that no interface of the host has, the same at each
    /// start while that holds.
    pub fn subnet(&self, taken: &[(Ipv4Addr, u8)]) -> Option<Ipv4Addr> {
        let start = u8::from_str_radix(&self.0[..2], 16).unwrap_or(0);
        let candidates = (0..=u8::MAX).map(|step| Ipv4Addr::new(10, start.wrapping_add(step), 0, 0));
        candidates.into_iter().find(|subnet| !taken.iter().any(|network| overlaps(*subnet, *network)))
    }
}

impl fmt::Display for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn overlaps(subnet: Ipv4Addr, (address, length): (Ipv4Addr, u8)) -> bool {
    let shift = 32 - u32::from(length.min(16));
    let prefix = |address: Ipv4Addr| u32::from(address).checked_shr(shift).unwrap_or(0);
    prefix(subnet) == prefix(address)
}

/// IPv4 networks that the host has an address in or a route to, but for the
/// default route.
pub async fn host_networks() -> nullspace_proto::Result<Vec<(Ipv4Addr, u8)>> {
    let routes = crate::runtime::command::run("ip", ["-4", "route", "show", "table", "all"], "").await?;
    let words = routes
        .lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit())));
    Ok(words.filter_map(network).filter(|(_, length)| *length > 0).collect())
}

fn network(word: &str) -> Option<(Ipv4Addr, u8)> {
    let (address, length) = word.split_once('/').unwrap_or((word, "32"));
    Some((address.parse().ok()?, length.parse().ok()?))
}

/// Memory of the host in MiB. 0: it does not tell.
pub fn host_memory_mib() -> usize {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:")?.split_whitespace().next()?.parse().ok());
    total.map_or(0, |kib: usize| kib / 1024)
}

/// Resolvers of the host that a sandbox can reach: those that are not loopback.
pub fn host_resolvers() -> Vec<IpAddr> {
    let read = |path: &str| -> Vec<IpAddr> {
        let text = fs::read_to_string(path).unwrap_or_default();
        let addresses =
            text.lines().filter_map(|line| line.trim().strip_prefix("nameserver")?.trim().parse::<IpAddr>().ok());
        addresses.filter(|address| address.is_ipv4() && !address.is_loopback()).collect()
    };
    // systemd-resolved keeps the real ones in a file of its own.
    let found = read("/etc/resolv.conf");
    if found.is_empty() { read("/run/systemd/resolve/resolv.conf") } else { found }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subnet_avoids_the_hosts_networks() {
        let instance = Instance("0a000000".into());
        assert_eq!(instance.subnet(&[]), Some(Ipv4Addr::new(10, 10, 0, 0)));
        assert_eq!(instance.subnet(&[(Ipv4Addr::new(10, 10, 3, 0), 24)]), Some(Ipv4Addr::new(10, 11, 0, 0)));
        assert_eq!(instance.subnet(&[(Ipv4Addr::new(10, 0, 0, 0), 8)]), None);
    }
}
