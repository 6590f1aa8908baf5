package vfioprobe

// #include <vfio_probe.h>
// #cgo nocallback vfp_version
// #cgo nocallback vfp_abi
import "C"

// Version returns the version of the C library that the program runs with, as MAJOR.MINOR.PATCH.
func Version() string {
	return C.GoString(C.vfp_version())
}

// ABI returns the number of the C library's binary interface. It does nothing else, so it costs what a call from Go to C
// does.
func ABI() uint32 {
	return uint32(C.vfp_abi())
}
