//! The C ABI; include/vfio_probe.h is generated from it.

mod version;
