//! TLS to the API server: its authority, and the client's certificate.

use crate::files::{self, Links};
use anyhow::{Context, bail};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hyper_rustls::{FixedServerNameResolver, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use kube::Config;
use kube::config::AuthInfo;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use secrecy::ExposeSecret;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Limit for the size of a file with certificates or a key, in bytes.
const MAX_SIZE: u64 = 1 << 20;

/// What connections to the API server are made with.
#[derive(Debug)]
pub(super) struct Tls {
    /// The certificates of the authority, as they were at the start.
    roots: Vec<CertificateDer<'static>>,
    /// The file with these certificates, which may change.
    roots_file: Option<PathBuf>,
    identity: Option<Identity>,
    /// The name in the API server's certificate, if it is another than the address's.
    name: Option<ServerName<'static>>,
}

/// The client's certificate and its key.
#[derive(Debug)]
struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Tls {
    /// Returns what a configuration says.
    ///
    /// # Errors
    /// It has no authority, or certificates that cannot be used.
    pub(super) fn of(config: &Config) -> anyhow::Result<Self> {
        if config.accept_invalid_certs {
            bail!("the cluster has `insecure-skip-tls-verify`; expected a certificate-authority");
        }
        let roots: Vec<_> = config.root_cert.iter().flatten().cloned().map(CertificateDer::from).collect();
        if roots.is_empty() && config.cluster_url.scheme_str() == Some("https") {
            bail!("the cluster has no certificate-authority");
        }
        let name = config.tls_server_name.clone().map(ServerName::try_from).transpose();
        let tls = Self {
            roots,
            roots_file: config.root_cert_file.clone(),
            identity: identity(&config.auth_info)?,
            name: name.context("tls-server-name")?,
        };
        // What is wrong at the start is an error of the start.
        tls.client_config()?;
        Ok(tls)
    }

    /// Returns a connector for one connection. The file of the authority is read for each, because an authority may be replaced while
    /// the driver runs.
    ///
    /// # Errors
    /// The certificates cannot be used.
    pub(super) fn connector(&self, tcp: HttpConnector) -> anyhow::Result<HttpsConnector<HttpConnector>> {
        let builder = HttpsConnectorBuilder::new().with_tls_config(self.client_config()?).https_or_http();
        Ok(match self.name.clone() {
            Some(name) => {
                let resolver = FixedServerNameResolver::new(name);
                builder.with_server_name_resolver(resolver).enable_http1().wrap_connector(tcp)
            }
            None => builder.enable_http1().wrap_connector(tcp),
        })
    }

    fn client_config(&self) -> anyhow::Result<ClientConfig> {
        let now = self.roots_file.as_deref().and_then(|file| certificates(&read(file).ok()?).ok());
        let mut store = RootCertStore::empty();
        for root in now.filter(|now| !now.is_empty()).as_ref().unwrap_or(&self.roots) {
            store.add(root.clone()).context("certificate-authority")?;
        }
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let builder = builder.with_root_certificates(store);
        match &self.identity {
            Some(Identity { chain, key }) => {
                let config = builder.with_client_auth_cert(chain.clone(), key.clone_key());
                config.context("client-certificate and client-key")
            }
            None => Ok(builder.with_no_client_auth()),
        }
    }
}

/// Returns the client's certificate. None if there is none.
fn identity(credentials: &AuthInfo) -> anyhow::Result<Option<Identity>> {
    let chain =
        pem(credentials.client_certificate_data.as_deref(), credentials.client_certificate.as_deref());
    let key = credentials.client_key_data.as_ref().map(ExposeSecret::expose_secret);
    let key = pem(key, credentials.client_key.as_deref());
    match (chain.context("client-certificate")?, key.context("client-key")?) {
        (None, None) => Ok(None),
        (Some(chain), Some(key)) => {
            let chain = certificates(&chain).context("client-certificate")?;
            let key = PrivateKeyDer::from_pem_slice(&key).context("client-key")?;
            Ok(Some(Identity { chain, key }))
        }
        _ => bail!("expected client-certificate and client-key, or neither"),
    }
}

/// Returns PEM text, from a value in base64 or from a file.
fn pem(data: Option<&str>, file: Option<&str>) -> anyhow::Result<Option<Vec<u8>>> {
    match (data, file) {
        (Some(data), _) => Ok(Some(BASE64_STANDARD.decode(data.trim()).context("its data is no base64")?)),
        (None, Some(file)) => Ok(Some(read(Path::new(file))?)),
        (None, None) => Ok(None),
    }
}

fn certificates(pem: &[u8]) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    Ok(CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>()?)
}

fn read(file: &Path) -> anyhow::Result<Vec<u8>> {
    files::read(file, Links::Follow, MAX_SIZE).with_context(|| file.display().to_string())
}
