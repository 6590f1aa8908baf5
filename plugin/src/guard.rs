//! What stands between the kubelet's books and a machine: an Allocate is granted only if the group can be opened now.

use crate::advertise::Board;
use crate::allocate::{self, Plan, Verdict, Wish};
use crate::claims::{Claim, Claims};
use crate::feed::{Feed, List};
use crate::health::Busy;
use crate::monitoring::Monitoring;
use crate::opening;
use crate::owners::{Owners, Ownership, checkpoint};
use crate::settings::BusyAllocate;
use crate::snapshot::{DeviceView, Snapshot};
use kubelet_api::v1beta1::{AllocateRequest, AllocateResponse};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};
use tonic::Status;
use vfio_probe::peek::Peek;
use vfio_probe::{Buffer, GroupId, Occupancy};

/// The kubelet gives Allocate no deadline (`context.TODO()`), so this is ours.
const ALLOCATE: Duration = Duration::from_secs(2);
/// A former machine may still be closing: a held group is asked again for this long.
const CLOSING: Duration = Duration::from_secs(1);
const ASK_AGAIN: Duration = Duration::from_millis(100);
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
    /// What to do with a device that is held after all.
    pub(crate) busy_allocate: BusyAllocate,
    /// Where the kubelet's checkpoint is.
    pub(crate) kubelet_dir: PathBuf,
}

/// Why a device cannot be given as asked.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Taken {
    /// Somebody has it open.
    Held,
    /// This pod was given it in place of another, of which the kubelet's books know nothing.
    GivenInstead(String),
}

impl Guard {
    /// Answers a request by a deadline of its own; nothing is asked of the kubelet meanwhile.
    ///
    /// # Errors
    /// INVALID_ARGUMENT for ids that are not this resource's, FAILED_PRECONDITION for devices that cannot be given; each
    /// names the device and says why.
    pub(crate) async fn allocate(&self, request: &AllocateRequest) -> Result<AllocateResponse, Status> {
        let mut claim = self.claims.begin();
        let deadline = Instant::now() + ALLOCATE;
        let (snapshot, owners) = (self.snapshot(), self.owners.current());
        let plan = allocate::plan(&self.resource, request, &snapshot, &owners);
        let mut plan = plan.inspect_err(
            |status| tracing::warn!(resource = %self.resource, error = status.message(), "refused"),
        )?;
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
                let Some(taken) = self.check(group, view, &owners, deadline).await? else { continue };
                let denied = match self.busy_allocate {
                    BusyAllocate::Reject => Err(""),
                    BusyAllocate::Substitute => {
                        self.substitute(&mut plan, place, group, &snapshot, &mut claim, deadline).await
                    }
                };
                if let Err(more) = denied {
                    return Err(self.refuse(taken, group, view, more).await);
                }
            }
        }
        for view in plan.containers.iter().flat_map(|wish| &wish.views) {
            self.check_bound(view)?;
        }
        for wish in &plan.containers {
            self.owners.granted(&self.resource, wish.ids.clone(), wish.real());
        }
        self.tell_mates(&plan, &snapshot).await;
        tracing::debug!(resource = %self.resource, ?request, "allocated");
        Ok(plan.answer(&self.resource))
    }

    /// What is known now.
    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        self.monitoring.snapshots.borrow().clone().unwrap_or_default()
    }

    /// Opens a group before it is given away; none if it can be.
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
    ) -> Result<Option<Taken>, Status> {
        if let Some(given) = owners.given_instead(view) {
            return Ok(Some(Taken::GivenInstead(given.pod.to_string())));
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
                    return Ok(None);
                }
                Verdict::Held if Instant::now() + ASK_AGAIN < give_up => sleep(ASK_AGAIN).await,
                Verdict::Held => {
                    if answer == Occupancy::Held {
                        self.monitoring.told(group, answer);
                    }
                    return Ok(Some(Taken::Held));
                }
                Verdict::Absent => {
                    let text = format!("{}: group {group} does not exist any more", view.device.id);
                    tracing::warn!(resource = %self.resource, error = text, "refused");
                    return Err(Status::failed_precondition(text));
                }
            }
        }
    }

    /// Looks once more whether a device is bound as it was: where another of its group is, the group's open does not tell.
    fn check_bound(&self, view: &DeviceView) -> Result<(), Status> {
        let Some(group) = view.device.group else { return Ok(()) };
        // What cannot be read says nothing.
        let Ok(driver) = self.monitoring.root.driver_in(group, view.device.id) else { return Ok(()) };
        if driver == view.device.driver {
            return Ok(());
        }
        let now = driver.map_or("no driver".to_owned(), |driver| driver.to_string());
        let text = format!("{}: is no longer bound as it was, but to {now}", view.device.id);
        tracing::warn!(resource = %self.resource, error = text, "refused");
        Err(Status::failed_precondition(text))
    }

    /// Puts free devices in the place of a held group's, or says why not.
    async fn substitute<'a>(
        &self,
        plan: &mut Plan<'a>,
        place: usize,
        group: GroupId,
        snapshot: &'a Snapshot,
        claim: &mut Claim,
        deadline: Instant,
    ) -> Result<(), &'static str> {
        // The kubelet's books name devices that an earlier substitution has left free; only what containers were told is
        // what they have.
        let entries = checkpoint::read(&self.kubelet_dir)
            .ok_or("; no substitute: the kubelet's checkpoint cannot be read")?;
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
            return Err("; no substitute: no other device is free");
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
            self.feed.sent(LIST_FIRST, |list| mates.iter().all(|id| is_unhealthy(list, id))).await;
        }
    }

    fn exists(&self, group: GroupId) -> bool {
        self.monitoring.root.members(group, &mut Buffer::new(), |_| {}).is_ok()
    }

    async fn refuse(&self, taken: Taken, group: GroupId, view: &DeviceView, more: &str) -> Status {
        let status = match taken {
            Taken::Held => self.refuse_held(group, view, more).await,
            Taken::GivenInstead(pod) => {
                let text = format!("{}: {pod} was given it in place of another{more}", view.device.id);
                Status::failed_precondition(text)
            }
        };
        tracing::warn!(resource = %self.resource, error = status.message(), "refused");
        status
    }

    async fn refuse_held(&self, group: GroupId, view: &DeviceView, more: &str) -> Status {
        self.owners.ask();
        // The owner of the failed pod makes the next one at once; it must find a list that says so already.
        // With `advertise` it stays Healthy for ever.
        let id = view.device.id.to_string();
        let checkpoint = checkpoint::read(&self.kubelet_dir);
        let owners = self.owners.current();
        if !allocate::lost_by_the_kubelet(&self.resource, view, &owners, checkpoint.as_deref()) {
            self.board.refused(group, self.monitoring.told_so_far());
            if self.board.busy() != Busy::Advertise {
                self.feed.sent(LIST_FIRST, |list| is_unhealthy(list, &id)).await;
            }
        }
        let now = self.snapshot();
        let holders = now.of(view.device.id).and_then(|view| Some(view.group.as_ref()?.holders.clone()));
        allocate::held(view, &holders.unwrap_or_default(), more)
    }
}

fn is_unhealthy(list: &List, id: &str) -> bool {
    list.iter().any(|device| device.id == id && device.health == kubelet_api::UNHEALTHY)
}
