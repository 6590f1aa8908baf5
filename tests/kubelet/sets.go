//go:build !until_1_30

package main

import (
	"k8s.io/apimachinery/pkg/util/sets"
)

type (
	// runningContainers are the ids of the containers that run when the device manager starts.
	runningContainers = sets.Set[string]
	// seenSources are the sources of pods that the kubelet has seen.
	seenSources = sets.Set[string]
)
