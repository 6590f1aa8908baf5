package main

import (
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// podSpec is the part of a pod that the device manager reads.
type podSpec struct {
	UID        string      `json:"uid"`
	Name       string      `json:"name"`
	Namespace  string      `json:"namespace"`
	Init       []container `json:"init"`
	Containers []container `json:"containers"`
}

// container is one container of a pod: its name and the numbers of devices that it requests, by resource.
type container struct {
	Name     string           `json:"name"`
	Requests map[string]int64 `json:"requests"`
}

// pod returns the API object of the pod, in the namespace "default" if the spec names none.
func (s podSpec) pod() *v1.Pod {
	if s.Namespace == "" {
		s.Namespace = "default"
	}
	build := func(cs []container) []v1.Container {
		out := make([]v1.Container, 0, len(cs))
		for _, c := range cs {
			list := v1.ResourceList{}
			for name, n := range c.Requests {
				list[v1.ResourceName(name)] = *resource.NewQuantity(n, resource.DecimalSI)
			}
			out = append(out, v1.Container{Name: c.Name, Resources: v1.ResourceRequirements{Limits: list, Requests: list}})
		}
		return out
	}
	return &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: s.Name, Namespace: s.Namespace, UID: types.UID(s.UID)},
		Spec:       v1.PodSpec{InitContainers: build(s.Init), Containers: build(s.Containers)},
		Status:     v1.PodStatus{Phase: v1.PodPending},
	}
}
