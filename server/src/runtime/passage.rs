//! A way through the rules of others. A packet goes on only if every chain of a
//! hook accepts it, and Docker and ufw let theirs, iptables' FORWARD, drop what
//! they do not know. There, and only there, what sandboxes send and its answers
//! are accepted; what a sandbox may reach is still decided by our own chains.

use nullspace_proto::{Error, Result};
use serde_json::Value;

use super::command::run_for;

const TABLE: &str = "ip filter";
const FORWARD: &str = "FORWARD";
/// Docker leaves this chain, to which its FORWARD goes first, to others.
const FOR_OTHERS: &str = "DOCKER-USER";
/// Out, and back in.
const RULES: usize = 2;

/// The way of one server's sandboxes.
pub struct Passage {
    /// Whose the rules are: their comment.
    owner: String,
    /// The host's ends of its links, as nft writes a prefix.
    links: String,
}

/// A rule of ours.
struct Rule {
    chain: String,
    handle: u64,
}

impl Passage {
    /// For links whose names begin with `prefix`.
    pub fn new(owner: String, prefix: &str) -> Self {
        Self { owner, links: format!("{prefix}*") }
    }

    /// Opens the way, if something stands in it.
    pub async fn open(&self) -> Result<()> {
        let table = self.table().await;
        let Some(chain) = chain_to_open(&table) else { return Ok(()) };
        let rules = self.rules(&table);
        if rules.len() == RULES && rules.iter().all(|rule| rule.chain == chain) {
            return Ok(());
        }
        tracing::info!(chain, "the host's firewall forwards nothing by itself; sandboxes are let through");
        let (owner, links) = (&self.owner, &self.links);
        let opened = format!(
            "insert rule {TABLE} {chain} oifname \"{links}\" ct state established,related accept comment \"{owner}\"\n\
             insert rule {TABLE} {chain} iifname \"{links}\" accept comment \"{owner}\"\n"
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

    fn rules(&self, table: &[Value]) -> Vec<Rule> {
        let rules = table.iter().map(|thing| &thing["rule"]).filter(|rule| rule["comment"] == self.owner.as_str());
        let named = rules.filter_map(|rule| {
            Some(Rule { chain: rule["chain"].as_str()?.to_owned(), handle: rule["handle"].as_u64()? })
        });
        named.collect()
    }
}

/// Where rules must be for packets to go on.
fn chain_to_open(table: &[Value]) -> Option<&'static str> {
    let chain = |name: &str| table.iter().map(|thing| &thing["chain"]).find(|chain| chain["name"] == name);
    chain(FORWARD).filter(|chain| chain["policy"] == "drop")?;
    Some(if chain(FOR_OTHERS).is_some() { FOR_OTHERS } else { FORWARD })
}

fn deletions(rules: &[Rule]) -> String {
    rules.iter().map(|Rule { chain, handle }| format!("delete rule {TABLE} {chain} handle {handle}\n")).collect()
}
