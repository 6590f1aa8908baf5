package kubelet

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	first   = "pci-0000-1b-00-0"
	address = "0000:1b:00.0"
	group   = 51
	// Another device.
	other        = "pci-0000-3d-00-0"
	otherAddress = "0000:3d:00.0"
)

// world is everything that a test needs, started.
type world struct {
	*apiServer
	node    *simNode
	dirs    directories
	driver  *process
	kubelet *kubelet
}

func newWorld(t *testing.T, options ...string) *world {
	t.Helper()
	w := &world{apiServer: sharedAPIServer(t), node: startNode(t), dirs: newDirectories(t)}
	w.driver = startDriver(t, w.apiServer, w.node, w.dirs, options...)
	w.kubelet = startKubelet(t, w.apiServer, w.dirs)
	waitForAll(t, w.apiServer, 8)
	return w
}

func (w *world) restartDriver(t *testing.T, options ...string) {
	t.Helper()
	w.driver.end(t)
	w.driver = startDriver(t, w.apiServer, w.node, w.dirs, options...)
}

// claims returns the names of the claims in the driver's record.
func (w *world) claims(t *testing.T) []string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(w.dirs.plugins, "claims.json"))
	must(t, err)
	var record struct {
		Claims map[string]struct{ Name string }
	}
	must(t, json.Unmarshal(content, &record))
	names := []string{}
	for _, claim := range record.Claims {
		names = append(names, claim.Name)
	}
	return names
}

// specs returns the driver's CDI specs.
func (w *world) specs() []string {
	paths, _ := filepath.Glob(filepath.Join(w.dirs.cdi, driverName+"_*.json"))
	return paths
}

// TestDriver runs all tests with one API server.
func TestDriver(t *testing.T) {
	shared = startAPIServer(t, t.TempDir())
	for _, test := range []namedTest{
		{"slices_belong_to_the_node_and_are_not_written_again", slicesBelongToTheNodeAndAreNotWrittenAgain},
		{"prepared_claim_gives_nodes_variables_and_metadata", preparedClaimGivesNodesVariablesAndMetadata},
		{"answered_claim_is_recorded", answeredClaimIsRecorded},
		{"claim_that_the_kubelet_has_keeps_its_device", claimThatTheKubeletHasKeepsItsDevice},
		{"waiting_claim_is_refused_if_the_vm_stays", waitingClaimIsRefusedIfTheVMStays},
		{"wait_for_another_claim_ends_with_the_call", waitForAnotherClaimEndsWithTheCall},
		{"device_of_a_prepared_claim_is_not_tainted", deviceOfAPreparedClaimIsNotTainted},
		{"refusal_is_sent_after_the_taint_is_stored", refusalIsSentAfterTheTaintIsStored},
		{"prepare_waits_for_a_vm_that_is_closing", prepareWaitsForVMThatIsClosing},
		{"unprepare_of_a_held_group_succeeds_after_the_taint_is_stored", unprepareOfAHeldGroupSucceedsAfterTheTaintIsStored},
		{"unprepare_of_a_held_unbound_device_succeeds", unprepareOfAHeldUnboundDeviceSucceeds},
		{"unprepare_without_api_server_fails_while_the_group_is_held", unprepareWithoutAPIServerFailsWhileTheGroupIsHeld},
		{"unprepare_without_api_server_succeeds_for_a_free_group", unprepareWithoutAPIServerSucceedsForAFreeGroup},
		{"restarted_kubelet_finds_its_slices_and_claims_again", restartedKubeletFindsItsSlicesAndClaimsAgain},
		{"restarted_driver_keeps_claims", restartedDriverKeepsClaims},
		{"reboot_makes_claims_new", rebootMakesClaimsNew},
		{"foreign_holder_of_a_prepared_device_is_refused", foreignHolderOfAPreparedDeviceIsRefused},
		{"claimed_and_unknown_devices_are_refused", claimedAndUnknownDevicesAreRefused},
		{"removed_sockets_are_made_again", removedSocketsAreMadeAgain},
		{"slices_that_others_change_are_restored", slicesThatOthersChangeAreRestored},
		{"late_write_does_not_remove_a_taint", lateWriteDoesNotRemoveATaint},
		{"late_write_of_an_earlier_driver_does_not_remove_a_taint", lateWriteOfAnEarlierDriverDoesNotRemoveATaint},
		{"claim_with_another_uid_is_refused", claimWithAnotherUIDIsRefused},
		{"refusal_is_an_event_of_claim_and_pod", refusalIsAnEventOfClaimAndPod},
		{"lost_record_is_adopted_from_the_kubelets", lostRecordIsAdoptedFromTheKubelets},
		{"prepared_claim_is_answered_without_api_server", preparedClaimIsAnsweredWithoutAPIServer},
		{"admin_access_has_no_device_node", adminAccessHasNoDeviceNode},
		{"opaque_parameters_are_refused", opaqueParametersAreRefused},
		{"bad_credentials_are_named_and_lose_nothing", badCredentialsAreNamedAndLoseNothing},
		{"sighup_is_refused", sighupIsRefused},
		{"second_driver_waits_for_the_first", secondDriverWaitsForTheFirst},
		{"disk_that_hangs_keeps_the_taint", diskThatHangsKeepsTheTaint},
		{"driver_that_was_away_for_long_publishes_again", driverThatWasAwayForLongPublishesAgain},
	} {
		test.play(t)
	}
	for _, test := range testsOfNewer {
		test.play(t)
	}
}

// namedTest is a test of TestDriver.
type namedTest struct {
	name string
	run  func(*testing.T)
}

func (test namedTest) play(t *testing.T) {
	if !t.Run(test.name, test.run) {
		conclude("failed: TestDriver/%s", test.name)
	}
}

func slicesBelongToTheNodeAndAreNotWrittenAgain(t *testing.T) {
	w := newWorld(t)
	slices := waitForAll(t, w.apiServer, 8)
	node, err := w.admin.CoreV1().Nodes().Get(context.Background(), nodeName, metav1.GetOptions{})
	must(t, err)
	if len(slices) != 1 || len(slices[0].OwnerReferences) != 1 || slices[0].OwnerReferences[0].UID != node.UID {
		t.Fatalf("slices: %v", slices)
	}
	// A held and released device is two writes, and the time between them none.
	vm := w.node.startVM(t, address, "")
	waitForTaint(t, w.apiServer, first, "held")
	w.node.killVM(t, vm)
	waitForTaint(t, w.apiServer, first, "")
	slices = waitForAll(t, w.apiServer, 8)
	if slices[0].Spec.Pool.Generation != 1 {
		t.Fatalf("a taint changed the generation to %d", slices[0].Spec.Pool.Generation)
	}
}

func preparedClaimGivesNodesVariablesAndMetadata(t *testing.T) {
	w := newWorld(t)
	pod := newPod(t, w.apiServer, "vm", allocated{"gpu", first}, allocated{"other", other})
	w.kubelet.prepare(t, pod)
	resources, err := w.kubelet.GetResources(pod, &pod.Spec.Containers[0])
	must(t, err)
	if len(resources.CDIDevices) != 2 {
		t.Fatalf("CDI devices: %v", resources.CDIDevices)
	}
	specs := w.specs()
	if len(specs) != 1 {
		t.Fatalf("specs: %v", specs)
	}
	content, err := os.ReadFile(specs[0])
	must(t, err)
	var spec struct {
		Kind    string
		Devices []struct {
			Name           string
			ContainerEdits struct {
				Env         []string
				DeviceNodes []struct{ Path string }
				Mounts      []struct{ HostPath, ContainerPath string }
			}
		}
	}
	must(t, json.Unmarshal(content, &spec))
	edits := spec.Devices[0].ContainerEdits
	if spec.Kind+"="+spec.Devices[0].Name != resources.CDIDevices[0].Name && spec.Kind+"="+spec.Devices[0].Name != resources.CDIDevices[1].Name {
		t.Fatalf("the kubelet has %v, the spec %s", resources.CDIDevices, content)
	}
	if len(edits.DeviceNodes) != 2 || edits.DeviceNodes[1].Path != "/dev/vfio/"+strconv.Itoa(group) {
		t.Fatalf("nodes: %v", edits.DeviceNodes)
	}
	if len(edits.Env) != 1 || !strings.HasPrefix(edits.Env[0], "PCI_RESOURCE_NVIDIA_COM_") || !strings.HasSuffix(edits.Env[0], "="+address) {
		t.Fatalf("variables: %v", edits.Env)
	}
	mount := edits.Mounts[0]
	path := "/var/run/kubernetes.io/dra-device-attributes/resourceclaims/" + pod.Name + "/gpu/" + driverName + "-metadata.json"
	if mount.ContainerPath != path {
		t.Fatalf("metadata is mounted at %s", mount.ContainerPath)
	}
	file, err := os.Open(mount.HostPath)
	must(t, err)
	defer file.Close()
	if claim, device := decodedMetadata(t, file); claim != pod.Name || device != address {
		t.Fatalf("metadata: %s %s", claim, device)
	}
	must(t, w.kubelet.UnprepareResources(context.Background(), pod))
	if len(w.specs()) != 0 || len(w.claims(t)) != 0 {
		t.Fatalf("left: %v %v", w.specs(), w.claims(t))
	}
	if _, err := os.Stat(mount.HostPath); !os.IsNotExist(err) {
		t.Fatalf("metadata is left: %v", err)
	}
}

func deviceOfAPreparedClaimIsNotTainted(t *testing.T) {
	w := newWorld(t)
	pod := newPod(t, w.apiServer, "vm", allocated{"gpu", first})
	w.kubelet.prepare(t, pod)
	vm := w.node.startVM(t, address, string(pod.UID))
	// Another device that is taken after it becomes tainted, so this one would be.
	foreign := w.node.startVM(t, otherAddress, "")
	waitForTaint(t, w.apiServer, other, "held")
	must(t, hasTaint(w.apiServer, first, ""))
	w.node.killVM(t, foreign)
	w.node.killVM(t, vm)
	must(t, w.kubelet.UnprepareResources(context.Background(), pod))
}

func refusalIsSentAfterTheTaintIsStored(t *testing.T) {
	// A hold is not reported by itself during this test.
	w := newWorld(t, "--settling=1h")
	pod := newPod(t, w.apiServer, "vm", allocated{"gpu", first})
	w.kubelet.prepare(t, pod)
	must(t, w.kubelet.UnprepareResources(context.Background(), pod))
	vm := w.node.startVM(t, address, "")
	must(t, hasTaint(w.apiServer, first, ""))
	err := w.kubelet.PrepareResources(context.Background(), pod)
	if stored := hasTaint(w.apiServer, first, "held"); stored != nil {
		t.Fatalf("refused before the taint was stored: %v; %v", stored, err)
	}
	if err == nil || !strings.Contains(err.Error(), "pid "+strconv.Itoa(vm)) {
		t.Fatalf("the refusal does not name the holder: %v", err)
	}
	w.refusalLeavesNothing(t, pod, vm)
}

// refusalLeavesNothing checks that nothing is left of a refused claim, and that it is prepared after the end of the VM that holds its device.
func (w *world) refusalLeavesNothing(t *testing.T, pod *corev1.Pod, vm int) {
	t.Helper()
	if len(w.specs()) != 0 || len(w.claims(t)) != 0 {
		t.Fatalf("left: %v %v", w.specs(), w.claims(t))
	}
	w.node.killVM(t, vm)
	waitForTaint(t, w.apiServer, first, "")
	w.kubelet.prepare(t, pod)
}

func prepareWaitsForVMThatIsClosing(t *testing.T) {
	w := newWorld(t, "--settling=1h")
	pod := newPod(t, w.apiServer, "vm", allocated{"gpu", first})
	w.kubelet.prepare(t, pod)
	must(t, w.kubelet.UnprepareResources(context.Background(), pod))
	vm := w.node.startVM(t, address, "")
	prepared := make(chan error, 1)
	go func() { prepared <- w.kubelet.PrepareResources(context.Background(), pod) }()
	select {
	case err := <-prepared:
		t.Fatalf("answered while the group was held: %v", err)
	case <-time.After(3 * time.Second):
	}
	w.node.killVM(t, vm)
	must(t, <-prepared)
}

func unprepareOfAHeldGroupSucceedsAfterTheTaintIsStored(t *testing.T) {
	w := newWorld(t, "--release=1s", "--settling=1h")
	pod := newPod(t, w.apiServer, "vm", allocated{"gpu", first})
	w.kubelet.prepare(t, pod)
	vm := w.node.startVM(t, address, string(pod.UID))
	err := w.kubelet.UnprepareResources(context.Background(), pod)
	stored := hasTaint(w.apiServer, first, "held")
	must(t, err)
	must(t, stored)
	w.node.killVM(t, vm)
	waitForTaint(t, w.apiServer, first, "")
}

func unprepareWithoutAPIServerFailsWhileTheGroupIsHeld(t *testing.T) {
	w := newWorld(t, "--release=1s", "--settling=1h")
	pod := newPod(t, w.apiServer, "vm", allocated{"gpu", first})
	w.kubelet.prepare(t, pod)
	vm := w.node.startVM(t, address, string(pod.UID))
	must(t, w.server.Process.Signal(syscall.SIGSTOP))
	err := w.kubelet.UnprepareResources(context.Background(), pod)
	if err == nil || !strings.Contains(err.Error(), "still held") {
		t.Fatalf("unprepared: %v", err)
	}
	if names := w.claims(t); len(names) != 1 {
		t.Fatalf("claims: %v", names)
	}
	must(t, w.server.Process.Signal(syscall.SIGCONT))
	eventually(t, "the kubelet asks again", func() error { return w.kubelet.UnprepareResources(context.Background(), pod) })
	must(t, hasTaint(w.apiServer, first, "held"))
	w.node.killVM(t, vm)
	waitForTaint(t, w.apiServer, first, "")
}

func unprepareWithoutAPIServerSucceedsForAFreeGroup(t *testing.T) {
	w := newWorld(t)
	pod := newPod(t, w.apiServer, "vm", allocated{"gpu", first})
	w.kubelet.prepare(t, pod)
	must(t, w.server.Process.Signal(syscall.SIGSTOP))
	must(t, w.kubelet.UnprepareResources(context.Background(), pod))
	must(t, w.server.Process.Signal(syscall.SIGCONT))
	if len(w.claims(t)) != 0 {
		t.Fatalf("claims: %v", w.claims(t))
	}
}

func restartedKubeletFindsItsSlicesAndClaimsAgain(t *testing.T) {
	w := newWorld(t)
	pod := newPod(t, w.apiServer, "vm", allocated{"gpu", first})
	w.kubelet.prepare(t, pod)
	vm := w.node.startVM(t, address, string(pod.UID))
	before := waitForAll(t, w.apiServer, 8)
	w.kubelet.end()
	w.kubelet = startKubelet(t, w.apiServer, w.dirs)
	eventually(t, "new slices are stored", func() error {
		devices, slices, err := published(w.apiServer)
		if err == nil && (len(devices) != 8 || slices[0].UID == before[0].UID) {
			err = notYet("%d devices", len(devices))
		}
		return err
	})
	opens := w.node.opens(t, group)
	w.kubelet.prepare(t, pod)
	if again := w.node.opens(t, group); again != opens {
		t.Fatalf("the group of a running VM was opened %d times", again-opens)
	}
	must(t, hasTaint(w.apiServer, first, ""))
	w.node.killVM(t, vm)
	must(t, w.kubelet.UnprepareResources(context.Background(), pod))
}

func restartedDriverKeepsClaims(t *testing.T) {
	w := newWorld(t)
	pod := newPod(t, w.apiServer, "vm", allocated{"gpu", first})
	w.kubelet.prepare(t, pod)
	vm := w.node.startVM(t, address, string(pod.UID))
	w.restartDriver(t)
	foreign := w.node.startVM(t, otherAddress, "")
	waitForTaint(t, w.apiServer, other, "held")
	must(t, hasTaint(w.apiServer, first, ""))
	w.node.killVM(t, foreign)
	w.node.killVM(t, vm)
	eventually(t, "the claim is unprepared", func() error { return w.kubelet.UnprepareResources(context.Background(), pod) })
}

func rebootMakesClaimsNew(t *testing.T) {
	w := newWorld(t)
	boot := "proc/sys/kernel/random/boot_id"
	pod := newPod(t, w.apiServer, "vm", allocated{"gpu", first})
	w.kubelet.prepare(t, pod)
	must(t, os.MkdirAll(filepath.Dir(filepath.Join(w.node.root, boot)), 0o755))
	w.node.write(t, boot, "6f1f0c3c-0000-4000-8000-000000000002\n")
	w.driver.end(t)
	// The directory is on a tmpfs.
	must(t, os.RemoveAll(w.dirs.cdi))
	w.kubelet.end()
	w.driver = startDriver(t, w.apiServer, w.node, w.dirs, "--settling=1h")
	w.kubelet = startKubelet(t, w.apiServer, w.dirs)
	waitForAll(t, w.apiServer, 8)
	opens := w.node.opens(t, group)
	w.kubelet.prepare(t, pod)
	if w.node.opens(t, group) == opens || len(w.specs()) != 1 {
		t.Fatalf("opened %d times, specs %v", w.node.opens(t, group)-opens, w.specs())
	}
}

func foreignHolderOfAPreparedDeviceIsRefused(t *testing.T) {
	w := newWorld(t)
	pod := newPod(t, w.apiServer, "vm", allocated{"gpu", first})
	w.kubelet.prepare(t, pod)
	w.kubelet.end()
	vm := w.node.startVM(t, address, "")
	w.kubelet = startKubelet(t, w.apiServer, w.dirs)
	eventually(t, "the claim is refused", func() error {
		err := w.kubelet.PrepareResources(context.Background(), pod)
		if err == nil || !strings.Contains(err.Error(), "pid "+strconv.Itoa(vm)) {
			return notYet("%v", err)
		}
		return nil
	})
}

func claimedAndUnknownDevicesAreRefused(t *testing.T) {
	w := newWorld(t)
	pod := newPod(t, w.apiServer, "vm", allocated{"gpu", first})
	w.kubelet.prepare(t, pod)
	again := newPod(t, w.apiServer, "again", allocated{"gpu", first})
	err := w.kubelet.PrepareResources(context.Background(), again)
	if err == nil || !strings.Contains(err.Error(), "claim default/vm has it") {
		t.Fatalf("two claims have one device: %v", err)
	}
	unknown := newPod(t, w.apiServer, "unknown", allocated{"gpu", "pci-0000-ff-00-0"})
	err = w.kubelet.PrepareResources(context.Background(), unknown)
	if err == nil || !strings.Contains(err.Error(), "0000:ff:00.0") {
		t.Fatalf("a device that does not exist was prepared: %v", err)
	}
}

func removedSocketsAreMadeAgain(t *testing.T) {
	w := newWorld(t)
	for _, path := range []string{filepath.Join(w.dirs.registry, driverName+"@reg.sock"), filepath.Join(w.dirs.plugins, "dra.sock")} {
		must(t, os.Remove(path))
		eventually(t, path+" is there again", func() error { return second(os.Stat(path)) })
	}
	w.kubelet.prepare(t, newPod(t, w.apiServer, "vm", allocated{"gpu", first}))
}

func slicesThatOthersChangeAreRestored(t *testing.T) {
	w := newWorld(t)
	ctx, slices := context.Background(), w.admin.ResourceV1().ResourceSlices()
	stored := waitForAll(t, w.apiServer, 8)
	slice := stored[0].DeepCopy()
	slice.Spec.Devices = slice.Spec.Devices[:3]
	must(t, second(slices.Update(ctx, slice, metav1.UpdateOptions{})))
	waitForAll(t, w.apiServer, 8)
	must(t, slices.Delete(ctx, stored[0].Name, metav1.DeleteOptions{}))
	eventually(t, "another slice is created", func() error {
		devices, now, err := published(w.apiServer)
		if err == nil && (len(devices) != 8 || now[0].UID == stored[0].UID) {
			err = notYet("%d devices", len(devices))
		}
		return err
	})
}
