// Command agent is a node agent: it watches the VFIO devices of a node and exports their state on /metrics.
//
// It opens no group without the flag -probe. /healthz returns 200 while the node can be read, else 503. On SIGTERM it
// waits up to five seconds for the requests in progress and exits with status 0.
package main

import (
	"context"
	"errors"
	"flag"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	vfioprobe "github.com/vfio-probe/vfio-probe/go/vfioprobe"
)

func main() {
	listen := flag.String("listen", ":9185", "address to serve /metrics and /healthz on")
	path := flag.String("root", "/", "directory that contains sys, dev and proc")
	var options vfioprobe.WatchOptions
	flag.DurationVar(&options.Interval, "interval", time.Second, "time between two peeks")
	flag.BoolVar(&options.Probe, "probe", false, "probe groups where a peek is not conclusive; a VM that opens a group during a probe fails")
	flag.Parse()
	if flag.NArg() > 0 || options.Interval <= 0 {
		flag.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if err := run(ctx, *listen, *path, options); err != nil {
		log.Fatal(err)
	}
}

// run serves requests until the context is done.
func run(ctx context.Context, listen, path string, options vfioprobe.WatchOptions) error {
	root, err := vfioprobe.Open(path)
	if err != nil {
		return err
	}
	defer root.Close()
	watch, err := root.Watch(ctx, options)
	if err != nil {
		return err
	}
	defer watch.Close()
	listener, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	log.Printf("listening on %s", listener.Addr())

	follower := newFollower(watch, options.Interval)
	registry := prometheus.NewRegistry()
	registry.MustRegister(follower.events, follower.failures, nodeCollector{watch})
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{
		ErrorLog: log.Default(),
		// An invalid series must not hide the others.
		ErrorHandling: promhttp.ContinueOnError,
	}))
	mux.Handle("GET /healthz", follower)
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}

	followed := make(chan struct{})
	go func() {
		defer close(followed)
		follower.follow()
	}()
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	last, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := server.Shutdown(last); err != nil {
		log.Printf("closed the remaining requests: %v", err)
		server.Close()
	}
	<-followed
	return nil
}

// follower consumes the events of the watch: the watch reads the host only while a loop waits for events.
type follower struct {
	watch    *vfioprobe.Watch
	interval time.Duration
	events   *prometheus.CounterVec
	failures prometheus.Counter
	// Time of the latest failed pass, in nanoseconds since 1970, or 0.
	failed atomic.Int64
}

func newFollower(watch *vfioprobe.Watch, interval time.Duration) *follower {
	return &follower{
		watch:    watch,
		interval: interval,
		events: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "vfio_watch_events_total", Help: "Events of the watch, by kind.",
		}, []string{"kind"}),
		failures: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "vfio_watch_failures_total", Help: "Passes in which the bound devices could not be listed.",
		}),
	}
}

// follow logs and counts events until the watch ends.
func (f *follower) follow() {
	for event, err := range f.watch.Events() {
		if err != nil {
			f.failed.Store(time.Now().UnixNano())
			f.failures.Inc()
			log.Print(err)
			continue
		}
		f.events.WithLabelValues(event.Kind.String()).Inc()
		switch {
		case event.Group != vfioprobe.NoGroup:
			log.Printf("group %s: %s", event.Group, event.Kind)
		case event.Device != "":
			log.Printf("%s: %s", event.Device, event.Kind)
		default:
			log.Printf("watch: %s", event.Kind)
		}
	}
}

// ServeHTTP reports whether the node can be read. The watch reports a failure once per failed pass, about once per interval.
func (f *follower) ServeHTTP(response http.ResponseWriter, _ *http.Request) {
	failed := f.failed.Load()
	if _, err := f.watch.Groups(); errors.Is(err, vfioprobe.ErrClosed) {
		http.Error(response, "the watch has ended", http.StatusServiceUnavailable)
	} else if failed != 0 && time.Since(time.Unix(0, failed)) < 2*f.interval+time.Second {
		http.Error(response, "the devices of the node cannot be listed", http.StatusServiceUnavailable)
	} else {
		response.Write([]byte("ok\n"))
	}
}
