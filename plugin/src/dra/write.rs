//! Writes the slices that differ, and learns from the answers what the API server stores.

use crate::dra::api::RequestError;
use crate::dra::api_server::Access;
use crate::dra::offered::Wanted;
use crate::dra::publish::SlicePublisher;
use k8s_openapi::api::resource::v1::ResourceSlice;
use kube::api::{DeleteParams, ListParams, PostParams, Preconditions};
use vfio_plugin_policy::dra::changes::Changes;
use vfio_plugin_policy::dra::devices::Features;

/// The limit for the slices that are read: far more than a node can have.
const MAX_SLICES: u32 = 1000;

impl SlicePublisher {
    /// Writes what differs, in the order that never offers a device twice.
    pub(super) async fn write(&mut self, wanted: &Wanted) -> Result<(), RequestError> {
        if self.slices.were_forgotten() {
            return self.list().await;
        }
        let changes = self.changes(wanted);
        let Some(changes) = self.without_dropped_fields(changes).await? else { return Ok(()) };
        let result = self.write_all(changes).await;
        if matches!(result, Err(RequestError::Unanswered(_))) {
            self.slices.note_unanswered();
        }
        if result.is_err() {
            // A change by others may not have been seen yet.
            self.slices.forget();
            self.list().await?;
        }
        match result {
            Err(RequestError::Outdated) => Ok(()),
            Ok(refusal) => {
                // All slices have been written since the latest request without an answer.
                self.slices.note_answered();
                refusal.map_or(Ok(()), Err)
            }
            Err(error) => Err(error),
        }
    }

    /// Tries fields that the API server was not seen to store yet, without storing them: a device whose taint is dropped would be
    /// allocatable. Returns none if it drops fields, so that other changes are needed.
    async fn without_dropped_fields(&mut self, changes: Changes) -> Result<Option<Changes>, RequestError> {
        let dry_run = PostParams { dry_run: true, ..PostParams::default() };
        for slice in changes.update.iter().chain(&changes.create) {
            if Features::used_by(slice).all_in(self.confirmed) {
                continue;
            }
            let api = self.slices_api();
            let answer = match &slice.metadata.name {
                Some(name) => self.api.request(Access::WriteSlices, api.replace(name, &dry_run, slice)).await,
                None => self.api.request(Access::WriteSlices, api.create(&dry_run, slice)).await,
            };
            let stored = match answer {
                // The write itself finds that out as well.
                Err(RequestError::Outdated) => continue,
                answer => answer?,
            };
            if self.learn(slice, &stored) {
                return Ok(None);
            }
        }
        Ok(Some(changes))
    }

    /// Sends all writes. Returns the refusal of a removal, which stops no other write: the scheduler ignores a slice of an older
    /// generation, and a slice of another pool is not this pool's.
    async fn write_all(&mut self, changes: Changes) -> Result<Option<RequestError>, RequestError> {
        let Changes { delete, update, create } = changes;
        let (api, mut refusal) = (self.slices_api(), None);
        for metadata in delete {
            let name = metadata.name.clone().unwrap_or_default();
            let preconditions = Preconditions { uid: metadata.uid.clone(), resource_version: None };
            let parameters = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
            match self.api.request(Access::WriteSlices, api.delete(&name, &parameters)).await {
                Ok(_) | Err(RequestError::Outdated) => self.slices.deleted(&metadata),
                Err(error @ RequestError::Refused(_)) => refusal = Some(error),
                Err(error) => return Err(error),
            }
        }
        for slice in update {
            let name = slice.metadata.name.clone().unwrap_or_default();
            self.slices.note_generation(&slice);
            let parameters = PostParams::default();
            let replace = api.replace(&name, &parameters, &slice);
            let stored = self.api.request(Access::WriteSlices, replace).await?;
            self.learn(&slice, &stored);
            self.slices.written(stored);
        }
        for slice in create {
            self.slices.note_generation(&slice);
            let parameters = PostParams::default();
            let create = api.create(&parameters, &slice);
            let stored = self.api.request(Access::WriteSlices, create).await?;
            self.learn(&slice, &stored);
            self.slices.written(stored);
        }
        Ok(refusal)
    }

    /// Learns from the answer to a write which fields the API server stores. Returns whether it drops some that it was expected to store:
    /// they are not sent again.
    fn learn(&mut self, sent: &ResourceSlice, stored: &ResourceSlice) -> bool {
        let features = self.features.without_dropped(sent, stored);
        self.confirmed = self.confirmed.with(Features::used_by(stored));
        let drops = features != self.features;
        if drops {
            self.features = features;
            if !features.taints {
                self.api.drops_taints();
                tracing::warn!(
                    "the API server drops taints of devices (DRADeviceTaints is off); devices that must not be allocated are left \
                     out of the ResourceSlices instead"
                );
            }
        }
        drops
    }

    /// Reads all slices.
    async fn list(&mut self) -> Result<(), RequestError> {
        let parameters = ListParams::default().fields(&self.selector()).limit(MAX_SLICES);
        let api = self.slices_api();
        let list = self.api.request(Access::ReadSlices, api.list(&parameters)).await?;
        self.slices.replace(list.items);
        Ok(())
    }
}
