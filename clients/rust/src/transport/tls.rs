//! TLS towards the server.

use std::sync::Arc;

use tokio::net::TcpStream;
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::ring,
        pki_types::{CertificateDer, ServerName, pem::PemObject as _},
    },
};

use crate::{
    config::Config,
    error::{Error, Result},
};

/// Makes TLS of TCP, to one server.
#[derive(Clone)]
pub(crate) struct Tls {
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl Tls {
    /// Trusts what the configuration says, else what this machine trusts.
    pub fn new(config: &Config) -> Result<Self> {
        let roots = match &config.ca_cert {
            Some(pem) => given(pem)?,
            None => of_this_machine()?,
        };
        // By name, and not the process's default: a program may have two providers.
        let client = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let client = client.with_safe_default_protocol_versions();
        let client = client.map_err(|error| Error::invalid_field("url", format!("TLS cannot be used: {error}")))?;
        let mut client = client.with_root_certificates(roots).with_no_client_auth();
        client.alpn_protocols = vec![b"h2".to_vec()];
        let host = config.target.host.clone();
        let name = ServerName::try_from(host).map_err(|error| Error::invalid_field("url", error.to_string()))?;
        Ok(Self { connector: TlsConnector::from(Arc::new(client)), name })
    }

    /// Shakes hands.
    pub async fn connect(&self, stream: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
        self.connector.connect(self.name.clone(), stream).await
    }
}

fn given(pem: &[u8]) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let certificates = certificates.map_err(|error| Error::invalid_field("ca_cert", error.to_string()))?;
    for certificate in certificates {
        roots.add(certificate).map_err(|error| Error::invalid_field("ca_cert", error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(Error::invalid_field("ca_cert", "has no certificate"));
    }
    Ok(roots)
}

fn of_this_machine() -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    // A machine may have some that rustls does not take; the rest still serves.
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let causes: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
        let causes = if causes.is_empty() { String::new() } else { format!(" ({})", causes.join("; ")) };
        let message = format!("this machine has no trusted certificates{causes}; name a file with some");
        return Err(Error::invalid_field("ca_cert", message));
    }
    Ok(roots)
}
