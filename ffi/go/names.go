package vfioprobe

// #include <vfio_probe.h>
// #cgo noescape vfp_names
// #cgo nocallback vfp_names
import "C"

// Model is a device model, by its PCI ids.
type Model struct {
	// Vendor is the PCI vendor id.
	Vendor uint16
	// Device is the PCI device id.
	Device uint16
}

// Names looks models up in one pass over a pci.ids file. The result has a name for each, in their order, as the file has it:
// GH100 [H100 SXM5 80GB]; "" for a model that the file does not name.
//
// The path "" is the first of /usr/pci.ids, /usr/share/misc/pci.ids and /usr/share/hwdata/pci.ids. It reads up to 1.5 MB: ask
// for all models at once, and keep the answer. The error is that of the file's open or read.
func Names(path string, models ...Model) ([]string, error) {
	var given *C.char
	if path != "" {
		var err error
		if given, err = terminated("path", path); err != nil {
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
	var failed C.vfp_error
	if C.vfp_names(given, &ids[0], C.size_t(len(ids)), C.sizeof_vfp_name, &found[0], &failed) < 0 {
		return nil, failure(&failed)
	}
	names := make([]string, len(found))
	for i := range found {
		names[i] = text(found[i].text[:])
	}
	return names, nil
}
