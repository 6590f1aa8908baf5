package main

import "time"

// outcome is what an order results in.
type outcome struct {
	// gap: devices were missing for some time.
	gap bool
	// noticed: after the order, the kubelet notices the end of the last plugin.
	noticed bool
}

// order is one order of steps. steps returns the plugin that serves in the end.
type order struct {
	name         string
	steps        func(first *plugin) (*plugin, error)
	older, newer outcome
}

var (
	whole     = outcome{noticed: true}
	withGap   = outcome{gap: true, noticed: true}
	unwatched = outcome{}
)

// orders are those of docs/upgrades.md. The older versions are those up to Kubernetes 1.36.
var orders = []order{
	{"the first ends, then the second registers", endThenRegister, withGap, withGap},
	{"the second registers, then the first ends; the second registers again if it is evicted", registerThenEnd, withGap, whole},
	{"as before, after a registration that fails", voidThenEnd, unwatched, whole},
	{"as before, and the second renews its stream unless the kubelet closed the first's connection", voidThenRenew, whole, whole},
}

func endThenRegister(first *plugin) (*plugin, error) {
	first.end()
	second, err := serve("second.sock")
	if err != nil {
		return nil, err
	}
	return second, second.register()
}

func registerThenEnd(first *plugin) (*plugin, error) {
	second, err := serve("second.sock")
	if err != nil {
		return nil, err
	}
	if err := second.register(); err != nil {
		return nil, err
	}
	first.end()
	select {
	case <-second.streamEnded:
		// Evicted: the kubelet has closed the second's connection. It registers again on a new socket.
		third, err := serve("third.sock")
		if err != nil {
			return nil, err
		}
		return third, third.register()
	case <-time.After(200 * time.Millisecond):
		return second, nil
	}
}

// void registers a plugin that refuses. Kubelets up to 1.36 then forget the client of the resource's name (connectClient).
func void() error {
	refusing, err := serveAs("void.sock", true)
	if err != nil {
		return err
	}
	defer refusing.end()
	return refusing.register()
}

func voidThenEnd(first *plugin) (*plugin, error) {
	second, err := serve("second.sock")
	if err != nil {
		return nil, err
	}
	if err := second.register(); err != nil {
		return nil, err
	}
	if err := void(); err != nil {
		return nil, err
	}
	first.end()
	return second, nil
}

func voidThenRenew(first *plugin) (*plugin, error) {
	second, err := serve("second.sock")
	if err != nil {
		return nil, err
	}
	if err := second.register(); err != nil {
		return nil, err
	}
	if err := void(); err != nil {
		return nil, err
	}
	first.stopStream()
	closed := first.isClosed()
	first.end()
	if closed {
		// From 1.37 on the kubelet has dropped the first plugin alone.
		return second, nil
	}
	// The kubelet has no client of this name: the end of the stream has no effect, and the next registration is an ordinary one.
	second.stopStream()
	third, err := serve("third.sock")
	if err != nil {
		return nil, err
	}
	if err := third.register(); err != nil {
		return nil, err
	}
	second.end()
	return third, nil
}
