package main

import (
	"context"
	"encoding/json"
	"fmt"

	resourceapi "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	_ "k8s.io/kubernetes/pkg/apis/resource/install"
)

// strict decodes as an API server does with the field validation Strict: a key that the type does not have is an error.
var strict = serializer.NewCodecFactory(legacyscheme.Scheme, serializer.EnableStrict)

// list is a list of objects, as the plugin prints it.
type list struct {
	Items []json.RawMessage `json:"items"`
}

// create does with an object what the API server does when the object is created: it decodes it strictly, sets the defaults,
// completes the name, drops the fields of features that are off, and validates the object. It returns what is stored.
func create[T any](strategy rest.RESTCreateStrategy, plural string, text []byte) (*T, error) {
	versioned, err := runtime.Decode(strict.UniversalDeserializer(), text)
	if err != nil {
		return nil, err
	}
	legacyscheme.Scheme.Default(versioned)
	internal, err := legacyscheme.Scheme.ConvertToVersion(versioned, runtime.InternalGroupVersioner)
	if err != nil {
		return nil, err
	}
	meta, ok := internal.(metav1.Object)
	if !ok {
		return nil, fmt.Errorf("%T has no metadata", internal)
	}
	rest.FillObjectMetaSystemFields(meta)
	if meta.GetName() == "" && meta.GetGenerateName() != "" {
		meta.SetName(strategy.GenerateName(meta.GetGenerateName()))
	}
	request := &genericapirequest.RequestInfo{
		IsResourceRequest: true, Verb: "create", APIGroup: "resource.k8s.io", APIVersion: "v1", Resource: plural,
	}
	ctx := genericapirequest.WithRequestInfo(genericapirequest.WithNamespace(context.Background(), ""), request)
	if err := rest.BeforeCreate(strategy, ctx, internal); err != nil {
		return nil, err
	}
	stored := new(T)
	return stored, legacyscheme.Scheme.Convert(internal, stored, nil)
}

// createAll creates all objects of a list, and returns an error for the first one that is refused.
func createAll[T any](strategy rest.RESTCreateStrategy, plural string, text []byte) ([]*T, error) {
	var printed list
	if err := json.Unmarshal(text, &printed); err != nil {
		return nil, err
	}
	all := make([]*T, 0, len(printed.Items))
	for index, item := range printed.Items {
		object, err := create[T](strategy, plural, item)
		if err != nil {
			return nil, fmt.Errorf("object %d is refused: %w", index, err)
		}
		all = append(all, object)
	}
	return all, nil
}

// count returns the devices, and how many of them have a taint or consume a counter.
func count(slices []*resourceapi.ResourceSlice) (devices, tainted, counted int) {
	for _, slice := range slices {
		for _, device := range slice.Spec.Devices {
			devices++
			if len(device.Taints) > 0 {
				tainted++
			}
			if len(device.ConsumesCounters) > 0 {
				counted++
			}
		}
	}
	return devices, tainted, counted
}
