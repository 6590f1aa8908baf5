//! Connects to the API server.
//!
//! The client is made of kube's parts, without its authentication and its TLS connector, which contains the authentication: that
//! starts programs which a kubeconfig names, and it has code for the tokens of cloud providers, half a megabyte of the static program.

use crate::dra::tls::Tls;
use crate::dra::token::Token;
use anyhow::{Context, bail};
use hyper::Uri;
use hyper_timeout::TimeoutConnector;
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::client::{Body, ConfigExt};
use kube::config::{AuthInfo, KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tower::{ServiceBuilder, ServiceExt as _, service_fn};

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(5);

/// Returns a client with the credentials of a kubeconfig file, or of the pod's service account. Connects with the first request.
///
/// # Errors
/// There are no such credentials, or they cannot be used.
pub(super) async fn client(kubeconfig: Option<&Path>) -> anyhow::Result<Client> {
    let config = match kubeconfig {
        Some(path) => {
            let file =
                Kubeconfig::read_from(path).with_context(|| format!("cannot read {}", path.display()))?;
            let options = KubeConfigOptions::default();
            let config = Config::from_custom_kubeconfig(file, &options).await;
            let config = config.with_context(|| format!("cannot use {}", path.display()))?;
            let checked = check_kind(&config.auth_info).and_then(|()| check_server(&config.cluster_url));
            checked.with_context(|| format!("cannot use {}", path.display()))?;
            config
        }
        None => Config::incluster()
            .context("cannot use the pod's service account; outside of a pod set --kubeconfig")?,
    };
    of_config(&config).context("cannot make a client for the API server")
}

/// Checks that the credentials are a token, a file with a token, or a certificate.
fn check_kind(credentials: &AuthInfo) -> anyhow::Result<()> {
    let other = [
        (credentials.exec.is_some(), "exec"),
        (credentials.auth_provider.is_some(), "auth-provider"),
        (credentials.username.is_some(), "username"),
        (credentials.impersonate.is_some(), "as"),
    ];
    if let Some((_, key)) = other.iter().find(|(is_set, _)| *is_set) {
        bail!("its user has `{key}`; expected a token, a tokenFile or a client certificate");
    }
    Ok(())
}

/// Checks that the server has TLS or is on this host. Without TLS, any host on the way could read the token and change the answers.
fn check_server(server: &Uri) -> anyhow::Result<()> {
    let host = server.host().unwrap_or_default().trim_matches(['[', ']']);
    let is_here = host == "localhost" || host.parse().is_ok_and(|address: IpAddr| address.is_loopback());
    if server.scheme_str() != Some("https") && !is_here {
        bail!("its server {host} has no TLS; expected a URL that begins with https://");
    }
    Ok(())
}

fn of_config(config: &Config) -> anyhow::Result<Client> {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    let tls = Arc::new(Tls::of(config)?);
    let connect = service_fn(move |address: Uri| {
        let connector = tls.connector(tcp.clone());
        async move { connector?.oneshot(address).await.map_err(anyhow::Error::from_boxed) }
    });
    let mut connector = TimeoutConnector::new(connect);
    connector.set_connect_timeout(Some(CONNECT));
    // Longer than the API server keeps a watch: a connection that is lost without a sign is given up.
    connector.set_read_timeout(config.read_timeout);
    let http: legacy::Client<_, Body> = legacy::Client::builder(TokioExecutor::new()).build(connector);
    let namespace = config.default_namespace.clone();
    Ok(match Token::of(&config.auth_info)? {
        Some(token) => {
            let service = ServiceBuilder::new()
                .layer(config.base_uri_layer())
                .map_request(move |request| token.authorize(request))
                .service(http);
            Client::new(service, namespace)
        }
        None => Client::new(ServiceBuilder::new().layer(config.base_uri_layer()).service(http), namespace),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    /// Returns the error about a kubeconfig with this cluster and user. Empty if there is none.
    async fn error_of(cluster: &str, user: &str) -> String {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("kubeconfig");
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: a\ncontexts: [{{name: a, context: {{cluster: a, user: a}}}}]\n\
             clusters: [{{name: a, cluster: {cluster}}}]\nusers: [{{name: a, user: {user}}}]\n"
        );
        std::fs::write(&path, text).unwrap();
        let error = client(Some(&path)).await.map(drop).err();
        error.map(|error| format!("{error:#}").replace(path.to_str().unwrap(), "FILE")).unwrap_or_default()
    }

    #[tokio::test]
    async fn server_of_another_host_needs_tls() {
        for server in ["http://127.0.0.1:1", "http://[::1]:1", "http://localhost:1"] {
            let error = error_of(&format!("{{server: \"{server}\"}}"), "{token: abc}").await;
            assert_eq!(error, "", "{server}");
        }
        for host in ["192.0.2.1", "api.example.com", "localhost.example.com"] {
            let error = error_of(&format!("{{server: \"http://{host}:1\"}}"), "{token: abc}").await;
            let expected = "has no TLS; expected a URL that begins with https://";
            assert_eq!(error, format!("cannot use FILE: its server {host} {expected}"));
        }
    }

    #[tokio::test]
    async fn user_has_a_token_or_a_certificate() {
        let cluster = "{server: \"http://127.0.0.1:1\"}";
        assert_eq!(error_of(cluster, "{token: abc}").await, "");
        assert_eq!(error_of(cluster, "{}").await, "");
        let expected = "; expected a token, a tokenFile or a client certificate";
        for (key, user) in [
            ("exec", "{exec: {command: /bin/true, apiVersion: client.authentication.k8s.io/v1}}"),
            ("auth-provider", "{auth-provider: {name: gcp, config: {}}}"),
            ("username", "{username: a, password: b}"),
            ("as", "{token: abc, as: root}"),
        ] {
            assert_eq!(
                error_of(cluster, user).await,
                format!("cannot use FILE: its user has `{key}`{expected}")
            );
        }
        for (part, user) in [
            ("/nonexistent/token", "{tokenFile: /nonexistent/token}"),
            ("client-certificate and client-key, or neither", "{client-certificate-data: \"\"}"),
            ("client-key: ", "{client-certificate-data: \"\", client-key-data: \"\"}"),
            ("client-key: its data is no base64", "{client-certificate-data: \"\", client-key-data: \"?\"}"),
            ("/nonexistent/key", "{client-certificate-data: \"\", client-key: /nonexistent/key}"),
        ] {
            let error = error_of(cluster, user).await;
            assert!(error.contains(part), "{error}");
        }
    }

    #[tokio::test]
    async fn cluster_has_an_authority() {
        let server = "server: \"https://127.0.0.1:1\"";
        for (cluster, expected) in [
            (format!("{{{server}}}"), "the cluster has no certificate-authority"),
            (
                format!("{{{server}, insecure-skip-tls-verify: true}}"),
                "the cluster has `insecure-skip-tls-verify`; expected a certificate-authority",
            ),
        ] {
            let error = error_of(&cluster, "{token: abc}").await;
            assert_eq!(error, format!("cannot make a client for the API server: {expected}"));
        }
    }
}
