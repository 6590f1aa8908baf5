//! Runs the kubelet's servers in a thread with a runtime of its own, so that every connection breaks when the kubelet
//! ends.
//!
//! A server task that is only aborted keeps its connections. A plugin would then go on calling a kubelet that has
//! ended.

use super::{KubeletInner, pod_resources, registration};
use kubelet_api::podresources::pod_resources_lister_server::PodResourcesListerServer;
use kubelet_api::v1beta1::registration_server::RegistrationServer;
use std::io::Result;
use std::os::unix::net::UnixListener as StdListener;
use std::sync::Arc;
use std::thread::JoinHandle;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

pub(super) struct Process {
    end: CancellationToken,
    thread: JoinHandle<()>,
}

impl Process {
    /// Starts to serve. Both sockets accept connections when this returns.
    pub(super) fn start(inner: &Arc<KubeletInner>) -> Result<Self> {
        let pods = listen(&inner.pod_resources)?;
        // Last, because a plugin registers as soon as kubelet.sock appears.
        let kubelet = listen(&inner.dir.join(kubelet_api::KUBELET_SOCKET))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let end = CancellationToken::new();
        let (ended, inner) = (end.clone(), Arc::clone(inner));
        let thread = std::thread::Builder::new().name("kubelet".to_owned()).spawn(move || {
            let _ = runtime.block_on(serve(inner, kubelet, pods, ended));
            // Dropping the runtime drops every task and with it every connection and stream.
            drop(runtime);
        })?;
        Ok(Self { end, thread })
    }

    pub(super) fn end(self) {
        self.end.cancel();
        let _ = self.thread.join();
    }
}

fn listen(path: &std::path::Path) -> Result<StdListener> {
    let listener = StdListener::bind(path)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

async fn serve(
    inner: Arc<KubeletInner>,
    kubelet: StdListener,
    pods: StdListener,
    end: CancellationToken,
) -> Result<()> {
    let kubelet = UnixListenerStream::new(UnixListener::from_std(kubelet)?);
    let pods = UnixListenerStream::new(UnixListener::from_std(pods)?);
    let registration = RegistrationServer::new(registration::Service(Arc::clone(&inner)));
    let lister = PodResourcesListerServer::new(pod_resources::Service(inner));
    let registration = Server::builder().add_service(registration).serve_with_incoming(kubelet);
    let lister = Server::builder().add_service(lister).serve_with_incoming(pods);
    tokio::select! {
        () = end.cancelled() => {}
        _ = registration => {}
        _ = lister => {}
    }
    Ok(())
}
