package main

import (
	"time"
)

// samplePeriod is how often a sample is kept: an operator who polls the node's status would see this.
const samplePeriod = 200 * time.Millisecond

// samples is what a sampler has found.
type samples struct {
	// GapMicroseconds is for how long fewer devices than wanted were allocatable.
	GapMicroseconds int64 `json:"gap_us"`
	// Lowest is the lowest number of allocatable devices.
	Lowest int64 `json:"lowest"`
	// Count is the number of samples.
	Count int64 `json:"count"`
	// PauseMicroseconds is the longest time between two samples. A shorter gap could be missed.
	PauseMicroseconds int64 `json:"pause_us"`
	// Kept has one sample for each samplePeriod.
	Kept []int64 `json:"kept"`
}

// sampler asks the device manager for allocatable devices of a resource without a pause, beside all other requests.
type sampler struct {
	stop  chan struct{}
	found chan samples
}

func startSampler(n *node, resource string, wanted int64) *sampler {
	s := &sampler{stop: make(chan struct{}), found: make(chan samples, 1)}
	go s.run(n, resource, wanted)
	return s
}

func (s *sampler) run(n *node, resource string, wanted int64) {
	var gap, pause time.Duration
	found := samples{Lowest: wanted, Kept: []int64{}}
	last, next := time.Now(), time.Now()
	for {
		_, allocatable := getCapacity(n.ctx, n.devices)
		number := counts(allocatable)[resource]
		now := time.Now()
		found.Count++
		found.Lowest = min(found.Lowest, number)
		pause = max(pause, now.Sub(last))
		if number < wanted {
			gap += now.Sub(last)
		}
		if !now.Before(next) {
			found.Kept = append(found.Kept, number)
			next = next.Add(samplePeriod)
		}
		last = now
		select {
		case <-s.stop:
			found.GapMicroseconds, found.PauseMicroseconds = gap.Microseconds(), pause.Microseconds()
			s.found <- found
			return
		default:
		}
	}
}

// end stops the sampler and returns what it has found.
func (s *sampler) end() samples {
	close(s.stop)
	return <-s.found
}
