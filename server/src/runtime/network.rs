//! Network slots: a namespace, a veth pair and its addresses, made ahead of
//! need. A sandbox reaches other networks by NAT if it may, and never another
//! sandbox, the host, or a link-local address.
//!
//! The tools are iproute2 and nft in batches (docs/decisions/0001).

use std::{
    collections::{BTreeSet, VecDeque},
    fs,
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use nullspace_proto::{Error, Reason, Result};
use tokio::{sync::Notify, time::interval_at};
use tokio_util::sync::CancellationToken;

use super::{
    Address,
    command::{run_for, wait_for_tools_of},
    passage::Passage,
};
use crate::instance::Instance;

/// A number is not used again for this long, so that late packets of one
/// sandbox do not reach the next.
const QUARANTINE: Duration = Duration::from_secs(3);
/// How often the rules of others are looked at: Docker may start later.
const PASSAGE_EVERY: Duration = Duration::from_secs(30);
/// Addresses of a slot: network, host, guest, broadcast.
const ADDRESSES: u32 = 4;
/// Slots of an instance: a /16, without its first and last slot.
pub const MAX_SLOTS: u32 = (1 << 16) / ADDRESSES - 2;

/// One place on the network for one execution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Slot(u32);

/// What a search for a free number finds.
enum Reserved {
    Slot(Slot),
    /// The next number is free after this time.
    Rests(Duration),
}

/// The slots of this instance.
pub struct Slots {
    instance: Instance,
    subnet: Ipv4Addr,
    ready_target: usize,
    /// Slots that executions may have at once.
    max: usize,
    resolvers: Vec<IpAddr>,
    passage: Passage,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    /// How many are of executions.
    used: usize,
    /// Of executions, or being made or removed.
    taken: BTreeSet<u32>,
    /// Made and free.
    ready: VecDeque<u32>,
    /// Removed, and when.
    quarantined: VecDeque<(Instant, u32)>,
    /// Numbers below this have been used.
    next: u32,
}

impl Slots {
    /// The slots of an instance whose addresses begin at `subnet`, a /16. At most
    /// `max` of them are in use at once.
    pub fn new(instance: Instance, subnet: Ipv4Addr, ready_target: usize, max: usize, resolvers: Vec<IpAddr>) -> Self {
        let state = Mutex::new(State { next: 1, ..State::default() });
        let passage = Passage::new(owner(&instance), &format!("n{instance}"));
        Self { instance, subnet, ready_target, max, resolvers, passage, state, changed: Notify::new() }
    }

    /// Slots that executions may have at once.
    pub fn max(&self) -> usize {
        self.max
    }

    /// Whether an execution could have a slot now, with `spare` more to spare.
    pub fn has_room(&self, spare: usize) -> bool {
        self.lock().used + spare < self.max
    }

    /// Sets up the host's rules, takes over the slots that running executions
    /// have, and removes all others of this instance.
    pub async fn adopt(&self, used: &[(Slot, bool)]) -> Result<()> {
        // A killed server's would go on making and removing what is looked at here.
        wait_for_tools_of(&owner(&self.instance)).await?;
        fs::write("/proc/sys/net/ipv4/ip_forward", "1")
            .map_err(|error| Error::internal(format!("forwarding cannot be turned on: {error}")))?;
        {
            let mut state = self.lock();
            state.taken = used.iter().map(|(slot, _)| slot.0).collect();
            state.used = used.len();
        }
        self.tool("nft", ["-f", "-"], &self.ruleset(used)).await?;
        self.open_passage().await;
        for slot in self.namespaces()? {
            if !self.lock().taken.contains(&slot.0) {
                tracing::info!(slot = slot.0, "removing a network slot that nothing uses");
                self.remove(slot).await?;
            }
        }
        Ok(())
    }

    /// Namespaces of this instance that exist.
    fn namespaces(&self) -> Result<Vec<Slot>> {
        let prefix = format!("ns-{}-", self.instance);
        let entries = match fs::read_dir("/run/netns") {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(Error::internal(format!("network namespaces cannot be listed: {error}"))),
        };
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        Ok(names.filter_map(|name| name.strip_prefix(&prefix)?.parse().ok().map(Slot)).collect())
    }

    /// Takes a slot: one made ahead, else a new one.
    pub async fn take(&self, internet: bool) -> Result<Slot> {
        let ready = {
            let mut state = self.lock();
            if state.used >= self.max {
                let message = format!("this server has {} sandboxes and may not have more", state.used);
                return Err(Error::quota(Reason::CapacityExceeded, "host", message));
            }
            state.used += 1;
            state.ready.pop_front().inspect(|&number| {
                state.taken.insert(number);
            })
        };
        self.changed.notify_one();
        let slot = match ready {
            Some(number) => Slot(number),
            None => self.make().await.inspect_err(|_| self.lock().used -= 1)?,
        };
        if !internet {
            let delete = format!("delete element inet {} internet {{ \"{}\" }}\n", self.table(), self.link(slot));
            if let Err(error) = self.tool("nft", ["-f", "-"], &delete).await {
                self.release(slot).await;
                return Err(error);
            }
        }
        Ok(slot)
    }

    /// Gives a slot back. It is removed, and its number rests for a while.
    pub async fn release(&self, slot: Slot) {
        self.retire(slot).await;
        self.lock().used -= 1;
    }

    async fn retire(&self, slot: Slot) {
        debug_assert!(self.lock().taken.contains(&slot.0), "a slot is released by who has it");
        if let Err(error) = self.remove(slot).await {
            // It stays taken, so that nobody gets it; the next start removes it.
            tracing::error!(%error, slot = slot.0, "a network slot was not removed");
            return;
        }
        let mut state = self.lock();
        state.taken.remove(&slot.0);
        state.quarantined.push_back((Instant::now(), slot.0));
    }

    /// Keeps slots ready until told to stop, and the way out of them open. A slot
    /// that is being made then is made to its end, so that `close` finds it.
    pub async fn keep_ready(&self, stop: &CancellationToken) {
        let mut passage = interval_at(tokio::time::Instant::now() + PASSAGE_EVERY, PASSAGE_EVERY);
        while !stop.is_cancelled() {
            if self.lock().ready.len() < self.ready_target && self.make_ready().await {
                continue;
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = self.changed.notified() => {}
                _ = passage.tick() => self.open_passage().await,
            }
        }
    }

    async fn open_passage(&self) {
        if let Err(error) = self.passage.open().await {
            tracing::warn!(%error, "sandboxes may have no way out of this host");
        }
    }

    async fn make_ready(&self) -> bool {
        let made = self.make().await;
        let made = made.inspect_err(|error| tracing::warn!(%error, "no network slot could be made ahead"));
        let Ok(slot) = made else { return false };
        let mut state = self.lock();
        state.taken.remove(&slot.0);
        state.ready.push_back(slot.0);
        true
    }

    /// Removes the slots that are ready, and the host's rules if no slot is
    /// taken.
    pub async fn close(&self) {
        loop {
            let Some(number) = self.lock().ready.pop_front() else { break };
            if let Err(error) = self.remove(Slot(number)).await {
                tracing::error!(%error, slot = number, "a network slot was not removed");
            }
        }
        if self.lock().taken.is_empty() {
            let delete = format!("delete table inet {}\n", self.table());
            if let Err(error) = self.tool("nft", ["-f", "-"], &delete).await {
                tracing::error!(%error, "the host's rules were not removed");
            }
            if let Err(error) = self.passage.close().await {
                tracing::error!(%error, "the rules in the host's firewall were not removed");
            }
        }
    }

    /// Where a slot's namespace is.
    pub fn netns(&self, slot: Slot) -> PathBuf {
        PathBuf::from("/run/netns").join(self.namespace(slot))
    }

    /// The addresses of a slot.
    pub fn address(&self, slot: Slot) -> Address {
        let first = u32::from(self.subnet) + slot.0 * ADDRESSES;
        Address { host: Ipv4Addr::from(first + 1), guest: Ipv4Addr::from(first + 2) }
    }

    /// Bytes into and out of a sandbox.
    pub fn traffic(&self, slot: Slot) -> (u64, u64) {
        let link = self.link(slot);
        let read = |name: &str| {
            let text = fs::read_to_string(format!("/sys/class/net/{link}/statistics/{name}")).unwrap_or_default();
            text.trim().parse().unwrap_or(0)
        };
        // What the host's end sends is what the sandbox receives.
        (read("tx_bytes"), read("rx_bytes"))
    }

    /// What /etc/resolv.conf says in a sandbox.
    pub fn resolv_conf(&self) -> String {
        self.resolvers.iter().map(|address| format!("nameserver {address}\n")).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn namespace(&self, slot: Slot) -> String {
        format!("ns-{}-{}", self.instance, slot.0)
    }

    fn link(&self, slot: Slot) -> String {
        format!("n{}{}", self.instance, base36(slot.0))
    }

    async fn tool<const N: usize>(&self, program: &str, args: [&str; N], input: &str) -> Result<String> {
        run_for(&owner(&self.instance), program, args, input).await
    }

    fn table(&self) -> String {
        format!("nullspace_{}", self.instance)
    }

    fn mac(slot: Slot) -> String {
        let [a, b, c, d] = slot.0.to_be_bytes();
        format!("02:6e:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
    }

    fn guest_element(&self, slot: Slot) -> String {
        format!("\"{}\" . {} . {}", self.link(slot), self.address(slot).guest, Self::mac(slot))
    }

    fn reserve(&self) -> Result<Reserved> {
        let mut state = self.lock();
        let rested =
            state.quarantined.front().filter(|(since, _)| since.elapsed() >= QUARANTINE).map(|(_, number)| *number);
        let number = if let Some(number) = rested {
            state.quarantined.pop_front();
            number
        } else {
            let in_use = |number: &u32| {
                state.taken.contains(number)
                    || state.ready.contains(number)
                    || state.quarantined.iter().any(|(_, resting)| resting == number)
            };
            let mut number = state.next;
            while in_use(&number) {
                number += 1;
            }
            if number > MAX_SLOTS
                && let Some((since, _)) = state.quarantined.front()
            {
                return Ok(Reserved::Rests(QUARANTINE.saturating_sub(since.elapsed())));
            }
            if number > MAX_SLOTS {
                let message = format!("all {MAX_SLOTS} network addresses of this host are in use");
                return Err(Error::quota(Reason::CapacityExceeded, "host", message));
            }
            state.next = number + 1;
            number
        };
        state.taken.insert(number);
        Ok(Reserved::Slot(Slot(number)))
    }

    async fn make(&self) -> Result<Slot> {
        let slot = loop {
            match self.reserve()? {
                Reserved::Slot(slot) => break slot,
                // Only a host that is full waits here.
                Reserved::Rests(left) => tokio::time::sleep(left).await,
            }
        };
        match self.build(slot).await {
            Ok(()) => Ok(slot),
            Err(error) => {
                self.retire(slot).await;
                Err(error.while_doing("making a network slot"))
            }
        }
    }

    async fn build(&self, slot: Slot) -> Result<()> {
        let (namespace, link, Address { host, guest }) = (self.namespace(slot), self.link(slot), self.address(slot));
        let outside = format!(
            "netns add {namespace}\n\
             link add {link} type veth peer name eth0 address {mac} netns {namespace}\n\
             addr add {host}/30 dev {link}\n\
             link set {link} up\n",
            mac = Self::mac(slot),
        );
        let inside = format!(
            "link set lo up\n\
             addr add {guest}/30 dev eth0\n\
             link set eth0 up\n\
             route add default via {host}\n"
        );
        self.tool("ip", ["-batch", "-"], &outside).await?;
        self.tool("ip", ["-n", namespace.as_str(), "-batch", "-"], &inside).await?;
        // Most sandboxes may reach other networks, so that is what costs nothing
        // when a slot is taken.
        let (table, guest) = (self.table(), self.guest_element(slot));
        let elements = format!(
            "add element inet {table} guests {{ {guest} }}\nadd element inet {table} internet {{ \"{link}\" }}\n"
        );
        self.tool("nft", ["-f", "-"], &elements).await?;
        Ok(())
    }

    /// Removes whatever a slot has, in any state of being made.
    async fn remove(&self, slot: Slot) -> Result<()> {
        let (namespace, link, table) = (self.namespace(slot), self.link(slot), self.table());
        // Adding first makes the deletion of an element that is missing succeed.
        let (guest, internet) = (self.guest_element(slot), format!("\"{link}\""));
        let elements = format!(
            "add element inet {table} guests {{ {guest} }}\n\
             delete element inet {table} guests {{ {guest} }}\n\
             add element inet {table} internet {{ {internet} }}\n\
             delete element inet {table} internet {{ {internet} }}\n"
        );
        self.tool("nft", ["-f", "-"], &elements).await?;
        if fs::exists(format!("/sys/class/net/{link}")).unwrap_or(true) {
            self.tool("ip", ["link", "delete", link.as_str()], "").await?;
        }
        if fs::exists(self.netns(slot)).unwrap_or(true) {
            self.tool("ip", ["netns", "delete", namespace.as_str()], "").await?;
        }
        Ok(())
    }

    /// The host's rules, replaced in one transaction.
    fn ruleset(&self, used: &[(Slot, bool)]) -> String {
        let (table, links, subnet) = (self.table(), format!("n{}*", self.instance), self.subnet);
        let guests = elements(used.iter().map(|(slot, _)| self.guest_element(*slot)));
        let internet = elements(
            used.iter().filter(|(_, internet)| *internet).map(|(slot, _)| format!("\"{}\"", self.link(*slot))),
        );
        let resolvers: String =
            self.resolvers.iter().filter(|address| address.is_ipv4()).fold(String::new(), |rules, address| {
                rules + &format!("    ip daddr {address} meta l4proto {{ tcp, udp }} th dport 53 accept\n")
            });
        format!(
            "add table inet {table}
delete table inet {table}
table inet {table} {{
  set guests {{
    type ifname . ipv4_addr . ether_addr
{guests}  }}
  set internet {{
    type ifname
{internet}  }}
  chain source {{
    type filter hook prerouting priority raw; policy accept;
    iifname != \"{links}\" accept
    iifname . ip saddr . ether saddr @guests accept
    drop
  }}
  chain host {{
    type filter hook input priority filter; policy accept;
    iifname != \"{links}\" accept
    ct state established,related accept
    iifname @internet jump resolvers
    drop
  }}
  chain resolvers {{
{resolvers}  }}
  chain through {{
    type filter hook forward priority filter; policy accept;
    oifname \"{links}\" ct state established,related accept
    oifname \"{links}\" drop
    iifname != \"{links}\" accept
    iifname != @internet drop
    jump resolvers
    ip daddr {{ 0.0.0.0/8, 127.0.0.0/8, 169.254.0.0/16, 224.0.0.0/3 }} drop
  }}
  chain nat {{
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr {subnet}/16 masquerade
  }}
}}
"
        )
    }
}

impl Slot {
    /// Its number, for the record.
    pub fn number(self) -> u32 {
        self.0
    }

    /// From the record.
    pub fn from_number(number: u32) -> Self {
        Self(number)
    }
}

/// Whose tools and rules these are.
fn owner(instance: &Instance) -> String {
    format!("nullspace-{instance}")
}

fn elements(elements: impl Iterator<Item = String>) -> String {
    let elements: Vec<_> = elements.collect();
    if elements.is_empty() { String::new() } else { format!("    elements = {{ {} }}\n", elements.join(", ")) }
}

fn base36(mut number: u32) -> String {
    let mut digits = Vec::new();
    loop {
        digits.push(char::from_digit(number % 36, 36).unwrap_or('0'));
        number /= 36;
        if number == 0 {
            return digits.iter().rev().collect();
        }
    }
}
