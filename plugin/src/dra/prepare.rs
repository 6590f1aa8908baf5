//! Prepares a claim: checks that its devices are free, and gives its pods the device nodes.

use crate::allocate::wake;
use crate::dra::call_error::CallError;
use crate::dra::claim_spec;
use crate::dra::driver::Driver;
use crate::dra::events::Kind;
use crate::dra::prepared::PreparedClaims;
use crate::node::probe;
use crate::reservations::Reservation;
use kubelet_api::dra::{Claim, Device};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use vfio_plugin_policy::allocation::{AllocateError, check_usable};
use vfio_plugin_policy::device::{DeviceState, NodeSnapshot};
use vfio_plugin_policy::dra::claim::{AllocatedDevice, Allocation, allocation};
use vfio_plugin_policy::dra::names::device_name;
use vfio_plugin_policy::dra::prepared::{PreparedClaim, PreparedDevice};
use vfio_plugin_policy::pools::terms::OfferBy;
use vfio_probe::{DeviceId, GroupId};

/// The answer is sent this long before the kubelet gives up.
const MARGIN: Duration = Duration::from_secs(5);
/// How long the files of a claim that cannot be prepared may take to be removed. Less than [`MARGIN`].
const MARGIN_OF_REMOVAL: Duration = Duration::from_secs(2);
/// How long a prepared claim is requested, before its record is used.
const KNOWN: Duration = Duration::from_secs(10);

impl Driver {
    /// Prepares a claim and returns its devices. The kubelet waits until `deadline`.
    ///
    /// A refusal costs the pod a minute or more, because the kubelet repeats a failed call only with the pod's next sync
    /// (`completeWork`). So a held group is waited for as long as the kubelet waits, and so is an earlier claim that the kubelet is
    /// ending. Both waits end when `call` is cancelled: the pod may be gone.
    ///
    /// # Errors
    /// The claim is not prepared, and nothing is left of it. If a device is not free, the API server has stored that before the
    /// error is returned, or could not within 2 s. That holds for a call that was cancelled, too.
    pub(super) async fn prepare(
        &self,
        claim: &Claim,
        call: &CancellationToken,
        deadline: Instant,
    ) -> Result<Vec<Device>, CallError> {
        let mut pods = BTreeMap::new();
        let result = self.prepare_claim(claim, call, deadline, &mut pods).await;
        match &result {
            Ok(_) => self.events.forget(&claim.uid),
            // It says nothing of the claim.
            Err(CallError::Cancelled) => {}
            Err(error) => self.events.report(claim, &pods, Kind::PrepareRefused, error.to_string()),
        }
        result
    }

    /// Prepares a claim, and returns also its pods.
    async fn prepare_claim(
        &self,
        claim: &Claim,
        call: &CancellationToken,
        deadline: Instant,
        pods: &mut BTreeMap<String, String>,
    ) -> Result<Vec<Device>, CallError> {
        let deadline = deadline.checked_sub(MARGIN).unwrap_or(deadline);
        let lock = self.calls.begin_by(&claim.uid, deadline).await?;
        if !self.is_ready(deadline).await {
            return Err(CallError::NotReady);
        }
        let known = self.claims.get(&claim.uid).filter(|known| self.claims.is_current(known));
        known.iter().for_each(|known| pods.clone_from(&known.pod_names));
        let mut allocation = self.allocation(claim, known.as_ref(), deadline).await?;
        pods.clone_from(&allocation.pod_names);
        if known.is_none() && self.wait_for_earlier(claim, &own_devices(&allocation), call, deadline).await? {
            // It may have lost its devices during the wait.
            allocation = self.allocation(claim, None, deadline).await?;
            pods.clone_from(&allocation.pod_names);
        }
        // The groups stay reserved until the record has the claim.
        let mut reservation = self.reservations.begin();
        let prepared = match known {
            Some(known) => self.check_again(&known, &allocation).await?,
            None => self.take(claim, &allocation, &mut reservation, call, deadline).await?,
        };
        let files = self.claim_files(claim, &prepared, &allocation)?;
        let uid = claim.uid.clone();
        let insert = move |claims: &PreparedClaims| claims.insert(&uid, prepared.clone());
        let recorded = match self.write_files(&lock, files, deadline).await {
            Ok(()) => self.record(deadline, insert).await.map_err(CallError::from),
            Err(error) => Err(error),
        };
        if let Err(error) = recorded {
            // The kubelet asks again, and finds nothing of this call. Files that are still being written are replaced or removed then.
            if self.claims.get(&claim.uid).is_none() && !matches!(error, CallError::Late { .. }) {
                self.remove_files(&lock, claim, deadline + MARGIN_OF_REMOVAL).await?;
            }
            return Err(error);
        }
        self.kubelet_claims.lock().remove(&claim.uid);
        self.deallocated.forget(&claim.uid);
        Ok(self.answer(claim, &allocation))
    }

    /// Returns what a claim is allocated and which pods may use it. `known` is the record of a claim that is prepared.
    async fn allocation(
        &self,
        claim: &Claim,
        known: Option<&PreparedClaim>,
        deadline: Instant,
    ) -> Result<Allocation, CallError> {
        let get_until = match known {
            Some(_) => deadline.min(Instant::now() + KNOWN),
            None => deadline,
        };
        match (self.get(claim, get_until).await, known) {
            (Ok(object), _) => Ok(allocation(&object, &claim.uid, self.name.as_str(), &self.node)?),
            // The kubelet has read the claim itself, and a pod may use it now.
            (Err(CallError::Get(error)), Some(known)) => {
                tracing::warn!(
                    claim = known.full_name(),
                    error,
                    "a prepared claim is answered from the record"
                );
                Ok(known.allocation())
            }
            (Err(error), _) => Err(error),
        }
    }

    /// Takes the devices of a claim that is not prepared.
    async fn take(
        &self,
        claim: &Claim,
        allocation: &Allocation,
        reservation: &mut Reservation,
        call: &CancellationToken,
        deadline: Instant,
    ) -> Result<PreparedClaim, CallError> {
        let own = own_devices(allocation);
        let snapshot = self.checks().snapshot();
        let mut devices: Vec<&DeviceState> = Vec::new();
        for &id in &own {
            let device = match self.plan(claim, id, &own, &snapshot) {
                Ok(device) => device,
                Err(error) => return Err(self.refuse(id, error, deadline).await),
            };
            devices.push(device);
        }
        let mut groups: BTreeMap<GroupId, &DeviceState> = BTreeMap::new();
        for device in &devices {
            let Some(group) = device.device.group else { continue };
            if !reservation.reserve(group) {
                return Err(AllocateError::GroupReserved { device: device.device.id, group }.into());
            }
            groups.entry(group).or_insert(device);
        }
        // A call that had reserved a group may have prepared its claim since the check above.
        for device in &devices {
            let (id, group) = (device.device.id, device.device.group);
            if let Some((_, other)) = self.claims.other_with(&claim.uid, id, group) {
                return Err(CallError::Claimed { device: id, claim: other.full_name() });
            }
        }
        // All probes begin before the first result is awaited: one that hangs until the deadline delays no other.
        let probes: Vec<_> = groups
            .iter()
            .map(|(group, device)| (*device, probe::begin(&self.monitor, *group, deadline)))
            .collect();
        for (device, probe) in probes {
            self.wait_for_group(device, probe, call, deadline).await?;
        }
        if let Some(device) = wake::lost_device(&self.monitor, &devices, deadline).await {
            return Err(self.refuse(device, AllocateError::Lost { device }.into(), deadline).await);
        }
        for device in &devices {
            let error = self.checks().check_bound(device).err().or_else(|| self.checks().not_viable(device));
            if let Some(error) = error {
                return Err(self.refuse(device.device.id, error.into(), deadline).await);
            }
        }
        let prepared = |result: &AllocatedDevice| {
            let AllocatedDevice { request, device, is_admin } = result;
            PreparedDevice::new(request.clone(), *device, *is_admin, snapshot.get(*device))
        };
        Ok(PreparedClaim {
            namespace: claim.namespace.clone(),
            name: claim.name.clone(),
            boot: self.claims.boot().to_owned(),
            pods: allocation.pods.clone(),
            pod_names: allocation.pod_names.clone(),
            is_for_any_pod: allocation.is_for_any_pod,
            pod_claim_name: allocation.pod_claim_name.clone(),
            is_adopted: false,
            devices: allocation.results.iter().map(prepared).collect(),
        })
    }

    /// Checks a device against what is known, before anything is opened.
    fn plan<'a>(
        &self,
        claim: &Claim,
        id: DeviceId,
        own: &BTreeSet<DeviceId>,
        snapshot: &'a NodeSnapshot,
    ) -> Result<&'a DeviceState, CallError> {
        let device = self.bound(id, snapshot)?;
        if device.terms.offer != OfferBy::Dra {
            return Err(CallError::OfferedByDevicePlugin(id));
        }
        check_usable(device)?;
        if let Some((_, other)) = self.claims.other_with(&claim.uid, id, device.device.group) {
            return Err(CallError::Claimed { device: id, claim: other.full_name() });
        }
        if let Some(reason) = self.publisher.stale_answer_of_another_pod(id) {
            return Err(AllocateError::StaleAnswer { device: id, reason: Box::new(reason) }.into());
        }
        let assignments = self.assignments.current();
        // The device itself or a peer belongs to a pod that has it from the device plugin.
        let in_group = snapshot.in_group_of(device).chain([device]);
        for peer in in_group {
            let is_ours = own.contains(&peer.device.id) && assignments.is_claimed(peer);
            if let Some(assignment) = assignments.assignment(peer).filter(|_| !is_ours) {
                let group = device.device.group.unwrap_or(GroupId(u32::MAX));
                let (peer, pod) = (peer.device.id, assignments.describe(assignment));
                return Err(AllocateError::GroupAssigned { device: id, group, peer, pod }.into());
            }
        }
        Ok(device)
    }

    pub(super) fn bound<'a>(
        &self,
        id: DeviceId,
        snapshot: &'a NodeSnapshot,
    ) -> Result<&'a DeviceState, CallError> {
        let error = || AllocateError::UnknownDevice { id: id.to_string(), resource: self.name.to_string() };
        snapshot.get(id).ok_or_else(|| error().into())
    }

    /// Returns the answer for a prepared claim: each result of it, and the CDI device of each request with the request's first result.
    fn answer(&self, claim: &Claim, allocation: &Allocation) -> Vec<Device> {
        let mut requests: BTreeSet<&str> = BTreeSet::new();
        let device = |result: &AllocatedDevice| Device {
            request_names: vec![result.base_request().to_owned()],
            pool_name: self.node.clone(),
            device_name: device_name(result.device),
            cdi_device_ids: Vec::new(),
            share_id: None,
        };
        let mut devices: Vec<Device> = allocation.results.iter().map(device).collect();
        for (device, result) in devices.iter_mut().zip(&allocation.results) {
            let request = result.base_request();
            if requests.insert(request) {
                device.cdi_device_ids.push(claim_spec::device_name(&self.name, &claim.uid, request));
            }
        }
        devices
    }
}

/// Returns the devices that a claim has for itself.
fn own_devices(allocation: &Allocation) -> BTreeSet<DeviceId> {
    allocation.results.iter().filter(|result| !result.is_admin).map(|result| result.device).collect()
}
