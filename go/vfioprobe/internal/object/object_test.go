package object

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const rebuild = "scripts/xtask go-objects builds the objects again from the sources of the repository"

// objects.txt has a line for each object: the name, the SHA-256 sum and the size.
func TestObjectsHaveTheRecordedSums(t *testing.T) {
	list, err := os.ReadFile("objects.txt")
	if err != nil {
		t.Fatal(err)
	}
	recorded := map[string]string{}
	for line := range strings.Lines(string(list)) {
		if words := strings.Fields(line); len(words) > 1 && strings.HasSuffix(words[0], ".syso") {
			recorded[words[0]] = words[1]
		}
	}
	files, err := filepath.Glob("*.syso")
	if err != nil {
		t.Fatal(err)
	}
	if len(files) == 0 || len(files) != len(recorded) {
		t.Errorf("objects.txt has %d objects, the directory %d; %s", len(recorded), len(files), rebuild)
	}
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(content)
		if got := hex.EncodeToString(sum[:]); got != recorded[file] {
			t.Errorf("%s has the SHA-256 sum %s, objects.txt says %s; %s", file, got, recorded[file], rebuild)
		}
	}
}
