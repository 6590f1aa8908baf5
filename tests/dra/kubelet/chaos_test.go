package kubelet

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourceapi "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	corelisters "k8s.io/client-go/listers/core/v1"
	resourcelisters "k8s.io/client-go/listers/resource/v1"
	"k8s.io/client-go/tools/cache"
)

var (
	chaosSteps = flag.Int("steps", 2000, "random steps of TestChaos in all")
	chaosNodes = flag.Int("nodes", 16, "nodes of TestChaos, which share the steps")
	// The steps of a seed are always the same. The other programs take their own time, so a violation may need several runs.
	chaosSeed   = flag.Uint64("seed", 1, "the seed of the first node; the others have the next ones")
	chaosExpect = flag.String("expect-violation", "", "TestChaos succeeds only if it finds a violation that this regular expression matches")
	chaosTrace  = flag.Bool("trace", false, "print every step of TestChaos")
)

// cluster is what the nodes share.
type cluster struct {
	*apiServer
	pods   corelisters.PodLister
	claims resourcelisters.ResourceClaimLister
	slices resourcelisters.ResourceSliceLister

	mu sync.Mutex
	// stop is set when a node has found a violation.
	stop   bool
	counts chaosCounts
}

type chaosCounts struct{ steps, moves, pods, prepared, barriers, excused, late, checks, taints int }

// TestChaos plays random steps on nodes of a cluster with the real scheduler and controllers.
//
// After each step each node must come to the state in which the devices that the scheduler can allocate are those that can be
// opened. No held device is ever prepared, and both barriers hold. The driver writes slices at most once a second, so the nodes play
// at the same time.
func TestChaos(t *testing.T) {
	expected, err := regexp.Compile(*chaosExpect)
	must(t, err)
	needInotifyFor(t, *chaosNodes)
	began := time.Now()
	c := &cluster{apiServer: startAPIServer(t, t.TempDir())}
	startControllers(t, c.apiServer, t.TempDir())
	createClasses(t, c.apiServer)
	c.watch(t)
	var violations []string
	t.Run("nodes", func(t *testing.T) {
		for number := range *chaosNodes {
			seed := *chaosSeed + uint64(number)
			steps := (*chaosSteps + number) / *chaosNodes
			t.Run(fmt.Sprintf("seed-%d", seed), func(t *testing.T) {
				t.Parallel()
				n := newChaosNode(t, c, fmt.Sprintf("chaos-%d", number), rand.New(rand.NewPCG(seed, 17)))
				if violation := n.play(steps); violation != "" {
					c.mu.Lock()
					defer c.mu.Unlock()
					c.stop = true
					violations = append(violations, fmt.Sprintf("%s: %s\n  the driver's log: %s\n  repeat its steps with: scripts/xtask dra-chaos %d %d 1", n.name, violation, n.log, steps, seed))
				}
			})
		}
	})
	counts := c.counts
	conclude("%d steps (%d moves) on %d nodes, %d pods, %d claims prepared, barriers: %d checked, %d excused; %d late writes, %d checks, %d taints seen, %d violations, %.0f s",
		counts.steps, counts.moves, *chaosNodes, counts.pods, counts.prepared, counts.barriers, counts.excused, counts.late, counts.checks, counts.taints, len(violations),
		time.Since(began).Seconds())
	if limit := 1 + counts.steps/100; counts.late > limit {
		violations = append(violations, fmt.Sprintf("%d writes came late, which chance does not explain: the limit is %d", counts.late, limit))
	}
	is := slices.IndexFunc(violations, func(violation string) bool { return expected.MatchString(firstLine(violation)) })
	if *chaosExpect != "" && is >= 0 {
		conclude("found, as expected: %s", firstLine(violations[is]))
		return
	}
	for _, violation := range violations {
		conclude("violation on %s", violation)
	}
	switch {
	case *chaosExpect != "":
		conclude("no violation matches %q, although one was expected", *chaosExpect)
		t.Fail()
	case len(violations) > 0:
		conclude("repeat the steps of all nodes with: scripts/xtask dra-chaos %d %d %d", *chaosSteps, *chaosSeed, *chaosNodes)
		t.Fail()
	}
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return line
}

// watch starts the caches. What they show is confirmed by a request before it counts.
func (c *cluster) watch(t *testing.T) {
	t.Helper()
	factory := informers.NewSharedInformerFactory(c.admin, 0)
	pods, claims, slices := factory.Core().V1().Pods(), factory.Resource().V1().ResourceClaims(), factory.Resource().V1().ResourceSlices()
	c.pods, c.claims, c.slices = pods.Lister(), claims.Lister(), slices.Lister()
	informed := []cache.InformerSynced{pods.Informer().HasSynced, claims.Informer().HasSynced, slices.Informer().HasSynced}
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	factory.Start(ctx.Done())
	if !cache.WaitForCacheSync(ctx.Done(), informed...) {
		t.Fatal("the caches do not fill")
	}
}

func (c *cluster) count(add func(*chaosCounts)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	add(&c.counts)
}

func (c *cluster) isStopped() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stop
}

// view is what the API server stores of a node.
type view struct {
	pods   []*corev1.Pod
	claims []*resourceapi.ResourceClaim
	slices []*resourceapi.ResourceSlice
}

// cached returns what the caches have of a node.
func (c *cluster) cached(node string) (view, error) {
	var v view
	pods, err := c.pods.Pods("default").List(labels.Set{"node": node}.AsSelector())
	if err != nil {
		return v, err
	}
	claims, err := c.claims.ResourceClaims("default").List(labels.Everything())
	if err != nil {
		return v, err
	}
	slices, err := c.slices.List(labels.Everything())
	return view{pods, claims, slices}.of(node), err
}

// of leaves out what belongs to other nodes.
func (v view) of(node string) view {
	of := view{pods: v.pods}
	for _, claim := range v.claims {
		// A generated claim has the name of its pod, which has the name of its node.
		if nodeOfPod(claim.Name) == node {
			of.claims = append(of.claims, claim)
		}
	}
	for _, slice := range v.slices {
		if slice.Spec.NodeName != nil && *slice.Spec.NodeName == node {
			of.slices = append(of.slices, slice)
		}
	}
	return of
}
