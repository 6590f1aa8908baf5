//go:build !older

package kubelet

import (
	"context"
	"encoding/json"
	"io"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/dynamic-resource-allocation/api/metadata"
	"k8s.io/dynamic-resource-allocation/deviceattribute"
	"k8s.io/dynamic-resource-allocation/devicemetadata"
	drapb "k8s.io/kubelet/pkg/apis/dra/v1"
	"k8s.io/kubernetes/pkg/kubelet/cm/dra"
	"k8s.io/kubernetes/pkg/kubelet/config"
	"k8s.io/kubernetes/pkg/kubelet/pluginmanager"
)

// taintsAreStored is whether the API server stores taints. One that does not gets no withheld device.
const taintsAreStored = true

// serverFlags are further flags of the API server.
var serverFlags []string

func getNode(get func(context.Context) (*corev1.Node, error)) dra.GetNodeFunc {
	return get
}

func runPlugins(ctx context.Context, plugins pluginmanager.PluginManager, sources config.SourcesReady) {
	plugins.Run(ctx, sources, ctx.Done())
}

func stopManager(manager *dra.Manager) { manager.Stop() }

// claimOfCall returns a claim as the kubelet names it in a call.
func claimOfCall(name, uid string) *drapb.Claim {
	return &drapb.Claim{Namespace: "default", Name: name, Uid: uid}
}

// decodedMetadata returns the claim and the PCI address of the first device, as Kubernetes' own library reads the file.
func decodedMetadata(t *testing.T, file io.Reader) (claim, address string) {
	t.Helper()
	var decoded metadata.DeviceMetadata
	must(t, devicemetadata.DecodeMetadataFromStream(json.NewDecoder(file), &decoded))
	attribute := decoded.Requests[0].Devices[0].Attributes[deviceattribute.StandardDeviceAttributePCIBusID]
	if attribute.StringValue == nil {
		t.Fatalf("metadata: %+v", decoded)
	}
	return decoded.Name, *attribute.StringValue
}
