package main

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"sync"
	"sync/atomic"

	cadvisorapi "github.com/google/cadvisor/info/v1"
	v1 "k8s.io/api/core/v1"
	"k8s.io/kubernetes/pkg/kubelet/cm/containermap"
	"k8s.io/kubernetes/pkg/kubelet/cm/devicemanager"
	"k8s.io/kubernetes/pkg/kubelet/cm/topologymanager"
	"k8s.io/kubernetes/pkg/kubelet/config"
)

// node holds the kubelet's pods and managers.
type node struct {
	ctx      context.Context
	mu       sync.Mutex
	pods     map[string]*v1.Pod
	ready    atomic.Bool
	devices  *devicemanager.ManagerImpl
	topology topologymanager.Manager
	lister   *lister
	sampler  *sampler
}

func newNode() *node { return &node{ctx: context.Background(), pods: map[string]*v1.Pod{}} }

// handle executes one request. Every request but "start" needs a started kubelet.
func (n *node) handle(r request) reply {
	if r.Op != "start" && n.devices == nil {
		return failure(errors.New("not started"))
	}
	switch r.Op {
	case "start":
		return n.start(r)
	case "admit":
		return n.admit(r.Pod.pod())
	case "run":
		return n.run(r.UID, r.Container)
	case "remove":
		n.remove(r.UID)
		return reply{OK: true}
	case "capacity":
		capacity, allocatable := getCapacity(n.ctx, n.devices)
		return reply{OK: true, Capacity: counts(capacity), Allocatable: counts(allocatable)}
	case "devices":
		return n.inventory()
	case "pod_resources":
		return n.podResources(r.On)
	case "sample":
		return n.sample(r.On, r.Resource, r.Wanted)
	}
	return failure(fmt.Errorf("unknown op %q", r.Op))
}

// start does what Kubelet.Run does for devices. The managers start first. The pods that exist already are then admitted
// again while the sources are not ready, so that running containers keep their devices (devicesToAllocate).
func (n *node) start(r request) reply {
	if n.devices != nil {
		return failure(errors.New("already started; kill the process and start another one to restart the kubelet"))
	}
	nodes := []cadvisorapi.Node{{Id: 0}, {Id: 1}}
	running, containers := runningContainers{}, containermap.NewContainerMap()
	for _, c := range r.Running {
		id := c.UID + "/" + c.Container
		containers.Add(c.UID, c.Container, id)
		running.Insert(id)
	}
	for _, spec := range r.Pods {
		n.pods[spec.UID] = spec.pod()
	}
	sources := config.NewSourcesReady(func(seenSources) bool { return n.ready.Load() })
	var err error
	if n.devices, n.topology, err = managers(n.ctx, nodes); err != nil {
		return failure(err)
	}
	if err = startManager(n.ctx, n.devices, n.active, sources, containers, running); err != nil {
		return failure(err)
	}
	if a := n.podResources(true); !a.OK {
		return a
	}
	a := reply{OK: true, Version: version, Rejected: map[string]string{}}
	for _, spec := range r.Pods {
		if again := n.admit(n.pods[spec.UID]); !again.OK {
			a.Rejected[spec.UID] = again.Error
		}
	}
	n.ready.Store(true)
	return a
}

// admit does what HandlePodAdditions does. A pod that is not admitted is Failed, so that it is not active.
func (n *node) admit(pod *v1.Pod) reply {
	uid := string(pod.UID)
	n.mu.Lock()
	n.pods[uid] = pod
	n.mu.Unlock()
	if reason := admitPod(n.ctx, n.topology, pod); reason != "" {
		n.remove(uid)
		return reply{Error: reason}
	}
	a := reply{OK: true, Containers: map[string]containerAllocation{}}
	if !n.ready.Load() {
		return a
	}
	for _, c := range append(append([]v1.Container{}, pod.Spec.InitContainers...), pod.Spec.Containers...) {
		g, err := n.container(pod, &c)
		if err != nil {
			return failure(err)
		}
		a.Containers[c.Name] = g
	}
	return a
}

// run does what the creation of a container does: the kubelet may call Allocate again.
func (n *node) run(uid, name string) reply {
	n.mu.Lock()
	pod := n.pods[uid]
	n.mu.Unlock()
	if pod == nil {
		return failure(fmt.Errorf("no pod %s", uid))
	}
	for _, c := range append(append([]v1.Container{}, pod.Spec.InitContainers...), pod.Spec.Containers...) {
		if c.Name == name {
			g, err := n.container(pod, &c)
			if err != nil {
				return failure(err)
			}
			return reply{OK: true, Containers: map[string]containerAllocation{name: g}}
		}
	}
	return failure(fmt.Errorf("no container %s in pod %s", name, uid))
}

// container returns what the device manager has allocated to a container. It may call the plugin's Allocate.
func (n *node) container(pod *v1.Pod, c *v1.Container) (containerAllocation, error) {
	g := containerAllocation{Devices: map[string][]string{}, Envs: map[string]string{}, Nodes: []string{}}
	options, err := runOptions(n.ctx, n.devices, pod, c)
	if err != nil {
		return g, err
	}
	if options != nil {
		for _, e := range options.Envs {
			g.Envs[e.Name] = e.Value
		}
		for _, d := range options.Devices {
			g.Nodes = append(g.Nodes, d.PathOnHost)
		}
	}
	g.Devices = ids(n.devices.GetDevices(string(pod.UID), c.Name))
	return g, nil
}

func (n *node) remove(uid string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.pods, uid)
}

// active returns what GetActivePods returns: pods that are neither terminated nor deleted by force.
func (n *node) active() []*v1.Pod {
	n.mu.Lock()
	defer n.mu.Unlock()
	pods := make([]*v1.Pod, 0, len(n.pods))
	for _, pod := range n.pods {
		pods = append(pods, pod)
	}
	sort.Slice(pods, func(i, j int) bool { return pods[i].UID < pods[j].UID })
	return pods
}

// inventory returns the devices that the device manager may allocate or has allocated, and the devices of each container.
func (n *node) inventory() reply {
	a := reply{OK: true, Healthy: ids(allocatableDevices(n.ctx, n.devices)), Allocated: map[string]map[string]map[string][]string{}}
	for _, pod := range n.active() {
		containers := map[string]map[string][]string{}
		for _, c := range append(append([]v1.Container{}, pod.Spec.InitContainers...), pod.Spec.Containers...) {
			if allocated := ids(n.devices.GetDevices(string(pod.UID), c.Name)); len(allocated) > 0 {
				containers[c.Name] = allocated
			}
		}
		a.Allocated[string(pod.UID)] = containers
	}
	return a
}

// podResources starts or stops the pod resources service.
func (n *node) podResources(on bool) reply {
	if n.lister != nil {
		n.lister.stop()
		n.lister = nil
	}
	if on {
		lister, err := serve(n)
		if err != nil {
			return failure(err)
		}
		n.lister = lister
	}
	return reply{OK: true}
}

// sample starts or stops the sampler of a resource. The reply to a stop has the samples.
func (n *node) sample(on bool, resource string, wanted int64) reply {
	if on == (n.sampler != nil) {
		return failure(errors.New("the sampler is in that state already"))
	}
	if on {
		n.sampler = startSampler(n, resource, wanted)
		return reply{OK: true}
	}
	found := n.sampler.end()
	n.sampler = nil
	return reply{OK: true, Samples: &found}
}

func counts(list v1.ResourceList) map[string]int64 {
	m := map[string]int64{}
	for name, quantity := range list {
		m[string(name)] = quantity.Value()
	}
	return m
}

func ids(devices devicemanager.ResourceDeviceInstances) map[string][]string {
	m := map[string][]string{}
	for resource, instances := range devices {
		for id := range instances {
			m[resource] = append(m[resource], id)
		}
		sort.Strings(m[resource])
	}
	return m
}
