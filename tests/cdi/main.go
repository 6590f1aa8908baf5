// Command cdi-library reads a directory of CDI specs with the container runtimes' own library and prints one JSON object:
// cdi-library DIRECTORY [OPTION...] [NAME...].
//
//	NAME                     a qualified device name to inject, as a runtime receives it in cdi_devices
//	--annotation=KEY=VALUE   an annotation of the container
//	--node=PATH              a device node that the container has already, as from DeviceSpecs
//	--over-and-over          read the directory again and again until standard input ends
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// result is the printed object.
type result struct {
	// The newest version of the CDI specification that the library knows.
	Version string `json:"version"`
	// Errors by file.
	Errors map[string][]string `json:"errors"`
	// Qualified names of the devices in the specs.
	Devices []string `json:"devices"`
	// Names in the annotations.
	Annotated []string `json:"annotated"`
	// Paths of the container's device nodes after the injection, and the access that the container has to them.
	Injected []string `json:"injected"`
	Access   []string `json:"access"`
	// Each number of devices that any read has found.
	Seen []int `json:"seen"`
}

func main() {
	if err := run(os.Args[1], os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(directory string, arguments []string) error {
	found, err := open(directory)
	if err != nil {
		return err
	}
	out := result{Version: version, Errors: map[string][]string{}}
	out.read(found)
	container := &specs.Spec{Linux: &specs.Linux{Resources: &specs.LinuxResources{}}}
	annotations := map[string]string{}
	var names []string
	for _, argument := range arguments {
		switch {
		case argument == "--over-and-over":
			out.overAndOver(found)
		case strings.HasPrefix(argument, "--annotation="):
			key, value, _ := strings.Cut(strings.TrimPrefix(argument, "--annotation="), "=")
			annotations[key] = value
		case strings.HasPrefix(argument, "--node="):
			// As containerd's WithDevices does before it injects CDI devices.
			device := specs.LinuxDevice{Path: strings.TrimPrefix(argument, "--node="), Type: "c", Major: 1, Minor: 3}
			container.Linux.Devices = append(container.Linux.Devices, device)
		default:
			names = append(names, argument)
		}
	}
	if out.Annotated, err = parseAnnotations(annotations); err != nil {
		return err
	}
	if len(names) > 0 {
		if err := out.inject(directory, container, names); err != nil {
			return err
		}
	}
	return json.NewEncoder(os.Stdout).Encode(out)
}

// read reads the directory again.
func (out *result) read(found *library) {
	// GetErrors below returns the errors by file.
	_ = found.Refresh()
	out.Devices = found.ListDevices()
	for file, errors := range found.GetErrors() {
		for _, err := range errors {
			out.Errors[file] = append(out.Errors[file], err.Error())
		}
	}
	if count := len(out.Devices); !slices.Contains(out.Seen, count) {
		out.Seen = append(out.Seen, count)
		slices.Sort(out.Seen)
	}
}

// overAndOver reads the directory until standard input ends.
func (out *result) overAndOver(found *library) {
	ended := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		close(ended)
	}()
	for {
		select {
		case <-ended:
			return
		default:
			out.read(found)
		}
	}
}

// inject injects devices into a container as a runtime does. It works on copies of the specs in which every device node has
// the host path /dev/null, so that this host need not have the devices.
func (out *result) inject(directory string, container *specs.Spec, names []string) error {
	copies, err := os.MkdirTemp("", "cdi")
	if err != nil {
		return err
	}
	defer os.RemoveAll(copies)
	files, err := filepath.Glob(filepath.Join(directory, "*.json"))
	if err != nil {
		return err
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		var spec any
		if err := json.Unmarshal(text, &spec); err != nil {
			return err
		}
		onNull(spec)
		if text, err = json.Marshal(spec); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(copies, filepath.Base(file)), text, 0o644); err != nil {
			return err
		}
	}
	found, err := open(copies)
	if err != nil {
		return err
	}
	if _, err := found.InjectDevices(container, names...); err != nil {
		return err
	}
	for _, device := range container.Linux.Devices {
		out.Injected = append(out.Injected, device.Path)
	}
	slices.Sort(out.Injected)
	for _, rule := range container.Linux.Resources.Devices {
		if !slices.Contains(out.Access, rule.Access) {
			out.Access = append(out.Access, rule.Access)
		}
	}
	return nil
}

// onNull sets the host path of every device node in a spec to /dev/null.
func onNull(value any) {
	switch value := value.(type) {
	case map[string]any:
		if _, isNode := value["path"]; isNode {
			value["hostPath"] = "/dev/null"
		}
		for _, inner := range value {
			onNull(inner)
		}
	case []any:
		for _, inner := range value {
			onNull(inner)
		}
	}
}
