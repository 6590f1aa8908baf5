//! The DevicePlugin gRPC server of each resource: its socket, its registration with the kubelet, and its five calls.

mod clients;
mod connection;
mod endpoint;
mod limits;
pub(crate) mod orders;
mod register;
pub(crate) mod registration;
pub(crate) mod resources;
mod server;
mod service;
pub(crate) mod sockets;
