// Program archive writes a container image as a docker archive, which `ctr images import` reads. No registry and no container
// tool is needed, and the same files give the same bytes.
//
//	archive OUT NAME:TAG DIRECTORY ENTRYPOINT...
//
// DIRECTORY is the image's root directory.
package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
)

// An image's configuration, as the image specification and containerd's importer need it
// (core/images/archive/importer.go of containerd).
type (
	config struct {
		Architecture string        `json:"architecture"`
		OS           string        `json:"os"`
		Config       configCommand `json:"config"`
		RootFS       rootFS        `json:"rootfs"`
	}
	configCommand struct {
		Entrypoint []string
	}
	rootFS struct {
		Type    string   `json:"type"`
		DiffIDs []string `json:"diff_ids"`
	}
	manifest struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
)

func main() {
	if len(os.Args) < 5 {
		fmt.Fprintln(os.Stderr, "usage: archive OUT NAME:TAG DIRECTORY ENTRYPOINT...")
		os.Exit(2)
	}
	if err := write(os.Args[1], os.Args[2], os.Args[3], os.Args[4:]); err != nil {
		fmt.Fprintln(os.Stderr, "archive:", err)
		os.Exit(1)
	}
}

func write(out, name, root string, entrypoint []string) error {
	// A layer may be large, so it is a file until its hash is known.
	layer, err := os.CreateTemp(filepath.Dir(out), "layer")
	if err != nil {
		return err
	}
	defer os.Remove(layer.Name())
	defer layer.Close()
	sum := sha256.New()
	if err := writeTree(tar.NewWriter(io.MultiWriter(layer, sum)), root); err != nil {
		return err
	}
	id := hex.EncodeToString(sum.Sum(nil))
	settings, err := json.Marshal(config{
		Architecture: runtime.GOARCH, OS: "linux", Config: configCommand{entrypoint}, RootFS: rootFS{"layers", []string{"sha256:" + id}},
	})
	if err != nil {
		return err
	}
	settingsName := fmt.Sprintf("%x.json", sha256.Sum256(settings))
	list, err := json.Marshal([]manifest{{settingsName, []string{name}, []string{id + ".tar"}}})
	if err != nil {
		return err
	}
	size, err := layer.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	if _, err := layer.Seek(0, io.SeekStart); err != nil {
		return err
	}
	file, err := os.Create(out)
	if err != nil {
		return err
	}
	defer file.Close()
	archive := tar.NewWriter(file)
	for _, entry := range []struct {
		name string
		size int64
		from io.Reader
	}{
		{settingsName, int64(len(settings)), bytes.NewReader(settings)},
		{id + ".tar", size, layer},
		{"manifest.json", int64(len(list)), bytes.NewReader(list)},
	} {
		if err := archive.WriteHeader(&tar.Header{Name: entry.name, Size: entry.size, Mode: 0o644}); err != nil {
			return err
		}
		if _, err := io.Copy(archive, entry.from); err != nil {
			return err
		}
	}
	if err := archive.Close(); err != nil {
		return err
	}
	return file.Close()
}

// writeTree writes all files below root, owned by root and without times. WalkDir goes in the order of the names.
func writeTree(archive *tar.Writer, root string) error {
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		link := ""
		if info.Mode()&fs.ModeSymlink != 0 {
			if link, err = os.Readlink(path); err != nil {
				return err
			}
		}
		header, err := tar.FileInfoHeader(info, link)
		if err != nil {
			return err
		}
		if header.Name, err = filepath.Rel(root, path); err != nil {
			return err
		}
		*header = tar.Header{Typeflag: header.Typeflag, Name: header.Name, Linkname: link, Size: header.Size, Mode: header.Mode}
		if err := archive.WriteHeader(header); err != nil || !info.Mode().IsRegular() {
			return err
		}
		file, err := os.Open(path)
		if err != nil {
			return err
		}
		defer file.Close()
		_, err = io.Copy(archive, file)
		return err
	})
	if err != nil {
		return err
	}
	return archive.Close()
}
