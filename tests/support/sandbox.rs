//! A sandbox that goes away with its value.

use nullspace_proto::v1::{
    CreateSandboxRequest, DestroySandboxRequest, ListSandboxesRequest, Resources, Sandbox, SandboxSpec,
};

use crate::{Api, Result};

/// One vCPU, 256 MiB, 512 MiB of disk.
pub fn small() -> SandboxSpec {
    let resources = Resources { vcpus: Some(1), memory_mib: Some(256), disk_mib: Some(512) };
    SandboxSpec { resources: Some(resources), ..Default::default() }
}

/// A running sandbox.
pub struct TestSandbox {
    /// The API that made it.
    pub api: Api,
    /// As it was made.
    pub sandbox: Sandbox,
}

impl TestSandbox {
    /// A small one on the server under test.
    pub async fn new() -> Result<Self> {
        Self::with(&Api::shared().await?, small()).await
    }

    /// One from a spec.
    pub async fn with(api: &Api, spec: SandboxSpec) -> Result<Self> {
        let request = CreateSandboxRequest { spec: Some(spec), ..Default::default() };
        let sandbox = api.sandboxes().create_sandbox(request).await?.into_inner().sandbox;
        Ok(Self { api: api.clone(), sandbox: sandbox.ok_or("no sandbox in the answer")? })
    }

    /// Its id.
    pub fn id(&self) -> String {
        self.sandbox.id.clone()
    }

    /// The same sandbox by another way to its server.
    pub fn by(&self, api: Api) -> TestSandbox {
        TestSandbox { api, sandbox: self.sandbox.clone() }
    }

    /// Leaves its end to somebody else.
    pub fn release(self) {
        std::mem::forget(self);
    }

    /// Ends it now.
    pub async fn destroy(&self) -> Result<Sandbox> {
        let request = DestroySandboxRequest { sandbox_id: self.id() };
        let sandbox = self.api.sandboxes().destroy_sandbox(request).await?.into_inner().sandbox;
        sandbox.ok_or_else(|| "no sandbox in the answer".into())
    }
}

impl Drop for TestSandbox {
    /// A test that failed leaves nothing either. The test's own runtime may be
    /// ending, so this has one of its own.
    fn drop(&mut self) {
        let (url, key, id) = (self.api.url.clone(), self.api.key.clone(), self.id());
        let destroy = move || -> Result {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                // What a server leaves that is gone is its own test's to remove.
                let Ok(api) = Api::connect(&url, None).await else { return Ok(()) };
                let api = Api { key, ..api };
                api.sandboxes().destroy_sandbox(DestroySandboxRequest { sandbox_id: id }).await?;
                Ok(())
            })
        };
        let outcome = std::thread::spawn(destroy).join();
        if let Ok(Err(error)) = outcome {
            eprintln!("a sandbox was not destroyed: {error}");
        }
    }
}

/// Every sandbox that is not destroyed.
pub(crate) async fn all(api: &Api) -> Result<Vec<Sandbox>> {
    let mut found = Vec::new();
    let mut request = ListSandboxesRequest::default();
    loop {
        let page = api.sandboxes().list_sandboxes(request.clone()).await?.into_inner();
        found.extend(page.sandboxes);
        if page.next_page_token.is_empty() {
            return Ok(found);
        }
        request.page_token = page.next_page_token;
    }
}
