// Written by scripts/xtask go-objects.

//go:build cgo && !(linux && amd64)

package object

// The compiler's error contains this name.
var _ = vfioprobe_has_no_object_for_this_target__install_the_C_library_and_build_with_tags_vfio_probe_system
