package main

import (
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	"k8s.io/kubernetes/pkg/apis/admissionregistration"
	_ "k8s.io/kubernetes/pkg/apis/admissionregistration/install"
	admissionvalidation "k8s.io/kubernetes/pkg/apis/admissionregistration/validation"
	"k8s.io/kubernetes/pkg/apis/apps"
	_ "k8s.io/kubernetes/pkg/apis/apps/install"
	appsvalidation "k8s.io/kubernetes/pkg/apis/apps/validation"
	"k8s.io/kubernetes/pkg/apis/core"
	_ "k8s.io/kubernetes/pkg/apis/core/install"
	corevalidation "k8s.io/kubernetes/pkg/apis/core/validation"
	"k8s.io/kubernetes/pkg/apis/rbac"
	_ "k8s.io/kubernetes/pkg/apis/rbac/install"
	rbacvalidation "k8s.io/kubernetes/pkg/apis/rbac/validation"
	"k8s.io/kubernetes/pkg/apis/resource"
	_ "k8s.io/kubernetes/pkg/apis/resource/install"
	resourcevalidation "k8s.io/kubernetes/pkg/apis/resource/validation"
	"k8s.io/kubernetes/pkg/capabilities"
	kubevirtv1 "kubevirt.io/api/core/v1"
)

func init() {
	// As an API server with --allow-privileged, which the mode `probing` needs.
	capabilities.Initialize(capabilities.Capabilities{AllowPrivileged: true})
}

// validate does with an object of Kubernetes what the API server does when the object is created: defaults, conversion and
// validation. Custom resources have only their schema, which is that of the types.
func validate(object metav1.Object) error {
	if vm, ok := object.(*kubevirtv1.VirtualMachine); ok {
		return validateVM(vm)
	}
	versioned, ok := object.(runtime.Object)
	if !ok || !legacyscheme.Scheme.Recognizes(versioned.GetObjectKind().GroupVersionKind()) {
		return nil
	}
	legacyscheme.Scheme.Default(versioned)
	internal, err := legacyscheme.Scheme.UnsafeConvertToVersion(versioned, runtime.InternalGroupVersioner)
	if err != nil {
		return err
	}
	// kubectl sets the namespace.
	if object, ok := internal.(metav1.Object); ok && object.GetNamespace() == "" {
		switch internal.(type) {
		case *core.Pod, *resource.ResourceClaimTemplate:
			object.SetNamespace(metav1.NamespaceDefault)
		}
	}
	var faults field.ErrorList
	switch object := internal.(type) {
	case *apps.DaemonSet:
		faults = appsvalidation.ValidateDaemonSet(object, corevalidation.PodValidationOptions{})
	case *core.ConfigMap:
		faults = corevalidation.ValidateConfigMap(object)
	case *core.Pod:
		faults = corevalidation.ValidatePodCreate(object, corevalidation.PodValidationOptions{})
	case *core.Service:
		// As normalizeClusterIPs (pkg/registry/core/service/storage) does before the validation.
		object.Spec.ClusterIPs = []string{object.Spec.ClusterIP}
		faults = corevalidation.ValidateServiceCreate(object)
	case *core.ServiceAccount:
		faults = corevalidation.ValidateServiceAccount(object)
	case *rbac.Role:
		faults = rbacvalidation.ValidateRole(object)
	case *rbac.RoleBinding:
		faults = rbacvalidation.ValidateRoleBinding(object)
	case *rbac.ClusterRole:
		faults = rbacvalidation.ValidateClusterRole(object, rbacvalidation.ClusterRoleValidationOptions{})
	case *rbac.ClusterRoleBinding:
		faults = rbacvalidation.ValidateClusterRoleBinding(object)
	case *admissionregistration.ValidatingAdmissionPolicy:
		// It compiles the expressions.
		faults = admissionvalidation.ValidateValidatingAdmissionPolicy(object)
	case *admissionregistration.ValidatingAdmissionPolicyBinding:
		faults = admissionvalidation.ValidateValidatingAdmissionPolicyBinding(object)
	case *resource.DeviceClass:
		faults = resourcevalidation.ValidateDeviceClass(object)
	case *resource.ResourceClaimTemplate:
		faults = resourcevalidation.ValidateResourceClaimTemplate(object)
	default:
		return fmt.Errorf("no validation is known for %T", object)
	}
	return faults.ToAggregate()
}
