//! Describes a node's devices for Dynamic Resource Allocation (DRA), the API group resource.k8s.io/v1.
//!
//! | module | makes |
//! | --- | --- |
//! | [`names`] | the names of drivers and devices |
//! | [`attributes`] | the attributes that selectors of a DeviceClass or claim read |
//! | [`taints`] | the taint of a device that the scheduler must not allocate |
//! | [`devices`] | the entries of all devices, with the counters of shared groups |
//! | [`health`] | the health of a device in the status of its pod |
//! | [`slices`] | the distribution of the entries over ResourceSlices |
//! | [`stored`] | what the API server stores of a slice |
//! | [`changes`] | the fewest writes that make the stored slices equal to the wanted ones |
//! | [`classes`] | the DeviceClasses by which pods request the devices |
//! | [`claim`] | what a ResourceClaim allocates |
//! | [`metadata`] | the file by which a container learns which devices it has |
//! | [`prepared`] | the record of a prepared claim |
//! | [`kubelet_record`] | the kubelet's own record of prepared claims |

pub mod attributes;
pub mod changes;
pub mod claim;
pub mod classes;
pub mod devices;
pub mod health;
pub mod kubelet_record;
pub mod metadata;
pub mod names;
pub mod prepared;
pub mod slices;
pub mod stored;
pub mod taints;
