//go:build older

package main

import (
	"github.com/container-orchestrated-devices/container-device-interface/pkg/cdi"
	versions "github.com/container-orchestrated-devices/container-device-interface/specs-go"
)

// library is the CDI library of containerd 1.7.0.
type library = cdi.Cache

const version = versions.CurrentVersion

func open(path string) (*library, error) {
	return cdi.NewCache(cdi.WithSpecDirs(path), cdi.WithAutoRefresh(false))
}

func parseAnnotations(annotations map[string]string) ([]string, error) {
	_, names, err := cdi.ParseAnnotations(annotations)
	return names, err
}
