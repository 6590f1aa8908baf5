//! What stands between the kubelet's books and a machine: an Allocate is granted only if the group can be opened now.

mod asleep;
mod check;
mod nodes;
mod substitute;

use crate::advertise::Board;
use crate::allocate::{self, Plan, Wish};
use crate::claims::Claims;
use crate::feed::{Feed, List};
use crate::health::Busy;
use crate::monitoring::Monitoring;
use crate::opening;
use crate::owners::{Owners, checkpoint};
use crate::settings::BusyAllocate;
use crate::snapshot::{DeviceView, Snapshot};
use check::Taken;
use kubelet_api::v1beta1::{AllocateRequest, AllocateResponse};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout};
use tonic::Status;
use vfio_probe::GroupId;

/// The kubelet gives Allocate no deadline (`context.TODO()`), so this is ours.
const ALLOCATE: Duration = Duration::from_secs(2);
/// The list that calls a refused device Unhealthy goes out before the refusal, if it can be had in this time.
const LIST_FIRST: Duration = Duration::from_millis(200);

/// One resource's.
pub(crate) struct Guard {
    /// The resource.
    pub(crate) resource: Arc<str>,
    /// Where the kubelet is told.
    pub(crate) feed: Feed,
    /// The monitor.
    pub(crate) monitoring: Monitoring,
    /// What the kubelet has been told.
    pub(crate) board: Arc<Board>,
    /// What pods own.
    pub(crate) owners: Owners,
    /// What other Allocates are about to give away.
    pub(crate) claims: Claims,
    /// What to do with a device that is held after all, where its pool does not say.
    pub(crate) busy_allocate: BusyAllocate,
    /// Where the kubelet's checkpoint is.
    pub(crate) kubelet_dir: PathBuf,
}

impl Guard {
    /// Answers a request by a deadline of its own; nothing is asked of the kubelet meanwhile.
    ///
    /// # Errors
    /// INVALID_ARGUMENT for ids that are not this resource's, FAILED_PRECONDITION for devices that cannot be given; each
    /// names the device and says why.
    pub(crate) async fn allocate(&self, request: &AllocateRequest) -> Result<AllocateResponse, Status> {
        tracing::debug!(resource = %self.resource, ?request, "asked to allocate");
        let answer = self.give(request).await;
        match &answer {
            Ok(_) => tracing::debug!(resource = %self.resource, ?request, "allocated"),
            Err(status) => {
                tracing::warn!(resource = %self.resource, error = status.message(), "refused");
            }
        }
        answer
    }

    async fn give(&self, request: &AllocateRequest) -> Result<AllocateResponse, Status> {
        let mut claim = self.claims.begin();
        let deadline = Instant::now() + ALLOCATE;
        let (snapshot, owners) = (self.snapshot(), self.owners.current());
        let mut plan = allocate::plan(&self.resource, request, &snapshot, &owners)?;
        for (group, view) in plan.containers.iter().flat_map(Wish::groups) {
            if !claim.take(group) {
                let text = format!("{}: group {group} is being given to another pod", view.device.id);
                return Err(Status::failed_precondition(text));
            }
        }
        // All at once: if one hangs until the deadline, the others have been asked all the same.
        let mut openings = Vec::new();
        for (place, wish) in plan.containers.iter().enumerate() {
            for (group, view) in wish.groups() {
                openings.push((place, group, view, opening::begin(&self.monitoring, group, deadline)));
            }
        }
        for (place, group, view, first) in openings {
            let Some(taken) = self.check(view, first, &owners, deadline).await? else { continue };
            let denied = match view.terms.busy_allocate.unwrap_or(self.busy_allocate) {
                BusyAllocate::Reject => Err(""),
                BusyAllocate::Substitute => {
                    self.substitute(&mut plan, place, group, &snapshot, &mut claim, deadline).await
                }
            };
            if let Err(more) = denied {
                return Err(self.refuse(taken, group, view, more).await);
            }
        }
        self.check_sleepers(&plan, deadline).await?;
        for view in plan.containers.iter().flat_map(|wish| &wish.views) {
            self.check_bound(view)?;
        }
        for wish in &plan.containers {
            let fixed = wish.terms().fixed();
            self.owners.granted(&self.resource, wish.ids.clone(), wish.real(), fixed);
        }
        self.tell_mates(&plan, &snapshot).await;
        Ok(plan.answer(&self.resource, self.means(&plan)))
    }

    /// What is known now.
    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        self.monitoring.snapshots.borrow().clone().unwrap_or_default()
    }

    /// Other members of the groups that were given away are Unhealthy before the answer, so that the kubelet gives them to
    /// nobody meanwhile.
    async fn tell_mates(&self, plan: &Plan<'_>, snapshot: &Snapshot) {
        let given: Vec<&DeviceView> =
            plan.containers.iter().flat_map(|wish| wish.views.iter().copied()).collect();
        let owners = self.owners.current();
        let mates: Vec<String> = snapshot
            .devices
            .iter()
            // One that a pod owns stays Healthy, and other policies do not ask whose a group is.
            .filter(|mate| !owners.counts(mate) && self.board.busy_of(mate) == Busy::Attributed)
            .filter(|mate| !given.iter().any(|view| view.device.id == mate.device.id))
            .filter(|mate| given.iter().any(|view| view.device.group == mate.device.group))
            .filter(|mate| mate.device.group.is_some() && mate.resource == self.resource)
            .map(|mate| mate.device.id.to_string())
            .collect();
        if !mates.is_empty() {
            self.feed.sent(LIST_FIRST, |list| mates.iter().all(|id| is_unhealthy(list, id))).await;
        }
    }

    async fn refuse(&self, taken: Taken, group: GroupId, view: &DeviceView, more: &str) -> Status {
        match taken {
            Taken::Held => self.refuse_held(group, view, more).await,
            Taken::GivenInstead(pod) => {
                let text = format!("{}: {pod} was given it in place of another{more}", view.device.id);
                Status::failed_precondition(text)
            }
        }
    }

    /// Waits, as long as for the list, until the monitor has looked for the holders of what it was told by then. The list
    /// does not wait for that look, which takes its time where there are many processes.
    async fn looked(&self, told: u64) {
        let mut snapshots = self.monitoring.snapshots.clone();
        let heard =
            |snapshot: &Option<Arc<Snapshot>>| snapshot.as_ref().is_some_and(|known| known.heard >= told);
        let _ = timeout(LIST_FIRST, snapshots.wait_for(heard)).await;
    }

    async fn refuse_held(&self, group: GroupId, view: &DeviceView, more: &str) -> Status {
        self.owners.ask();
        // The owner of the failed pod makes the next one at once; it must find a list that says so already.
        // With `advertise` it stays Healthy for ever.
        let id = view.device.id.to_string();
        let checkpoint = checkpoint::read(&self.kubelet_dir);
        let owners = self.owners.current();
        let told = self.monitoring.told_so_far();
        let listed = async {
            if !allocate::lost_by_the_kubelet(&self.resource, view, &owners, checkpoint.as_deref()) {
                self.board.refused(group, told);
                if self.board.busy_of(view) != Busy::Advertise {
                    self.feed.sent(LIST_FIRST, |list| is_unhealthy(list, &id)).await;
                }
            }
        };
        tokio::join!(listed, self.looked(told));
        let now = self.snapshot();
        let holders = now.of(view.device.id).and_then(|view| Some(view.group.as_ref()?.holders.clone()));
        allocate::held(view, &holders.unwrap_or_default(), more)
    }
}

fn is_unhealthy(list: &List, id: &str) -> bool {
    list.iter().any(|device| device.id == id && device.health == kubelet_api::UNHEALTHY)
}
