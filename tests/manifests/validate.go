package main

import (
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	"k8s.io/kubernetes/pkg/apis/apps"
	_ "k8s.io/kubernetes/pkg/apis/apps/install"
	appsvalidation "k8s.io/kubernetes/pkg/apis/apps/validation"
	"k8s.io/kubernetes/pkg/apis/core"
	_ "k8s.io/kubernetes/pkg/apis/core/install"
	corevalidation "k8s.io/kubernetes/pkg/apis/core/validation"
	"k8s.io/kubernetes/pkg/apis/rbac"
	_ "k8s.io/kubernetes/pkg/apis/rbac/install"
	rbacvalidation "k8s.io/kubernetes/pkg/apis/rbac/validation"
	"k8s.io/kubernetes/pkg/capabilities"
)

func init() {
	// As an API server with --allow-privileged, which the mode `probing` needs.
	capabilities.Initialize(capabilities.Capabilities{AllowPrivileged: true})
}

// validate does with an object of Kubernetes what the API server does when the object is created: defaults, conversion and
// validation. Custom resources have only their schema, which is that of the types.
func validate(object metav1.Object) error {
	versioned, ok := object.(runtime.Object)
	if !ok || !legacyscheme.Scheme.Recognizes(versioned.GetObjectKind().GroupVersionKind()) {
		return nil
	}
	legacyscheme.Scheme.Default(versioned)
	internal, err := legacyscheme.Scheme.UnsafeConvertToVersion(versioned, runtime.InternalGroupVersioner)
	if err != nil {
		return err
	}
	var faults field.ErrorList
	switch object := internal.(type) {
	case *apps.DaemonSet:
		faults = appsvalidation.ValidateDaemonSet(object, corevalidation.PodValidationOptions{})
	case *core.ConfigMap:
		faults = corevalidation.ValidateConfigMap(object)
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
	default:
		return fmt.Errorf("no validation is known for %T", object)
	}
	return faults.ToAggregate()
}
