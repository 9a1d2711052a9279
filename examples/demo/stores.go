package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/rueidis"

	"github.com/headrace/headrace/examples/internal/program"
	"github.com/headrace/headrace/internal/servers"
)

// stores are the two servers of a run. The demo has a database and key names of its own in them, so
// a run on your servers touches nothing of yours, and close removes both.
type stores struct {
	redis rueidis.Client
	pg    *pgxpool.Pool
	name  string // of the queue
	undo  []func()
}

func openStores(ctx context.Context, p *program.Program) (_ *stores, err error) {
	s := &stores{name: "demo-" + strings.ToLower(rand.Text()[:12])}
	defer func() {
		if err != nil {
			s.close()
		}
	}()

	type started struct {
		redis *servers.RedisServer
		err   error
	}
	find := servers.Options{Demo: true, Log: func(text string) { p.Say("%s", text) }}
	redis := make(chan started, 1)
	go func() {
		r, err := servers.StartRedis(ctx, find)
		redis <- started{r, err}
	}()
	pg, pgErr := servers.StartPostgres(ctx, find)
	if pgErr == nil {
		s.undo = append(s.undo, func() { _ = pg.Stop() })
	}
	r := <-redis
	if r.err == nil {
		s.undo = append(s.undo, func() { _ = r.redis.Stop() })
	}
	if pgErr != nil {
		return s, pgErr
	}
	if r.err != nil {
		return s, r.err
	}
	fmt.Fprintf(p.Out, "servers     %s\n            %s\n", r.redis.Chosen, pg.Chosen)

	if s.redis, err = r.redis.Dial(); err != nil {
		return s, err
	}
	s.undo = append(s.undo, s.redis.Close, func() { dropKeys(s.redis, "{"+s.name+"*") })

	db := "headrace_" + strings.ReplaceAll(s.name, "-", "_")
	admin, err := pgx.Connect(ctx, pg.URL)
	if err != nil {
		return s, err
	}
	defer admin.Close(context.WithoutCancel(ctx)) //nolint:errcheck // nothing is under way on it
	if _, err := admin.Exec(ctx, "CREATE DATABASE "+db); err != nil {
		return s, fmt.Errorf("the demo needs a database of its own on %s, so its role needs CREATEDB: %w", pg.Chosen, err)
	}
	s.undo = append(s.undo, func() { dropDatabase(pg.URL, db) })
	url, err := servers.WithDatabase(pg.URL, db)
	if err != nil {
		return s, err
	}
	if s.pg, err = pgxpool.New(ctx, url); err != nil {
		return s, err
	}
	s.undo = append(s.undo, s.pg.Close)
	return s, nil
}

func (s *stores) close() {
	for i := len(s.undo) - 1; i >= 0; i-- {
		s.undo[i]()
	}
	s.undo = nil
}

// cleanupTimeout bounds each step of the clean-up: a server that has gone must not keep the demo
// from ending.
const cleanupTimeout = 10 * time.Second

func dropDatabase(url, db string) {
	ctx, cancel := context.WithTimeout(context.Background(), cleanupTimeout)
	defer cancel()
	c, err := pgx.Connect(ctx, url)
	if err != nil {
		return // the server is gone, and the database with it
	}
	defer c.Close(ctx) //nolint:errcheck // nothing is under way on it
	_, _ = c.Exec(ctx, "DROP DATABASE IF EXISTS "+db+" WITH (FORCE)")
}

func dropKeys(c rueidis.Client, pattern string) {
	ctx, cancel := context.WithTimeout(context.Background(), cleanupTimeout)
	defer cancel()
	for cursor := uint64(0); ; {
		e, err := c.Do(ctx, c.B().Scan().Cursor(cursor).Match(pattern).Count(1000).Build()).AsScanEntry()
		if err != nil {
			return
		}
		for _, k := range e.Elements {
			_ = c.Do(ctx, c.B().Unlink().Key(k).Build()).Error()
		}
		if cursor = e.Cursor; cursor == 0 {
			return
		}
	}
}
