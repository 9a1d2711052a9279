package pipeline_test

import (
	"errors"
	"io"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
)

// proxy connects a program with a server. It can go silent: TCP acknowledges every byte, and
// nothing answers, on the connections that exist and on new ones. A connection that was once silent
// stays silent when the proxy has healed, as behind a firewall that has forgotten it.
type proxy struct {
	listener net.Listener
	server   string
	silent   atomic.Bool
	greet    atomic.Pointer[func(c net.Conn) bool] // handles a new connection; true: it is done with

	mu    sync.Mutex
	conns []*proxied
	wg    sync.WaitGroup
}

type proxied struct {
	client, server net.Conn
	mute           atomic.Bool
}

func newProxy(t *testing.T, server string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{listener: l, server: server}
	p.wg.Go(p.accept)
	t.Cleanup(func() {
		_ = l.Close()
		p.cut()
		p.wg.Wait()
	})
	return p
}

// proxiedURL returns the URL of a server with the address of a new proxy before it.
func proxiedURL(t *testing.T, server string) (string, *proxy) {
	t.Helper()
	u, err := url.Parse(server)
	if err != nil {
		t.Fatal(err)
	}
	p := newProxy(t, u.Host)
	u.Host = p.listener.Addr().String()
	return u.String(), p
}

func (p *proxy) accept() {
	for {
		c, err := p.listener.Accept()
		if err != nil {
			return
		}
		if greet := p.greet.Load(); greet != nil && (*greet)(c) {
			_ = c.Close()
			continue
		}
		s, err := net.Dial("tcp", p.server)
		if err != nil {
			_ = c.Close()
			continue
		}
		x := &proxied{client: c, server: s}
		x.mute.Store(p.silent.Load())
		p.mu.Lock()
		p.conns = append(p.conns, x)
		p.mu.Unlock()
		p.wg.Go(func() { x.copy(s, c) })
		p.wg.Go(func() { x.copy(c, s) })
	}
}

// copy forwards bytes. What arrives on a mute connection is read and dropped.
func (x *proxied) copy(to, from net.Conn) {
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 && !x.mute.Load() {
			if _, werr := to.Write(buf[:n]); werr != nil {
				err = werr
			}
		}
		if err != nil {
			if !x.mute.Load() || errors.Is(err, net.ErrClosed) {
				_ = to.Close()
			}
			if !errors.Is(err, io.EOF) {
				_ = from.Close()
			}
			return
		}
	}
}

// silence makes the connections that exist mute forever, and new ones until heal.
func (p *proxy) silence() {
	p.silent.Store(true)
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, x := range p.conns {
		x.mute.Store(true)
	}
}

// heal lets new connections through.
func (p *proxy) heal() { p.silent.Store(false) }

// cut closes all connections.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, x := range p.conns {
		_ = x.client.Close()
		_ = x.server.Close()
	}
}
