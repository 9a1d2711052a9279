// Package redisxtest puts a network between a test and its Redis: one address whose target can
// change.
package redisxtest

import (
	"net"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/redis/rueidis"
)

// Proxy is one address that leads to a server of the moment. New connections go to the current
// target; those that exist stay where they are, as behind a name in DNS. This type is concurrency
// safe.
type Proxy struct {
	// Addr is what a client dials.
	Addr string

	url      string // of the first server, with its password
	accepted atomic.Int64
	mu       sync.Mutex
	target   string
	conns    map[net.Conn]bool
	frozen   chan struct{} // closed when the traffic flows
}

// NewProxy starts a proxy before the server at url. It ends with the test.
func NewProxy(t testing.TB, url string) *Proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{Addr: l.Addr().String(), target: Options(t, url).InitAddress[0], url: url, conns: map[net.Conn]bool{}, frozen: make(chan struct{})}
	close(p.frozen)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			p.accepted.Add(1)
			wg.Go(func() { p.serve(c) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		p.Thaw()
		p.Cut()
		wg.Wait()
	})
	return p
}

// Options returns what a client of the server at url needs.
func Options(t testing.TB, url string) rueidis.ClientOption {
	t.Helper()
	o, err := rueidis.ParseURL(url)
	if err != nil {
		t.Fatal("the URL of Redis cannot be parsed") // the error may hold the password
	}
	return o
}

// SamePassword gives the server at url the password of the one at as, and returns its address.
func SamePassword(t testing.TB, url, as string) (addr string) {
	t.Helper()
	o := Options(t, url)
	o.ForceSingleClient = true
	c, err := rueidis.NewClient(o)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	set := c.B().ConfigSet().ParameterValue().ParameterValue("requirepass", Options(t, as).Password).Build()
	if err := c.Do(t.Context(), set).Error(); err != nil {
		t.Fatal(err)
	}
	return o.InitAddress[0]
}

// Client returns a client of the proxy, closed at the end of the test. change may change its
// options.
func (p *Proxy) Client(t testing.TB, change func(*rueidis.ClientOption)) rueidis.Client {
	t.Helper()
	o := Options(t, p.url)
	o.InitAddress = []string{p.Addr}
	if change != nil {
		change(&o)
	}
	c, err := rueidis.NewClient(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// Accepted returns how many connections were ever made.
func (p *Proxy) Accepted() int64 { return p.accepted.Load() }

// Point makes new connections lead to the server at url, which takes the password of the first one.
func (p *Proxy) Point(t testing.TB, url string) {
	t.Helper()
	target := SamePassword(t, url, p.url)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.target = target
}

// Cut closes every connection.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		_ = c.Close()
	}
}

// Down closes every connection, and each new one, until Point.
func (p *Proxy) Down() {
	p.mu.Lock()
	p.target = ""
	p.mu.Unlock()
	p.Cut()
}

// Freeze holds all traffic until Thaw, as a stopped process does.
func (p *Proxy) Freeze() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.frozen = make(chan struct{})
}

// Thaw lets the traffic flow again.
func (p *Proxy) Thaw() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.frozen:
	default:
		close(p.frozen)
	}
}

func (p *Proxy) flowing() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.frozen
}

func (p *Proxy) serve(c net.Conn) {
	p.mu.Lock()
	target := p.target
	p.mu.Unlock()
	s, err := net.Dial("tcp", target)
	if err != nil {
		_ = c.Close()
		return
	}
	p.mu.Lock()
	p.conns[c], p.conns[s] = true, true
	p.mu.Unlock()
	var wg sync.WaitGroup
	wg.Go(func() { p.copy(s, c) })
	p.copy(c, s)
	wg.Wait()
	p.mu.Lock()
	delete(p.conns, c)
	delete(p.conns, s)
	p.mu.Unlock()
}

// copy copies until either side closes, and then closes both.
func (p *Proxy) copy(to, from net.Conn) {
	defer func() { _, _ = to.Close(), from.Close() }()
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		<-p.flowing()
		if n > 0 {
			if _, werr := to.Write(buf[:n]); werr != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}
