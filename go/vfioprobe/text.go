package vfioprobe

// #include "vfio_probe.h"
import "C"

import (
	"bytes"
	"strings"
	"unsafe"
)

// text copies a NUL-terminated text from a record's field.
func text(field []C.char) string {
	all := unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(field))), len(field))
	if end := bytes.IndexByte(all, 0); end >= 0 {
		all = all[:end]
	}
	return string(all)
}

// terminated returns the text as a NUL-terminated array in Go memory, valid for one call of C. It fails if the text contains
// a NUL byte, because C would ignore the rest. name is the name of the argument.
func terminated(name, value string) (*C.char, error) {
	if strings.IndexByte(value, 0) >= 0 {
		return nil, invalid(name + ": must not contain a NUL byte")
	}
	all := make([]byte, len(value)+1)
	copy(all, value)
	return (*C.char)(unsafe.Pointer(&all[0])), nil
}
