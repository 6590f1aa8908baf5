package vfioprobe

import "testing"

func TestFullQueueBecomesOneRescan(t *testing.T) {
	b := inbox{changed: make(chan struct{})}
	for range maxQueued {
		b.deliver(news{event: Event{Kind: EventBound, Group: NoGroup}})
	}
	if len(b.queue) != maxQueued {
		t.Fatal(len(b.queue))
	}
	b.deliver(news{event: Event{Kind: EventHeld, Group: 51}})
	if len(b.queue) != 1 || b.queue[0].event != (Event{Kind: EventRescan, Group: NoGroup}) {
		t.Error(b.queue)
	}
}

// It comes once, so a caller that waits for it would otherwise never return.
func TestFullQueueKeepsReady(t *testing.T) {
	ready := Event{Kind: EventReady, Group: NoGroup}
	for _, place := range []int{0, maxQueued / 2, maxQueued} {
		b := inbox{changed: make(chan struct{})}
		for number := range maxQueued + 1 {
			event := Event{Kind: EventHeld, Group: 51}
			if number == place {
				event = ready
			}
			b.deliver(news{event: event})
		}
		if len(b.queue) != 2 || b.queue[0].event.Kind != EventRescan || b.queue[1].event != ready {
			t.Errorf("ready at %d: %v", place, b.queue)
		}
	}
}

func TestFailureWithoutReaderIsNotQueued(t *testing.T) {
	b := inbox{changed: make(chan struct{})}
	failed := invalid("failed")
	b.deliver(news{err: failed})
	if len(b.queue) != 0 || b.failures != 1 || b.failure != failed {
		t.Errorf("%+v", b.queue)
	}
	b.join()
	b.deliver(news{err: failed})
	b.leave()
	if len(b.queue) != 1 || b.failures != 2 || b.readers != 0 {
		t.Errorf("%+v", b.queue)
	}
}
