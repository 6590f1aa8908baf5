package vfioprobe

import "sync/atomic"

// handle counts the calls that are under way with something of C's, so that it is freed after the last of them and
// Close waits for none: an open can hang in the kernel for seconds.
type handle struct {
	// Twice the calls under way, plus 1 when closed.
	state atomic.Int64
	free  func()
}

// acquire begins a call; false when closed. A release must follow true.
func (h *handle) acquire() bool {
	for {
		state := h.state.Load()
		if state&1 != 0 {
			return false
		}
		if h.state.CompareAndSwap(state, state+2) {
			return true
		}
	}
}

// release ends a call.
func (h *handle) release() {
	// 1 is reached once only: nothing is acquired after closed.
	if h.state.Add(-2) == 1 {
		h.free()
	}
}

// close refuses calls from now on, and frees when none is under way. Doing it again does nothing.
func (h *handle) close() {
	for {
		state := h.state.Load()
		if state&1 != 0 {
			return
		}
		if h.state.CompareAndSwap(state, state|1) {
			if state == 0 {
				h.free()
			}
			return
		}
	}
}
