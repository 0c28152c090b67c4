//! What every call goes through: keys, scopes, owners, sizes, deadlines, and
//! the way into a sandbox.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use nullspace_proto::{
    Reason, id,
    policy::METHODS,
    v1::{
        AttachCommandRequest, CommandSpec, CreateApiKeyRequest, GetCommandRequest, GetSandboxRequest, InputChunk,
        ListCommandsRequest, ListSandboxesRequest, StartCommandRequest, WaitCommandRequest,
        attach_command_request::Frame as Ask, attach_command_response::Frame as Answer,
    },
};
use nullspace_tests::{Api, Result, TestSandbox, argv, refused, required, shell};
use prost::Message as _;
use tokio::net::TcpStream;
use tonic::{Code, Request, Status, body::Body};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

/// Sends bytes as they are, as the messages of one call.
async fn raw(path: &str, headers: &[(&str, &str)], bytes: Vec<u8>) -> Result<Status> {
    let url = required("NULLSPACE_API_URL")?;
    let stream = TcpStream::connect(url.trim_start_matches("http://")).await?;
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let mut request =
        http::Request::post(format!("{url}{path}")).header("content-type", "application/grpc").header("te", "trailers");
    request = request.header("authorization", format!("Bearer {}", required("NULLSPACE_API_KEY")?));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = sender.send_request(request.body(Body::new(Full::new(Bytes::from(bytes))))?).await?;
    let (parts, body) = response.into_parts();
    let trailers = body.collect().await?.trailers().cloned().unwrap_or_default();
    connection.abort();
    let status = Status::from_header_map(&parts.headers)
        .filter(|status| status.code() != Code::Unknown || parts.headers.contains_key("grpc-status"));
    Ok(status.or_else(|| Status::from_header_map(&trailers)).ok_or("no status")?)
}

fn framed(message: &[u8]) -> Vec<u8> {
    [&[0], (message.len() as u32).to_be_bytes().as_slice(), message].concat()
}

fn reason(status: &Status) -> Option<Reason> {
    nullspace_proto::Error::reason_of(status)
}

#[tokio::test]
async fn a_call_without_a_valid_key_is_refused() -> Result {
    let api = Api::shared().await?;
    let list = ListSandboxesRequest::default;
    refused(api.with_key(None)?.sandboxes().list_sandboxes(list()).await, Reason::ApiKeyMissing);
    for wrong in ["ns_live_", "x", &format!("ns_live_{}", "0".repeat(64))] {
        refused(api.with_key(Some(wrong))?.sandboxes().list_sandboxes(list()).await, Reason::ApiKeyInvalid);
    }
    // On the other plane as well.
    let sandbox = TestSandbox::new().await?;
    let commands = || ListCommandsRequest { sandbox_id: sandbox.id(), ..Default::default() };
    refused(api.with_key(None)?.commands().list_commands(commands()).await, Reason::ApiKeyMissing);
    refused(api.with_key(Some("x"))?.commands().list_commands(commands()).await, Reason::ApiKeyInvalid);
    Ok(())
}

#[tokio::test]
async fn a_key_reaches_what_its_scopes_and_owner_allow() -> Result {
    let (api, sandbox) = (Api::shared().await?, TestSandbox::new().await?);
    let make = async |scopes: &[&str], owner: &str| -> Result<Api> {
        let scopes = scopes.iter().map(|scope| (*scope).to_owned()).collect();
        let request = CreateApiKeyRequest { scopes, owner: owner.into(), ..Default::default() };
        api.with_key(Some(&api.system().create_api_key(request).await?.into_inner().secret_key))
    };
    let get = || GetSandboxRequest { sandbox_id: sandbox.id(), ..Default::default() };
    let list = || ListCommandsRequest { sandbox_id: sandbox.id(), ..Default::default() };
    let start =
        || StartCommandRequest { sandbox_id: sandbox.id(), command_id: id::command(), spec: Some(shell("true")) };

    let reader = make(&["sandbox.read", "process.read"], "").await?;
    reader.sandboxes().get_sandbox(get()).await?;
    reader.commands().list_commands(list()).await?;
    let status = refused(reader.commands().start_command(start()).await, Reason::ScopeMissing);
    assert_eq!(tonic_types::StatusExt::get_details_error_info(&status).unwrap().metadata["scope"], "process.exec");
    refused(
        reader.sandboxes().create_sandbox(nullspace_proto::v1::CreateSandboxRequest::default()).await,
        Reason::ScopeMissing,
    );
    refused(reader.system().create_api_key(CreateApiKeyRequest::default()).await, Reason::ScopeMissing);

    // Another owner's things are not there, whichever way one looks.
    let other = make(&["*"], "someone-else").await?;
    refused(other.sandboxes().get_sandbox(get()).await, Reason::SandboxNotFound);
    refused(other.commands().list_commands(list()).await, Reason::SandboxNotFound);
    refused(other.commands().start_command(start()).await, Reason::SandboxNotFound);
    assert_eq!(other.sandboxes().list_sandboxes(ListSandboxesRequest::default()).await?.into_inner().sandboxes, []);
    Ok(())
}

#[tokio::test]
async fn every_method_is_served_and_the_agents_own_are_not() -> Result {
    for method in METHODS {
        // What is no message does nothing, wherever it arrives.
        let status = raw(method.path, &[], framed(&[0xff])).await?;
        let internal = method.path.starts_with("/nullspace.agent.");
        assert_eq!(reason(&status) == Some(Reason::MethodUnknown), internal, "{}: {status:?}", method.path);
        assert_eq!(status.code() == Code::Unimplemented, internal, "{}: {status:?}", method.path);
    }
    let status = raw("/nullspace.v1.SandboxService/Nothing", &[], framed(&[])).await?;
    assert_eq!(reason(&status), Some(Reason::MethodUnknown));
    Ok(())
}

#[tokio::test]
async fn the_sandbox_must_be_named_first() -> Result {
    let sandbox = TestSandbox::new().await?;
    let get = "/nullspace.v1.CommandService/GetCommand";
    let id = [&[0x0a, sandbox.id().len() as u8], sandbox.id().as_bytes()].concat();
    let command = [0x12, 1, b'c'];
    for (bytes, expected) in [
        (framed(&[id.as_slice(), &command].concat()), Reason::CommandNotFound),
        (framed(&[command.as_slice(), &id].concat()), Reason::InvalidRequest),
        (framed(&command), Reason::InvalidRequest),
        (framed(&[0x0a, 3, 0xff, 0xfe, 0xfd]), Reason::InvalidRequest),
        (framed(&[[0x0a, 65].as_slice(), &[b's'; 65]].concat()), Reason::InvalidRequest),
        (vec![0, 0, 0, 0, 9, 0x0a], Reason::InvalidRequest),
        (Vec::new(), Reason::InvalidRequest),
        (framed(&[0x0a, 4, b's', b'b', b'_', b'x']), Reason::SandboxNotFound),
        ([&[1, 0, 0, 0, 2], [0x0a, 0].as_slice()].concat(), Reason::EncodingUnsupported),
    ] {
        let status = raw(get, &[], bytes.clone()).await?;
        assert_eq!((reason(&status), status.code()), (Some(expected), expected.code()), "{bytes:?}: {status:?}");
    }
    let status = raw(get, &[("grpc-encoding", "gzip")], framed(&[id.as_slice(), &command].concat())).await?;
    assert_eq!(reason(&status), Some(Reason::EncodingUnsupported));
    // Text that is not UTF-8 in a later field, and bytes that are no message.
    for bad in [[0x12, 2, 0xff, 0xff].as_slice(), &[0x12, 99]] {
        let status = raw(get, &[], framed(&[id.as_slice(), bad].concat())).await?;
        assert_eq!(reason(&status), Some(Reason::InvalidRequest), "{status:?}");
    }
    let status = raw("/nullspace.v1.SandboxService/GetSandbox", &[], framed(&[0x0a, 2, 0xff, 0xff])).await?;
    assert_eq!(reason(&status), Some(Reason::InvalidRequest), "{status:?}");
    Ok(())
}

#[tokio::test]
async fn a_message_that_is_too_large_is_refused_on_both_planes() -> Result {
    let (api, sandbox) = (Api::shared().await?, TestSandbox::new().await?);
    let huge = "x".repeat(3 << 20);
    let list = ListSandboxesRequest { template: huge.clone(), ..Default::default() };
    refused(api.sandboxes().list_sandboxes(list).await, Reason::MessageTooLarge);
    let list = ListCommandsRequest { sandbox_id: sandbox.id(), tag: huge.clone(), ..Default::default() };
    refused(api.commands().list_commands(list).await, Reason::MessageTooLarge);
    // Also in the middle of a stream, and the command goes on.
    let mut command = sandbox.start(CommandSpec { open_stdin: true, ..argv(["cat"]) }).await?;
    while !matches!(command.next().await?, Answer::InputAccepted(_)) {}
    let id = command.command_id.clone();
    command.send(Ask::Input(InputChunk { offset: 0, data: huge.into() })).await?;
    refused(command.finish().await, Reason::MessageTooLarge);
    let get = GetCommandRequest { sandbox_id: sandbox.id(), command_id: id };
    assert_eq!(api.commands().get_command(get).await?.into_inner().command.unwrap().exit, None);
    Ok(())
}

#[tokio::test]
async fn a_call_can_ask_for_one_execution() -> Result {
    let sandbox = TestSandbox::new().await?;
    let call = async |incarnation: &str| {
        let mut request = Request::new(ListCommandsRequest { sandbox_id: sandbox.id(), ..Default::default() });
        request.metadata_mut().insert("nullspace-incarnation", incarnation.parse().unwrap());
        sandbox.api.commands().list_commands(request).await
    };
    let answer = call("1").await?;
    assert_eq!(answer.metadata().get("nullspace-incarnation").unwrap(), "1");
    assert_eq!(answer.metadata().get("nullspace-sandbox-id").unwrap(), sandbox.id().as_str());
    assert!(answer.metadata().get("nullspace-request-id").unwrap().to_str()?.starts_with("req_"));
    let status = refused(call("2").await, Reason::StaleIncarnation);
    assert_eq!(tonic_types::StatusExt::get_details_error_info(&status).unwrap().metadata["incarnation"], "1");
    refused(call("one").await, Reason::InvalidRequest);
    Ok(())
}

#[tokio::test]
async fn a_deadline_is_answered_as_one() -> Result {
    let sandbox = TestSandbox::new().await?;
    let start =
        StartCommandRequest { sandbox_id: sandbox.id(), command_id: "slow".into(), spec: Some(shell("sleep 1000")) };
    sandbox.api.commands().start_command(start).await?;
    let wait = WaitCommandRequest { sandbox_id: sandbox.id(), command_id: "slow".into(), wait: None };
    // The client's own clock would answer first, so this is sent by hand.
    for _ in 0..10 {
        let message = framed(&wait.encode_to_vec());
        let status = raw("/nullspace.v1.CommandService/WaitCommand", &[("grpc-timeout", "100m")], message).await?;
        assert_eq!((reason(&status), status.code()), (Some(Reason::DeadlineExceeded), Code::DeadlineExceeded));
    }
    Ok(())
}

#[tokio::test]
async fn health_and_reflection_need_no_key() -> Result {
    let api = Api::shared().await?;
    let health = HealthClient::new(api.channel()).check(HealthCheckRequest::default()).await?.into_inner();
    assert_eq!(health.status(), ServingStatus::Serving);
    let ask = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut answers =
        ServerReflectionClient::new(api.channel()).server_reflection_info(tokio_stream::once(ask)).await?.into_inner();
    let answer = answers.message().await?.and_then(|answer| answer.message_response);
    let Some(MessageResponse::ListServicesResponse(list)) = answer else { return Err(format!("{answer:?}").into()) };
    let names: Vec<_> = list.service.into_iter().map(|service| service.name).collect();
    for service in ["CommandService", "FileService", "SandboxService", "SystemService"] {
        assert!(names.contains(&format!("nullspace.v1.{service}")), "{names:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_first_message_that_does_not_come_is_not_waited_for_long() -> Result {
    let url = required("NULLSPACE_API_URL")?;
    let stream = TcpStream::connect(url.trim_start_matches("http://")).await?;
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let (_kept_open, body) = tokio::sync::mpsc::channel::<Result<hyper::body::Frame<BytesMut>, Status>>(1);
    let body = http_body_util::StreamBody::new(tokio_stream::wrappers::ReceiverStream::new(body));
    let request = http::Request::post(format!("{url}/nullspace.v1.CommandService/AttachCommand"))
        .header("content-type", "application/grpc")
        .header("authorization", format!("Bearer {}", required("NULLSPACE_API_KEY")?))
        .body(body)?;
    let response = tokio::time::timeout(Duration::from_secs(15), sender.send_request(request)).await??;
    connection.abort();
    let status = Status::from_header_map(response.headers()).ok_or("no status")?;
    assert_eq!(reason(&status), Some(Reason::DeadlineExceeded));
    Ok(())
}

#[tokio::test]
async fn stalled_streams_do_not_hold_up_a_call() -> Result {
    let sandbox = TestSandbox::new().await?;
    let start = StartCommandRequest {
        sandbox_id: sandbox.id(),
        command_id: "loud".into(),
        spec: Some(shell("yes | head -c 100000000")),
    };
    sandbox.api.commands().start_command(start).await?;
    let mut stalled = Vec::new();
    // On one connection of the client, whose own windows are its own concern;
    // so each has one.
    for _ in 0..63 {
        let api = Api::connect(&required("NULLSPACE_API_URL")?, Some(&required("NULLSPACE_API_KEY")?)).await?;
        let open = nullspace_proto::v1::AttachOpen {
            sandbox_id: sandbox.id(),
            command_id: "loud".into(),
            ..Default::default()
        };
        let open = AttachCommandRequest { frame: Some(Ask::Open(open)) };
        let (asks, requests) = tokio::sync::mpsc::channel(1);
        asks.send(open).await?;
        let answers =
            api.commands().attach_command(tokio_stream::wrappers::ReceiverStream::new(requests)).await?.into_inner();
        stalled.push((asks, answers));
    }
    let beside = tokio::time::timeout(Duration::from_secs(5), sandbox.sh("echo beside")).await??;
    assert_eq!(beside, "beside\n");
    Ok(())
}
