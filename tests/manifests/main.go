// Command manifests decodes Kubernetes manifests strictly: a key that the type does not have, a value of another type and a
// key that is written twice are errors. The types are those of Kubernetes' own Go packages, so this is how an API
// server decodes with the field validation Strict. It then sets the defaults and validates the object with the code of that API
// server (validate.go).
//
// usage: manifests [-program PROGRAM] FILE...    (YAML files with one or more documents)
//
// With -program, the container of each DaemonSet is run with that program: its arguments and variables, with `list` instead of
// `serve`, on an empty host, with the pools of the ConfigMap in the same file.
//
// It prints one line for each document and ends with `N passed, N failed`.
package main

import (
	"bufio"
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	securityv1 "github.com/openshift/api/security/v1"
	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	kubevirtv1 "kubevirt.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

// types returns a new object for each apiVersion and kind that the manifests use.
var types = map[string]func() metav1.Object{
	"apps/v1 DaemonSet":                 func() metav1.Object { return new(appsv1.DaemonSet) },
	"v1 ConfigMap":                      func() metav1.Object { return new(corev1.ConfigMap) },
	"v1 Pod":                            func() metav1.Object { return new(corev1.Pod) },
	"v1 Service":                        func() metav1.Object { return new(corev1.Service) },
	"v1 ServiceAccount":                 func() metav1.Object { return new(corev1.ServiceAccount) },
	"rbac.authorization.k8s.io/v1 Role": func() metav1.Object { return new(rbacv1.Role) },
	"rbac.authorization.k8s.io/v1 RoleBinding":        func() metav1.Object { return new(rbacv1.RoleBinding) },
	"rbac.authorization.k8s.io/v1 ClusterRole":        func() metav1.Object { return new(rbacv1.ClusterRole) },
	"rbac.authorization.k8s.io/v1 ClusterRoleBinding": func() metav1.Object { return new(rbacv1.ClusterRoleBinding) },
	"admissionregistration.k8s.io/v1 ValidatingAdmissionPolicy": func() metav1.Object {
		return new(admissionv1.ValidatingAdmissionPolicy)
	},
	"admissionregistration.k8s.io/v1 ValidatingAdmissionPolicyBinding": func() metav1.Object {
		return new(admissionv1.ValidatingAdmissionPolicyBinding)
	},
	"resource.k8s.io/v1 DeviceClass":                      func() metav1.Object { return new(resourcev1.DeviceClass) },
	"resource.k8s.io/v1 ResourceClaimTemplate":            func() metav1.Object { return new(resourcev1.ResourceClaimTemplate) },
	"kubevirt.io/v1 VirtualMachine":                       func() metav1.Object { return new(kubevirtv1.VirtualMachine) },
	"monitoring.coreos.com/v1 PodMonitor":                 func() metav1.Object { return new(monitoringv1.PodMonitor) },
	"monitoring.coreos.com/v1 ServiceMonitor":             func() metav1.Object { return new(monitoringv1.ServiceMonitor) },
	"security.openshift.io/v1 SecurityContextConstraints": func() metav1.Object { return new(securityv1.SecurityContextConstraints) },
}

// check decodes one document and returns its kind and name, and the object.
func check(document []byte) (string, metav1.Object, error) {
	var kind metav1.TypeMeta
	if err := yaml.Unmarshal(document, &kind); err != nil {
		return "?", nil, err
	}
	name := kind.APIVersion + " " + kind.Kind
	create, known := types[name]
	if !known {
		return name, nil, errors.New("no type is known for this kind")
	}
	object := create()
	if err := yaml.UnmarshalStrict(document, object); err != nil {
		return name, nil, err
	}
	if object.GetName() == "" {
		return name, nil, errors.New("metadata.name is missing")
	}
	name += " " + object.GetName()
	if err := keepsAll(document, object); err != nil {
		return name, nil, err
	}
	return name, object, validate(object)
}

// run starts the program as the container of a DaemonSet would, and returns an error if it refuses its settings.
func run(program string, daemonSet *appsv1.DaemonSet, pools string) error {
	root, err := os.MkdirTemp("", "vfio-probe-manifests-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(root)
	for _, directory := range []string{"sys", "dev", "proc"} {
		if err := os.Mkdir(filepath.Join(root, directory), 0o755); err != nil {
			return err
		}
	}
	file := filepath.Join(root, "pools.yaml")
	if err := os.WriteFile(file, []byte(pools), 0o644); err != nil {
		return err
	}
	container := daemonSet.Spec.Template.Spec.Containers[0]
	if len(container.Args) == 0 || container.Args[0] != "serve" {
		return fmt.Errorf("the first argument is not serve: %q", container.Args)
	}
	command := exec.Command(program, append([]string{"list"}, container.Args[1:]...)...)
	command.Env = []string{}
	for _, variable := range container.Env {
		value := variable.Value
		if source := variable.ValueFrom; source != nil && source.FieldRef != nil && source.FieldRef.FieldPath == "spec.nodeName" {
			value = "node-1"
		}
		switch variable.Name {
		case "VFIO_DEVICE_PLUGIN_ROOT":
			value = root
		case "VFIO_DEVICE_PLUGIN_POOLS":
			value = ""
			if pools != "" {
				value = file
			}
		}
		command.Env = append(command.Env, variable.Name+"="+value)
	}
	output, err := command.CombinedOutput()
	// 64: wrong usage or settings, which is what this checks. On an empty host other failures are right.
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) || exit != nil && (exit.ExitCode() == 64 || exit.ExitCode() < 0) {
		return fmt.Errorf("%v: %w: %s", command.Args, err, strings.TrimSpace(string(output)))
	}
	return nil
}

// documents returns the documents of a file that have more than comments.
func documents(file string) ([][]byte, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var found [][]byte
	reader := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(text)))
	for {
		document, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return found, nil
		}
		if err != nil {
			return nil, err
		}
		var value any
		if err := yaml.Unmarshal(document, &value); err != nil || value != nil {
			found = append(found, document)
		}
	}
}

// checkFile checks the documents of a file and prints a line for each. It returns how many passed and failed.
func checkFile(file, program string) (passed, failed int) {
	report := func(name string, err error) {
		if err != nil {
			fmt.Printf("FAILED %s: %s: %v\n", file, name, err)
			failed++
			return
		}
		fmt.Printf("ok %s: %s\n", file, name)
		passed++
	}
	all, err := documents(file)
	if err == nil && len(all) == 0 {
		err = errors.New("the file has no document")
	}
	if err != nil {
		report("?", err)
	}
	var daemonSets []*appsv1.DaemonSet
	pools := ""
	for _, document := range all {
		name, object, err := check(document)
		report(name, err)
		switch object := object.(type) {
		case *appsv1.DaemonSet:
			daemonSets = append(daemonSets, object)
		case *corev1.ConfigMap:
			pools = object.Data["pools.yaml"]
		}
	}
	if program == "" {
		return
	}
	for _, daemonSet := range daemonSets {
		report("settings of "+daemonSet.Name, run(program, daemonSet, pools))
	}
	return
}

func main() {
	program := flag.String("program", "", "the program of the containers, to check their settings with it")
	flag.Parse()
	passed, failed := 0, 0
	for _, file := range flag.Args() {
		p, f := checkFile(file, *program)
		passed, failed = passed+p, failed+f
	}
	fmt.Printf("%d passed, %d failed\n", passed, failed)
	if failed > 0 || passed == 0 {
		os.Exit(1)
	}
}
