//! TLS, by the server itself.

use std::process::Command;

use nullspace::{Client, Reason};
use nullspace_tests::{Result, Server};

use super::refused;

#[tokio::test]
async fn a_server_with_a_certificate_is_trusted_by_name_only() -> Result {
    let directory = std::env::temp_dir().join(format!("nullspace-tls-{}", nullspace_proto::id::ulid()));
    std::fs::create_dir_all(&directory)?;
    let file = |name: &str| directory.join(name).to_string_lossy().into_owned();
    let (certificate, key) = (file("cert.pem"), file("key.pem"));
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"]);
    // A leaf, as rustls wants one; the tool makes an authority unless told.
    openssl.args(["-addext", "basicConstraints=critical,CA:FALSE", "-addext", "subjectAltName=IP:127.0.0.1"]);
    let made = openssl.args(["-keyout", &key, "-out", &certificate]).output()?;
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));

    let mut server = Server::start(&["--tls-cert", &certificate, "--tls-key", &key]).await?;
    let url = server.url()?.replace("http://", "https://");
    let client = Client::builder().url(url.as_str()).api_key(server.key()?).ca_cert(&certificate).build()?;
    let sandbox = client.create_sandbox().vcpus(1).memory_mib(256).await?;
    let input = vec![7; 3_000_000];
    assert!(sandbox.commands().run("cat").input(input.clone()).await?.stdout == input);
    sandbox.kill().await?;

    let stranger = Client::builder().url(url.as_str()).api_key(server.key()?).build()?;
    let error = refused(stranger.system().version().await, Reason::Transport);
    assert!(error.message().contains("certificate"), "{error}");
    let plain = Client::builder().url(server.url()?).api_key(server.key()?).build()?;
    refused(plain.system().version().await, Reason::Transport);
    server.stop().await?;
    std::fs::remove_dir_all(directory)?;
    Ok(())
}
