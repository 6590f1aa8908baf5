//go:build !older

package kubelet

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	resourceapi "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"
)

// sliceWatch knows the stored slices from a watch, and when they came to a state.
type sliceWatch struct {
	mu     sync.Mutex
	stored map[types.UID]*resourceapi.ResourceSlice
	waits  []sliceWait
}

// sliceWait is for the first event after which the slices of a driver are as expected.
type sliceWait struct {
	driver   string
	expected func([]*resourceapi.ResourceSlice) bool
	happens  chan time.Time
}

func watchSlices(t *testing.T, s *apiServer) *sliceWatch {
	t.Helper()
	w := &sliceWatch{stored: map[types.UID]*resourceapi.ResourceSlice{}}
	factory := informers.NewSharedInformerFactory(clientOf(t, s.kubeconfig, "admin"), 0)
	informer := factory.Resource().V1().ResourceSlices().Informer()
	_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(object any) { w.take(object, true) },
		UpdateFunc: func(_, object any) { w.take(object, true) },
		DeleteFunc: func(object any) {
			if last, isLast := object.(cache.DeletedFinalStateUnknown); isLast {
				object = last.Obj
			}
			w.take(object, false)
		},
	})
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	factory.Start(ctx.Done())
	if !cache.WaitForCacheSync(ctx.Done(), informer.HasSynced) {
		t.Fatal("the cache does not fill")
	}
	return w
}

func (w *sliceWatch) take(object any, exists bool) {
	at := time.Now()
	slice := object.(*resourceapi.ResourceSlice)
	w.mu.Lock()
	defer w.mu.Unlock()
	if exists {
		w.stored[slice.UID] = slice
	} else {
		delete(w.stored, slice.UID)
	}
	w.waits = slices.DeleteFunc(w.waits, func(wait sliceWait) bool {
		done := wait.driver == slice.Spec.Driver && wait.expected(w.locked(wait.driver))
		if done {
			wait.happens <- at
		}
		return done
	})
}

func (w *sliceWatch) locked(driver string) []*resourceapi.ResourceSlice {
	of := slices.DeleteFunc(slices.Collect(maps.Values(w.stored)), func(slice *resourceapi.ResourceSlice) bool { return slice.Spec.Driver != driver })
	slices.SortFunc(of, func(a, b *resourceapi.ResourceSlice) int { return strings.Compare(a.Name, b.Name) })
	return of
}

// of returns the slices of a driver, in the order of their names.
func (w *sliceWatch) of(driver string) []*resourceapi.ResourceSlice {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.locked(driver)
}

// await returns a channel that has the time of the next event after which the slices of a driver are as expected.
func (w *sliceWatch) await(driver string, expected func([]*resourceapi.ResourceSlice) bool) chan time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	happens := make(chan time.Time, 1)
	w.waits = append(w.waits, sliceWait{driver, expected, happens})
	return happens
}

func (w *sliceWatch) check(driver string, expected func([]*resourceapi.ResourceSlice) bool) error {
	if of := w.of(driver); !expected(of) {
		return notYet("%d slices", len(of))
	}
	return nil
}

// auditPolicy records the requests of the drivers. A watch has one record when it begins and one when it ends.
const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Metadata
  users: ["` + account + `", "` + helperAccount + `"]
- level: None
`

// auditLog is the API server's record of requests.
type auditLog struct {
	path  string
	flags []string
}

func newAuditLog(t *testing.T) *auditLog {
	t.Helper()
	directory := t.TempDir()
	policy, log := filepath.Join(directory, "policy.yaml"), filepath.Join(directory, "audit.log")
	must(t, os.WriteFile(policy, []byte(auditPolicy), 0o600))
	return &auditLog{path: log, flags: []string{"--audit-policy-file=" + policy, "--audit-log-path=" + log}}
}

// request is a record of the log.
type request struct {
	AuditID                  string
	Stage, Verb, RequestURI  string
	User                     struct{ Username string }
	RequestReceivedTimestamp time.Time
}

// requests are in the order in which they ended.
type requests []request

func (a *auditLog) read(t *testing.T, user string) requests {
	t.Helper()
	file, err := os.Open(a.path)
	must(t, err)
	defer file.Close()
	var found requests
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var r request
		must(t, json.Unmarshal(lines.Bytes(), &r))
		if r.User.Username == user {
			found = append(found, r)
		}
	}
	must(t, lines.Err())
	return found
}

// between returns the requests of a user that the API server received in this time.
func (a *auditLog) between(t *testing.T, user string, began, ended time.Time) requests {
	t.Helper()
	return slices.DeleteFunc(a.read(t, user), func(r request) bool {
		isEndOfWatch := r.Verb == "watch" && r.Stage != "ResponseStarted"
		return isEndOfWatch || r.RequestReceivedTimestamp.Before(began) || r.RequestReceivedTimestamp.After(ended)
	})
}

// watches returns how many watches of a user have not ended.
func (a *auditLog) watches(t *testing.T, user string) int {
	t.Helper()
	open := map[string]bool{}
	for _, r := range a.read(t, user) {
		switch {
		case r.Verb != "watch":
		case r.Stage == "ResponseStarted":
			open[r.AuditID] = true
		default:
			delete(open, r.AuditID)
		}
	}
	return len(open)
}

// writes returns those that change what is stored.
func (r requests) writes() requests {
	return slices.DeleteFunc(slices.Clone(r), func(one request) bool {
		return slices.Contains([]string{"get", "list", "watch"}, one.Verb) || strings.Contains(one.RequestURI, "dryRun=")
	})
}

// String returns how many there are of each verb.
func (r requests) String() string {
	counts := map[string]int{}
	for _, one := range r {
		counts[one.Verb]++
	}
	if len(counts) == 0 {
		return "no request"
	}
	var parts []string
	for _, verb := range slices.Sorted(maps.Keys(counts)) {
		parts = append(parts, fmt.Sprintf("%d %s", counts[verb], verb))
	}
	return strings.Join(parts, ", ")
}

// most returns the highest number of requests that were received within a time.
func most(r requests, within time.Duration) int {
	highest := 0
	times := []time.Time{}
	for _, one := range r {
		times = append(times, one.RequestReceivedTimestamp)
	}
	slices.SortFunc(times, time.Time.Compare)
	for first, at := range times {
		last := first
		for last < len(times) && times[last].Sub(at) < within {
			last++
		}
		highest = max(highest, last-first)
	}
	return highest
}
