package main

import (
	"encoding/json"
	"fmt"
	"reflect"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

// keepsAll returns an error for a key of the document that the decoded object has lost. A strict decoder does not find such a
// key below a type that decodes itself, as KubeVirt's VirtualMachineInstanceSpec does.
func keepsAll(document []byte, object metav1.Object) error {
	var written, kept any
	if err := yaml.Unmarshal(document, &written); err != nil {
		return err
	}
	text, err := json.Marshal(object)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, &kept); err != nil {
		return err
	}
	return contains(kept, written, "")
}

// contains returns an error unless each key of the written value is in the kept one. Values may be written in another way, and
// empty ones are left out.
func contains(kept, written any, path string) error {
	switch written := written.(type) {
	case map[string]any:
		kept, _ := kept.(map[string]any)
		for key, value := range written {
			if _, ok := kept[key]; !ok && !isEmpty(value) {
				return fmt.Errorf("unknown key %s.%s", path, key)
			}
			if err := contains(kept[key], value, path+"."+key); err != nil {
				return err
			}
		}
	case []any:
		kept, _ := kept.([]any)
		if len(kept) != len(written) {
			return fmt.Errorf("%s has %d entries instead of %d", path, len(kept), len(written))
		}
		for index, value := range written {
			if err := contains(kept[index], value, fmt.Sprintf("%s[%d]", path, index)); err != nil {
				return err
			}
		}
	}
	return nil
}

func isEmpty(value any) bool {
	if value == nil {
		return true
	}
	switch value := reflect.ValueOf(value); value.Kind() {
	case reflect.Map, reflect.Slice:
		return value.Len() == 0
	default:
		return value.IsZero()
	}
}

// validateVM checks what virt-api checks of claims (ValidateVirtualMachineInstanceSpec): a device names either a resource or a
// request of a claim, and the claim is one of the VM's.
func validateVM(vm *kubevirtv1.VirtualMachine) error {
	spec := vm.Spec.Template.Spec
	claims := map[string]bool{}
	for _, claim := range spec.ResourceClaims {
		if (claim.ResourceClaimName == nil) == (claim.ResourceClaimTemplateName == nil) {
			return fmt.Errorf("claim %s needs the name of a claim or of a template", claim.Name)
		}
		claims[claim.Name] = false
	}
	for _, gpu := range spec.Domain.Devices.GPUs {
		if (gpu.DeviceName == "") == (gpu.ClaimRequest == nil) {
			return fmt.Errorf("GPU %s needs a resource or a claim", gpu.Name)
		}
		if gpu.ClaimRequest == nil {
			continue
		}
		if _, known := claims[gpu.ClaimName]; !known || gpu.RequestName == "" {
			return fmt.Errorf("GPU %s needs a request of a claim of the VM", gpu.Name)
		}
		claims[gpu.ClaimName] = true
	}
	for claim, used := range claims {
		if !used {
			return fmt.Errorf("no GPU uses claim %s", claim)
		}
	}
	return nil
}
