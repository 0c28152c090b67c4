//! The server itself, and its API keys.

use std::time::Duration;

use nullspace_proto::{
    v1::{
        CreateApiKeyRequest, GetCapabilitiesRequest, GetVersionRequest, ListApiKeysRequest, RevokeApiKeyRequest,
        RotateApiKeyRequest, WhoAmIRequest,
    },
    validate,
};

use crate::{
    ApiKey, Capabilities, CreatedApiKey, Version,
    client::required,
    connection::{Connection, idempotency_key},
    error::Result,
    method::{CREATE_API_KEY, GET_CAPABILITIES, GET_VERSION, LIST_API_KEYS, REVOKE_API_KEY, ROTATE_API_KEY, WHO_AM_I},
    page::{Call, Entries, Page, Paged, entries},
};

/// The server itself, and its API keys. Made by [`Client::system`](crate::Client::system).
///
/// ```no_run
/// # async fn example(client: nullspace::Client) -> nullspace::Result<()> {
/// let system = client.system();
/// println!("{}", system.version().await?.version);
/// let created = system.create_api_key("ci").scope("sandbox.read").await?;
/// system.revoke_api_key(created.key.id).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct System {
    connection: Connection,
}

impl std::fmt::Debug for System {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("System").finish_non_exhaustive()
    }
}

impl System {
    pub(crate) fn new(connection: Connection) -> Self {
        Self { connection }
    }

    /// The server's version.
    ///
    /// # Errors
    /// Those of the key.
    pub async fn version(&self) -> Result<Version> {
        Ok(self.connection.call(GET_VERSION, GetVersionRequest {}, None).await?.into())
    }

    /// What each engine can do, its limits, and the templates.
    ///
    /// # Errors
    /// Those of the key.
    pub async fn capabilities(&self) -> Result<Capabilities> {
        Ok(self.connection.call(GET_CAPABILITIES, GetCapabilitiesRequest {}, None).await?.into())
    }

    /// Whose key this client has.
    ///
    /// # Errors
    /// Those of the key.
    pub async fn whoami(&self) -> Result<ApiKey> {
        required(self.connection.call(WHO_AM_I, WhoAmIRequest {}, None).await?.key)
    }

    /// Makes an API key.
    pub fn create_api_key(&self, name: impl Into<String>) -> CreateApiKey {
        let request = CreateApiKeyRequest { name: name.into(), ..Default::default() };
        CreateApiKey { connection: self.connection.clone(), request }
    }

    /// API keys of the key's owner, newest first, also revoked ones.
    pub fn list_api_keys(&self) -> ListApiKeys {
        ListApiKeys { connection: self.connection.clone(), page_size: None, page_token: None }
    }

    /// Makes a key that takes the place of this client's own, or of another with
    /// [`RotateApiKey::key`].
    pub fn rotate_api_key(&self) -> RotateApiKey {
        RotateApiKey { connection: self.connection.clone(), request: RotateApiKeyRequest::default() }
    }

    /// Ends an API key at once; calls that run with it go on.
    ///
    /// # Errors
    /// [`ApiKeyNotFound`](crate::Reason::ApiKeyNotFound).
    pub async fn revoke_api_key(&self, key_id: impl Into<String>) -> Result<ApiKey> {
        let request = RevokeApiKeyRequest { key_id: key_id.into() };
        required(self.connection.call(REVOKE_API_KEY, request, None).await?.key)
    }
}

/// Makes an API key. Made by [`System::create_api_key`].
#[derive(Clone)]
#[must_use = "nothing is sent before it is awaited"]
pub struct CreateApiKey {
    connection: Connection,
    request: CreateApiKeyRequest,
}

impl CreateApiKey {
    /// What it may do, such as `sandbox.read`; again for more. Default: what the
    /// client's own key may.
    pub fn scope(mut self, scope: impl Into<String>) -> Self {
        self.request.scopes.push(scope.into());
        self
    }

    /// Whose sandboxes it reaches. Another owner than the client's needs the
    /// scope `*`.
    pub fn owner(mut self, owner: impl Into<String>) -> Self {
        self.request.owner = owner.into();
        self
    }

    /// How long it is valid from now, 1 s to 3,650 days. Default: for ever.
    pub fn lifetime(mut self, lifetime: Duration) -> Self {
        self.request.lifetime = Some(validate::duration(lifetime));
        self
    }

    /// At most 128 bytes; a call with a key that was used in the last 24 h gives
    /// that call's answer. Default: a new one.
    pub fn idempotency_key(mut self, key: impl Into<String>) -> Self {
        self.request.idempotency_key = key.into();
        self
    }
}

impl IntoFuture for CreateApiKey {
    type Output = Result<CreatedApiKey>;
    type IntoFuture = Call<CreatedApiKey>;

    /// # Errors
    /// [`InvalidRequest`](crate::Reason::InvalidRequest);
    /// [`ScopeMissing`](crate::Reason::ScopeMissing), a key cannot give scopes
    /// that it lacks; [`IdempotencyKeyReused`](crate::Reason::IdempotencyKeyReused).
    fn into_future(self) -> Call<CreatedApiKey> {
        let Self { connection, mut request } = self;
        request.idempotency_key = idempotency_key(Some(request.idempotency_key));
        Box::pin(async move {
            let response = connection.call(CREATE_API_KEY, request, None).await?;
            Ok(CreatedApiKey { key: required(response.key)?, secret_key: response.secret_key })
        })
    }
}

/// Replaces an API key by one with the same name, owner, scopes and end. Made by
/// [`System::rotate_api_key`].
#[derive(Clone)]
#[must_use = "nothing is sent before it is awaited"]
pub struct RotateApiKey {
    connection: Connection,
    request: RotateApiKeyRequest,
}

impl RotateApiKey {
    /// The id of the key to replace. Default: the client's own.
    pub fn key(mut self, key_id: impl Into<String>) -> Self {
        self.request.key_id = key_id.into();
        self
    }

    /// How long the replaced key stays valid from now, at most 7 days. Default: it
    /// ends at once, but not the calls that run with it.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.request.grace = Some(validate::duration(grace));
        self
    }

    /// As [`CreateApiKey::idempotency_key`].
    pub fn idempotency_key(mut self, key: impl Into<String>) -> Self {
        self.request.idempotency_key = key.into();
        self
    }
}

impl IntoFuture for RotateApiKey {
    type Output = Result<CreatedApiKey>;
    type IntoFuture = Call<CreatedApiKey>;

    /// # Errors
    /// [`ApiKeyNotFound`](crate::Reason::ApiKeyNotFound);
    /// [`ApiKeyEnded`](crate::Reason::ApiKeyEnded), it was rotated before, among
    /// others; [`ScopeMissing`](crate::Reason::ScopeMissing);
    /// [`IdempotencyKeyReused`](crate::Reason::IdempotencyKeyReused).
    fn into_future(self) -> Call<CreatedApiKey> {
        let Self { connection, mut request } = self;
        request.idempotency_key = idempotency_key(Some(request.idempotency_key));
        Box::pin(async move {
            let response = connection.call(ROTATE_API_KEY, request, None).await?;
            Ok(CreatedApiKey { key: required(response.key)?, secret_key: response.secret_key })
        })
    }
}

/// Lists API keys. Made by [`System::list_api_keys`].
#[derive(Clone)]
#[must_use = "nothing is sent before it is awaited"]
pub struct ListApiKeys {
    connection: Connection,
    page_size: Option<i32>,
    page_token: Option<String>,
}

impl ListApiKeys {
    /// Entries of one page, 1 to 100. Default: 50.
    pub fn page_size(mut self, page_size: i32) -> Self {
        self.page_size = Some(page_size);
        self
    }

    /// Where to begin: [`Page::next_page_token`] of an earlier page.
    pub fn page_token(mut self, token: impl Into<String>) -> Self {
        self.page_token = Some(token.into());
        self
    }

    /// One page.
    ///
    /// # Errors
    /// [`InvalidRequest`](crate::Reason::InvalidRequest).
    pub async fn page(self) -> Result<Page<ApiKey>> {
        let token = self.page_token.clone();
        Paged::page(&self, token).await
    }

    /// All keys, page by page as they are asked for.
    pub fn entries(self) -> Entries<ApiKey> {
        let token = self.page_token.clone();
        entries(self, token)
    }
}

impl Paged for ListApiKeys {
    type Entry = ApiKey;

    async fn page(&self, token: Option<String>) -> Result<Page<ApiKey>> {
        let request = ListApiKeysRequest { page_size: self.page_size, page_token: token.unwrap_or_default() };
        let response = self.connection.call(LIST_API_KEYS, request, None).await?;
        Ok(Page::new(response.keys.into_iter().map(ApiKey::from).collect(), response.next_page_token))
    }
}

impl IntoFuture for ListApiKeys {
    type Output = Result<Vec<ApiKey>>;
    type IntoFuture = Call<Vec<ApiKey>>;

    /// All of them, from all pages.
    fn into_future(self) -> Call<Vec<ApiKey>> {
        Box::pin(async move {
            use tokio_stream::StreamExt as _;
            self.entries().collect().await
        })
    }
}
