//! A store that is lost or damaged costs no sandbox that runs and no key.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    time::Duration,
};

use nullspace_proto::{
    Reason, id,
    v1::{
        CreateApiKeyRequest, CreateSandboxRequest, GetSandboxRequest, RotateApiKeyRequest, Sandbox, SandboxSpec,
        SandboxState, SetSandboxTimeoutRequest, WhoAmIRequest,
    },
};
use nullspace_tests::{Api, Result, Server, TestSandbox, eventually, refused, small};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

type Damage = fn(&Path) -> std::io::Result<()>;

/// sled opens each of these without a word, with less in it or nothing.
const DAMAGES: [(&str, Damage); 5] = [
    // The file is larger than what is in it.
    ("cut short", |store| fs::OpenOptions::new().write(true).open(store.join("db"))?.set_len(9_000)),
    ("emptied", |store| fs::write(store.join("db"), b"")),
    ("overwritten", |store| {
        let length = fs::metadata(store.join("db"))?.len();
        fs::write(store.join("db"), (0..length).map(|n| (n * 7_919 % 251) as u8).collect::<Vec<_>>())
    }),
    ("without its database", |store| fs::remove_file(store.join("db"))),
    ("gone", |store| fs::remove_dir_all(store)),
];

async fn get(api: &Api, id: &str) -> Result<Sandbox> {
    let request = GetSandboxRequest { sandbox_id: id.into(), ..Default::default() };
    Ok(api.sandboxes().get_sandbox(request).await?.into_inner().sandbox.ok_or("no sandbox")?)
}

/// Waits until the export is newer than it was.
async fn exported(server: &Server, than: std::time::SystemTime) -> Result {
    let path = server.data().join("store.export");
    eventually("the store is exported", Duration::from_secs(20), async || Ok(fs::metadata(&path)?.modified()? > than))
        .await
}

async fn key(api: &Api) -> Result<String> {
    Ok(api.system().create_api_key(CreateApiKeyRequest::default()).await?.into_inner().secret_key)
}

#[tokio::test]
async fn sandboxes_and_keys_outlive_a_damaged_store() -> Result {
    for (name, damage) in DAMAGES {
        // Beside sandboxes there are some that were started ahead.
        let mut server = Server::start(&["--pool-size", "2", "--pool-ready", "1"]).await?;
        let api = server.api().await?;
        let old = TestSandbox::with(&api, small()).await?;
        old.sh("echo kept > /workspace/file").await?;
        let old_key = key(&api).await?;
        // A stop exports all; what comes after it is newer than the export, but
        // for keys, which nothing else could tell again.
        server.stop().await?;
        server.start_again().await?;
        let api = server.api().await?;
        let before = fs::metadata(server.data().join("store.export"))?.modified()?;
        let (new, ended) = (TestSandbox::with(&api, small()).await?, TestSandbox::with(&api, small()).await?);
        ended.destroy().await?;
        let reused = TestSandbox::with(&api, small()).await?;
        let new_key = key(&api).await?;
        let ended_key = key(&api).await?;
        api.with_key(Some(&ended_key))?.system().rotate_api_key(RotateApiKeyRequest::default()).await?;
        exported(&server, before).await?;
        let last = fs::metadata(server.data().join("store.export"))?.modified()?;
        key(&api).await?;
        exported(&server, last).await?;
        let after = TestSandbox::with(&api, small()).await?;
        server.kill()?;
        damage(&server.data().join("store"))?;

        server.start_again().await.map_err(|error| format!("{name}: {error}"))?;
        assert!(server.log().contains("THE STORE IS DAMAGED"), "{name}: {}", server.log());
        let aside = fs::read_dir(server.data())?
            .flatten()
            .filter(|entry| entry.file_name().to_string_lossy().contains("damaged"));
        assert_eq!(aside.count(), 1, "{name}: the damaged store is kept");
        let api = server.api().await?;
        for sandbox in [&old, &new, &reused, &after] {
            let found = get(&api, &sandbox.id()).await.map_err(|error| format!("{name}: {error}\n{}", server.log()))?;
            assert_eq!(found, sandbox.sandbox, "{name}");
            let again = TestSandbox { api: api.clone(), sandbox: found };
            assert_eq!(again.sh("echo usable").await?, "usable\n", "{name}");
            std::mem::forget(again);
        }
        let old = TestSandbox { api: api.clone(), sandbox: old.sandbox.clone() };
        assert_eq!(old.sh("cat /workspace/file").await?, "kept\n", "{name}");
        for key in [&old_key, &new_key] {
            api.with_key(Some(key))?.system().who_am_i(WhoAmIRequest {}).await?;
        }
        assert!(
            api.with_key(Some(&ended_key))?.system().who_am_i(WhoAmIRequest {}).await.is_err(),
            "{name}: an ended key is valid again"
        );
        // What was destroyed since is not there again.
        if let Ok(ended) = get(&api, &ended.id()).await {
            assert_eq!(ended.state(), SandboxState::Destroyed, "{name}");
        }
        drop(old);
        server.finish().await.map_err(|error| format!("{name}: {error}"))?;
    }
    Ok(())
}

#[tokio::test]
async fn a_damaged_store_without_an_export_is_not_taken_for_a_new_one() -> Result {
    let mut server = Server::start(&[]).await?;
    let sandbox = TestSandbox::with(&server.api().await?, small()).await?;
    server.kill()?;
    let (db, export) = (server.data().join("store/db"), server.data().join("store.export"));
    let (kept, exported) = (fs::read(&db)?, fs::read(&export)?);
    fs::write(&db, b"")?;
    fs::write(&export, &exported[..exported.len() / 2])?;
    let error = server.start_again().await.err().ok_or("it started")?.to_string();
    assert!(error.contains("store.export") && error.contains("is of no use"), "{error}");
    // Nothing was done to what runs.
    fs::write(&db, kept)?;
    server.start_again().await?;
    let sandbox = TestSandbox { api: server.api().await?, sandbox: sandbox.sandbox.clone() };
    assert_eq!(sandbox.sh("echo here").await?, "here\n");
    drop(sandbox);
    server.finish().await
}

/// A disk of its own for a server's data, over what it had before.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn on(data: &Path) -> Result<Self> {
        mount("small", data, "tmpfs", MountFlags::empty(), Some(c"size=160m,mode=700"))?;
        Ok(Self(data.to_owned()))
    }

    /// Takes all that is left of it, as something else on the host does.
    fn fill(&self, name: &str) -> Result<PathBuf> {
        let path = self.0.join(name);
        let mut file = fs::File::create(&path)?;
        while file.write_all(&[1; 4_096]).is_ok() {}
        Ok(path)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}

#[tokio::test]
async fn a_full_disk_of_the_host_is_said_and_passes() -> Result {
    let mut server = Server::start(&[]).await?;
    server.stop().await?;
    let disk = SmallDisk::on(server.data())?;
    server.start_again().await?;
    let api = server.api().await?;
    let note = prost_types::Value::from("n".repeat(32 << 10));
    let metadata = prost_types::Struct { fields: [("note".to_owned(), note)].into() };
    let sandbox = TestSandbox::with(&api, SandboxSpec { metadata: Some(metadata), ..small() }).await?;
    let large = TestSandbox::with(&api, small()).await?;
    let set = async |seconds: i64| {
        let timeout = Some(prost_types::Duration { seconds, nanos: 0 });
        // With a key its answer, the whole sandbox, is kept.
        let (sandbox_id, idempotency_key) = (sandbox.id(), id::request());
        let request = SetSandboxTimeoutRequest { sandbox_id, idempotency_key, timeout, ..Default::default() };
        api.sandboxes().set_sandbox_timeout(request).await.map(|answer| answer.into_inner().sandbox)
    };
    // A sandbox fills it, and can be destroyed, which frees it.
    large.sh("cat /dev/zero > /workspace/large || true").await?;
    let create = CreateSandboxRequest { spec: Some(small()), ..Default::default() };
    refused(api.sandboxes().create_sandbox(create.clone()).await, Reason::CapacityExceeded);
    assert_eq!(large.destroy().await?.state(), SandboxState::Destroyed);
    TestSandbox::with(&api, small()).await?.destroy().await?;

    // Something else takes it all, and what was kept for records as well.
    let first = disk.fill("first")?;
    let last = set(1_000).await?;
    let second = disk.fill("second")?;
    refused(set(2_000).await, Reason::CapacityExceeded);
    // Each of these is logged, which fails as well.
    let stranger = api.with_key(Some("not-a-key"))?;
    for _ in 0..100 {
        refused(stranger.system().who_am_i(WhoAmIRequest {}).await, Reason::ApiKeyInvalid);
    }
    refused(api.sandboxes().create_sandbox(create).await, Reason::CapacityExceeded);
    // Nothing is told that is not so, and what needs no record goes on.
    assert_eq!(Some(get(&api, &sandbox.id()).await?), last);
    assert_eq!(sandbox.sh("echo beside").await?, "beside\n");

    fs::remove_file(second)?;
    fs::remove_file(first)?;
    set(3_000).await?;
    let other = TestSandbox::with(&api, small()).await?;
    let (first, second) = (disk.fill("first")?, disk.fill("second")?);
    let last = set(4_000).await?;
    let third = disk.fill("third")?;
    server.kill()?;
    let error = server.start_again().await.err().ok_or("it started")?.to_string();
    // Why, it tells a log that can be written.
    assert!(error.contains("ended with exit status: 1"), "{error}");
    for filling in [first, second, third] {
        fs::remove_file(filling)?;
    }
    server.start_again().await?;
    let api = server.api().await?;
    assert_eq!(Some(get(&api, &sandbox.id()).await?), last);
    assert_eq!(get(&api, &other.id()).await?, other.sandbox);
    for sandbox in [sandbox, other] {
        TestSandbox { api: api.clone(), sandbox: sandbox.sandbox.clone() }.destroy().await?;
    }
    server.stop().await?;
    drop(disk);
    server.finish().await
}
