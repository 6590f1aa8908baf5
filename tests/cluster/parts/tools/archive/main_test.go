package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"testing"
)

func TestArchiveNamesItsLayerAndIsTheSameTwice(t *testing.T) {
	work := t.TempDir()
	root := filepath.Join(work, "root")
	if err := os.MkdirAll(filepath.Join(root, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "bin/program"), []byte("text"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("program", filepath.Join(root, "bin/link")); err != nil {
		t.Fatal(err)
	}
	written := [][]byte{}
	for _, name := range []string{"first", "second"} {
		out := filepath.Join(work, name)
		if err := write(out, "image:1", root, []string{"/bin/program", "argument"}); err != nil {
			t.Fatal(err)
		}
		bytes, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		written = append(written, bytes)
	}
	if !bytes.Equal(written[0], written[1]) {
		t.Error("the second archive differs from the first")
	}

	files := entries(t, written[0])
	var manifests []manifest
	if err := json.Unmarshal(files["manifest.json"], &manifests); err != nil {
		t.Fatal(err)
	}
	var settings config
	if err := json.Unmarshal(files[manifests[0].Config], &settings); err != nil {
		t.Fatal(err)
	}
	layer := files[manifests[0].Layers[0]]
	sum := sha256.Sum256(layer)
	if got, want := settings.RootFS.DiffIDs[0], "sha256:"+hex.EncodeToString(sum[:]); got != want {
		t.Errorf("the layer's id is %s, want %s", got, want)
	}
	if tree := entries(t, layer); string(tree["bin/program"]) != "text" || tree["bin/link"] == nil {
		t.Errorf("the layer has %v", tree)
	}
}

func entries(t *testing.T, archive []byte) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	reader := tar.NewReader(bytes.NewReader(archive))
	for {
		header, err := reader.Next()
		if err == io.EOF {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		if files[header.Name], err = io.ReadAll(reader); err != nil {
			t.Fatal(err)
		}
	}
}
