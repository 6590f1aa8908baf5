package vfioprobe_test

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	vfioprobe "github.com/vfio-probe/vfio-probe/go/vfioprobe"
)

func TestNamesComeFromPciIDs(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pci.ids")
	text := "10de  NVIDIA Corporation\n\t2330  GH100 [H100 SXM5 80GB]\n8086  Intel Corporation\n\t10d3  82574L\n"
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	got := must(vfioprobe.Names(file, vfioprobe.Model{Vendor: 0x8086, Device: 0x10d3},
		vfioprobe.Model{Vendor: 0x10de, Device: 1}, vfioprobe.Model{Vendor: 0x10de, Device: 0x2330}))(t)
	if want := []string{"82574L", "", "GH100 [H100 SXM5 80GB]"}; !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	equal(t, "names of none", len(must(vfioprobe.Names(file))(t)), 0)
	_, err := vfioprobe.Names(file+"x", vfioprobe.Model{})
	isAll(t, err, os.ErrNotExist)
}

func TestBuiltInNamesNeedNoFile(t *testing.T) {
	got := must(vfioprobe.Names("", vfioprobe.Model{Vendor: 0x10de, Device: 0x2330},
		vfioprobe.Model{Vendor: 0x10de, Device: 0xffff}))(t)
	if want := []string{"GH100 [H100 SXM5 80GB]", ""}; !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}
