//! What a sandbox is made from.

use std::{collections::BTreeMap, time::Duration};

use nullspace_proto::{
    v1::{LifetimePolicy, Resources, SandboxSpec},
    validate,
};

use crate::{
    Metadata, TimeoutAction,
    error::Result,
    limits::{MEMORY_MIB, SANDBOX_TIMEOUT, VCPUS},
    records::to_struct,
};

/// Settings of a sandbox, with the client's defaults.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub template: String,
    pub vcpus: i32,
    pub memory_mib: i32,
    pub disk_mib: Option<i32>,
    pub timeout: Option<Duration>,
    pub timeout_action: Option<TimeoutAction>,
    pub metadata: Metadata,
    pub envs: BTreeMap<String, String>,
    pub cwd: String,
    pub internet_access: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            template: String::new(),
            vcpus: VCPUS,
            memory_mib: MEMORY_MIB,
            disk_mib: None,
            timeout: Some(SANDBOX_TIMEOUT),
            timeout_action: None,
            metadata: Metadata::new(),
            envs: BTreeMap::new(),
            cwd: String::new(),
            internet_access: true,
        }
    }
}

impl Settings {
    /// As it goes on the wire.
    pub fn spec(self) -> Result<SandboxSpec> {
        Ok(SandboxSpec {
            template: self.template,
            resources: Some(Resources {
                vcpus: Some(self.vcpus),
                memory_mib: Some(self.memory_mib),
                disk_mib: self.disk_mib,
            }),
            lifetime: Some(LifetimePolicy {
                timeout: self.timeout.map(validate::duration),
                action: self.timeout_action.map_or(0, TimeoutAction::to_wire),
            }),
            metadata: Some(to_struct(self.metadata)?),
            envs: self.envs,
            cwd: self.cwd,
            internet_access: Some(self.internet_access),
        })
    }
}

/// Methods of every builder that has `settings` of a sandbox.
macro_rules! sandbox_settings {
    ($builder:ident) => {
        impl $builder {
            /// A name that [`System::capabilities`](crate::System::capabilities)
            /// lists. Default: `base`.
            pub fn template(mut self, template: impl Into<String>) -> Self {
                self.settings.template = template.into();
                self
            }

            /// Processors, 1 to 64. Default: 2.
            pub fn vcpus(mut self, vcpus: i32) -> Self {
                self.settings.vcpus = vcpus;
                self
            }

            /// Memory in MiB, 128 to 262,144. Default: 512.
            pub fn memory_mib(mut self, memory_mib: i32) -> Self {
                self.settings.memory_mib = memory_mib;
                self
            }

            /// Writable disk in MiB, 512 to 131,072. Default: 2,048.
            pub fn disk_mib(mut self, disk_mib: i32) -> Self {
                self.settings.disk_mib = Some(disk_mib);
                self
            }

            /// One member of the metadata, which is a JSON object of at most
            /// 64 KiB. Whole numbers beyond 2^53 are refused.
            pub fn metadata(mut self, name: impl Into<String>, value: impl Into<serde_json::Value>) -> Self {
                self.settings.metadata.insert(name.into(), value.into());
                self
            }

            /// May the sandbox reach other networks? Default: yes.
            pub fn internet_access(mut self, internet_access: bool) -> Self {
                self.settings.internet_access = internet_access;
                self
            }
        }
    };
}
pub(super) use sandbox_settings;
