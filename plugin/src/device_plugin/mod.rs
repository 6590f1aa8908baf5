//! The DevicePlugin gRPC server of one resource: registration with the kubelet, and the five calls.

pub(crate) mod registration;
pub(crate) mod service;
