//go:build !until_1_26

package main

import "k8s.io/kubernetes/pkg/kubelet/apis/podresources"

// providers returns what the pod resources service lists: the pods and their devices.
func providers(n *node) podresources.PodResourcesProviders {
	return podresources.PodResourcesProviders{
		Pods: podsProvider{n}, Devices: devicesProvider{n}, Cpus: emptyProvider{}, Memory: emptyProvider{}, DynamicResources: emptyProvider{},
	}
}
