//! The DevicePlugin service of one resource.

use crate::advertise::Board;
use crate::allocate::{self, Verdict};
use crate::health::Busy;
use crate::monitoring::Monitoring;
use crate::opening;
use crate::preferred;
use crate::snapshot::{DeviceView, Snapshot};
use kubelet_api::v1beta1::device_plugin_server::DevicePlugin;
use kubelet_api::v1beta1::{
    AllocateRequest, AllocateResponse, ContainerPreferredAllocationResponse, Device, DevicePluginOptions,
    Empty, ListAndWatchResponse, PreStartContainerRequest, PreStartContainerResponse,
    PreferredAllocationRequest, PreferredAllocationResponse,
};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_stream::Stream;
use tokio_stream::wrappers::WatchStream;
use tonic::{Request, Response, Status};
use vfio_probe::peek::Peek;
use vfio_probe::{Buffer, GroupId, Occupancy};

/// What the kubelet is sent: one resource's whole list.
pub(crate) type List = Arc<Vec<Device>>;

/// The kubelet gives Allocate no deadline (`context.TODO()`), so this is ours.
const ALLOCATE: Duration = Duration::from_secs(2);
/// A former machine may still be closing: a held group is asked again for this long.
const CLOSING: Duration = Duration::from_secs(1);
const ASK_AGAIN: Duration = Duration::from_millis(100);
/// The list that calls a refused device Unhealthy goes out before the refusal, if it can be had in this time.
const LIST_FIRST: Duration = Duration::from_millis(200);

/// One resource, served on one socket.
pub(crate) struct Service {
    /// Its name.
    pub(crate) resource: Arc<str>,
    /// Its list; when the sender goes, all streams end.
    pub(crate) list: watch::Receiver<List>,
    /// Counts the streams.
    pub(crate) streams: watch::Sender<usize>,
    /// The list that went into a stream last.
    pub(crate) given: watch::Sender<List>,
    /// The monitor.
    pub(crate) monitoring: Monitoring,
    /// What the kubelet has been told.
    pub(crate) board: Arc<Board>,
}

/// A stream of lists that counts itself.
pub(crate) struct Lists {
    lists: WatchStream<List>,
    streams: watch::Sender<usize>,
    given: watch::Sender<List>,
}

impl Stream for Lists {
    type Item = Result<ListAndWatchResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = Pin::new(&mut self.lists).poll_next(context);
        next.map(|list| {
            list.map(|list| {
                let devices = list.to_vec();
                self.given.send_replace(list);
                Ok(ListAndWatchResponse { devices })
            })
        })
    }
}

impl Drop for Lists {
    fn drop(&mut self) {
        self.streams.send_modify(|count| *count -= 1);
    }
}

#[tonic::async_trait]
impl DevicePlugin for Service {
    type ListAndWatchStream = Lists;

    async fn get_device_plugin_options(
        &self,
        _: Request<Empty>,
    ) -> Result<Response<DevicePluginOptions>, Status> {
        Ok(Response::new(DevicePluginOptions {
            pre_start_required: false,
            get_preferred_allocation_available: true,
        }))
    }

    async fn list_and_watch(&self, _: Request<Empty>) -> Result<Response<Lists>, Status> {
        self.streams.send_modify(|count| *count += 1);
        // Begins with the list as it is; a slow reader skips to the newest, since each is the whole.
        let lists = WatchStream::new(self.list.clone());
        Ok(Response::new(Lists { lists, streams: self.streams.clone(), given: self.given.clone() }))
    }

    async fn get_preferred_allocation(
        &self,
        request: Request<PreferredAllocationRequest>,
    ) -> Result<Response<PreferredAllocationResponse>, Status> {
        let snapshot = self.snapshot();
        let answer = request.into_inner().container_requests.into_iter().map(|container| {
            let size = usize::try_from(container.allocation_size).unwrap_or(0);
            let (available, must) = (&container.available_device_i_ds, &container.must_include_device_i_ds);
            ContainerPreferredAllocationResponse {
                device_i_ds: preferred::choose(&snapshot, available, must, size.min(available.len())),
            }
        });
        Ok(Response::new(PreferredAllocationResponse { container_responses: answer.collect() }))
    }

    async fn allocate(
        &self,
        request: Request<AllocateRequest>,
    ) -> Result<Response<AllocateResponse>, Status> {
        let request = request.into_inner();
        let deadline = Instant::now() + ALLOCATE;
        let snapshot = self.snapshot();
        let plan = allocate::plan(&self.resource, &request, &snapshot).inspect_err(
            |status| tracing::warn!(resource = %self.resource, error = status.message(), "refused"),
        )?;
        for (group, view) in plan.groups() {
            self.check(group, view, deadline).await?;
        }
        tracing::debug!(resource = %self.resource, ?request, "allocated");
        Ok(Response::new(plan.answer(&self.resource)))
    }

    async fn pre_start_container(
        &self,
        _: Request<PreStartContainerRequest>,
    ) -> Result<Response<PreStartContainerResponse>, Status> {
        // Never called: the options do not ask for it.
        Ok(Response::new(PreStartContainerResponse {}))
    }
}

impl Service {
    fn snapshot(&self) -> Arc<Snapshot> {
        self.monitoring.snapshots.borrow().clone().unwrap_or_default()
    }

    /// Opens a group before it is given away.
    async fn check(&self, group: GroupId, view: &DeviceView, deadline: Instant) -> Result<(), Status> {
        let give_up = (Instant::now() + CLOSING).min(deadline);
        loop {
            let answer = opening::open(&self.monitoring, group, deadline).await;
            // What is known by now: an open may have taken its time, and a machine may have ended meanwhile.
            let snapshot = self.snapshot();
            let known = snapshot.device(&view.device.id.to_string()).and_then(|view| view.group.as_ref());
            let looks_held =
                known.is_some_and(|group| group.peek == Peek::LooksHeld || group.occupancy.is_held());
            let sure = answer == Occupancy::Absent && snapshot.vfio_visible && !self.exists(group);
            match allocate::judge(answer, looks_held, sure) {
                Verdict::Grant => {
                    // News only where the monitor thinks otherwise; the usual answer costs nothing more.
                    let agreed = known.is_some_and(|group| group.occupancy == Occupancy::Free);
                    if answer == Occupancy::Free && !agreed {
                        self.monitoring.told(group, answer);
                    }
                    return Ok(());
                }
                Verdict::Held if Instant::now() + ASK_AGAIN < give_up => sleep(ASK_AGAIN).await,
                Verdict::Held => return Err(self.refuse_held(group, view, answer).await),
                Verdict::Absent => {
                    let text = format!("{}: group {group} does not exist any more", view.device.id);
                    tracing::warn!(resource = %self.resource, error = text, "refused");
                    return Err(Status::failed_precondition(text));
                }
            }
        }
    }

    fn exists(&self, group: GroupId) -> bool {
        self.monitoring.root.members(group, &mut Buffer::new(), |_| {}).is_ok()
    }

    async fn refuse_held(&self, group: GroupId, view: &DeviceView, answer: Occupancy) -> Status {
        if answer == Occupancy::Held {
            self.monitoring.told(group, answer);
        }
        // The owner of the failed pod makes the next one at once; it must find a list that says so already.
        // The policy may call it Healthy for ever, and with no stream nobody can be told.
        if self.board.busy() != Busy::Advertise && *self.streams.borrow() > 0 {
            let mut given = self.given.subscribe();
            let id = view.device.id.to_string();
            let unhealthy = |list: &List| {
                list.iter().any(|device| device.id == id && device.health == kubelet_api::UNHEALTHY)
            };
            let _ = timeout(LIST_FIRST, given.wait_for(unhealthy)).await;
        }
        let now = self.snapshot();
        let holders = now
            .device(&view.device.id.to_string())
            .and_then(|view| Some(view.group.as_ref()?.holders.clone()));
        let status = allocate::held(view, &holders.unwrap_or_default());
        tracing::warn!(resource = %self.resource, error = status.message(), "refused");
        status
    }
}
