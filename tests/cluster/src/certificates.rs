//! The certificates, keys and tokens of one run of the control plane.

use std::path::{Path, PathBuf};

use xtask::context::Context;
use xtask::process;

use crate::Result;

/// The names by which clients reach the API server: from this host, from the node, and as the service `kubernetes`.
const NAMES: &str = "subjectAltName=IP:127.0.0.1,IP:10.0.2.2,IP:10.96.0.1,DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc";

/// A user of the API server: the token's file name, the user, and the groups.
const USERS: [(&str, &str, &str); 4] = [
    ("admin", "admin", "system:masters"),
    ("node1", "system:node:node1", "system:nodes"),
    ("kube-scheduler", "system:kube-scheduler", ""),
    ("kube-controller-manager", "system:kube-controller-manager", ""),
];

/// A directory with all of them.
#[derive(Clone, Debug)]
pub struct Certificates(PathBuf);

impl Certificates {
    /// Makes them in an empty directory.
    ///
    /// # Errors
    ///
    /// Fails if openssl fails.
    pub fn make(context: &Context, directory: &Path) -> Result<Self> {
        process::make_directory(directory)?;
        let openssl = |words: &[&str]| {
            let mut openssl = context.command("openssl");
            process::run(openssl.args(words).current_dir(directory).stderr(std::process::Stdio::null()))
        };
        let new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30"];
        let signed = ["-CA", "ca.crt", "-CAkey", "ca.key"];
        let make = |words: &[&str]| openssl(&[&["req", "-x509"], &new_key[..], words].concat());
        make(&["-subj", "/CN=cluster", "-keyout", "ca.key", "-out", "ca.crt"])?;
        let server =
            ["-subj", "/CN=kube-apiserver", "-addext", NAMES, "-keyout", "server.key", "-out", "server.crt"];
        make(&[&signed[..], &["-addext", "basicConstraints=critical,CA:FALSE"], &server[..]].concat())?;
        // The kubelet's own server accepts this client.
        let client =
            ["-subj", "/CN=kube-apiserver", "-keyout", "kubelet-client.key", "-out", "kubelet-client.crt"];
        make(&[&signed[..], &["-addext", "extendedKeyUsage=clientAuth"], &client[..]].concat())?;
        openssl(&[
            "genpkey",
            "-algorithm",
            "RSA",
            "-pkeyopt",
            "rsa_keygen_bits:2048",
            "-out",
            "accounts.key",
        ])?;
        openssl(&["pkey", "-in", "accounts.key", "-pubout", "-out", "accounts.pub"])?;
        let certificates = Self(directory.into());
        let mut tokens = String::new();
        for (name, user, groups) in USERS {
            let token = process::output(context.command("openssl").args(["rand", "-hex", "16"]))?;
            process::write(&certificates.file(&format!("{name}.token")), &token)?;
            tokens.push_str(&format!("{token},{user},{name},\"{groups}\"\n"));
        }
        process::write(&certificates.file("tokens"), tokens)?;
        Ok(certificates)
    }

    /// Returns the path of a file.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Writes the configuration of a client, NAME.kubeconfig, and returns its path. `authority` is the path of the certificate
    /// authority where the client runs.
    ///
    /// # Errors
    ///
    /// Fails if the user is unknown or the file cannot be written.
    pub fn kubeconfig(&self, user: &str, server: &str, authority: &Path) -> Result<PathBuf> {
        let token = process::read(&self.file(&format!("{user}.token")))?;
        let file = self.file(&format!("{user}.kubeconfig"));
        process::write(&file, kubeconfig(server, authority, &token))?;
        Ok(file)
    }
}

/// Returns the configuration of a client. JSON is YAML.
fn kubeconfig(server: &str, authority: &Path, token: &str) -> String {
    serde_json::json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "cluster", "cluster": {"server": server, "certificate-authority": authority}}],
        "users": [{"name": "user", "user": {"token": token}}],
        "contexts": [{"name": "cluster", "context": {"cluster": "cluster", "user": "user"}}],
        "current-context": "cluster",
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_certificate_is_signed_and_has_all_names() {
        let context = Context::new().unwrap();
        let work = xtask::scratch::Scratch::new().unwrap();
        let made = Certificates::make(&context, &work.join("pki")).unwrap();
        for certificate in ["server.crt", "kubelet-client.crt"] {
            let mut verify = context.command("openssl");
            verify.args(["verify", "-CAfile"]).arg(made.file("ca.crt")).arg(made.file(certificate));
            assert!(process::succeeds(&mut verify), "{certificate}");
        }
        let mut show = context.command("openssl");
        show.args(["x509", "-noout", "-ext", "subjectAltName", "-in"]).arg(made.file("server.crt"));
        let names = process::output(&mut show).unwrap();
        assert!(names.contains("10.0.2.2") && names.contains("10.96.0.1"), "{names}");
        assert_eq!(process::read(&made.file("tokens")).unwrap().lines().count(), USERS.len());
    }

    #[test]
    fn kubeconfig_has_server_authority_and_token() {
        let text = kubeconfig("https://10.0.2.2:1", Path::new("/etc/ca.crt"), "secret");
        for part in ["https://10.0.2.2:1", "/etc/ca.crt", "secret"] {
            assert!(text.contains(part));
        }
    }
}
