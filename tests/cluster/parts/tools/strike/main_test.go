package main

import (
	"os"
	"path/filepath"
	"testing"
)

func TestProcessOfThePodIsFoundByItsArgument(t *testing.T) {
	proc := t.TempDir()
	for pid, files := range map[string][2]string{
		"10": {"0::/kubepods/besteffort/poda-1/x", "/plugin\x00serve\x00"},
		"11": {"0::/kubepods/besteffort/podb-2/x", "/plugin\x00ready\x00"},
		"12": {"0::/kubepods/besteffort/podb-2/x", "/plugin\x00serve\x00--log-format=json\x00"},
		"13": {"0::/", "init\x00"},
	} {
		directory := filepath.Join(proc, pid)
		if err := os.Mkdir(directory, 0o755); err != nil {
			t.Fatal(err)
		}
		for i, name := range []string{"cgroup", "cmdline"} {
			if err := os.WriteFile(filepath.Join(directory, name), []byte(files[i]), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	if pid, err := find(proc, "b-2", "serve"); err != nil || pid != 12 {
		t.Errorf("found %d, %v", pid, err)
	}
	if pid, err := find(proc, "c-3", "serve"); err == nil {
		t.Errorf("found %d", pid)
	}
}

func TestLineNeedsAllWords(t *testing.T) {
	line := `stderr F {"message":"hand-over: registered","side":"new","step":3}`
	if !containsAll(line, []string{`"side":"new"`, `"step":3`}) || containsAll(line, []string{`"side":"old"`, `"step":3`}) {
		t.Error("the words are not compared")
	}
}
