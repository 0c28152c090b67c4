//! A call that is sent again does its work once and has the same answer: twice
//! at once, after a cut, after a server that was killed, and never with another
//! body.

use std::time::Duration;

use nullspace_proto::{
    Reason, id,
    v1::{
        CreateApiKeyRequest, CreateSandboxRequest, DestroySandboxRequest, ListApiKeysRequest, ListSandboxesRequest,
        RevokeApiKeyRequest, RotateApiKeyRequest, SetSandboxTimeoutRequest, SignalCommandRequest, StartCommandRequest,
    },
};
use nullspace_tests::{Api, Cutter, Result, Server, TestSandbox, argv, refused, rounds, seconds, shell, small};
use tonic::Status;

/// A server, and a way to it that can be cut.
struct Ground {
    server: Server,
    cutter: Cutter,
    near: Api,
}

impl Ground {
    async fn new() -> Result<Self> {
        let server = Server::start(&[]).await?;
        let cutter = Cutter::to(&server.url()?).await?;
        Ok(Self { near: server.api().await?, server, cutter })
    }

    /// Another server on the same data.
    async fn restart(&mut self) -> Result {
        self.server.kill()?;
        self.server.start_again().await?;
        self.cutter.lead_to(&self.server.url()?);
        self.near = self.server.api().await?;
        Ok(())
    }

    /// Sends a call twice at once, then while its connection is cut, then after a
    /// restart. All that were answered have one answer, which is given.
    async fn repeat<T: PartialEq + std::fmt::Debug>(
        &mut self,
        call: impl AsyncFn(Api) -> Result<T, Status>,
    ) -> Result<T> {
        let (one, two) = tokio::join!(call(self.near.clone()), call(self.near.clone()));
        let answer = one?;
        assert_eq!(answer, two?, "twice at once");
        for _ in 0..rounds(2, 10) {
            let far = Api::connect(&self.cutter.url(), Some(&self.server.key()?)).await?;
            let cut = async {
                let mut delay = [0];
                getrandom::fill(&mut delay).unwrap();
                tokio::time::sleep(Duration::from_micros(u64::from(delay[0]) * 20)).await;
                self.cutter.cut();
            };
            let (far, ()) = tokio::join!(call(far), cut);
            if let Ok(far) = far {
                assert_eq!(answer, far, "beside a cut");
            }
            assert_eq!(answer, call(self.near.clone()).await?, "after a cut");
        }
        self.restart().await?;
        assert_eq!(answer, call(self.near.clone()).await?, "after a restart");
        Ok(answer)
    }
}

#[tokio::test]
async fn a_creation_is_one_sandbox() -> Result {
    let mut ground = Ground::new().await?;
    let request = CreateSandboxRequest { idempotency_key: id::request(), spec: Some(small()) };
    let create =
        async |api: Api| api.sandboxes().create_sandbox(request.clone()).await.map(|answer| answer.into_inner());
    let made = ground.repeat(create).await?.sandbox.unwrap();
    let sandboxes =
        ground.near.sandboxes().list_sandboxes(ListSandboxesRequest::default()).await?.into_inner().sandboxes;
    assert_eq!(sandboxes.len(), 1);
    assert_eq!(sandboxes[0].id, made.id);
    let mut other = request.clone();
    other.spec.as_mut().unwrap().cwd = "/tmp".into();
    refused(ground.near.sandboxes().create_sandbox(other).await, Reason::IdempotencyKeyReused);
    ground.server.finish().await
}

#[tokio::test]
async fn a_creation_that_was_cut_short_by_a_kill_is_made_once() -> Result {
    let mut ground = Ground::new().await?;
    for _ in 0..rounds(3, 20) {
        let request = CreateSandboxRequest { idempotency_key: id::request(), spec: Some(small()) };
        let near = ground.near.clone();
        let first = {
            let request = request.clone();
            tokio::spawn(async move { near.sandboxes().create_sandbox(request).await })
        };
        let mut delay = [0];
        getrandom::fill(&mut delay)?;
        tokio::time::sleep(Duration::from_millis(u64::from(delay[0]))).await;
        ground.restart().await?;
        let first = first.await?.ok().and_then(|answer| answer.into_inner().sandbox);
        let again = ground.near.sandboxes().create_sandbox(request).await?.into_inner().sandbox.unwrap();
        assert!(first.is_none_or(|first| first.id == again.id), "two sandboxes were answered");
        let live =
            ground.near.sandboxes().list_sandboxes(ListSandboxesRequest::default()).await?.into_inner().sandboxes;
        assert_eq!(live.iter().map(|sandbox| &sandbox.id).collect::<Vec<_>>(), [&again.id]);
        ground.near.sandboxes().destroy_sandbox(DestroySandboxRequest { sandbox_id: again.id }).await?;
    }
    ground.server.finish().await
}

#[tokio::test]
async fn calls_on_a_sandbox_work_once() -> Result {
    let mut ground = Ground::new().await?;
    let sandbox = TestSandbox::with(&ground.near, small()).await?;
    let id = sandbox.id();

    let start = StartCommandRequest {
        sandbox_id: id.clone(),
        command_id: id::command(),
        spec: Some(shell(
            "echo ran >> /tmp/runs; trap 'echo caught >> /tmp/caught' USR1; while :; do sleep 0.02; done",
        )),
    };
    let started = async |api: Api| {
        let command = api.commands().start_command(start.clone()).await?.into_inner().command.unwrap();
        Ok((command.pid, command.started_at))
    };
    ground.repeat(started).await?;
    let now = sandbox.by(ground.near.clone());
    assert_eq!(now.sh("wc -l < /tmp/runs").await?.trim(), "1");
    let other = StartCommandRequest { spec: Some(argv(["true"])), ..start.clone() };
    refused(ground.near.commands().start_command(other).await, Reason::IdempotencyKeyReused);

    let signal = SignalCommandRequest {
        sandbox_id: id.clone(),
        command_id: start.command_id.clone(),
        idempotency_key: id::request(),
        number: 10,
    };
    now.release();
    ground
        .repeat(async |api: Api| api.commands().signal_command(signal.clone()).await.map(|answer| answer.into_inner()))
        .await?;
    let now = sandbox.by(ground.near.clone());
    let caught = async || Ok(now.sh("cat /tmp/caught 2>/dev/null | wc -l").await?.trim() == "1");
    nullspace_tests::eventually("the signal is caught", Duration::from_secs(10), caught).await?;
    let other = SignalCommandRequest { number: 12, ..signal };
    refused(ground.near.commands().signal_command(other).await, Reason::IdempotencyKeyReused);
    // Long after all the repeats it was still one.
    assert!(caught().await?);
    now.release();

    let timeout = SetSandboxTimeoutRequest {
        sandbox_id: id.clone(),
        idempotency_key: id::request(),
        timeout: seconds(500),
        ..Default::default()
    };
    let set = async |api: Api| {
        let sandbox = api.sandboxes().set_sandbox_timeout(timeout.clone()).await?.into_inner().sandbox.unwrap();
        Ok(sandbox.expires_at)
    };
    // The end does not move with every repeat.
    ground.repeat(set).await?;
    let other = SetSandboxTimeoutRequest { timeout: seconds(501), ..timeout };
    refused(ground.near.sandboxes().set_sandbox_timeout(other).await, Reason::IdempotencyKeyReused);

    let kill = async |api: Api| {
        let request = DestroySandboxRequest { sandbox_id: id.clone() };
        api.sandboxes().destroy_sandbox(request).await.map(|answer| answer.into_inner())
    };
    ground.repeat(kill).await?;
    sandbox.release();
    ground.server.finish().await
}

#[tokio::test]
async fn calls_for_keys_work_once() -> Result {
    let mut ground = Ground::new().await?;
    let request = CreateApiKeyRequest { idempotency_key: id::request(), name: "one".into(), ..Default::default() };
    let create = async |api: Api| api.system().create_api_key(request.clone()).await.map(|answer| answer.into_inner());
    let made = ground.repeat(create).await?;
    let count = async |api: &Api| -> Result<usize> {
        let keys = api.system().list_api_keys(ListApiKeysRequest::default()).await?.into_inner().keys;
        Ok(keys.len())
    };
    assert_eq!(count(&ground.near).await?, 2);
    let other = CreateApiKeyRequest { name: "two".into(), ..request };
    refused(ground.near.system().create_api_key(other).await, Reason::IdempotencyKeyReused);

    let key_id = made.key.unwrap().id;
    let rotate = RotateApiKeyRequest { key_id: key_id.clone(), idempotency_key: id::request(), ..Default::default() };
    let rotated = ground
        .repeat(async |api: Api| api.system().rotate_api_key(rotate.clone()).await.map(|answer| answer.into_inner()))
        .await?;
    assert_eq!(count(&ground.near).await?, 3);
    let revoke = RevokeApiKeyRequest { key_id: rotated.key.unwrap().id };
    ground
        .repeat(async |api: Api| api.system().revoke_api_key(revoke.clone()).await.map(|answer| answer.into_inner()))
        .await?;
    ground.server.finish().await
}
