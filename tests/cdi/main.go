// What the container runtimes' own CDI library makes of a folder of specs. cdi-library FOLDER [OPTION...] [NAME...] prints one
// JSON object.
//
//	NAME                     a qualified device name to inject, as a runtime is asked to by cdi_devices
//	--annotation=KEY=VALUE   an annotation of a container
//	--node=PATH              a device node that the container has been given anyway, as by DeviceSpecs
//	--over-and-over          reads the folder until standard input ends
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

// The answer.
type answer struct {
	// The newest version of specs that the library knows.
	Version string `json:"version"`
	// By file: what is wrong with it.
	Errors map[string][]string `json:"errors"`
	// Qualified names.
	Devices []string `json:"devices"`
	// Names that the annotations ask for.
	Annotated []string `json:"annotated"`
	// Paths of a container's device nodes after the names were injected, and what it may do with them.
	Injected []string `json:"injected"`
	Access   []string `json:"access"`
	// Numbers of devices that were ever seen.
	Seen []int `json:"seen"`
}

func main() {
	if err := run(os.Args[1], os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(folder string, arguments []string) error {
	found, err := open(folder)
	if err != nil {
		return err
	}
	out := answer{Version: version, Errors: map[string][]string{}}
	out.look(found)
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
			// As containerd's WithDevices does, before CDI's turn.
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
		if err := out.inject(folder, container, names); err != nil {
			return err
		}
	}
	return json.NewEncoder(os.Stdout).Encode(out)
}

// Reads the folder anew.
func (out *answer) look(found *library) {
	// What is wrong is told by file.
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

func (out *answer) overAndOver(found *library) {
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
			out.look(found)
		}
	}
}

// Injects devices into a container as a runtime does, but that the host's node is /dev/null wherever a spec names none: this
// machine need not have the devices.
func (out *answer) inject(folder string, container *specs.Spec, names []string) error {
	copies, err := os.MkdirTemp("", "cdi")
	if err != nil {
		return err
	}
	defer os.RemoveAll(copies)
	files, err := filepath.Glob(filepath.Join(folder, "*.json"))
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
