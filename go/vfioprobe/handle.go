package vfioprobe

import "sync/atomic"

// handle counts the calls in progress with a C object. The object is freed after the last call, so that Close does not
// wait: an open can hang in the kernel for seconds.
type handle struct {
	// Twice the number of calls in progress, plus 1 if closed.
	state atomic.Int64
	free  func()
}

// acquire starts a call. It returns false if the handle is closed; otherwise the caller must call release.
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

// release ends a call, and frees the object after the last call of a closed handle.
func (h *handle) release() {
	// The value 1 occurs once: acquire fails after close.
	if h.state.Add(-2) == 1 {
		h.free()
	}
}

// close makes acquire fail, and frees the object if no call is in progress. Closing again has no effect.
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
