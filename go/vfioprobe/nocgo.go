//go:build !cgo

package vfioprobe

// The compiler's error contains this name. Without cgo, Go would only report that each function is undefined. Go turns cgo
// off if it finds no C compiler, and for other targets.
var _ = vfioprobe_needs_cgo__install_a_C_compiler__and_set_CGO_ENABLED_1
