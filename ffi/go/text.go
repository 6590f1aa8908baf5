package vfioprobe

// #include <vfio_probe.h>
import "C"

import (
	"bytes"
	"strings"
	"unsafe"
)

// text copies a NUL-terminated text out of a record's field.
func text(field []C.char) string {
	all := unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(field))), len(field))
	if end := bytes.IndexByte(all, 0); end >= 0 {
		all = all[:end]
	}
	return string(all)
}

// terminated gives C the bytes of a text in Go's memory, valid for one call. A text with a NUL in it is refused, since
// C would see only what is before it.
func terminated(name, value string) (*C.char, error) {
	if strings.IndexByte(value, 0) >= 0 {
		return nil, invalid(name + ": has a NUL byte in it")
	}
	all := make([]byte, len(value)+1)
	copy(all, value)
	return (*C.char)(unsafe.Pointer(&all[0])), nil
}
