package main

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	api "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

const (
	pluginDir = "/var/lib/kubelet/device-plugins"
	resource  = "example.com/gpu"
	devices   = 8
)

// plugin is one process in the role of a device plugin: a server on a socket of its own.
type plugin struct {
	api.UnimplementedDevicePluginServer
	endpoint string
	server   *grpc.Server
	refuses  bool
	stop     sync.Once
	// endStream ends the ListAndWatch stream; streamEnded is closed when it has ended, followed when the kubelet has opened it.
	endStream, streamEnded, followed chan struct{}
	// closed is closed when the kubelet closes its connection.
	closed chan struct{}
}

func serve(endpoint string) (*plugin, error) { return serveAs(endpoint, false) }

// serveAs serves on a socket. A plugin that refuses fails GetDevicePluginOptions, so that the kubelet does not register it.
func serveAs(endpoint string, refuses bool) (*plugin, error) {
	p := &plugin{
		endpoint: endpoint, refuses: refuses, server: grpc.NewServer(),
		endStream: make(chan struct{}), streamEnded: make(chan struct{}), followed: make(chan struct{}), closed: make(chan struct{}),
	}
	path := filepath.Join(pluginDir, endpoint)
	_ = os.Remove(path)
	listener, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	api.RegisterDevicePluginServer(p.server, p)
	go func() { _ = p.server.Serve(watched{listener, p}) }()
	return p, nil
}

// register calls the kubelet's Register and waits until the kubelet follows the stream.
func (p *plugin) register() error {
	connection, err := grpc.NewClient("unix://"+filepath.Join(pluginDir, "kubelet.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer connection.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	request := &api.RegisterRequest{Version: api.Version, Endpoint: p.endpoint, ResourceName: resource}
	_, err = api.NewRegistrationClient(connection).Register(ctx, request)
	if p.refuses {
		if err == nil {
			return errors.New("the kubelet registered a plugin that refuses")
		}
		return nil
	}
	if err != nil {
		return err
	}
	select {
	case <-p.followed:
	case <-ctx.Done():
		return errors.New("the kubelet follows no stream")
	}
	// The list has to reach the kubelet's device manager.
	time.Sleep(50 * time.Millisecond)
	return nil
}

// stopStream ends the stream and keeps the server and its connection.
func (p *plugin) stopStream() {
	p.stop.Do(func() { close(p.endStream) })
	<-p.streamEnded
	// The end has to reach the kubelet.
	time.Sleep(100 * time.Millisecond)
}

// isClosed returns whether the kubelet has closed the connection.
func (p *plugin) isClosed() bool {
	select {
	case <-p.closed:
		return true
	case <-time.After(time.Second):
		return false
	}
}

// end ends the server as the exit of a process does.
func (p *plugin) end() { p.server.Stop() }

// GetDevicePluginOptions is what the kubelet calls within Register.
func (p *plugin) GetDevicePluginOptions(context.Context, *api.Empty) (*api.DevicePluginOptions, error) {
	if p.refuses {
		return nil, errors.New("not to be registered")
	}
	return &api.DevicePluginOptions{}, nil
}

// ListAndWatch sends one list.
func (p *plugin) ListAndWatch(_ *api.Empty, stream api.DevicePlugin_ListAndWatchServer) error {
	defer close(p.streamEnded)
	list := &api.ListAndWatchResponse{}
	for number := range devices {
		list.Devices = append(list.Devices, &api.Device{ID: strconv.Itoa(number), Health: api.Healthy})
	}
	if err := stream.Send(list); err != nil {
		return err
	}
	close(p.followed)
	select {
	case <-p.endStream:
	case <-stream.Context().Done():
	}
	return nil
}

// watched notes when the peer closes a connection.
type watched struct {
	net.Listener
	plugin *plugin
}

func (w watched) Accept() (net.Conn, error) {
	connection, err := w.Listener.Accept()
	return &watchedConnection{Conn: connection, plugin: w.plugin}, err
}

type watchedConnection struct {
	net.Conn
	plugin *plugin
	once   sync.Once
}

func (c *watchedConnection) Read(buffer []byte) (int, error) {
	n, err := c.Conn.Read(buffer)
	if err != nil {
		c.once.Do(func() { close(c.plugin.closed) })
	}
	return n, err
}
