package main

import (
	"slices"
	"testing"
)

func TestAddressesAreReadAsKubeVirtReadsThem(t *testing.T) {
	for _, test := range []struct{ environment, want []string }{
		{[]string{"PATH=/", "PCI_RESOURCE_NVIDIA_COM_A=0000:1b:00.0"}, []string{"0000:1b:00.0"}},
		{[]string{"PCI_RESOURCE_NVIDIA_COM_B=0000:1c:00.0,", "PCI_RESOURCE_NVIDIA_COM_A=0000:1b:00.0,0000:1c:00.0"},
			[]string{"0000:1b:00.0", "0000:1c:00.0"}},
	} {
		got, err := addressesOf(test.environment)
		if err != nil || !slices.Equal(got, test.want) {
			t.Errorf("addressesOf(%v) = %v, %v", test.environment, got, err)
		}
	}
	if _, err := addressesOf([]string{"PATH=/"}); err == nil {
		t.Error("no variable is no error")
	}
}
