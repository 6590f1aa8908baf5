package vfioprobe_test

import (
	"regexp"
	"testing"

	vfioprobe "github.com/vfio-probe/vfio-probe/go/vfioprobe"
)

func TestVersionAndABIAreReported(t *testing.T) {
	if got := vfioprobe.Version(); !regexp.MustCompile(`^\d+\.\d+\.\d+$`).MatchString(got) {
		t.Errorf("%q", got)
	}
	equal(t, "ABI", vfioprobe.ABI(), 1)
}
