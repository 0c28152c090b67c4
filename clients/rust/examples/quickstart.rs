//! The README's five minutes in Rust. It must keep compiling: it is how users
//! write.

use std::time::Duration;

use nullspace::{Client, Event, Reason, SandboxState, Signal};
use tokio_stream::StreamExt as _;

#[tokio::main]
async fn main() -> nullspace::Result<()> {
    let client = Client::from_env()?;

    let sandbox = client
        .create_sandbox()
        .vcpus(2)
        .memory_mib(512)
        .timeout(Duration::from_secs(600))
        .metadata("job", "demo")
        .await?;
    let outcome = five_minutes(&client, sandbox.id()).await;
    sandbox.kill().await?;
    outcome
}

async fn five_minutes(client: &Client, id: &str) -> nullspace::Result<()> {
    // From anywhere, with the same key.
    let sandbox = client.connect_sandbox(id).await?;
    let mut running = client.list_sandboxes().state(SandboxState::Running).metadata("job", "demo").entries();
    while let Some(info) = running.next().await {
        let info = info?;
        println!("{} {:?}", info.id, info.expires_at);
    }
    sandbox.set_timeout(Duration::from_secs(1_200)).await?;

    // A program with arguments, or a line for the shell.
    let commands = sandbox.commands();
    let result = commands.run("python3").args(["-c", "print(6 * 7)"]).await?;
    println!("{} {}", result.code(), result.stdout_text());
    let mut events = commands.shell("for i in 1 2 3; do echo $i; done").timeout(Duration::from_secs(10)).events();
    while let Some(event) = events.next().await {
        if let Event::Output(output) = event? {
            print!("{}", String::from_utf8_lossy(&output.data));
        }
    }

    // In the background, with input.
    let sort = commands.run("sort").start().await?;
    sort.write_input("pear\napple\n").await?;
    sort.close_input().await?;
    print!("{}", sort.result().await?.stdout_text());

    let server = commands.run("python3").args(["-m", "http.server", "8000"]).start().await?;
    let same = commands.connect(server.id()).await?;
    same.signal(Signal::INT).await?;
    println!("{:?}", same.wait().await?.outcome);

    // Files are written whole or not at all.
    let files = sandbox.files();
    files.write("/workspace/data.bin", vec![0, 1]).await?;
    print!("{}", files.read("/etc/os-release").text().await?);
    match files.read("/nowhere").await {
        Err(error) if error.reason() == Reason::FileNotFound => println!("{}", error.suggested_action()),
        other => println!("{other:?}"),
    }
    Ok(())
}
