//go:build !older

package main

import (
	"tags.cncf.io/container-device-interface/pkg/cdi"
	versions "tags.cncf.io/container-device-interface/specs-go"

	"github.com/opencontainers/runtime-spec/specs-go"
)

const version = versions.CurrentVersion

// A folder of specs, by the library of containerd 2, CRI-O and podman.
type folder struct{ cache *cdi.Cache }

func newFolder(path string) (*folder, error) {
	cache, err := cdi.NewCache(cdi.WithSpecDirs(path), cdi.WithAutoRefresh(false))
	return &folder{cache}, err
}

func (found *folder) read() ([]string, map[string][]error) {
	// What is wrong is told by file.
	_ = found.cache.Refresh()
	return found.cache.ListDevices(), found.cache.GetErrors()
}

func (found *folder) inject(container *specs.Spec, names []string) error {
	_, err := found.cache.InjectDevices(container, names...)
	return err
}

func (found *folder) annotated(annotations map[string]string) ([]string, error) {
	_, names, err := cdi.ParseAnnotations(annotations)
	return names, err
}
