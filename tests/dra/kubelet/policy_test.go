package kubelet

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	resourceapi "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

const (
	manifests       = "../../../deploy/dra/"
	manifestAccount = "system:serviceaccount:kube-system:vfio-device-plugin"
	manifestDriver  = "vfio-probe.github.io"
)

// TestManifestsLimitTheDriver applies the manifests for the driver's rights, and tries what they forbid.
func TestManifestsLimitTheDriver(t *testing.T) {
	s := startAPIServer(t, t.TempDir())
	for _, file := range []string{"rbac.yaml", "policy.yaml"} {
		apply(t, s.admin, manifests+file)
	}
	ctx := context.Background()
	ours, unbound := actingAs(t, s, nodeName), actingAs(t, s, "")
	create := func(client *kubernetes.Clientset, node, pool, driver string) error {
		slice := &resourceapi.ResourceSlice{
			ObjectMeta: metav1.ObjectMeta{Name: "test"},
			Spec: resourceapi.ResourceSliceSpec{
				Driver: driver, NodeName: &node,
				Pool: resourceapi.ResourcePool{Name: pool, Generation: 1, ResourceSliceCount: 1},
			},
		}
		return second(client.ResourceV1().ResourceSlices().Create(ctx, slice, metav1.CreateOptions{}))
	}
	// The API server applies a new policy after a moment.
	eventually(t, "the policy refuses", func() error {
		err := create(ours, "node-2", "node-2", manifestDriver)
		if err == nil {
			must(t, s.admin.ResourceV1().ResourceSlices().Delete(ctx, "test", metav1.DeleteOptions{}))
		}
		return refused(err, "only ResourceSlices of its node "+nodeName)
	})
	must(t, refused(create(ours, nodeName, "node-2", manifestDriver), "only the pool of its node "+nodeName))
	must(t, refused(create(ours, nodeName, nodeName, "gpu.example.com"), "only ResourceSlices of "+manifestDriver))
	must(t, refused(create(unbound, nodeName, nodeName, manifestDriver), "the token names no node"))

	// Its own slice: create, update, delete.
	must(t, create(ours, nodeName, nodeName, manifestDriver))
	slices := ours.ResourceV1().ResourceSlices()
	slice, err := slices.Get(ctx, "test", metav1.GetOptions{})
	must(t, err)
	slice.Spec.Devices = []resourceapi.Device{{Name: "pci-0000-1b-00-0"}}
	slice, err = slices.Update(ctx, slice, metav1.UpdateOptions{})
	must(t, err)
	must(t, refused(second(unbound.ResourceV1().ResourceSlices().Update(ctx, slice, metav1.UpdateOptions{})), "the token names no node"))
	other := actingAs(t, s, "node-2").ResourceV1().ResourceSlices()
	must(t, refused(second(other.Update(ctx, slice, metav1.UpdateOptions{})), "only ResourceSlices of its node node-2"))
	must(t, refused(other.Delete(ctx, "test", metav1.DeleteOptions{}), "only ResourceSlices of its node node-2"))
	must(t, refused(slices.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{}), "cannot deletecollection"))
	must(t, slices.Delete(ctx, "test", metav1.DeleteOptions{}))

	// A slice of its node in another pool, which another program has made: remove it, and not change it.
	must(t, create(s.admin, nodeName, "by-hand", manifestDriver))
	slice, err = slices.Get(ctx, "test", metav1.GetOptions{})
	must(t, err)
	slice.Spec.Devices = []resourceapi.Device{{Name: "pci-0000-1b-00-0"}}
	must(t, refused(second(slices.Update(ctx, slice, metav1.UpdateOptions{})), "only the pool of its node "+nodeName))
	must(t, slices.Delete(ctx, "test", metav1.DeleteOptions{}))

	// The policy is about the driver's account only.
	must(t, create(s.admin, "node-2", "node-2", "gpu.example.com"))

	for _, question := range []struct {
		verb, group, resource, subresource string
		allowed                            bool
	}{
		{"get", "resource.k8s.io", "resourceclaims", "", true},
		{"get", "", "nodes", "", true},
		{"create", "", "events", "", true},
		{"list", "resource.k8s.io", "resourceclaims", "", false},
		{"update", "resource.k8s.io", "resourceclaims", "", false},
		{"update", "resource.k8s.io", "resourceclaims", "status", false},
		{"list", "", "nodes", "", false},
		{"update", "", "nodes", "", false},
		{"list", "", "pods", "", false},
		{"get", "", "secrets", "", false},
	} {
		review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
			User: manifestAccount, Groups: []string{"system:authenticated", "system:serviceaccounts"},
			ResourceAttributes: &authorizationv1.ResourceAttributes{
				Verb: question.verb, Group: question.group, Resource: question.resource, Subresource: question.subresource,
			},
		}}
		answer, err := s.admin.AuthorizationV1().SubjectAccessReviews().Create(ctx, review, metav1.CreateOptions{})
		must(t, err)
		if answer.Status.Allowed != question.allowed {
			t.Errorf("%+v: allowed is %v", question, answer.Status.Allowed)
		}
	}
}

// actingAs returns a client with the name of the manifests' account. With a node, it has what a pod's token says of its node.
func actingAs(t *testing.T, s *apiServer, node string) *kubernetes.Clientset {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", s.kubeconfig)
	must(t, err)
	config.BearerToken = "admin"
	config.Impersonate = rest.ImpersonationConfig{UserName: manifestAccount, Groups: []string{"system:authenticated"}}
	if node != "" {
		config.Impersonate.Extra = map[string][]string{"authentication.kubernetes.io/node-name": {node}}
	}
	client, err := kubernetes.NewForConfig(config)
	must(t, err)
	return client
}

// refused returns an error unless the API server has forbidden the request with these words.
func refused(err error, words string) error {
	if err == nil || !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), words) {
		return fmt.Errorf("not refused with %q: %v", words, err)
	}
	return nil
}

// apply creates the objects of a manifest.
func apply(t *testing.T, client *kubernetes.Clientset, file string) {
	t.Helper()
	content, err := os.ReadFile(file)
	must(t, err)
	ctx, options := context.Background(), metav1.CreateOptions{}
	for reader := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(content))); ; {
		document, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return
		}
		must(t, err)
		object, _, err := scheme.Codecs.UniversalDeserializer().Decode(document, nil, nil)
		must(t, err)
		switch object := object.(type) {
		case *corev1.ServiceAccount:
			err = second(client.CoreV1().ServiceAccounts(object.Namespace).Create(ctx, object, options))
		case *rbacv1.ClusterRole:
			err = second(client.RbacV1().ClusterRoles().Create(ctx, object, options))
		case *rbacv1.ClusterRoleBinding:
			err = second(client.RbacV1().ClusterRoleBindings().Create(ctx, object, options))
		case *admissionv1.ValidatingAdmissionPolicy:
			err = second(client.AdmissionregistrationV1().ValidatingAdmissionPolicies().Create(ctx, object, options))
		case *admissionv1.ValidatingAdmissionPolicyBinding:
			err = second(client.AdmissionregistrationV1().ValidatingAdmissionPolicyBindings().Create(ctx, object, options))
		default:
			t.Fatalf("%s has a %T", file, object)
		}
		must(t, err)
	}
}
