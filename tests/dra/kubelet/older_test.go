//go:build older

package kubelet

import (
	"context"
	"encoding/json"
	"io"
	"testing"

	corev1 "k8s.io/api/core/v1"
	drapb "k8s.io/kubelet/pkg/apis/dra/v1"
	"k8s.io/kubernetes/pkg/kubelet/cm/dra"
	"k8s.io/kubernetes/pkg/kubelet/config"
	"k8s.io/kubernetes/pkg/kubelet/pluginmanager"
)

// taintsAreStored is whether the API server stores taints. One that does not gets no withheld device.
const taintsAreStored = false

// serverFlags have the API server behave as that of Kubernetes 1.34, which drops taints and counters.
var serverFlags = []string{"--emulated-version=1.34"}

func getNode(get func(context.Context) (*corev1.Node, error)) dra.GetNodeFunc {
	return func() (*corev1.Node, error) { return get(context.Background()) }
}

func runPlugins(ctx context.Context, plugins pluginmanager.PluginManager, sources config.SourcesReady) {
	plugins.Run(sources, ctx.Done())
}

// The goroutines of this version end with the context.
func stopManager(*dra.Manager) {}

// claimOfCall returns a claim as the kubelet names it in a call.
func claimOfCall(name, uid string) *drapb.Claim {
	return &drapb.Claim{Namespace: "default", Name: name, UID: uid}
}

// decodedMetadata returns the claim and the PCI address of the first device. This version has no library for the file.
func decodedMetadata(t *testing.T, file io.Reader) (claim, address string) {
	t.Helper()
	var decoded struct {
		Name     string
		Metadata struct{ Name string }
		Requests []struct {
			Devices []struct {
				Attributes map[string]struct{ String string }
			}
		}
	}
	must(t, json.NewDecoder(file).Decode(&decoded))
	return decoded.Metadata.Name, decoded.Requests[0].Devices[0].Attributes["resource.kubernetes.io/pciBusID"].String
}
