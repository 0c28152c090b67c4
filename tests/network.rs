//! What a sandbox reaches: other networks if it may, and never another sandbox,
//! the host, or a link-local address. The outside is a namespace of the test's.

use std::process::{Child, Command, Stdio};

use nullspace_proto::v1::SandboxSpec;
use nullspace_tests::{Result, Server, TestSandbox, eventually, rounds, small};
use tokio::sync::Mutex;

/// There is one outside at a time: its addresses are the same.
static ALONE: Mutex<()> = Mutex::const_new(());

const OUTSIDE: &str = "198.51.100.2";
const HOST: &str = "198.51.100.1";
const LINK_LOCAL: &str = "169.254.77.77";

/// A namespace that is outside, with a web server, a resolver, and a link-local
/// address.
struct Outside {
    name: String,
    link: String,
    children: Vec<Child>,
}

fn run(line: &str) -> Result {
    let status = Command::new("sh").args(["-ec", line]).status()?;
    if status.success() { Ok(()) } else { Err(format!("{line:?} failed with {status}").into()) }
}

const SERVE: &str = r#"
import socket, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class Answer(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(self.client_address[0].encode())
    def log_message(self, *args): pass
def resolve():
    names = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); names.bind(("198.51.100.2", 53))
    while True:
        query, client = names.recvfrom(512)
        end = query.index(0, 12) + 5
        found = query[end - 4:end - 2] == b"\0\1"
        answer = query[:2] + b"\x81\x80\0\1" + (b"\0\1" if found else b"\0\0") + b"\0\0\0\0" + query[12:end]
        if found: answer += b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4" + bytes([198, 51, 100, 2])
        names.sendto(answer, client)
threading.Thread(target=resolve, daemon=True).start()
ThreadingHTTPServer(("0.0.0.0", 8080), Answer).serve_forever()
"#;

impl Outside {
    fn new() -> Result<Self> {
        let tag = nullspace_proto::id::ulid()[20..].to_owned();
        let (name, link) = (format!("nstest-{tag}"), format!("nst{tag}"));
        let mut outside = Self { name: name.clone(), link: link.clone(), children: Vec::new() };
        run(&format!(
            "ip netns add {name}; ip link add {link} type veth peer name eth0 netns {name}
             ip addr add {HOST}/24 dev {link}; ip link set {link} up
             ip -n {name} addr add {OUTSIDE}/24 dev eth0; ip -n {name} addr add {LINK_LOCAL}/32 dev lo
             ip -n {name} link set eth0 up; ip -n {name} link set lo up
             ip route add {LINK_LOCAL}/32 via {OUTSIDE}"
        ))?;
        let server =
            Command::new("ip").args(["netns", "exec", &name, "python3", "-c", SERVE]).stdin(Stdio::null()).spawn()?;
        outside.children.push(server);
        // Something on the host, too: it must not be reached.
        let mut host = Command::new("python3");
        host.args(["-m", "http.server", "8099", "--bind", HOST]);
        outside.children.push(quietly(&mut host)?);
        Ok(outside)
    }

    /// Whether something there can call the agent of a sandbox, to which the host
    /// is its way.
    fn calls(&self, sandbox: &str) -> Result<bool> {
        let name = &self.name;
        run(&format!("ip -n {name} route replace {sandbox}/32 via {HOST}"))?;
        let call = format!("curl -s --http2-prior-knowledge --connect-timeout 1 http://{sandbox}:1007/");
        let mut curl = Command::new("sh");
        curl.args(["-c", &format!("exec ip netns exec {name} {call}")]);
        Ok(quietly(&mut curl)?.wait()?.success())
    }
}

fn quietly(command: &mut Command) -> Result<Child> {
    Ok(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?)
}

impl Drop for Outside {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = run(&format!("ip link delete {}; ip netns delete {}", self.link, self.name));
    }
}

/// What curl gets, or `-`.
async fn fetch(sandbox: &TestSandbox, url: &str) -> Result<String> {
    sandbox.sh(&format!("curl -s --connect-timeout 1 --max-time 2 {url} || echo -")).await
}

/// Of a sandbox.
async fn address(sandbox: &TestSandbox) -> Result<String> {
    let own = "ip -4 -o addr show eth0 | awk '{print $4}' | cut -d/ -f1";
    Ok(sandbox.sh(own).await?.trim().to_owned())
}

#[tokio::test]
async fn a_sandbox_reaches_what_it_may_and_nothing_else() -> Result {
    let _alone = ALONE.lock().await;
    let outside = Outside::new()?;
    let server = Server::start(&["--dns", OUTSIDE]).await?;
    let api = server.api().await?;
    let one = TestSandbox::with(&api, small()).await?;
    let two = TestSandbox::with(&api, small()).await?;
    let shut = TestSandbox::with(&api, SandboxSpec { internet_access: Some(false), ..small() }).await?;

    // Out by NAT, with names.
    let open = async || Ok(fetch(&one, &format!("http://{OUTSIDE}:8080/")).await? == HOST);
    eventually("the outside answers, and sees the host's address", std::time::Duration::from_secs(20), open).await?;
    assert_eq!(fetch(&one, "http://some.example.test:8080/").await?, HOST);
    assert_eq!(fetch(&shut, &format!("http://{OUTSIDE}:8080/")).await?, "-\n");
    assert_eq!(fetch(&shut, "http://some.example.test:8080/").await?, "-\n");

    // Not the host, at any of its addresses.
    let gateway = one.sh("ip route | awk '/default/ {print $3}'").await?;
    let port = server.url()?.rsplit(':').next().unwrap_or_default().to_owned();
    for address in [
        format!("{HOST}:8099"),
        format!("{}:8099", gateway.trim()),
        format!("{HOST}:{port}"),
        format!("{}:22", gateway.trim()),
    ] {
        assert_eq!(fetch(&one, &format!("http://{address}/")).await?, "-\n", "{address}");
    }
    // Not a link-local address, though the host has a way to it.
    run(&format!("curl -s --max-time 2 http://{LINK_LOCAL}:8080/ > /dev/null"))?;
    assert_eq!(fetch(&one, &format!("http://{LINK_LOCAL}:8080/")).await?, "-\n");

    // Not another sandbox, neither its own services nor its agent.
    let (first, second) = (address(&one).await?, address(&two).await?);
    let _serving = two.start(nullspace_tests::shell("python3 -m http.server 8000")).await?;
    let up = async || Ok(fetch(&two, "http://127.0.0.1:8000/").await?.contains("<html"));
    eventually("the neighbour serves", std::time::Duration::from_secs(10), up).await?;
    for port in [8000, 1007] {
        assert_eq!(fetch(&one, &format!("--http2-prior-knowledge http://{second}:{port}/")).await?, "-\n");
    }

    // Nor is it reached from there.
    assert!(!outside.calls(&first)?);

    // Not under another's address.
    let forged = format!(
        "ip addr add {second}/32 dev eth0 && curl -s --interface {second} --connect-timeout 1 http://{OUTSIDE}:8080/ || echo -; ip addr show eth0 | grep -c {first}"
    );
    assert_eq!(one.sh(&forged).await?, "-\n1\n");
    drop((one, two, shut));
    server.finish().await
}

/// Chains of iptables, which drop what a server's sandboxes send and nothing
/// else.
struct Firewall(());

impl Firewall {
    /// `None`: this host has a firewall of its own.
    fn new(instance: &str) -> Result<Option<Self>> {
        if Command::new("nft").args(["list", "table", "ip", "filter"]).output()?.status.success() {
            return Ok(None);
        }
        let firewall = Self(());
        run(&format!(
            "iptables-nft -A FORWARD ! -i n{instance}+ ! -o n{instance}+ -j ACCEPT
             iptables-nft -P FORWARD DROP"
        ))?;
        Ok(Some(firewall))
    }
}

impl Drop for Firewall {
    fn drop(&mut self) {
        let _ = run("nft delete table ip filter");
    }
}

/// The two rules, as iptables tells of them. It tells nothing of a table in which
/// there is anything that it does not know.
fn rules(instance: &str) -> Result<usize> {
    let listed = Command::new("iptables-nft").args(["-S"]).output()?;
    if !listed.status.success() || !listed.stderr.is_empty() {
        return Err(format!("iptables is of no use any more: {}", String::from_utf8_lossy(&listed.stderr)).into());
    }
    let ours = format!("--comment nullspace-{instance} -j ACCEPT");
    Ok(String::from_utf8_lossy(&listed.stdout).lines().filter(|line| line.ends_with(&ours)).count())
}

/// Docker and ufw drop what they do not know.
#[tokio::test]
async fn a_firewall_that_forwards_nothing_lets_sandboxes_through() -> Result {
    let _alone = ALONE.lock().await;
    let outside = Outside::new()?;
    let mut server = Server::start(&["--dns", OUTSIDE]).await?;
    let instance = server.instance()?;
    let (url, limit) = (format!("http://{OUTSIDE}:8080/"), std::time::Duration::from_secs(60));
    for running in [false, true] {
        // One that comes later is noticed, but not at once.
        if running && rounds(0, 1) == 0 {
            break;
        }
        if !running {
            server.stop().await?;
        }
        let firewall = Firewall::new(&instance)?;
        if !running {
            server.start_again().await?;
        }
        let api = server.api().await?;
        let sandbox = TestSandbox::with(&api, small()).await?;
        let shut = TestSandbox::with(&api, SandboxSpec { internet_access: Some(false), ..small() }).await?;
        let open = async || Ok(fetch(&sandbox, &url).await? == HOST);
        eventually("the outside answers", limit, open).await?;
        assert_eq!(fetch(&shut, &url).await?, "-\n");
        assert_eq!(rules(&instance)?, 2);
        // What lets answers in lets nothing else in.
        assert!(!outside.calls(&address(&sandbox).await?)?);
        drop((sandbox, shut));
        if !running {
            server.stop().await?;
            assert_eq!(server.host_things()?, Vec::<String>::new());
            server.start_again().await?;
        }
        drop(firewall);
    }
    server.finish().await
}
