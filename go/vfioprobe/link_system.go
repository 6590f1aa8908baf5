//go:build vfio_probe_system && !vfio_probe_static

package vfioprobe

// #cgo pkg-config: vfio-probe
import "C"
