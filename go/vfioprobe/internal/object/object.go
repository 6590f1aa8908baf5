// Package object is the C library of vfio-probe as one object for each architecture: object_linux_GOARCH.syso, which Go links
// into every program that imports the package. Only the functions vfp_* are global in it, so that it links beside any other
// library of Rust.
//
// scripts/xtask go-objects builds the objects and writes objects.txt and missing.go.
package object
