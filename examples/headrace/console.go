package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/headrace/headrace/examples/orders"
	"github.com/headrace/headrace/pipeline/console"
)

// serveConsole serves the web page of package console until it is interrupted.
type serveConsole struct {
	Listen  string `default:"localhost:8080" help:"Address to listen on."`
	Actions bool   `help:"Let everyone who reaches the page act: requeue, discard, pause and more."`
	Hide    bool   `name:"hide-payloads" help:"Show no payloads."`

	windowNames
	Lookups []string `placeholder:"NAME" help:"Lookup tables to show (those of the orders domain)."`
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
		return err
	}
	url := fmt.Sprintf("http://%s/", l.Addr())
	if err := s.print(map[string]string{"url": url}, ""); err != nil {
		return err
	}
	fmt.Fprintln(s.Err, url)
	server := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second}
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
