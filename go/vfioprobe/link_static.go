//go:build vfio_probe_static

package vfioprobe

// The build tag selects a file, not a cgo directive: the build cache identifies a package by its files and ignores the
// output of pkg-config.

// #cgo pkg-config: vfio-probe-static
import "C"
