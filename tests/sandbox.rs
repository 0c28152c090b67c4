//! SandboxService.

use std::time::{Duration, SystemTime};

use nullspace_proto::{
    Reason,
    v1::{
        ConnectSandboxRequest, CreateSandboxRequest, DestroySandboxRequest, GetCommandRequest,
        GetSandboxMetricsRequest, GetSandboxRequest, LifetimePolicy, ListSandboxesRequest, LogPosition, Resources,
        RunOnceRequest, RunOnceResponse, Sandbox, SandboxSpec, SandboxState, SetSandboxTimeoutRequest,
        run_once_response::Frame,
    },
};
use nullspace_tests::{Api, Result, TestSandbox, eventually, refused, seconds, shell, small};
use prost_types::{FieldMask, Struct, Value, value::Kind};

async fn get(api: &Api, id: &str) -> Result<Sandbox> {
    let request = GetSandboxRequest { sandbox_id: id.into(), ..Default::default() };
    Ok(api.sandboxes().get_sandbox(request).await?.into_inner().sandbox.ok_or("no sandbox")?)
}

fn metadata(pairs: &[(&str, &str)]) -> Option<Struct> {
    let value = |text: &str| Value { kind: Some(Kind::StringValue(text.into())) };
    Some(Struct { fields: pairs.iter().map(|(name, text)| ((*name).to_owned(), value(text))).collect() })
}

fn until(sandbox: &Sandbox) -> Duration {
    let end = SystemTime::try_from(sandbox.expires_at.unwrap()).unwrap();
    end.duration_since(SystemTime::now()).unwrap_or_default()
}

#[tokio::test]
async fn a_new_sandbox_is_what_was_asked_for() -> Result {
    let spec = SandboxSpec {
        resources: Some(Resources { vcpus: Some(2), memory_mib: Some(384), disk_mib: Some(600) }),
        lifetime: Some(LifetimePolicy { timeout: seconds(120), ..Default::default() }),
        metadata: metadata(&[("purpose", "test")]),
        envs: [("GREETING".to_owned(), "hello".to_owned())].into(),
        cwd: "/srv/deep/er".into(),
        ..Default::default()
    };
    let sandbox = TestSandbox::with(&Api::shared().await?, spec.clone()).await?;
    let made = &sandbox.sandbox;
    assert!(made.id.starts_with("sb_") && made.id.len() == 29, "{made:?}");
    assert_eq!(made.state(), SandboxState::Running);
    assert_eq!((made.incarnation, made.template.as_str(), made.engine.as_str()), (1, "base", "gvisor"));
    assert_eq!((made.resources, &made.metadata, made.cwd.as_str()), (spec.resources, &spec.metadata, "/srv/deep/er"));
    assert!(made.created_at.is_some() && made.started_at.is_some() && made.internet_access);
    assert!(until(made) > Duration::from_secs(110) && until(made) <= Duration::from_secs(120));
    assert_eq!(get(&sandbox.api, &made.id).await?, *made);

    assert_eq!(sandbox.sh("echo $GREETING; pwd; nproc").await?, "hello\n/srv/deep/er\n2\n");
    let memory: u64 = sandbox.sh("awk '/MemTotal/ {print $2}' /proc/meminfo").await?.trim().parse()?;
    assert_eq!(memory, 384 * 1024);
    let disk: u64 = sandbox.sh("df -k --output=size / | tail -1").await?.trim().parse()?;
    assert_eq!(disk, 600 * 1024);
    Ok(())
}

#[tokio::test]
async fn defaults_are_those_of_the_contract() -> Result {
    let sandbox = TestSandbox::with(&Api::shared().await?, SandboxSpec::default()).await?;
    let made = &sandbox.sandbox;
    let defaults = Resources { vcpus: Some(1), memory_mib: Some(256), disk_mib: Some(2048) };
    assert_eq!((made.resources, made.cwd.as_str()), (Some(defaults), "/workspace"));
    assert!(until(made) > Duration::from_secs(290) && until(made) <= Duration::from_secs(300));
    Ok(())
}

#[tokio::test]
async fn bad_fields_are_all_named_and_nothing_is_made() -> Result {
    let api = Api::shared().await?;
    let marker = metadata(&[("case", "bad fields")]);
    let number = |kind| Some(Struct { fields: [("n".to_owned(), Value { kind: Some(kind) })].into() });
    let resources = |vcpus, memory_mib, disk_mib| Some(Resources { vcpus, memory_mib, disk_mib });
    let lifetime = |timeout| Some(LifetimePolicy { timeout, ..Default::default() });
    let base = || SandboxSpec { metadata: marker.clone(), ..Default::default() };
    let cases = [
        ("spec.resources.vcpus", SandboxSpec { resources: resources(Some(0), None, None), ..base() }),
        ("spec.resources.vcpus", SandboxSpec { resources: resources(Some(-1), None, None), ..base() }),
        ("spec.resources.vcpus", SandboxSpec { resources: resources(Some(i32::MAX), None, None), ..base() }),
        ("spec.resources.memory_mib", SandboxSpec { resources: resources(None, Some(0), None), ..base() }),
        ("spec.resources.memory_mib", SandboxSpec { resources: resources(None, Some(i32::MIN), None), ..base() }),
        ("spec.resources.disk_mib", SandboxSpec { resources: resources(None, None, Some(511)), ..base() }),
        ("spec.resources.disk_mib", SandboxSpec { resources: resources(None, None, Some(131_073)), ..base() }),
        ("spec.lifetime.timeout", SandboxSpec { lifetime: lifetime(seconds(0)), ..base() }),
        ("spec.lifetime.timeout", SandboxSpec { lifetime: lifetime(seconds(-5)), ..base() }),
        ("spec.lifetime.timeout", SandboxSpec { lifetime: lifetime(seconds(i64::MAX)), ..base() }),
        ("spec.lifetime.action", SandboxSpec { lifetime: Some(LifetimePolicy { timeout: None, action: 9 }), ..base() }),
        ("spec.cwd", SandboxSpec { cwd: "relative".into(), ..base() }),
        ("spec.cwd", SandboxSpec { cwd: "/workspace/.nullspace".into(), ..base() }),
        ("spec.envs", SandboxSpec { envs: [(String::new(), String::new())].into(), ..base() }),
        ("spec.metadata.n", SandboxSpec { metadata: number(Kind::NumberValue(9.1e15)), ..base() }),
    ];
    for (field, spec) in cases {
        let status = refused(
            api.sandboxes().create_sandbox(CreateSandboxRequest { spec: Some(spec), ..Default::default() }).await,
            Reason::InvalidRequest,
        );
        let violations = tonic_types::StatusExt::get_details_bad_request(&status).unwrap().field_violations;
        assert_eq!(violations.iter().map(|violation| violation.field.as_str()).collect::<Vec<_>>(), [field]);
    }
    let two = SandboxSpec { resources: resources(Some(0), Some(1), None), ..base() };
    let status = refused(
        api.sandboxes().create_sandbox(CreateSandboxRequest { spec: Some(two), ..Default::default() }).await,
        Reason::InvalidRequest,
    );
    assert_eq!(tonic_types::StatusExt::get_details_bad_request(&status).unwrap().field_violations.len(), 2);

    let unknown = SandboxSpec { template: "../base".into(), ..base() };
    refused(
        api.sandboxes().create_sandbox(CreateSandboxRequest { spec: Some(unknown), ..Default::default() }).await,
        Reason::TemplateNotFound,
    );
    let list = ListSandboxesRequest { metadata: marker, ..Default::default() };
    assert_eq!(api.sandboxes().list_sandboxes(list).await?.into_inner().sandboxes, []);
    Ok(())
}

#[tokio::test]
async fn a_key_makes_one_sandbox() -> Result {
    let api = Api::shared().await?;
    let request = CreateSandboxRequest { idempotency_key: nullspace_proto::id::request(), spec: Some(small()) };
    let (mut one, mut two) = (api.sandboxes(), api.sandboxes());
    let (first, second) = tokio::join!(one.create_sandbox(request.clone()), two.create_sandbox(request.clone()));
    let (first, second) = (first?.into_inner(), second?.into_inner());
    let sandbox = TestSandbox { api: api.clone(), sandbox: first.sandbox.clone().unwrap() };
    assert_eq!(first, second);
    assert_eq!(api.sandboxes().create_sandbox(request.clone()).await?.into_inner(), first);

    let other = CreateSandboxRequest { spec: Some(SandboxSpec { cwd: "/tmp".into(), ..small() }), ..request.clone() };
    refused(api.sandboxes().create_sandbox(other).await, Reason::IdempotencyKeyReused);
    sandbox.destroy().await?;
    // The first answer, also when what it tells is over.
    assert_eq!(api.sandboxes().create_sandbox(request).await?.into_inner(), first);
    Ok(())
}

fn id_of(token: &str) -> String {
    token.split('.').next().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn lists_are_newest_first_in_stable_pages() -> Result {
    let api = Api::shared().await?;
    let group = nullspace_proto::id::request();
    let mut made = Vec::new();
    for n in ["one", "two", "three"] {
        let spec = SandboxSpec { metadata: metadata(&[("group", &group), ("n", n)]), ..small() };
        made.push(TestSandbox::with(&api, spec).await?);
    }
    let ids: Vec<_> = made.iter().rev().map(TestSandbox::id).collect();
    let request = ListSandboxesRequest { metadata: metadata(&[("group", &group)]), ..Default::default() };
    let page = api.sandboxes().list_sandboxes(request.clone()).await?.into_inner();
    assert_eq!(page.sandboxes.iter().map(|sandbox| sandbox.id.clone()).collect::<Vec<_>>(), ids);
    assert_eq!(page.next_page_token, "");

    // A token belongs to the list that gave it.
    let other = ListSandboxesRequest { page_size: Some(1), ..request.clone() };
    let token = api.sandboxes().list_sandboxes(other).await?.into_inner().next_page_token;
    for stray in [token.clone(), "nonsense".into(), id_of(&token)] {
        let stray = ListSandboxesRequest { page_token: stray, template: "base".into(), ..request.clone() };
        refused(api.sandboxes().list_sandboxes(stray).await, Reason::InvalidRequest);
    }
    // One that goes away between two pages changes neither.
    let first = ListSandboxesRequest { page_size: Some(1), ..request.clone() };
    let page = api.sandboxes().list_sandboxes(first.clone()).await?.into_inner();
    made[2].destroy().await?;
    let second = ListSandboxesRequest { page_token: page.next_page_token, page_size: Some(2), ..request.clone() };
    let page = api.sandboxes().list_sandboxes(second).await?.into_inner();
    assert_eq!(page.sandboxes.iter().map(|sandbox| sandbox.id.clone()).collect::<Vec<_>>(), ids[1..]);
    assert_eq!(page.next_page_token, "");

    let destroyed = ListSandboxesRequest { states: vec![SandboxState::Destroyed as i32], ..request.clone() };
    let page = api.sandboxes().list_sandboxes(destroyed).await?.into_inner();
    assert_eq!(page.sandboxes.iter().map(|sandbox| sandbox.id.clone()).collect::<Vec<_>>(), ids[..1]);
    let one = ListSandboxesRequest { metadata: metadata(&[("group", &group), ("n", "two")]), ..request.clone() };
    assert_eq!(api.sandboxes().list_sandboxes(one).await?.into_inner().sandboxes.len(), 1);
    let none = ListSandboxesRequest { template: "other".into(), ..request.clone() };
    assert_eq!(api.sandboxes().list_sandboxes(none).await?.into_inner().sandboxes, []);

    let masked = ListSandboxesRequest { read_mask: Some(FieldMask { paths: vec!["id".into()] }), ..request.clone() };
    let page = api.sandboxes().list_sandboxes(masked).await?.into_inner();
    assert_eq!(page.sandboxes[0], Sandbox { id: ids[1].clone(), ..Default::default() });
    for bad in [
        ListSandboxesRequest { page_size: Some(0), ..Default::default() },
        ListSandboxesRequest { page_size: Some(101), ..Default::default() },
        ListSandboxesRequest { page_token: "a b".into(), ..Default::default() },
        ListSandboxesRequest { states: vec![99], ..Default::default() },
        ListSandboxesRequest { read_mask: Some(FieldMask { paths: vec!["nope".into()] }), ..Default::default() },
    ] {
        refused(api.sandboxes().list_sandboxes(bad).await, Reason::InvalidRequest);
    }
    Ok(())
}

#[tokio::test]
async fn a_lifetime_can_be_extended_and_set_and_ends_on_time() -> Result {
    let sandbox = TestSandbox::new().await?;
    let (api, id) = (&sandbox.api, sandbox.id());
    let connect = |timeout| ConnectSandboxRequest { sandbox_id: id.clone(), timeout };
    let shorter = api.sandboxes().connect_sandbox(connect(seconds(10))).await?.into_inner().sandbox.unwrap();
    assert_eq!(shorter.expires_at, sandbox.sandbox.expires_at);
    let longer = api.sandboxes().connect_sandbox(connect(seconds(1_000))).await?.into_inner().sandbox.unwrap();
    assert!(until(&longer) > Duration::from_secs(990));

    let set = |timeout, key: &str| SetSandboxTimeoutRequest {
        sandbox_id: id.clone(),
        idempotency_key: key.into(),
        timeout,
        action: 0,
    };
    let never = api
        .sandboxes()
        .set_sandbox_timeout(set(None, &nullspace_proto::id::request()))
        .await?
        .into_inner()
        .sandbox
        .unwrap();
    assert_eq!(never.expires_at, None);
    let key = nullspace_proto::id::request();
    let soon = api.sandboxes().set_sandbox_timeout(set(seconds(2), &key)).await?.into_inner();
    let again = api.sandboxes().set_sandbox_timeout(set(seconds(2), &key)).await?.into_inner();
    assert_eq!(soon, again);
    refused(api.sandboxes().set_sandbox_timeout(set(seconds(3), &key)).await, Reason::IdempotencyKeyReused);
    refused(api.sandboxes().set_sandbox_timeout(set(seconds(-1), "")).await, Reason::InvalidRequest);
    // It can be used until then.
    assert_eq!(sandbox.sh("echo here").await?, "here\n");
    let expiry = SystemTime::try_from(soon.sandbox.unwrap().expires_at.unwrap())?;
    eventually("the sandbox ends", Duration::from_secs(10), async || {
        Ok(get(api, &id).await?.state() == SandboxState::Destroyed)
    })
    .await?;
    let ended = SystemTime::try_from(get(api, &id).await?.ended_at.unwrap())?;
    assert!(ended >= expiry, "ended {:?} early", expiry.duration_since(ended));
    refused(api.sandboxes().connect_sandbox(connect(None)).await, Reason::SandboxStopped);
    refused(api.sandboxes().set_sandbox_timeout(set(seconds(9), "")).await, Reason::SandboxStopped);
    Ok(())
}

#[tokio::test]
async fn a_timeout_of_zero_ends_it_now() -> Result {
    let sandbox = TestSandbox::new().await?;
    let request = SetSandboxTimeoutRequest { sandbox_id: sandbox.id(), timeout: seconds(0), ..Default::default() };
    let answer = sandbox.api.sandboxes().set_sandbox_timeout(request).await?.into_inner().sandbox.unwrap();
    assert_eq!(answer.state(), SandboxState::Destroyed);
    Ok(())
}

#[tokio::test]
async fn a_destroyed_sandbox_stays_readable_and_takes_no_calls() -> Result {
    let sandbox = TestSandbox::new().await?;
    let destroyed = sandbox.destroy().await?;
    assert_eq!(destroyed.state(), SandboxState::Destroyed);
    assert_eq!(sandbox.destroy().await?, destroyed);
    assert_eq!(get(&sandbox.api, &sandbox.id()).await?, destroyed);
    let call = GetCommandRequest { sandbox_id: sandbox.id(), command_id: "c".into() };
    refused(sandbox.api.commands().get_command(call).await, Reason::SandboxStopped);
    let metrics = GetSandboxMetricsRequest { sandbox_id: sandbox.id() };
    sandbox.api.sandboxes().get_sandbox_metrics(metrics).await?;

    let unknown = DestroySandboxRequest { sandbox_id: "sb_nothing".into() };
    refused(sandbox.api.sandboxes().destroy_sandbox(unknown).await, Reason::SandboxNotFound);
    Ok(())
}

#[tokio::test]
async fn metrics_tell_what_a_sandbox_uses() -> Result {
    let sandbox = TestSandbox::new().await?;
    let request = || GetSandboxMetricsRequest { sandbox_id: sandbox.id() };
    let before = *sandbox.api.sandboxes().get_sandbox_metrics(request()).await?.into_inner().samples.last().unwrap();
    assert_eq!((before.cpu_count, before.memory_total_bytes, before.disk_total_bytes), (1, 256 << 20, 512 << 20));
    sandbox.sh("head -c 50000000 /dev/urandom > /workspace/blob; python3 -c 'sum(range(3000000))'").await?;
    let after = *sandbox.api.sandboxes().get_sandbox_metrics(request()).await?.into_inner().samples.last().unwrap();
    assert!(after.disk_used_bytes >= before.disk_used_bytes + 50_000_000, "{before:?} {after:?}");
    assert!(after.cpu_percent > 0.0 && after.memory_used_bytes > 0, "{after:?}");
    assert!(after.network_rx_bytes > before.network_rx_bytes && after.network_tx_bytes > 0, "{after:?}");
    Ok(())
}

#[tokio::test]
async fn a_run_gives_all_its_output_and_leaves_nothing() -> Result {
    let api = Api::shared().await?;
    let command = shell("echo out; echo err >&2; seq 1 100000; exit 7");
    let key = nullspace_proto::id::request();
    let request =
        RunOnceRequest { idempotency_key: key, sandbox: Some(small()), command: Some(command), ..Default::default() };
    let mut frames = api.sandboxes().run_once(request.clone()).await?.into_inner();
    let (mut id, mut bytes, mut exit) = (None, 0, None);
    while let Some(frame) = frames.message().await? {
        match frame.frame.unwrap() {
            Frame::Sandbox(sandbox) => id = Some(sandbox.id),
            Frame::Output(output) => {
                assert_eq!(output.offset, bytes);
                bytes += output.data.len() as i64;
            }
            Frame::Exit(ended) => exit = Some(ended),
            Frame::Keepalive(_) => {}
            Frame::Truncated(truncated) => return Err(format!("{truncated:?}").into()),
        }
    }
    let exit = exit.unwrap();
    assert_eq!(exit.outcome, Some(nullspace_proto::v1::exit::Outcome::Code(7)));
    assert_eq!((bytes, exit.output_bytes), (588_895 + 8, bytes));
    // The caller has the exit, and says so.
    let id = id.unwrap();
    api.sandboxes().destroy_sandbox(DestroySandboxRequest { sandbox_id: id.clone() }).await?;
    assert_eq!(get(&api, &id).await?.state(), SandboxState::Destroyed);
    // It is never run again, also not by one that was cut off and comes too late.
    refused(first_of(&api, request.clone()).await, Reason::IdempotencyKeyReused);
    let position = Some(LogPosition::default());
    refused(first_of(&api, RunOnceRequest { position, ..request.clone() }).await, Reason::SandboxStopped);
    let other = RunOnceRequest { command: Some(shell("other")), ..request };
    refused(first_of(&api, other).await, Reason::IdempotencyKeyReused);
    Ok(())
}

/// The first frame of a run.
async fn first_of(api: &Api, request: RunOnceRequest) -> Result<Option<RunOnceResponse>, tonic::Status> {
    api.sandboxes().run_once(request).await?.into_inner().message().await
}

#[tokio::test]
async fn a_run_whose_command_cannot_start_leaves_nothing() -> Result {
    let api = Api::shared().await?;
    let request = RunOnceRequest {
        idempotency_key: nullspace_proto::id::request(),
        sandbox: Some(small()),
        command: Some(nullspace_tests::argv(["no-such-program"])),
        ..Default::default()
    };
    let mut frames = api.sandboxes().run_once(request).await?.into_inner();
    let Some(Frame::Sandbox(sandbox)) = frames.message().await?.and_then(|frame| frame.frame) else {
        return Err("no sandbox".into());
    };
    refused(frames.message().await, Reason::ProgramNotFound);
    let record = get(&api, &sandbox.id).await?;
    assert_eq!(record.state(), SandboxState::Destroyed);
    assert!(record.state_reason.contains("no-such-program"), "{}", record.state_reason);
    Ok(())
}

#[tokio::test]
async fn a_run_waits_for_its_caller_and_not_longer() -> Result {
    let api = Api::shared().await?;
    for (key, grace) in [(String::new(), None), (nullspace_proto::id::request(), seconds(1))] {
        let request = RunOnceRequest {
            idempotency_key: key.clone(),
            sandbox: Some(small()),
            command: Some(shell("echo begun; sleep 1000")),
            detach_grace: grace,
            ..Default::default()
        };
        let mut id = String::new();
        for round in 0..2 {
            let mut frames = api.sandboxes().run_once(request.clone()).await?.into_inner();
            let Some(Frame::Sandbox(sandbox)) = frames.message().await?.and_then(|frame| frame.frame) else {
                return Err("no sandbox".into());
            };
            // Who comes back in time finds the same run.
            assert!(round == 0 || sandbox.id == id, "it ran twice");
            id = sandbox.id;
            while !matches!(frames.message().await?.and_then(|frame| frame.frame), Some(Frame::Output(_))) {}
            if key.is_empty() {
                break;
            }
        }
        eventually("it is destroyed", Duration::from_secs(10), async || {
            Ok(get(&api, &id).await?.state() == SandboxState::Destroyed)
        })
        .await?;
    }
    Ok(())
}
