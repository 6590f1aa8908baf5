package main

import (
	"fmt"
	"sort"
	"strings"
)

// addressesOf returns the PCI addresses in the variables PCI_RESOURCE_..., read as virt-launcher reads them: one comma at the
// end is dropped, and an address counts once (AddressPool.load in
// pkg/virt-launcher/virtwrap/device/hostdevice/addresspool.go of KubeVirt).
func addressesOf(environment []string) ([]string, error) {
	variables := []string{}
	for _, variable := range environment {
		if strings.HasPrefix(variable, "PCI_RESOURCE_") {
			variables = append(variables, variable)
		}
	}
	if len(variables) == 0 {
		return nil, fmt.Errorf("no variable PCI_RESOURCE_... is set")
	}
	sort.Strings(variables)
	addresses, seen := []string{}, map[string]bool{}
	for _, variable := range variables {
		_, value, _ := strings.Cut(variable, "=")
		for _, address := range strings.Split(strings.TrimSuffix(value, ","), ",") {
			if !seen[address] {
				seen[address] = true
				addresses = append(addresses, address)
			}
		}
	}
	return addresses, nil
}
