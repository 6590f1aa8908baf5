package kubelet

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// disk is a file system of its own. While it is frozen, all writes to it wait, as on a disk that does not answer.
type disk struct{ directory string }

// mountDisk mounts a new disk. It needs root.
func mountDisk(t *testing.T, directory string) *disk {
	t.Helper()
	image := filepath.Join(t.TempDir(), "disk")
	must(t, os.WriteFile(image, nil, 0o600))
	must(t, os.Truncate(image, 16<<20))
	must(t, os.MkdirAll(directory, 0o755))
	command(t, "mkfs.ext4", "-q", image)
	command(t, "mount", "-o", "loop", image, directory)
	d := &disk{directory}
	t.Cleanup(func() { command(t, "umount", d.directory) })
	return d
}

func (d *disk) freeze(t *testing.T) {
	t.Helper()
	command(t, "fsfreeze", "--freeze", d.directory)
}

func (d *disk) thaw(t *testing.T) {
	t.Helper()
	command(t, "fsfreeze", "--unfreeze", d.directory)
}

func command(t *testing.T, name string, arguments ...string) {
	t.Helper()
	if output, err := run(exec.Command(name, arguments...)); err != nil {
		t.Fatalf("%s %v: %v: %s", name, arguments, err, output)
	}
}

// diskThatHangsKeepsTheTaint: the driver's record and the metadata of claims are on it, so a claim that ends stays prepared, and one that is
// to be prepared waits. All else goes on.
func diskThatHangsKeepsTheTaint(t *testing.T) {
	w := &world{apiServer: sharedAPIServer(t), node: startNode(t), dirs: newDirectories(t)}
	disk := mountDisk(t, w.dirs.plugins)
	w.driver = startDriver(t, w.apiServer, w.node, w.dirs, "--release=1s")
	w.kubelet = startKubelet(t, w.apiServer, w.dirs)
	waitForAll(t, w.apiServer, 8)
	pod := newPod(t, w.apiServer, "vm", allocated{"gpu", first})
	w.kubelet.prepare(t, pod)
	vm := w.node.startVM(t, address, string(pod.UID))
	next := newPod(t, w.apiServer, "next", allocated{"gpu", other})
	// Unprepare would wait for its removal, and not reach the record.
	must(t, os.RemoveAll(filepath.Join(w.dirs.plugins, "dra-device-metadata")))
	disk.freeze(t)
	thaw := true
	defer func() {
		if thaw {
			disk.thaw(t)
		}
	}()
	unprepared := make(chan error, 1)
	go func() { unprepared <- w.kubelet.UnprepareResources(context.Background(), pod) }()
	waitForTaint(t, w.apiServer, first, "held")
	foreign := w.node.startVM(t, otherAddress, "")
	waitForTaint(t, w.apiServer, other, "held")
	w.node.killVM(t, foreign)
	waitForTaint(t, w.apiServer, other, "")
	prepared := make(chan error, 1)
	go func() { prepared <- w.kubelet.PrepareResources(context.Background(), next) }()
	// The record is written for up to a second at a time meanwhile, and the slices at most once a second.
	for range 50 {
		must(t, hasTaint(w.apiServer, first, "held"))
		time.Sleep(100 * time.Millisecond)
	}
	select {
	case err := <-unprepared:
		t.Fatalf("the claim was unprepared while the disk hung: %v", err)
	case err := <-prepared:
		t.Fatalf("the other claim was prepared while the disk hung: %v", err)
	default:
	}
	disk.thaw(t)
	thaw = false
	if err := <-unprepared; err != nil {
		must(t, w.kubelet.UnprepareResources(context.Background(), pod))
	}
	must(t, <-prepared)
	if names := w.claims(t); len(names) != 1 || names[0] != "next" {
		t.Fatalf("claims: %v", names)
	}
	must(t, hasTaint(w.apiServer, first, "held"))
	w.node.killVM(t, vm)
	waitForTaint(t, w.apiServer, first, "")
}
