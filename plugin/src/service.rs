//! The DevicePlugin service of one resource.

use crate::advertise::Board;
use crate::allocate::{self, Plan, Verdict, Wish};
use crate::claims::{Claim, Claims};
use crate::health::Busy;
use crate::monitoring::Monitoring;
use crate::opening;
use crate::owners::{Owners, Ownership, checkpoint};
use crate::preferred;
use crate::settings::BusyAllocate;
use crate::snapshot::{DeviceView, Snapshot};
use kubelet_api::v1beta1::device_plugin_server::DevicePlugin;
use kubelet_api::v1beta1::{
    AllocateRequest, AllocateResponse, ContainerPreferredAllocationResponse, Device, DevicePluginOptions,
    Empty, ListAndWatchResponse, PreStartContainerRequest, PreStartContainerResponse,
    PreferredAllocationRequest, PreferredAllocationResponse,
};
use std::path::PathBuf;
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
    /// What pods own.
    pub(crate) owners: Owners,
    /// What other Allocates are about to give away.
    pub(crate) claims: Claims,
    /// What to do with a device that is held after all.
    pub(crate) busy_allocate: BusyAllocate,
    /// Where the kubelet's checkpoint is.
    pub(crate) kubelet_dir: PathBuf,
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
        let (snapshot, owners) = (self.snapshot(), self.owners.current());
        tracing::debug!(resource = %self.resource, ?request, "asked for a preference");
        let answer = request.into_inner().container_requests.into_iter().map(|container| {
            let size = usize::try_from(container.allocation_size).unwrap_or(0);
            let (available, must) = (&container.available_device_i_ds, &container.must_include_device_i_ds);
            ContainerPreferredAllocationResponse {
                device_i_ds: preferred::choose(
                    &snapshot,
                    &owners,
                    available,
                    must,
                    size.min(available.len()),
                ),
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
        let (snapshot, owners) = (self.snapshot(), self.owners.current());
        let plan = allocate::plan(&self.resource, &request, &snapshot, &owners);
        let mut plan = plan.inspect_err(
            |status| tracing::warn!(resource = %self.resource, error = status.message(), "refused"),
        )?;
        let mut claim = self.claims.begin();
        for (group, view) in plan.containers.iter().flat_map(Wish::groups) {
            if !claim.take(group) {
                let text = format!("{}: group {group} is being given to another pod", view.device.id);
                tracing::warn!(resource = %self.resource, error = text, "refused");
                return Err(Status::failed_precondition(text));
            }
        }
        for place in 0..plan.containers.len() {
            let groups = plan.containers.get(place).map(Wish::groups).unwrap_or_default();
            for (group, view) in groups {
                if self.check(group, view, &owners, deadline).await? == Verdict::Held {
                    let held = (group, view);
                    self.substitute(&mut plan, place, held, &snapshot, &mut claim, deadline).await?;
                }
            }
        }
        for wish in &plan.containers {
            self.owners.granted(&self.resource, wish.ids.clone(), wish.real());
        }
        self.tell_mates(&plan, &snapshot).await;
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

    /// Opens a group before it is given away. `Held` only where it may be substituted.
    ///
    /// A held one is given to nobody, not even where the very same ids were granted before: the kubelet asks again only for
    /// a container that does not run (`GetDeviceRunContainerOptions`), or for another pod, its former owner having been
    /// deleted by force a moment ago.
    async fn check(
        &self,
        group: GroupId,
        view: &DeviceView,
        owners: &Ownership,
        deadline: Instant,
    ) -> Result<Verdict, Status> {
        if let Some(given) = owners.given_instead(view) {
            let text = format!("{}: {} was given it in place of another", view.device.id, given.pod);
            tracing::warn!(resource = %self.resource, error = text, "the kubelet's books do not know");
            return match self.busy_allocate {
                BusyAllocate::Substitute => Ok(Verdict::Held),
                BusyAllocate::Reject => Err(Status::failed_precondition(text)),
            };
        }
        let give_up = (Instant::now() + CLOSING).min(deadline);
        loop {
            let answer = opening::open(&self.monitoring, group, deadline).await;
            // What is known by now: an open may have taken its time, and a machine may have ended meanwhile.
            let snapshot = self.snapshot();
            let known = snapshot.of(view.device.id).and_then(|view| view.group.as_ref());
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
                    return Ok(Verdict::Grant);
                }
                Verdict::Held if Instant::now() + ASK_AGAIN < give_up => sleep(ASK_AGAIN).await,
                Verdict::Held => {
                    if answer == Occupancy::Held {
                        self.monitoring.told(group, answer);
                    }
                    if self.busy_allocate == BusyAllocate::Substitute {
                        return Ok(Verdict::Held);
                    }
                    return Err(self.refuse_held(group, view, "").await);
                }
                Verdict::Absent => {
                    let text = format!("{}: group {group} does not exist any more", view.device.id);
                    tracing::warn!(resource = %self.resource, error = text, "refused");
                    return Err(Status::failed_precondition(text));
                }
            }
        }
    }

    /// Puts free devices in the place of a held group's.
    async fn substitute<'a>(
        &self,
        plan: &mut Plan<'a>,
        place: usize,
        (group, view): (GroupId, &DeviceView),
        snapshot: &'a Snapshot,
        claim: &mut Claim,
        deadline: Instant,
    ) -> Result<(), Status> {
        // The kubelet's books name devices that an earlier substitution has left free; only what containers were told is
        // what they have.
        let Some(entries) = checkpoint::read(&self.kubelet_dir) else {
            return Err(self
                .refuse_held(group, view, "; no substitute: the kubelet's checkpoint cannot be read")
                .await);
        };
        let given = entries.into_iter().flat_map(|entry| entry.told).collect();
        let owners = self.owners.current();
        let candidates = allocate::substitutes(&self.resource, plan, snapshot, &owners, &given);
        let mut free = Vec::new();
        let held = |known: &DeviceView| known.device.group == Some(group);
        let needed =
            plan.containers.get(place).map_or(0, |wish| wish.views.iter().filter(|view| held(view)).count());
        for candidate in candidates.into_iter().filter_map(|id| snapshot.of(id)) {
            let Some(id) = candidate.device.group else { continue };
            if free.len() < needed
                && claim.take(id)
                && opening::open(&self.monitoring, id, deadline).await == Occupancy::Free
            {
                free.push(candidate);
            }
        }
        if free.len() < needed {
            return Err(self.refuse_held(group, view, "; no substitute: no other device is free").await);
        }
        if let Some(wish) = plan.containers.get_mut(place) {
            for slot in wish.views.iter_mut().filter(|view| held(view)) {
                let Some(instead) = free.pop() else { break };
                tracing::warn!(resource = %self.resource, held = %slot.device.id, given = %instead.device.id,
                    "substituted: the kubelet's books name the held one");
                *slot = instead;
            }
        }
        Ok(())
    }

    /// Other members of the groups that were given away are Unhealthy before the answer, so that the kubelet gives them to
    /// nobody meanwhile.
    async fn tell_mates(&self, plan: &Plan<'_>, snapshot: &Snapshot) {
        let given: Vec<&DeviceView> =
            plan.containers.iter().flat_map(|wish| wish.views.iter().copied()).collect();
        let mates: Vec<String> = snapshot
            .devices
            .iter()
            .filter(|mate| !given.iter().any(|view| view.device.id == mate.device.id))
            .filter(|mate| given.iter().any(|view| view.device.group == mate.device.group))
            .filter(|mate| mate.device.group.is_some() && mate.resource == self.resource)
            .map(|mate| mate.device.id.to_string())
            .collect();
        if !mates.is_empty() && self.board.busy() == Busy::Attributed {
            self.list_first(|list| mates.iter().all(|id| is_unhealthy(list, id))).await;
        }
    }

    /// Waits a moment until the kubelet was sent a list as wanted, if it follows one at all.
    async fn list_first(&self, wanted: impl FnMut(&List) -> bool) {
        if *self.streams.borrow() > 0 {
            let mut given = self.given.subscribe();
            let _ = timeout(LIST_FIRST, given.wait_for(wanted)).await;
        }
    }

    fn exists(&self, group: GroupId) -> bool {
        self.monitoring.root.members(group, &mut Buffer::new(), |_| {}).is_ok()
    }

    async fn refuse_held(&self, group: GroupId, view: &DeviceView, more: &str) -> Status {
        self.owners.ask();
        // The owner of the failed pod makes the next one at once; it must find a list that says so already.
        // With `advertise` it stays Healthy for ever.
        let id = view.device.id.to_string();
        let checkpoint = checkpoint::read(&self.kubelet_dir).unwrap_or_default();
        if !allocate::lost_by_the_kubelet(&self.resource, view, &self.owners.current(), &checkpoint) {
            self.board.refused(group, self.monitoring.told_so_far());
            if self.board.busy() != Busy::Advertise {
                self.list_first(|list| is_unhealthy(list, &id)).await;
            }
        }
        let now = self.snapshot();
        let holders = now.of(view.device.id).and_then(|view| Some(view.group.as_ref()?.holders.clone()));
        let status = allocate::held(view, &holders.unwrap_or_default(), more);
        tracing::warn!(resource = %self.resource, error = status.message(), "refused");
        status
    }
}

fn is_unhealthy(list: &List, id: &str) -> bool {
    list.iter().any(|device| device.id == id && device.health == kubelet_api::UNHEALTHY)
}
