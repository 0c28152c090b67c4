//! The whole server, from its settings to its end.

use std::{
    fs,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::Path,
    sync::Arc,
    time::Duration,
};

use nullspace_proto::{DESCRIPTORS, Error, Result};
use rustix::fs::{FlockOperation, flock};
use tokio_util::sync::CancellationToken;
use tonic_health::ServingStatus;

use crate::{
    api::{Api, SandboxApi, SystemApi},
    client_config,
    config::Config,
    fault::fault,
    front::{Dispatch, listen::Front},
    instance::{self, Instance},
    keys::{ApiKeys, derive_secret},
    quota::Quotas,
    route::Relay,
    runtime::{assets::Assets, gvisor::Gvisor, network::Slots},
    sandbox::Sandboxes,
    store::{
        Condition, Store, Write,
        export::Exporter,
        idempotency::Idempotency,
        recover::{self, Files},
    },
};

const SECRET_KEY: &str = "meta/secret";
const SUBNET_KEY: &str = "meta/subnet";

/// How long the data directory is waited for, and how often it is tried.
const LOCK_LIMIT: Duration = Duration::from_secs(2);
const LOCK_RETRY: Duration = Duration::from_millis(5);

/// A server that is ready to serve.
pub struct Server {
    front: Front,
    sandboxes: Arc<Sandboxes>,
    slots: Arc<Slots>,
    keys: Arc<ApiKeys>,
    quotas: Quotas,
    exporter: Exporter,
    instance: Instance,
    /// Held as long as the server lives.
    _lock: fs::File,
}

impl Server {
    /// Opens the store, takes over what runs, and listens.
    pub async fn build(config: Config) -> Result<Self> {
        let data = &config.data_dir;
        private_directory(data)?;
        let lock = lock(&data.join("lock")).await?;
        let instance = Instance::of(data).map_err(|error| fault(data, error))?;
        let (store, origin) = recover::open(data)?;
        let store: Arc<dyn Store> = Arc::new(store);
        let exporter = Exporter::new(store.clone(), Files::below(data).export);
        let secret = server_secret(&*store).await?;
        let subnet = subnet(&*store, &instance, &config).await?;
        let idempotency = Arc::new(Idempotency::new(store.clone(), derive_secret(&secret, "digests")));
        let keys =
            Arc::new(ApiKeys::open(store.clone(), idempotency.clone(), derive_secret(&secret, "api keys")).await?);
        let assets = Assets::new(config.assets_dir.clone());
        let engine = Arc::new(Gvisor::open(assets.engine()?, data, &instance).await?);
        let slots = Arc::new(Slots::new(
            instance.clone(),
            subnet,
            config.ready_slots,
            config.max_sandboxes,
            config.dns.clone(),
        ));
        let tls = config.tls.as_ref().map(|(certificate, key)| (certificate.as_path(), key.as_path()));
        // Before anything on the host is changed: a port in use is found here.
        let front = Front::bind(config.listen, tls).await?;
        let sandboxes = Sandboxes::new(store, idempotency, engine, assets, slots.clone(), config.pool);
        sandboxes.adopt(origin).await?;
        let (clients, url) = (&config.client_config, front.url()?);
        keys.bootstrap(|key| client_config::write(clients, key, &url)).await?;
        client_config::refresh(clients, |key| keys.authenticate(key).is_ok(), &url)?;
        exporter.try_export().await;
        fs::write(data.join("listen.addr"), front.address()?.to_string()).map_err(|error| fault(data, error))?;
        Ok(Self { front, sandboxes, slots, keys, quotas: Quotas::new(config.quotas), exporter, instance, _lock: lock })
    }

    /// Serves until `stop`. Sandboxes go on; the next server takes them over.
    pub async fn run(self, stop: CancellationToken) -> Result<()> {
        let (health, health_service) = tonic_health::server::health_reporter();
        health.set_service_status("", ServingStatus::Serving).await;
        let reflection =
            tonic_reflection::server::Builder::configure().register_encoded_file_descriptor_set(DESCRIPTORS).build_v1();
        let reflection = reflection.map_err(|error| Error::internal(format!("reflection: {error}")))?;
        let sandbox = SandboxApi::new(self.sandboxes.clone());
        let system = SystemApi::new(self.instance, self.keys.clone(), self.sandboxes.clone());
        let api = Api::new(sandbox, system, health_service, reflection);
        let relay = Relay::new(self.sandboxes.clone(), self.quotas.clone());
        let dispatch = Dispatch::new(self.keys, self.quotas, api, relay);
        tracing::info!(url = self.front.url()?, "serving");
        let stopping = async {
            stop.cancelled().await;
            health.set_service_status("", ServingStatus::NotServing).await;
            self.sandboxes.stop();
        };
        tokio::join!(
            stopping,
            self.front.serve(dispatch, stop.clone()),
            self.slots.keep_ready(&stop),
            self.sandboxes.keep_warm(),
            self.sandboxes.clone().keep_deadlines(),
            self.sandboxes.clone().keep_forgetting(),
            self.sandboxes.clone().keep_sampling(),
            self.exporter.run(&stop),
        );
        self.sandboxes.close().await;
        self.exporter.try_export().await;
        tracing::info!("stopped; sandboxes go on");
        Ok(())
    }
}

fn private_directory(path: &Path) -> Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|error| fault(path, error))
}

/// One server per data directory. A child that a killed server was about to
/// start has the lock, and the address, until it has become another program.
async fn lock(path: &Path) -> Result<fs::File> {
    let mut options = fs::OpenOptions::new();
    let file = options.create(true).truncate(false).write(true).mode(0o600).open(path);
    let file = file.map_err(|error| fault(path, error))?;
    let is_locked = || flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok();
    if is_locked() {
        return Ok(file);
    }
    tracing::info!(lock = %path.display(), "waiting for an earlier server to be gone");
    let locked = async {
        while !is_locked() {
            tokio::time::sleep(LOCK_RETRY).await;
        }
    };
    let in_use = |_| Error::invalid_field("data-dir", format!("another server uses it (it holds {})", path.display()));
    tokio::time::timeout(LOCK_LIMIT, locked).await.map_err(in_use)?;
    Ok(file)
}

/// 32 random bytes, made at the first start.
async fn server_secret(store: &dyn Store) -> Result<[u8; 32]> {
    let mut secret = [0; 32];
    getrandom::fill(&mut secret).map_err(|error| Error::internal(format!("no random bytes: {error}")))?;
    store
        .commit(vec![Condition::Absent(SECRET_KEY.into())], vec![Write::Put(SECRET_KEY.into(), secret.to_vec())])
        .await?;
    let stored = store.get(SECRET_KEY).await?.unwrap_or_default();
    stored.try_into().map_err(|_| Error::internal("the server's secret is damaged"))
}

/// Chosen at the first start and kept: running sandboxes have their addresses
/// in it.
async fn subnet(store: &dyn Store, instance: &Instance, config: &Config) -> Result<std::net::Ipv4Addr> {
    if let Some(bytes) = store.get(SUBNET_KEY).await? {
        let stored: [u8; 4] = bytes.try_into().map_err(|_| Error::internal("the stored subnet is damaged"))?;
        return Ok(stored.into());
    }
    let free = || async {
        let networks = instance::host_networks().await?;
        instance
            .subnet(&networks)
            .ok_or_else(|| Error::invalid_field("subnet", "no /16 of 10.0.0.0/8 is free; name one"))
    };
    let subnet = match config.subnet {
        Some(subnet) => subnet,
        None => free().await?,
    };
    store.commit(vec![], vec![Write::Put(SUBNET_KEY.into(), subnet.octets().to_vec())]).await?;
    Ok(subnet)
}
