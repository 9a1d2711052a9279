package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/headrace/headrace/examples/orders"
	"github.com/headrace/headrace/pipeline/console"
)

// serveConsole serves the web page of package console until it is interrupted.
type serveConsole struct {
	Listen  string   `default:"localhost:8080" help:"Address to listen on."`
	Actions bool     `help:"Allow actions by anyone with access."`
	Hide    bool     `name:"hide-payloads" help:"Show no payloads."`
	Hosts   []string `name:"host" sep:"none" placeholder:"NAME" help:"Host name under which a proxy serves the page."`

	windowNames
	Lookups []string `placeholder:"NAME" help:"Lookup tables (default: those of orders)."`
}

// Help shows an example.
func (serveConsole) Help() string { return "Example:\n\n  headrace console --listen localhost:8080" }

// Run serves the pages. It creates nothing in the stores.
func (v *serveConsole) Run(ctx context.Context, s *session) error {
	redis, err := s.redis(ctx)
	if err != nil {
		return err
	}
	pool, err := s.postgres(ctx)
	if err != nil {
		return err
	}
	names := console.Names{Queue: s.Queue, Table: s.Table, Views: s.Views, Lookups: v.Lookups, Windows: v.Windows}
	if names.Lookups == nil && s.names() == orders.Names {
		names.Lookups = orderLookups(s.Queue)
	}
	p, err := console.Open(ctx, redis, pool, names)
	if err != nil {
		return err
	}
	cfg := console.Config{Pipelines: []console.Pipeline{p}, HidePayloads: v.Hide}
	if v.Actions {
		cfg.Authorize = func(r *http.Request, _ console.Action) (string, error) { return r.RemoteAddr, nil }
	}
	h, err := console.New(cfg)
	if err != nil {
		return err
	}
	defer h.Close()
	l, err := net.Listen("tcp", v.Listen)
	if err != nil {
		return fmt.Errorf("cannot listen at %s: choose another --listen (%w)", v.Listen, err)
	}
	url := fmt.Sprintf("http://%s/", l.Addr())
	if err := s.print(map[string]string{"url": url}, ""); err != nil {
		return err
	}
	fmt.Fprintln(s.Err, url)
	server := &http.Server{Handler: v.guard(h, l.Addr()), ReadHeaderTimeout: 10 * time.Second}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go h.Run(ctx) //nolint:errcheck // it returns nil when ctx is done
	go func() {
		<-ctx.Done()
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		server.Shutdown(stop) //nolint:errcheck // open requests are cut off
	}()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// guard rejects requests to a loopback address under a name that is not of this machine. A page
// from elsewhere could otherwise let its own name point here (DNS rebinding), and read and act as
// the person who has it open.
func (v *serveConsole) guard(h http.Handler, listening net.Addr) http.Handler {
	if a, ok := listening.(*net.TCPAddr); !ok || !a.IP.IsLoopback() {
		return h
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := r.Host
		if host, _, err := net.SplitHostPort(name); err == nil {
			name = host
		}
		name = strings.ToLower(strings.Trim(name, "[]"))
		if ip := net.ParseIP(name); name != "localhost" && (ip == nil || !ip.IsLoopback()) && !slices.ContainsFunc(v.Hosts, func(h string) bool { return strings.EqualFold(h, name) }) {
			http.Error(w, fmt.Sprintf("%q is not a name of this console: start it with --host %s if a proxy passes it on", name, name), http.StatusMisdirectedRequest)
			return
		}
		h.ServeHTTP(w, r)
	})
}
