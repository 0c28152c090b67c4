//! API keys. A key is derived from its id and the server's own secret, so that
//! a repeated creation can answer with it again; only its hash is stored.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, SystemTime},
};

use hmac::{Hmac, Mac};
use nullspace_proto::{Error, Reason, Result, id, policy};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::store::{
    Store, Write,
    idempotency::{Begin, Idempotency},
    scan_all,
};

const PREFIX: &str = "key/";
const SECRET_PREFIX: &str = "ns_live_";
/// Characters of a key that are shown to recognise it by.
const SHOWN: usize = SECRET_PREFIX.len() + 4;
/// Everything.
const ALL_SCOPES: &str = "*";
const DEFAULT_OWNER: &str = "default";

/// A key, without the key itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct KeyRecord {
    /// `key_` and 26 characters.
    pub id: String,
    /// For people.
    pub name: String,
    /// The first characters of the key.
    pub prefix: String,
    /// SHA-256 of the key, in hexadecimal.
    pub hash: String,
    /// Whose things it reaches.
    pub owner: String,
    /// What it may do.
    pub scopes: Vec<String>,
    /// When it was made.
    pub created_at: SystemTime,
    /// When it ends, if ever.
    pub expires_at: Option<SystemTime>,
    /// When it was revoked, if it was.
    pub revoked_at: Option<SystemTime>,
    /// The key whose place it took.
    #[serde(default)]
    pub rotated_from: Option<String>,
    /// The key that took its place.
    #[serde(default)]
    pub rotated_to: Option<String>,
}

impl KeyRecord {
    fn holds(&self, scope: &str) -> bool {
        self.scopes.iter().any(|held| held == ALL_SCOPES || held == scope)
    }

    /// Refuses unless it holds `scope`. An empty scope asks for nothing.
    pub fn require(&self, scope: &'static str) -> Result<()> {
        if scope.is_empty() || self.holds(scope) {
            return Ok(());
        }
        Err(Error::new(Reason::ScopeMissing, format!("this key lacks the scope {scope}")).with("scope", scope))
    }

    /// Refuses unless it holds all of `scopes`.
    fn require_to_give(&self, scopes: &[String]) -> Result<()> {
        let Some(scope) = scopes.iter().find(|scope| !self.holds(scope)) else { return Ok(()) };
        Err(Error::new(Reason::ScopeMissing, format!("a key without {scope} cannot give it")).with("scope", scope))
    }

    /// Makes the key `next` take its place, and ends it after `grace`.
    fn rotated(&self, next: &str, grace: Duration) -> Self {
        let end = SystemTime::now() + grace;
        let end = self.expires_at.map_or(end, |own| own.min(end));
        Self { expires_at: Some(end), rotated_to: Some(next.to_owned()), ..self.clone() }
    }

    /// Refuses unless another key may take its place.
    fn may_rotate(&self) -> Result<()> {
        if let Some(next) = &self.rotated_to {
            let message = format!("API key {} was rotated before; {next} took its place", self.id);
            return Err(Error::wrong_state(Reason::ApiKeyEnded, &self.id, message).with("rotated_to", next));
        }
        if self.is_valid() {
            return Ok(());
        }
        let message = format!("API key {} was revoked or has expired", self.id);
        Err(Error::wrong_state(Reason::ApiKeyEnded, &self.id, message))
    }

    fn is_valid(&self) -> bool {
        self.revoked_at.is_none() && self.expires_at.is_none_or(|end| end > SystemTime::now())
    }
}

/// What a new key shall be.
#[derive(Debug)]
pub struct KeySpec {
    /// For people.
    pub name: String,
    /// Empty: those of the caller.
    pub scopes: Vec<String>,
    /// Empty: the caller's.
    pub owner: String,
    /// `None`: never ends.
    pub lifetime: Option<Duration>,
}

/// The keys of this server.
pub struct ApiKeys {
    store: Arc<dyn Store>,
    idempotency: Arc<Idempotency>,
    secret: [u8; 32],
    /// By the hash of the key.
    keys: RwLock<HashMap<String, Arc<KeyRecord>>>,
    /// Held while a key is changed.
    change: tokio::sync::Mutex<()>,
}

impl ApiKeys {
    /// Reads all keys.
    pub async fn open(store: Arc<dyn Store>, idempotency: Arc<Idempotency>, secret: [u8; 32]) -> Result<Self> {
        let records: Vec<(String, KeyRecord)> = scan_all(&*store, PREFIX).await?;
        let keys = records.into_iter().map(|(_, record)| (record.hash.clone(), Arc::new(record))).collect();
        Ok(Self { store, idempotency, secret, keys: RwLock::new(keys), change: tokio::sync::Mutex::default() })
    }

    /// Makes the first key, if there is none. `deliver` puts it where clients
    /// find it, and comes first: a key that nobody has is of no use.
    pub async fn bootstrap(&self, deliver: impl FnOnce(&str) -> Result<()>) -> Result<()> {
        if !self.read().is_empty() {
            return Ok(());
        }
        let spec = KeySpec {
            name: "first key".into(),
            scopes: vec![ALL_SCOPES.into()],
            owner: DEFAULT_OWNER.into(),
            lifetime: None,
        };
        let (record, secret) = self.derive(id::api_key(), spec);
        deliver(&secret)?;
        self.commit(vec![record], None).await
    }

    /// Finds the valid key of a call.
    pub fn authenticate(&self, key: &str) -> Result<Arc<KeyRecord>> {
        // Looking up by the hash tells nothing of a key by the time it takes.
        let found = self.read().get(&hash(key)).filter(|record| record.is_valid()).cloned();
        found.ok_or_else(|| Error::new(Reason::ApiKeyInvalid, "the API key is unknown, revoked or expired"))
    }

    /// Makes a key for the holder of the key `by`. `canonical` is the request
    /// without its idempotency key.
    pub async fn create(
        &self,
        by: &KeyRecord,
        key: &str,
        canonical: &[u8],
        spec: KeySpec,
    ) -> Result<(KeyRecord, String)> {
        let spec = Self::allowed(by, spec)?;
        let ticket = match self.idempotency.begin(&by.owner, "CreateApiKey", key, canonical).await? {
            Begin::Answered(id) => return self.again(&String::from_utf8_lossy(&id)).await,
            Begin::First(ticket) => ticket,
        };
        let _change = self.change.lock().await;
        let (record, secret) = self.derive(id::api_key(), spec);
        let outcome = ticket.outcome(record.id.clone().into_bytes())?;
        self.commit(vec![record.clone()], outcome).await?;
        Ok((record, secret))
    }

    /// Makes a key that takes the place of the key `id`, which ends after `grace`.
    /// An empty id is that of the caller's own.
    pub async fn rotate(
        &self,
        by: &KeyRecord,
        key: &str,
        canonical: &[u8],
        id: &str,
        grace: Duration,
    ) -> Result<(KeyRecord, String)> {
        let id = if id.is_empty() { &by.id } else { id };
        let ticket = match self.idempotency.begin(&by.owner, "RotateApiKey", key, canonical).await? {
            Begin::Answered(id) => {
                let (record, secret) = self.again(&String::from_utf8_lossy(&id)).await?;
                // The key of this call need not be that of the first.
                by.require_to_give(&record.scopes)?;
                return Ok((record, secret));
            }
            Begin::First(ticket) => ticket,
        };
        let _change = self.change.lock().await;
        let old = self.find(id).filter(|record| record.owner == by.owner).ok_or_else(|| unknown(id))?;
        old.may_rotate()?;
        let KeyRecord { name, scopes, owner, .. } = old.clone();
        let spec = Self::allowed(by, KeySpec { name, scopes, owner, lifetime: None })?;
        let (record, secret) = self.derive(id::api_key(), spec);
        let new = KeyRecord { expires_at: old.expires_at, rotated_from: Some(old.id.clone()), ..record };
        let outcome = ticket.outcome(new.id.clone().into_bytes())?;
        self.commit(vec![old.rotated(&new.id, grace), new.clone()], outcome).await?;
        Ok((new, secret))
    }

    /// The keys of an owner, newest first, after the key `after`.
    pub fn list(&self, owner: &str, after: Option<&str>, limit: usize) -> (Vec<Arc<KeyRecord>>, bool) {
        let mut keys: Vec<_> = self.read().values().filter(|record| record.owner == owner).cloned().collect();
        keys.retain(|record| after.is_none_or(|after| record.id.as_str() < after));
        keys.sort_by(|a, b| b.id.cmp(&a.id));
        let more = keys.len() > limit;
        keys.truncate(limit);
        (keys, more)
    }

    /// Ends a key at once.
    pub async fn revoke(&self, owner: &str, id: &str) -> Result<KeyRecord> {
        let _change = self.change.lock().await;
        let mut record = self.find(id).filter(|record| record.owner == owner).ok_or_else(|| unknown(id))?;
        if record.revoked_at.is_none() {
            record.revoked_at = Some(SystemTime::now());
            self.commit(vec![record.clone()], None).await?;
        }
        Ok(record)
    }

    fn allowed(by: &KeyRecord, mut spec: KeySpec) -> Result<KeySpec> {
        if spec.scopes.is_empty() {
            spec.scopes = by.scopes.clone();
        }
        if spec.owner.is_empty() {
            spec.owner = by.owner.clone();
        }
        let known = policy::scopes();
        for (n, scope) in spec.scopes.iter().enumerate() {
            if scope != ALL_SCOPES && !known.contains(&scope.as_str()) {
                return Err(Error::invalid_field(
                    format!("scopes[{n}]"),
                    format!("{scope:?} is not one of *, {}", known.join(", ")),
                ));
            }
        }
        by.require_to_give(&spec.scopes)?;
        if spec.owner != by.owner {
            by.require(ALL_SCOPES)?;
        }
        Ok(spec)
    }

    async fn again(&self, id: &str) -> Result<(KeyRecord, String)> {
        // The first call may have written it and be about to believe it.
        let _change = self.change.lock().await;
        let record = self.find(id).ok_or_else(|| unknown(id))?;
        let secret = self.secret_of(id);
        Ok((record, secret))
    }

    fn find(&self, id: &str) -> Option<KeyRecord> {
        self.read().values().find(|record| record.id == id).map(|record| (**record).clone())
    }

    fn derive(&self, id: String, spec: KeySpec) -> (KeyRecord, String) {
        let secret = self.secret_of(&id);
        let now = SystemTime::now();
        let record = KeyRecord {
            id,
            name: spec.name,
            prefix: secret[..SHOWN].to_owned(),
            hash: hash(&secret),
            owner: spec.owner,
            scopes: spec.scopes,
            created_at: now,
            expires_at: spec.lifetime.map(|lifetime| now + lifetime),
            revoked_at: None,
            rotated_from: None,
            rotated_to: None,
        };
        (record, secret)
    }

    fn secret_of(&self, id: &str) -> String {
        format!("{SECRET_PREFIX}{}", hex::encode(derive_secret(&self.secret, &format!("api key {id}"))))
    }

    async fn commit(&self, records: Vec<KeyRecord>, outcome: Option<Write>) -> Result<()> {
        let writes = records.iter().map(|record| Write::put_record(format!("{PREFIX}{}", record.id), record));
        let mut writes = writes.collect::<Result<Vec<_>>>()?;
        writes.extend(outcome);
        self.store.commit(vec![], writes).await?;
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        keys.extend(records.into_iter().map(|record| (record.hash.clone(), Arc::new(record))));
        Ok(())
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, HashMap<String, Arc<KeyRecord>>> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A secret that can be made again: HMAC of the server's own secret.
pub fn derive_secret(secret: &[u8; 32], purpose: &str) -> [u8; 32] {
    // A MAC takes a key of any length.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret) else { return [0; 32] };
    mac.update(purpose.as_bytes());
    mac.finalize().into_bytes().into()
}

fn hash(key: &str) -> String {
    hex::encode(Sha256::digest(key))
}

fn unknown(id: &str) -> Error {
    Error::not_found(Reason::ApiKeyNotFound, "API key", id)
}
