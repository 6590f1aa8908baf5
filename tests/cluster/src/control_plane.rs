//! The control plane: etcd, the API server, the scheduler and the controller manager, as processes on the loopback.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use xtask::context::Context;
use xtask::process;

use crate::Result;
use crate::certificates::Certificates;
use crate::parts::Parts;
use crate::process::{Daemon, free_ports};
use crate::wait::wait;

/// How long the API server has to answer. It takes 10 s on an idle host.
const READY: Duration = Duration::from_secs(180);
/// How long one call of kubectl may take.
const KUBECTL: &str = "--request-timeout=60s";
/// The node's address as QEMU's user network shows it, and the host's.
pub const HOST_FOR_NODE: &str = "10.0.2.2";

/// A process of the control plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Component {
    /// The store.
    Etcd,
    /// kube-apiserver.
    ApiServer,
    /// kube-scheduler.
    Scheduler,
    /// kube-controller-manager.
    ControllerManager,
}

impl Component {
    /// Returns the program's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::ApiServer => "kube-apiserver",
            Self::Scheduler => "kube-scheduler",
            Self::ControllerManager => "kube-controller-manager",
        }
    }
}

/// The ports of the loopback that a run uses.
#[derive(Clone, Copy, Debug)]
pub struct Ports {
    etcd: u16,
    etcd_peer: u16,
    /// The API server's.
    pub api: u16,
    /// The node's kubelet, which the API server calls for logs and exec.
    pub kubelet: u16,
    /// The node's SSH server.
    pub ssh: u16,
}

impl Ports {
    /// Finds free ports.
    ///
    /// # Errors
    ///
    /// Fails if the kernel has none.
    pub fn find() -> Result<Self> {
        let [etcd, etcd_peer, api, kubelet, ssh] = free_ports()?;
        Ok(Self { etcd, etcd_peer, api, kubelet, ssh })
    }
}

/// A control plane. Its processes end when this is dropped.
#[derive(Debug)]
pub struct ControlPlane {
    // In reverse order of their start, so that they end in this order.
    running: BTreeMap<std::cmp::Reverse<Component>, Daemon>,
    work: PathBuf,
    programs: PathBuf,
    etcd: PathBuf,
    ports: Ports,
    certificates: Certificates,
    admin: PathBuf,
}

impl ControlPlane {
    /// Starts etcd and the API server, without waiting for them. The other components end if the API server has not made its roles
    /// within ten seconds, so they start when it is ready.
    ///
    /// # Errors
    ///
    /// Fails if a component cannot be started.
    pub fn start(
        context: &Context,
        parts: &Parts,
        work: &Path,
        certificates: &Certificates,
        ports: Ports,
    ) -> Result<Self> {
        let server = format!("https://127.0.0.1:{}", ports.api);
        let authority = certificates.file("ca.crt");
        let admin = certificates.kubeconfig("admin", &server, &authority)?;
        for component in [Component::Scheduler, Component::ControllerManager] {
            certificates.kubeconfig(component.name(), &server, &authority)?;
        }
        // The API server finds the node's kubelet by the node's name (--kubelet-preferred-address-types).
        process::write(&work.join("hosts"), "127.0.0.1 localhost node1\n")?;
        let mut this = Self {
            running: BTreeMap::new(),
            work: work.into(),
            programs: parts.kubernetes.clone(),
            etcd: parts.etcd.clone(),
            ports,
            certificates: certificates.clone(),
            admin,
        };
        for component in [Component::Etcd, Component::ApiServer] {
            this.start_component(context, component)?;
        }
        Ok(this)
    }

    /// Starts a component that does not run.
    ///
    /// # Errors
    ///
    /// Fails if it cannot be started.
    pub fn start_component(&mut self, context: &Context, component: Component) -> Result {
        if self.running.contains_key(&std::cmp::Reverse(component)) {
            return Err(format!("{} runs already", component.name()).into());
        }
        let command = match component {
            Component::Etcd => self.etcd_command(context),
            Component::ApiServer => self.api_server(context),
            Component::Scheduler => self.client(context, component, &[]),
            Component::ControllerManager => self.controller_manager(context),
        };
        let daemon = Daemon::start(context, component.name(), &self.log(component), &command)?;
        self.running.insert(std::cmp::Reverse(component), daemon);
        Ok(())
    }

    /// Ends a component.
    pub fn stop_component(&mut self, component: Component) {
        self.running.remove(&std::cmp::Reverse(component));
    }

    /// Waits until the API server is ready.
    ///
    /// # Errors
    ///
    /// Fails if a component has ended or the API server is not ready in time.
    pub fn wait_ready(&mut self, context: &Context) -> Result {
        let mut ended = Ok(());
        let answer = wait("the API server is ready", READY, || {
            ended = self.check();
            if ended.is_err() {
                return Ok(Some(()));
            }
            let mut get = self.kubectl(context);
            Ok(process::succeeds(get.args(["get", "--raw", "/readyz"])).then_some(()))
        });
        ended.and(answer)
    }

    /// Fails if a component has ended by itself.
    ///
    /// # Errors
    ///
    /// Fails with the component and the end of its log.
    pub fn check(&mut self) -> Result {
        self.running.values_mut().try_for_each(Daemon::check)
    }

    /// The configuration of a client with all rights.
    #[must_use]
    pub fn admin(&self) -> &Path {
        &self.admin
    }

    /// Returns kubectl as a user with all rights.
    #[must_use]
    pub fn kubectl(&self, context: &Context) -> Command {
        let mut kubectl = context.command(self.programs.join("kubectl"));
        kubectl.arg("--kubeconfig").arg(&self.admin).arg(KUBECTL);
        kubectl
    }

    /// Returns the log of a component.
    #[must_use]
    pub fn log(&self, component: Component) -> PathBuf {
        self.work.join(format!("{}.log", component.name()))
    }

    fn etcd_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports.etcd)
    }

    fn etcd_command(&self, context: &Context) -> Command {
        let (client, peer) = (self.etcd_url(), format!("http://127.0.0.1:{}", self.ports.etcd_peer));
        let mut etcd = context.command(&self.etcd);
        etcd.arg("--data-dir").arg(self.work.join("etcd"));
        etcd.args([&format!("--listen-client-urls={client}"), &format!("--advertise-client-urls={client}")]);
        etcd.args([&format!("--listen-peer-urls={peer}"), &format!("--initial-advertise-peer-urls={peer}")]);
        // The data is lost with the run in any case.
        etcd.args([&format!("--initial-cluster=default={peer}"), "--unsafe-no-fsync"]);
        etcd
    }

    fn api_server(&self, context: &Context) -> Command {
        let file = |name: &str| self.certificates.file(name).display().to_string();
        // A hosts file of its own, in a mount namespace that ends with it.
        let mut command = context.command("unshare");
        command.args(["--mount", "sh", "-c", r#"mount --bind "$1" /etc/hosts && shift && exec "$@""#, "sh"]);
        command.arg(self.work.join("hosts")).arg(self.programs.join(Component::ApiServer.name()));
        command.args([
            format!("--etcd-servers={}", self.etcd_url()),
            "--bind-address=127.0.0.1".into(),
            format!("--secure-port={}", self.ports.api),
            format!("--advertise-address={HOST_FOR_NODE}"),
            "--service-cluster-ip-range=10.96.0.0/24".into(),
            "--authorization-mode=Node,RBAC".into(),
            "--enable-admission-plugins=NodeRestriction".into(),
            "--allow-privileged=true".into(),
            format!("--token-auth-file={}", file("tokens")),
            format!("--client-ca-file={}", file("ca.crt")),
            format!("--tls-cert-file={}", file("server.crt")),
            format!("--tls-private-key-file={}", file("server.key")),
            "--service-account-issuer=https://kubernetes.default.svc".into(),
            format!("--service-account-key-file={}", file("accounts.pub")),
            format!("--service-account-signing-key-file={}", file("accounts.key")),
            format!("--kubelet-client-certificate={}", file("kubelet-client.crt")),
            format!("--kubelet-client-key={}", file("kubelet-client.key")),
            "--kubelet-preferred-address-types=Hostname".into(),
        ]);
        command
    }

    fn controller_manager(&self, context: &Context) -> Command {
        let file = |name: &str| self.certificates.file(name).display().to_string();
        let options = [
            format!("--root-ca-file={}", file("ca.crt")),
            format!("--service-account-private-key-file={}", file("accounts.key")),
            "--use-service-account-credentials=true".into(),
        ];
        self.client(context, Component::ControllerManager, &options)
    }

    /// Returns the command of a component that is a client of the API server and serves nothing.
    fn client(&self, context: &Context, component: Component, options: &[String]) -> Command {
        let config = self.certificates.file(&format!("{}.kubeconfig", component.name()));
        let mut command = context.command(self.programs.join(component.name()));
        command.arg(xtask::artifacts::assignment("--kubeconfig=", &config));
        command.args(["--leader-elect=false", "--secure-port=0"]).args(options);
        command
    }
}
