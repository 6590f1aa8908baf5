// Command helper is a minimal DRA driver on the Go helper library (k8s.io/dynamic-resource-allocation/kubeletplugin): it publishes
// the devices of a file, and writes one CDI spec for each prepared claim. It checks no device. TestNumbers measures it.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"

	resourceapi "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/dynamic-resource-allocation/kubeletplugin"
	"k8s.io/dynamic-resource-allocation/resourceslice"
	"k8s.io/klog/v2"
)

// devicesOfSlice is as many devices as a slice may have if one has a taint.
const devicesOfSlice = 64

var (
	driverName  = flag.String("driver", "", "name of the driver")
	nodeName    = flag.String("node", "", "name of the node and of its pool")
	kubeconfig  = flag.String("kubeconfig", "", "the API server and a token")
	registryDir = flag.String("registry", kubeletplugin.KubeletRegistryDir, "directory of the registration socket")
	pluginDir   = flag.String("plugin", "", "directory of the service socket")
	cdiDir      = flag.String("cdi", "/var/run/cdi", "directory of the CDI specs")
	devicesFile = flag.String("devices", "", "JSON list of the devices")
)

func main() {
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		klog.ErrorS(err, "the driver failed")
		os.Exit(1)
	}
}

// run serves until the context ends.
func run(ctx context.Context) error {
	config, err := clientcmd.BuildConfigFromFlags("", *kubeconfig)
	if err != nil {
		return err
	}
	// Without a limit for its own requests: the default of 5 a second would be what is measured.
	config.QPS = -1
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	content, err := os.ReadFile(*devicesFile)
	if err != nil {
		return err
	}
	var devices []resourceapi.Device
	if err := json.Unmarshal(content, &devices); err != nil {
		return err
	}
	for _, directory := range []string{*pluginDir, *cdiDir} {
		if err := os.MkdirAll(directory, 0o755); err != nil {
			return err
		}
	}
	plugin, err := kubeletplugin.Start(ctx, driver{}, kubeletplugin.KubeClient(client), kubeletplugin.DriverName(*driverName),
		kubeletplugin.NodeName(*nodeName), kubeletplugin.RegistrarDirectoryPath(*registryDir),
		kubeletplugin.PluginDataDirectoryPath(*pluginDir), kubeletplugin.HealthService(false))
	if err != nil {
		return err
	}
	defer plugin.Stop()
	var pool resourceslice.Pool
	for devices := range slices.Chunk(devices, devicesOfSlice) {
		pool.Slices = append(pool.Slices, resourceslice.Slice{Devices: devices})
	}
	resources := resourceslice.DriverResources{Pools: map[string]resourceslice.Pool{*nodeName: pool}}
	if err := plugin.PublishResources(ctx, resources); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

// driver prepares claims.
type driver struct{}

var _ kubeletplugin.DRAPlugin = driver{}

// spec is a CDI spec.
type spec struct {
	Version string       `json:"cdiVersion"`
	Kind    string       `json:"kind"`
	Devices []specDevice `json:"devices"`
}

type specDevice struct {
	Name  string `json:"name"`
	Edits edits  `json:"containerEdits"`
}

type edits struct {
	Env []string `json:"env"`
}

func (driver) PrepareResourceClaims(_ context.Context, claims []*resourceapi.ResourceClaim) (map[types.UID]kubeletplugin.PrepareResult, error) {
	results := map[types.UID]kubeletplugin.PrepareResult{}
	for _, claim := range claims {
		devices, err := prepare(claim)
		results[claim.UID] = kubeletplugin.PrepareResult{Err: err, Devices: devices}
	}
	return results, nil
}

func prepare(claim *resourceapi.ResourceClaim) ([]kubeletplugin.Device, error) {
	cdi := spec{Version: "0.6.0", Kind: *driverName + "/claim"}
	var devices []kubeletplugin.Device
	for _, result := range claim.Status.Allocation.Devices.Results {
		if result.Driver != *driverName {
			continue
		}
		name := string(claim.UID) + "_" + result.Device
		cdi.Devices = append(cdi.Devices, specDevice{Name: name, Edits: edits{Env: []string{"DEVICE=" + result.Device}}})
		devices = append(devices, kubeletplugin.Device{Requests: []string{result.Request}, PoolName: result.Pool,
			DeviceName: result.Device, CDIDeviceIDs: []string{cdi.Kind + "=" + name}})
	}
	content, err := json.Marshal(cdi)
	if err != nil {
		return nil, err
	}
	path := specPath(claim.UID)
	if err := os.WriteFile(path+".new", content, 0o644); err != nil {
		return nil, err
	}
	return devices, os.Rename(path+".new", path)
}

func (driver) UnprepareResourceClaims(_ context.Context, claims []kubeletplugin.NamespacedObject) (map[types.UID]error, error) {
	results := map[types.UID]error{}
	for _, claim := range claims {
		err := os.Remove(specPath(claim.UID))
		if errors.Is(err, os.ErrNotExist) {
			err = nil
		}
		results[claim.UID] = err
	}
	return results, nil
}

func (driver) HandleError(_ context.Context, err error, message string) {
	klog.ErrorS(err, message)
}

func (driver) WatchHealthStatus(context.Context, chan<- kubeletplugin.DeviceHealthReport) error {
	return kubeletplugin.ErrHealthNotSupported
}

func specPath(uid types.UID) string {
	return filepath.Join(*cdiDir, *driverName+"_"+string(uid)+".json")
}
