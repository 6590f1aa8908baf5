package vfioprobe

// #include "vfio_probe.h"
// #cgo noescape vfp_names
// #cgo nocallback vfp_names
import "C"

// Model is a device model by its PCI ids.
type Model struct {
	// Vendor is the PCI vendor id.
	Vendor uint16 `json:"vendor"`
	// Device is the PCI device id.
	Device uint16 `json:"device"`
}

// Names looks up the names of device models. It returns one name for each model, in the same order, such as
// "GH100 [H100 SXM5 80GB]". A model without a name gets "".
//
// If path is "", the names come from the table in the library: the pci.ids of 2025-07-11. Otherwise they come from the
// pci.ids file path only, which one call reads once, about 1.5 MB: pass all models in one call. Names fails if the
// file cannot be opened or read; the error is [ErrMalformed] if it is not a regular file or is larger than 64 MiB.
func Names(path string, models ...Model) ([]string, error) {
	var cPath *C.char
	if path != "" {
		var err error
		if cPath, err = terminated("path", path); err != nil {
			return nil, err
		}
	}
	if len(models) == 0 {
		return nil, nil
	}
	ids := make([]C.vfp_pci_id, len(models))
	for i, model := range models {
		ids[i] = C.vfp_pci_id{vendor: C.uint16_t(model.Vendor), device: C.uint16_t(model.Device)}
	}
	found := make([]C.vfp_name, len(models))
	failed := lendError()
	defer errorRecords.Put(failed)
	if C.vfp_names(cPath, &ids[0], C.size_t(len(ids)), C.sizeof_vfp_name, &found[0], failed) < 0 {
		return nil, failure(failed)
	}
	names := make([]string, len(found))
	for i := range found {
		names[i] = text(found[i].text[:])
	}
	return names, nil
}
