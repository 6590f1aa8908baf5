//go:build vfio_probe_static

package vfioprobe

// A file of its own, not a condition in one: the build cache knows a package by its files, and not by what pkg-config says.

// #cgo pkg-config: vfio-probe-static
import "C"
