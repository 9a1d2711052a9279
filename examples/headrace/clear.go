package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/redis/rueidis"

	"github.com/headrace/headrace/dedup"
)

// clear deletes what a pipeline has in Redis. Rows in Postgres stay.
type clear struct {
	What string `arg:"" enum:"queue,cache,dedup,all" help:"queue, cache, dedup or all."`
	Yes  bool   `short:"y" help:"Do not ask."`
}

type cleared struct {
	What string `json:"what"`
	Keys int    `json:"keys"`
}

// Run deletes the keys.
func (v *clear) Run(ctx context.Context, s *session) error {
	q, err := s.queue(ctx)
	if err != nil {
		return err
	}
	c, err := s.redis(ctx)
	if err != nil {
		return err
	}
	st, err := q.Stats(ctx)
	if err != nil {
		return err
	}
	name := s.Queue
	lost := map[string]string{
		"queue": fmt.Sprintf("%d records that wait, %d in flight and %d dead letters of the queue %s, whose ids stay in its dedup window", st.Ready+st.Delayed, st.InFlight, st.Dead, name),
		"cache": fmt.Sprintf("the lookup tables {%s-*} in Redis; init-cache loads them again", name),
		"dedup": fmt.Sprintf("the ids of the dedup window %s; what was pushed before is accepted again", name),
	}
	what := []string{v.What}
	if v.What == "all" {
		what = []string{"queue", "cache", "dedup"}
	}
	var warning []string
	for _, w := range what {
		warning = append(warning, lost[w])
	}
	if err := s.confirm(v.Yes, "This deletes "+strings.Join(warning, ", ")); err != nil {
		return err
	}
	var done []cleared
	text := ""
	for _, w := range what {
		n := 0
		switch w {
		case "dedup":
			var window *dedup.Deduplicator
			if window, err = dedup.New(ctx, c, name, dedup.Config{}); err == nil {
				err = window.Clear(ctx)
			}
		case "cache":
			n, err = deleteKeys(ctx, c, "{"+literal(name)+"-*}:lookup:*")
		default: // a window and foreign keys may have the same hash tag
			tag := "{" + literal(name) + "}:"
			n, err = deleteKeys(ctx, c, tag+"ready", tag+"queue:*", tag+"gate:*", tag+"signals:*")
		}
		if err != nil {
			return err
		}
		done = append(done, cleared{w, n})
		text += "cleared " + w + "\n"
	}
	return s.print(map[string]any{"cleared": done}, text)
}

// literal is a text in a pattern of SCAN.
func literal(text string) string {
	return strings.NewReplacer(`\`, `\\`, "*", `\*`, "?", `\?`, "[", `\[`, "]", `\]`).Replace(text)
}

// deleteKeys deletes the keys that match a pattern.
func deleteKeys(ctx context.Context, c rueidis.Client, patterns ...string) (n int, err error) {
	for _, pattern := range patterns {
		for cursor := uint64(0); ; {
			page, err := c.Do(ctx, c.B().Scan().Cursor(cursor).Match(pattern).Count(1000).Build()).AsScanEntry()
			if err != nil {
				return n, err
			}
			for _, key := range page.Elements {
				if err := c.Do(ctx, c.B().Unlink().Key(key).Build()).Error(); err != nil {
					return n, err
				}
				n++
			}
			if cursor = page.Cursor; cursor == 0 {
				break
			}
		}
	}
	return n, nil
}
