//! SystemService.

use std::{fs, path::Path};

use nullspace_proto::{
    Reason, id, policy,
    v1::{
        CreateApiKeyRequest, GetCapabilitiesRequest, GetVersionRequest, ListApiKeysRequest, ListSandboxesRequest,
        RevokeApiKeyRequest, RotateApiKeyRequest, WhoAmIRequest,
    },
};
use nullspace_tests::{Api, Result, Server, eventually, refused};

#[tokio::test]
async fn the_server_tells_what_it_is_and_can() -> Result {
    let api = Api::shared().await?;
    let version = api.system().get_version(GetVersionRequest {}).await?.into_inner();
    assert_eq!((version.version.as_str(), version.instance_id.len()), (env!("CARGO_PKG_VERSION"), 8));
    let capabilities = api.system().get_capabilities(GetCapabilitiesRequest {}).await?.into_inner();
    let [engine] = capabilities.engines.as_slice() else { return Err(format!("{capabilities:?}").into()) };
    assert_eq!((engine.name.as_str(), engine.is_default, engine.kernel_isolation), ("gvisor", true, true));
    assert!(!engine.version.is_empty() && engine.max_sandboxes > 1_000 && engine.max_processes == 2_048);
    let disk = engine.disk_mib.unwrap();
    assert_eq!((disk.min, disk.max), (512, 131_072));
    let base = capabilities.templates.iter().find(|template| template.name == "base").ok_or("no base")?;
    assert_eq!(base.digest.len(), 64);
    Ok(())
}

#[tokio::test]
async fn keys_are_made_listed_and_revoked() -> Result {
    let api = Api::shared().await?;
    let request = CreateApiKeyRequest {
        idempotency_key: id::request(),
        name: "ci".into(),
        scopes: vec!["sandbox.read".into()],
        lifetime: Some(prost_types::Duration { seconds: 3_600, nanos: 0 }),
        ..Default::default()
    };
    let made = api.system().create_api_key(request.clone()).await?.into_inner();
    let (key, secret) = (made.key.clone().unwrap(), made.secret_key.clone());
    assert!(secret.starts_with("ns_live_") && secret.len() == 72 && secret.starts_with(&key.prefix), "{key:?}");
    assert!(!format!("{made:?}").contains(&secret), "debug output shows a secret");
    assert_eq!(
        (key.name.as_str(), key.owner.as_str(), key.scopes.as_slice()),
        ("ci", "default", ["sandbox.read".to_owned()].as_slice())
    );
    assert_eq!(api.system().create_api_key(request.clone()).await?.into_inner(), made);
    refused(
        api.system().create_api_key(CreateApiKeyRequest { name: "x".into(), ..request }).await,
        Reason::IdempotencyKeyReused,
    );

    let holder = api.with_key(Some(&secret))?;
    assert_eq!(holder.system().who_am_i(WhoAmIRequest {}).await?.into_inner().key, Some(key.clone()));
    let listed = api
        .system()
        .list_api_keys(ListApiKeysRequest { page_size: Some(100), ..Default::default() })
        .await?
        .into_inner();
    assert!(listed.keys.contains(&key) && listed.keys.is_sorted_by(|a, b| a.id > b.id));
    let first =
        api.system().list_api_keys(ListApiKeysRequest { page_size: Some(1), ..Default::default() }).await?.into_inner();
    let second = ListApiKeysRequest { page_size: Some(1), page_token: first.next_page_token };
    assert!(api.system().list_api_keys(second).await?.into_inner().keys[0].id < first.keys[0].id);

    let revoke = RevokeApiKeyRequest { key_id: key.id.clone() };
    let revoked = api.system().revoke_api_key(revoke.clone()).await?.into_inner();
    assert!(revoked.key.as_ref().unwrap().revoked_at.is_some());
    assert_eq!(api.system().revoke_api_key(revoke).await?.into_inner(), revoked);
    refused(holder.sandboxes().list_sandboxes(ListSandboxesRequest::default()).await, Reason::ApiKeyInvalid);
    refused(
        api.system().revoke_api_key(RevokeApiKeyRequest { key_id: "key_nothing".into() }).await,
        Reason::ApiKeyNotFound,
    );
    Ok(())
}

#[tokio::test]
async fn a_key_gives_no_more_than_it_has() -> Result {
    let api = Api::shared().await?;
    let make = |scopes: &[&str]| CreateApiKeyRequest {
        scopes: scopes.iter().map(|s| (*s).to_owned()).collect(),
        ..Default::default()
    };
    let secret = api.system().create_api_key(make(&["key.write", "sandbox.read"])).await?.into_inner().secret_key;
    let limited = api.with_key(Some(&secret))?;
    limited.system().create_api_key(make(&["sandbox.read"])).await?;
    assert_eq!(limited.system().create_api_key(make(&[])).await?.into_inner().key.unwrap().scopes.len(), 2);
    refused(limited.system().create_api_key(make(&["*"])).await, Reason::ScopeMissing);
    refused(limited.system().create_api_key(make(&["process.exec"])).await, Reason::ScopeMissing);
    refused(
        limited.system().create_api_key(CreateApiKeyRequest { owner: "other".into(), ..make(&[]) }).await,
        Reason::ScopeMissing,
    );
    refused(limited.system().list_api_keys(ListApiKeysRequest::default()).await, Reason::ScopeMissing);
    refused(api.system().create_api_key(make(&["made.up"])).await, Reason::InvalidRequest);
    refused(
        api.system().create_api_key(CreateApiKeyRequest { owner: "Not Plain".into(), ..make(&[]) }).await,
        Reason::InvalidRequest,
    );
    let huge = CreateApiKeyRequest { name: "n".repeat(129), ..make(&[]) };
    refused(api.system().create_api_key(huge).await, Reason::InvalidRequest);
    for scope in policy::scopes() {
        api.system().create_api_key(make(&[scope])).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_rotated_key_has_a_successor_and_a_grace() -> Result {
    let api = Api::shared().await?;
    let make = CreateApiKeyRequest {
        name: "deploy".into(),
        scopes: vec!["key.write".into(), "sandbox.read".into()],
        lifetime: Some(prost_types::Duration { seconds: 3_600, nanos: 0 }),
        ..Default::default()
    };
    let made = api.system().create_api_key(make).await?.into_inner();
    let (first, holder) = (made.key.unwrap(), api.with_key(Some(&made.secret_key))?);
    // A holder of key.write rotates its own; it names nothing but the grace.
    let request = RotateApiKeyRequest {
        idempotency_key: id::request(),
        grace: Some(prost_types::Duration { seconds: 2, nanos: 0 }),
        ..Default::default()
    };
    let rotated = holder.system().rotate_api_key(request.clone()).await?.into_inner();
    let second = rotated.key.clone().unwrap();
    assert!(rotated.secret_key != made.secret_key && rotated.secret_key.starts_with(&second.prefix));
    assert!(!format!("{rotated:?}").contains(&rotated.secret_key), "debug output shows a secret");
    assert_eq!((&second.name, &second.owner, &second.scopes), (&first.name, &first.owner, &first.scopes));
    assert_eq!((second.expires_at, &second.rotated_from), (first.expires_at, &first.id));

    // Both are valid for the grace, and a repetition answers the same.
    let successor = api.with_key(Some(&rotated.secret_key))?;
    assert_eq!(successor.system().who_am_i(WhoAmIRequest {}).await?.into_inner().key, Some(second.clone()));
    let old = holder.system().who_am_i(WhoAmIRequest {}).await?.into_inner().key.unwrap();
    assert_eq!((&old.rotated_to, old.expires_at != first.expires_at), (&second.id, true));
    assert_eq!(holder.system().rotate_api_key(request.clone()).await?.into_inner(), rotated);
    let other = RotateApiKeyRequest { grace: None, ..request };
    refused(holder.system().rotate_api_key(other).await, Reason::IdempotencyKeyReused);
    let named = |id: &str| RotateApiKeyRequest { key_id: id.into(), ..Default::default() };
    refused(api.system().rotate_api_key(named(&first.id)).await, Reason::ApiKeyEnded);
    eventually("the grace ends", std::time::Duration::from_secs(10), async || {
        Ok(holder.system().who_am_i(WhoAmIRequest {}).await.is_err())
    })
    .await?;
    refused(holder.system().who_am_i(WhoAmIRequest {}).await, Reason::ApiKeyInvalid);

    // Without a grace it ends at once.
    let third = api.system().rotate_api_key(named(&second.id)).await?.into_inner();
    refused(successor.system().who_am_i(WhoAmIRequest {}).await, Reason::ApiKeyInvalid);
    api.with_key(Some(&third.secret_key))?.system().who_am_i(WhoAmIRequest {}).await?;
    let third = third.key.unwrap().id;
    api.system().revoke_api_key(RevokeApiKeyRequest { key_id: third.clone() }).await?;
    refused(api.system().rotate_api_key(named(&third)).await, Reason::ApiKeyEnded);
    Ok(())
}

#[tokio::test]
async fn a_rotation_gives_no_more_than_the_caller_has() -> Result {
    let api = Api::shared().await?;
    let make = |scopes: &[&str], owner: &str| CreateApiKeyRequest {
        scopes: scopes.iter().map(|scope| (*scope).to_owned()).collect(),
        owner: owner.into(),
        ..Default::default()
    };
    let named = |id: &str| RotateApiKeyRequest { key_id: id.into(), ..Default::default() };
    let wide = api.system().create_api_key(make(&["sandbox.write"], "")).await?.into_inner().key.unwrap();
    let narrow = api.system().create_api_key(make(&["key.write"], "")).await?.into_inner().secret_key;
    refused(api.with_key(Some(&narrow))?.system().rotate_api_key(named(&wide.id)).await, Reason::ScopeMissing);
    let reader = api.system().create_api_key(make(&["key.read"], "")).await?.into_inner().secret_key;
    refused(api.with_key(Some(&reader))?.system().rotate_api_key(named("")).await, Reason::ScopeMissing);
    let other = api.system().create_api_key(make(&["key.read"], "someone-else")).await?.into_inner().key.unwrap();
    refused(api.system().rotate_api_key(named(&other.id)).await, Reason::ApiKeyNotFound);
    let grace =
        |seconds| RotateApiKeyRequest { grace: Some(prost_types::Duration { seconds, nanos: 0 }), ..named(&wide.id) };
    for seconds in [-1, 7 * 86_400 + 1] {
        refused(api.system().rotate_api_key(grace(seconds)).await, Reason::InvalidRequest);
    }
    let (mut one, mut two) = (api.system(), api.system());
    let (one, two) = tokio::join!(one.rotate_api_key(grace(60)), two.rotate_api_key(grace(60)));
    assert_eq!(one.is_ok() as u8 + two.is_ok() as u8, 1, "one key has one successor");
    Ok(())
}

fn holds(directory: &Path, needle: &[u8]) -> Result<bool> {
    for entry in fs::read_dir(directory)?.flatten() {
        let path = entry.path();
        let found = if path.is_dir() {
            holds(&path, needle)?
        } else {
            path.is_file() && fs::read(&path)?.windows(needle.len()).any(|window| window == needle)
        };
        if found {
            return Ok(true);
        }
    }
    Ok(false)
}

#[tokio::test]
async fn keys_outlive_the_server_and_only_their_hashes_are_stored() -> Result {
    let mut server = Server::start(&[]).await?;
    let api = server.api().await?;
    let secret = api.system().create_api_key(CreateApiKeyRequest::default()).await?.into_inner().secret_key;
    let short =
        CreateApiKeyRequest { lifetime: Some(prost_types::Duration { seconds: 1, nanos: 0 }), ..Default::default() };
    let short = api.with_key(Some(&api.system().create_api_key(short).await?.into_inner().secret_key))?;
    eventually("the short key ends", std::time::Duration::from_secs(5), async || {
        Ok(short.system().who_am_i(WhoAmIRequest {}).await.is_err())
    })
    .await?;
    server.kill()?;
    server.start_again().await?;
    let api = Api::connect(&server.url()?, Some(&secret)).await?;
    api.system().who_am_i(WhoAmIRequest {}).await?;
    assert!(!holds(&server.data().join("store"), secret.as_bytes())?);
    assert!(!server.log().contains(&secret));
    server.finish().await
}
