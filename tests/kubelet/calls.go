//go:build !until_1_34

package main

import (
	"context"

	v1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/pkg/kubelet/cm/containermap"
	"k8s.io/kubernetes/pkg/kubelet/cm/devicemanager"
	"k8s.io/kubernetes/pkg/kubelet/cm/topologymanager"
	"k8s.io/kubernetes/pkg/kubelet/config"
)

// Some functions of the managers take a logger or a context from 1.35 on.

func addHintProvider(ctx context.Context, topology topologymanager.Manager, devices *devicemanager.ManagerImpl) {
	topology.AddHintProvider(klog.FromContext(ctx), devices)
}

func startManager(ctx context.Context, m *devicemanager.ManagerImpl, active devicemanager.ActivePodsFunc, sources config.SourcesReady, containers containermap.ContainerMap, running runningContainers) error {
	return m.Start(klog.FromContext(ctx), active, sources, containers, running)
}

func runOptions(ctx context.Context, m *devicemanager.ManagerImpl, pod *v1.Pod, c *v1.Container) (*devicemanager.DeviceRunContainerOptions, error) {
	return m.GetDeviceRunContainerOptions(ctx, pod, c)
}
