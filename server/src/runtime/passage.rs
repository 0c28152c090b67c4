//! A way through the rules of others. A packet goes on only if every chain of a
//! hook accepts it, and Docker and ufw let theirs, iptables' FORWARD, drop what
//! comes to its end. There, behind all other rules, what sandboxes send and are
//! sent is accepted; what a sandbox may reach, and what may reach it, is still
//! decided by our own chains.
//!
//! The rules are such as iptables itself can show. With any other in its table, a
//! match of connection states for one, it would refuse to work there at all, and
//! Docker with it.

use nullspace_proto::{Error, Result};
use serde_json::Value;

use super::command::run_for;

const CHAIN: &str = "ip filter FORWARD";
/// Out, and back in.
const RULES: usize = 2;

/// The way of one server's sandboxes.
pub struct Passage {
    /// Whose the rules are: their comment.
    owner: String,
    /// The host's ends of its links, as nft writes a prefix.
    links: String,
}

impl Passage {
    /// For links whose names begin with `prefix`.
    pub fn new(owner: String, prefix: &str) -> Self {
        Self { owner, links: format!("{prefix}*") }
    }

    /// Opens the way, if something stands in it.
    pub async fn open(&self) -> Result<()> {
        let table = self.table().await;
        let rules = self.rules(&table);
        if !drops(&table) || rules.len() == RULES {
            return Ok(());
        }
        tracing::info!("the host's firewall forwards nothing by itself; sandboxes are let through");
        let (owner, links) = (&self.owner, &self.links);
        let opened = format!(
            "add rule {CHAIN} iifname \"{links}\" counter accept comment \"{owner}\"\n\
             add rule {CHAIN} oifname \"{links}\" counter accept comment \"{owner}\"\n"
        );
        self.apply(&(deletions(&rules) + &opened)).await
    }

    /// Takes all of it back.
    pub async fn close(&self) -> Result<()> {
        let rules = self.rules(&self.table().await);
        if rules.is_empty() { Ok(()) } else { self.apply(&deletions(&rules)).await }
    }

    async fn apply(&self, changes: &str) -> Result<()> {
        let applied = run_for(&self.owner, "nft", ["-f", "-"], changes).await.map(drop);
        applied.map_err(|error: Error| error.while_doing("letting sandboxes through the host's firewall"))
    }

    /// What is in iptables' table. Nothing, where it was never used.
    async fn table(&self) -> Vec<Value> {
        let listed = run_for(&self.owner, "nft", ["-j", "list", "table", "ip", "filter"], "").await;
        let parsed = listed.ok().and_then(|json| serde_json::from_str(&json).ok());
        parsed.and_then(|mut json: Value| json["nftables"].as_array_mut().map(std::mem::take)).unwrap_or_default()
    }

    /// Handles of our rules.
    fn rules(&self, table: &[Value]) -> Vec<u64> {
        let rules = table.iter().map(|thing| &thing["rule"]).filter(|rule| rule["comment"] == self.owner.as_str());
        rules.filter_map(|rule| rule["handle"].as_u64()).collect()
    }
}

/// Whether what no rule decides is not forwarded.
fn drops(table: &[Value]) -> bool {
    table.iter().map(|thing| &thing["chain"]).any(|chain| chain["name"] == "FORWARD" && chain["policy"] == "drop")
}

fn deletions(rules: &[u64]) -> String {
    rules.iter().map(|handle| format!("delete rule {CHAIN} handle {handle}\n")).collect()
}
