//! Lists sandboxes.

use nullspace_proto::v1::ListSandboxesRequest;

use crate::{
    Metadata, SandboxInfo, SandboxState,
    connection::Connection,
    error::Result,
    method::LIST_SANDBOXES,
    page::{Call, Entries, Page, Paged, entries},
    records::to_struct,
};

/// Lists sandboxes, newest first. Made by
/// [`Client::list_sandboxes`](crate::Client::list_sandboxes).
///
/// ```no_run
/// # async fn example(client: nullspace::Client) -> nullspace::Result<()> {
/// use nullspace::SandboxState;
/// use tokio_stream::StreamExt as _;
///
/// let mut running = client.list_sandboxes().state(SandboxState::Running).entries();
/// while let Some(sandbox) = running.next().await {
///     println!("{}", sandbox?.id);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
#[must_use = "nothing is sent before it is awaited"]
pub struct ListSandboxes {
    list: List,
    metadata: Metadata,
    page_token: Option<String>,
}

#[derive(Clone)]
struct List {
    connection: Connection,
    request: ListSandboxesRequest,
}

impl std::fmt::Debug for List {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.request.fmt(f)
    }
}

impl ListSandboxes {
    pub(crate) fn new(connection: Connection) -> Self {
        let list = List { connection, request: ListSandboxesRequest::default() };
        Self { list, metadata: Metadata::new(), page_token: None }
    }

    /// Only in this state, or in one of several when it is called again.
    /// Default: all but destroyed ones.
    pub fn state(mut self, state: SandboxState) -> Self {
        self.list.request.states.push(state.to_wire());
        self
    }

    /// Only from this template.
    pub fn template(mut self, template: impl Into<String>) -> Self {
        self.list.request.template = template.into();
        self
    }

    /// Only those whose metadata has this member with an equal value.
    pub fn metadata(mut self, name: impl Into<String>, value: impl Into<serde_json::Value>) -> Self {
        self.metadata.insert(name.into(), value.into());
        self
    }

    /// Entries of one page, 1 to 100. Default: 50.
    pub fn page_size(mut self, page_size: i32) -> Self {
        self.list.request.page_size = Some(page_size);
        self
    }

    /// Where to begin: [`Page::next_page_token`] of an earlier page with the same
    /// filters.
    pub fn page_token(mut self, token: impl Into<String>) -> Self {
        self.page_token = Some(token.into());
        self
    }

    /// One page.
    ///
    /// # Errors
    /// [`InvalidRequest`](crate::Reason::InvalidRequest).
    pub async fn page(self) -> Result<Page<SandboxInfo>> {
        let (list, token) = self.filtered()?;
        list.page(token).await
    }

    /// All sandboxes, page by page as they are asked for.
    pub fn entries(self) -> Entries<SandboxInfo> {
        match self.filtered() {
            Ok((list, token)) => entries(list, token),
            Err(error) => Box::pin(tokio_stream::once(Err(error))),
        }
    }

    fn filtered(self) -> Result<(List, Option<String>)> {
        let Self { mut list, metadata, page_token } = self;
        if !metadata.is_empty() {
            list.request.metadata = Some(to_struct(metadata)?);
        }
        Ok((list, page_token))
    }
}

impl Paged for List {
    type Entry = SandboxInfo;

    async fn page(&self, token: Option<String>) -> Result<Page<SandboxInfo>> {
        let request = ListSandboxesRequest { page_token: token.unwrap_or_default(), ..self.request.clone() };
        let response = self.connection.call(LIST_SANDBOXES, request, None).await?;
        let sandboxes = response.sandboxes.into_iter().map(SandboxInfo::from).collect();
        Ok(Page::new(sandboxes, response.next_page_token))
    }
}

impl IntoFuture for ListSandboxes {
    type Output = Result<Vec<SandboxInfo>>;
    type IntoFuture = Call<Vec<SandboxInfo>>;

    /// All of them, from all pages.
    fn into_future(self) -> Call<Vec<SandboxInfo>> {
        Box::pin(async move {
            use tokio_stream::StreamExt as _;
            self.entries().collect().await
        })
    }
}
