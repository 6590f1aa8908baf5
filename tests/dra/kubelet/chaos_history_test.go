package kubelet

import (
	"fmt"
	"strings"
	"sync"
	"time"
)

// maxHistory is how many of the latest events are kept.
const maxHistory = 40

// logTail is what a violation shows of the driver's log, in bytes.
const logTail = 6 << 10

// history is what has happened on a node lately: a violation shows it, because the log of a CI run is all that is left of it.
type history struct {
	mu    sync.Mutex
	lines []string
}

func (h *history) note(format string, arguments ...any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lines = append(h.lines, time.Now().UTC().Format("15:04:05.000 ")+fmt.Sprintf(format, arguments...))
	if len(h.lines) > maxHistory {
		h.lines = h.lines[1:]
	}
}

func (h *history) String() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return strings.Join(h.lines, "\n    ")
}

// described returns what is on a node, what has happened there lately, and the end of the driver's log.
func (n *chaosNode) described() string {
	log := strings.Split(strings.TrimSpace(string(tailOf(n.log, logTail))), "\n")
	return fmt.Sprintf("%s\n  latest events:\n    %s\n  end of the driver's log:\n    %s", n.describe(), &n.history, strings.Join(log[1:], "\n    "))
}
